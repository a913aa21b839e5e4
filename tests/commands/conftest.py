"""A small model as files, and recordings of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from recorded import recorded
from small import CONV_NET, filled, inputs_of, write_model

from caffe_port import recording


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A prototxt and a caffemodel."""
    definition, weights = write_model(tmp_path_factory.mktemp("model"))
    return str(definition), str(weights)


# verify


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recordings") / "good.npz"
    net = filled(CONV_NET)
    recording.write(path, recorded(net, inputs_of(net)))
    return path


@pytest.fixture(scope="module")
def bad(good: Path) -> Path:
    """pool1 is 0.1 % off, and the layers behind it are as they were."""
    path = good.with_name("bad.npz")
    net = filled(CONV_NET)
    recording.write(
        path, recorded(net, inputs_of(net), lambda layer, value: value * (1.001 if layer == "pool1" else 1))
    )
    return path
