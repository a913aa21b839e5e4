"""What a conversion is verified with: arrays and pictures that a user gives, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
from PIL import Image

import caffe_port as cp
from caffe_port.arrays import write_npz
from caffe_port.errors import GraphError, ImageError
from caffe_port.evidence import gather
from caffe_port.preprocessing import OPEN_NSFW

TWO = small.one_input(1, 3, name="a") + small.one_input(1, 2, name="b")


@pytest.fixture
def net() -> cp.Net:
    return small.built(TWO + 'layer { name: "s" type: "Silence" bottom: "a" bottom: "b" }')


def arrays(tmp_path: Path, **named: Any) -> Path:
    write_npz(tmp_path / "in.npz", {name: np.asarray(array, np.float32) for name, array in named.items()})
    return tmp_path / "in.npz"


def test_arrays_to_verify_with(net: cp.Net, tmp_path: Path) -> None:
    found = gather(net, inputs=[arrays(tmp_path, a=[[1, 2, 3]], b=[[4, 5]])])
    assert {name: array.tolist() for name, array in found.inputs["in.npz"].items()} == {"a": [[1, 2, 3]], "b": [[4, 5]]}


@pytest.mark.parametrize(("named", "wrong"), [({"a": [1]}, "b"), ({"a": [1], "b": [1], "c": [1]}, "c")])
def test_arrays_of_other_inputs(net: cp.Net, tmp_path: Path, named: dict[str, Any], wrong: str) -> None:
    with pytest.raises(GraphError, match=rf"in\.npz: {wrong}: its arrays must be those of the inputs, a, b"):
        gather(net, inputs=[arrays(tmp_path, **named)])


def test_items_to_calibrate_with(net: cp.Net, tmp_path: Path) -> None:
    found = gather(net, calibration=arrays(tmp_path, a=[[1, 2, 3], [4, 5, 6]], b=[[7, 8], [9, 10]]))
    assert [{name: array.tolist() for name, array in item.items()} for item in found.calibration] == [
        {"a": [[1, 2, 3]], "b": [[7, 8]]},
        {"a": [[4, 5, 6]], "b": [[9, 10]]},
    ]


@pytest.mark.parametrize("b", [[[7, 8]], [], 7])
def test_items_of_different_numbers(net: cp.Net, tmp_path: Path, b: Any) -> None:
    with pytest.raises(GraphError, match="the same number of items on axis 0"):
        gather(net, calibration=arrays(tmp_path, a=[[1, 2, 3], [4, 5, 6]], b=b))


def test_pictures_and_what_is_none(net: cp.Net, tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), (255, 0, 0)).save(tmp_path / "b.png")
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    (tmp_path / "folder").mkdir()
    found = gather(net, images=tmp_path, preprocessing=OPEN_NSFW)
    assert list(found.pictures) == ["b.png"] and found.pictures["b.png"].shape == (2, 3, 3)
    assert len(found.passed_over) == 1 and "a.jpg" in found.passed_over[0]


def test_no_pictures(net: cp.Net, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such folder"):
        gather(net, images=tmp_path / "none", preprocessing=OPEN_NSFW)
    with pytest.raises(ImageError, match="no picture in it that can be read"):
        gather(net, images=tmp_path, preprocessing=OPEN_NSFW)


@pytest.mark.parametrize("of", ["images", "calibration"])
def test_pictures_for_a_model_of_unknown_preprocessing(net: cp.Net, tmp_path: Path, of: str) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "b.png")
    with pytest.raises(GraphError, match="preprocessing: give a manifest, --manifest FILE"):
        gather(net, **{of: tmp_path})
