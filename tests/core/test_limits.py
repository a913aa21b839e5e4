"""The limits: adjusted from Python, the environment and the command, documented, and held by the readers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import caffe_port as run_command
from places import ROOT
from small import CONV_NET, blob, built, inputs_of, one_input, weights_of, write_caffemodel, write_model

import caffe_port as cp
from caffe_port import shapes
from caffe_port.errors import LimitError, PrototxtError, ShapeError, WeightsError
from caffe_port.limits import ENVIRONMENT, MAX_AXES, MAX_ELEMENTS, Limits, hint, limits, meanings
from caffe_port.proto import text, wire

PAGE = ROOT / "docs" / "limits.md"


@pytest.fixture(autouse=True)
def _as_before() -> object:
    """Whatever a test sets is gone after it."""
    with limits.adjusted():
        yield


# Adjusting


def test_the_page_has_every_limit() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [(name, f"{default:,}", meaning) for name, (default, meaning) in meanings().items()]


def test_every_limit_is_looked_at() -> None:
    sources = [
        path.read_text(encoding="utf-8")
        for folder in ("caffe_port", "proto", "converters")
        for path in (PAGE.parents[1] / folder).rglob("*.py")
        if path.name != "limits.py"
    ]
    unused = [name for name in meanings() if not any(f"limits.{name}" in source for source in sources)]
    assert unused == []


def test_adjusts_for_a_while() -> None:
    before = limits.layers
    with limits.adjusted(layers=7, nesting=3):
        assert (limits.layers, limits.nesting) == (7, 3)
        with pytest.raises(KeyError), limits.adjusted(layers=8):
            raise KeyError
        assert limits.layers == 7
    assert limits.layers == before == Limits().layers
    cp.limits.adjust(layers=9)
    assert limits.layers == 9
    assert hint("layers") == "the limit layers is 9; where the file is trusted: --limit layers=N"


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "7", None])
def test_refuses_values_that_are_no_limits(value: object) -> None:
    with pytest.raises(LimitError, match=r"limit layers: .* is no whole number of at least 1"):
        limits.adjust(layers=value)  # type: ignore[arg-type]


def test_refuses_unknown_names() -> None:
    with pytest.raises(LimitError, match=r"there is no limit 'layrs'; there are .*layers"):
        limits.adjust(layrs=1)
    with pytest.raises(AttributeError, match="there is no limit 'layrs'"):
        _ = limits.layrs


def test_the_environment_and_the_option(tmp_path: Path) -> None:
    definition, weights = write_model(tmp_path)

    def inspected(*options: str, given: str = "") -> tuple[int, str]:
        done = run_command("inspect", definition, weights, *options, env={**os.environ, ENVIRONMENT: given})
        return done.returncode, done.stderr

    assert inspected() == (0, "")
    code, said = inspected(given="layers=5,nesting=9")
    assert code == 2 and said.count("\n") == 1
    assert "more than 5 of 'layer'; the limit layers is 5" in said
    assert inspected("--limit", "layers=6", given="layers=5") == (0, "")
    for option in ("layers=x", "layers", "layers=-1", "layers=1e3", "layers=" + "9" * 19, "=3"):
        code, said = inspected("--limit", option)
        assert (code, said.count("\n")) == (2, 1)
        assert said.startswith("caffe-port: --limit: ") and "give it as NAME=VALUE" in said
    assert inspected("--limit", "layers=0")[1].startswith("caffe-port: limit layers: 0 is no whole number")
    assert inspected("--limit", "layrs=3")[1].startswith("caffe-port: there is no limit 'layrs'")
    code, said = inspected(given="nonsense")
    assert (code, said.count("\n")) == (2, 1) and said.startswith(f"caffe-port: {ENVIRONMENT}: 'nonsense'")


def test_processes_that_are_started_have_the_options_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "layers=5")
    limits.adjust_from(["nesting=7", "layers=6"])
    code = "import caffe_port as cp; print(cp.limits.layers, cp.limits.nesting)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "6 7\n"


# Held


def test_size_and_layers_of_a_prototxt(tmp_path: Path) -> None:
    definition, _ = write_model(tmp_path)
    with limits.adjusted(definition_bytes=100), pytest.raises(PrototxtError, match="the limit definition_bytes is 100"):
        text.read(definition)
    with limits.adjusted(definition_bytes=100), pytest.raises(PrototxtError, match="the limit definition_bytes is 100"):
        text.parse(CONV_NET)
    with limits.adjusted(definition_bytes=len(CONV_NET), layers=6):
        text.parse(CONV_NET)
    with limits.adjusted(layers=5), pytest.raises(PrototxtError, match="more than 5 of 'layer'"):
        text.parse(CONV_NET)


def test_size_layers_and_blobs_of_a_caffemodel(tmp_path: Path) -> None:
    _, weights = write_model(tmp_path)
    wire.read(weights)
    for name, value, says in (
        ("layers", 5, "has more than 5 layers"),
        ("layer_blobs", 1, "a layer has more than 1 learned blobs"),
        ("definition_bytes", 100, "has more than 100 bytes beside its blobs"),
    ):
        with limits.adjusted(**{name: value}), pytest.raises(WeightsError, match=f"{says}; the limit {name}"):
            wire.read(weights)
    with limits.adjusted(layers=6, layer_blobs=2):
        wire.read(weights)


def test_damaged_blobs_are_told_up_to_a_number(tmp_path: Path) -> None:
    net = 'layer { name: "a" type: "Convolution" }'
    path = write_caffemodel(tmp_path / "many.caffemodel", net, {"a": [blob([1.0])] * 20})
    path.write_bytes(path.read_bytes().replace(b"\x3a\x03\x0a\x01\x01", b"\x3a\x03\x0a\x01\x02"))
    with limits.adjusted(problems=3), pytest.raises(WeightsError) as caught:
        wire.read(path)
    assert str(caught.value).count("has 1 values, its shape 2 needs 2") == 3


def test_facts_of_caffe_are_no_limits() -> None:
    assert (MAX_AXES, MAX_ELEMENTS) == (32, 2147483647)
    assert not {"MAX_AXES", "MAX_ELEMENTS"} & set(meanings())
    shapes.check_shape((MAX_ELEMENTS,))
    shapes.check_shape((1,) * MAX_AXES)
    for shape in ((MAX_ELEMENTS + 1,), (2**16, 2**15), (1,) * (MAX_AXES + 1), (2**62, 2**62)):
        with pytest.raises(ShapeError):
            shapes.check_shape(shape)


def test_a_net_beyond_the_memory_is_built_and_not_run() -> None:
    net = built(one_input(1, 2**31 - 1) + 'layer { name: "p" type: "Power" bottom: "x" top: "y" }'
                'layer { name: "q" type: "Power" bottom: "x" top: "z" }')  # fmt: skip
    for use in (cp.to_onnx, cp.to_pytorch, lambda net: net.filled()):
        with pytest.raises(LimitError, match=r"needs 25,769,803,764 bytes .* the limit net_bytes is 17179869184"):
            use(net)


def test_what_counts_as_memory_of_a_net() -> None:
    # The data, conv1 (in place too), pool1, fc and prob; and 112 + 245 learned values.
    values = 2 * (3 * 8 * 7 + 4 * 8 * 7 + 4 * 4 * 3 + 5 + 5) + 357
    net = built(CONV_NET)
    net = net.with_weights(weights_of(net))
    with limits.adjusted(net_bytes=4 * values):
        cp.run(net, inputs_of(net))
    with limits.adjusted(net_bytes=4 * values - 1), pytest.raises(LimitError, match="the largest, 'conv1', 1,792"):
        cp.run(net, inputs_of(net))
    # A Split's tops are the same memory.
    split = built(one_input(1, 4) + 'layer { name: "a" type: "Power" bottom: "x" top: "a" }'
                  'layer { name: "b" type: "Power" bottom: "x" top: "b" }')  # fmt: skip
    with limits.adjusted(net_bytes=4 * 12):
        out = cp.run(split, {"x": np.ones((1, 4), np.float32)})
    assert out["a"].tolist() == [[1.0] * 4]
