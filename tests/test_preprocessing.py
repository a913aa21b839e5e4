"""Preprocessing as data: the manifest, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from caffe_port import preprocessing
from caffe_port.errors import DataError
from caffe_port.preprocessing import FORMAT, OPEN_NSFW, Preprocessing


def written(folder: Path, **keys: Any) -> Path:
    path = folder / "manifest.json"
    path.write_text(json.dumps({"format": FORMAT, **keys}))
    return path


def test_the_manifest_of_open_nsfw(tmp_path: Path) -> None:
    document = OPEN_NSFW.as_json()
    assert document == {
        "format": "caffe_port preprocessing 1",
        "input_blob": "data",
        "resize": [256, 256],
        "jpeg_round_trip": True,
        "crop": [224, 224],
        "channel_order": "BGR",
        "mean": [104.0, 117.0, 123.0],
        "scale": 1.0,
    }
    path = tmp_path / "m.json"
    path.write_text(json.dumps(document))
    assert preprocessing.read(path) == OPEN_NSFW
    assert hash(preprocessing.read(str(path))) == hash(OPEN_NSFW)


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    assert preprocessing.read(written(tmp_path)) == Preprocessing()
    found = preprocessing.read(written(tmp_path, crop=[7, 9], resize=None, mean=[1, 2.5, 3]))
    assert found == Preprocessing(crop=(7, 9), mean=(1, 2.5, 3))


def test_everything_wrong_is_reported_at_once(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        format="caffe_port preprocessing 2",
        means=[1, 2, 3],
        input_blob="",
        resize=[256, True],
        jpeg_round_trip=1,
        crop=[0, 224],
        channel_order="RBG",
        mean=[1, 2],
        scale=0,
    )
    with pytest.raises(DataError) as caught:
        preprocessing.read(path)
    first, *lines = str(caught.value).splitlines()
    assert first == "9 problems:" and len(lines) == 9
    assert all(line.strip().startswith(f"{path}: ") for line in lines)
    for wanted in (
        "'format' must be \"caffe_port preprocessing 1\"",
        "unknown key 'means' (known: format, input_blob, resize, jpeg_round_trip, crop, channel_order, mean, scale)",
        "'input_blob' must be the name of a blob, not ''",
        "'resize' must be null, or height and width in pixels, not [256, True]",
        "'jpeg_round_trip' must be true or false, not 1",
        "'crop' must be null, or height and width in pixels, not [0, 224]",
        "'channel_order' must be \"BGR\" or \"RGB\", not 'RBG'",
        "'mean' must be three numbers, one a channel, not [1, 2]",
        "'scale' must be a number other than 0, not 0",
    ):
        assert wanted in str(caught.value)


@pytest.mark.parametrize("crop", [[257, 10], [10, 201]])
def test_a_crop_lies_in_what_it_is_cut_from(tmp_path: Path, crop: list[int]) -> None:
    with pytest.raises(DataError, match=rf"'crop' {crop[0]}x{crop[1]} does not lie in 'resize' 256x200"):
        preprocessing.read(written(tmp_path, resize=[256, 200], crop=crop))
    with pytest.raises(DataError, match="does not lie in"):
        Preprocessing(resize=(256, 200), crop=(crop[0], crop[1]))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '{"format": "a", "format": "b"}', "[" * 100_000, '{"format": "\xff"}'],
    ids=["empty", "cut", "list", "number", "twice", "deep", "encoding"],
)
def test_no_manifest(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"m\.json: "):
        preprocessing.read(path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400", "1" + "0" * 400, "true", '"1"', "null", "[1]"])
def test_numbers_are_finite(tmp_path: Path, number: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(f'{{"format": "{FORMAT}", "mean": [1, 2, {number}], "scale": {number}}}')
    with pytest.raises(DataError, match=r"2 problems:\n.*'mean'.*\n.*'scale'"):
        preprocessing.read(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent: no such file"):
        preprocessing.read(tmp_path / "absent")
    with pytest.raises(DataError, match="cannot be read"):
        preprocessing.read(tmp_path)


def test_made_in_python_it_is_held_to_the_same() -> None:
    with pytest.raises(DataError, match=r"2 problems:\n.*'channel_order'.*\n.*'scale'"):
        Preprocessing(channel_order="bgr", scale=float("nan"))  # type: ignore[arg-type]
    made = Preprocessing(mean=[1, 2, 3], resize=[4, 5])  # type: ignore[arg-type]
    assert made == Preprocessing(mean=(1, 2, 3), resize=(4, 5)) and hash(made)
    assert made.size == (4, 5) and OPEN_NSFW.size == (224, 224) and Preprocessing().size is None


def test_it_loads_nothing_heavy() -> None:
    code = "import sys, caffe_port.preprocessing, caffe_port.models; print({'numpy', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
