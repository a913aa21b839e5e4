"""Preprocessing as data: the manifest, and what is refused."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from caffe_port import preprocessing
from caffe_port.errors import DataError
from caffe_port.preprocessing import FORMAT, OPEN_NSFW, Manifest, MeanImage, Preprocessing, manifest_of, read_manifest
from caffe_port.scoring.mean import Mean
from caffe_port.scoring.preprocess import tensor


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
        "interpolation": "pillow",
        "jpeg_round_trip": True,
        "crop": [224, 224],
        "channel_order": "BGR",
        "raw_scale": 255.0,
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
        interpolation="lanczos",
        raw_scale=0,
        output_blob="",
        labels=["a", ""],
        score=-1,
    )
    with pytest.raises(DataError) as caught:
        preprocessing.read(path)
    first, *lines = str(caught.value).splitlines()
    assert first == "14 problems:" and len(lines) == 14
    assert all(line.strip().startswith(f"{path}: ") for line in lines)
    for wanted in (
        "'format' must be \"caffe_port preprocessing 1\"",
        "unknown key 'means' (known: format, input_blob, resize, interpolation, jpeg_round_trip, crop, channel_order, "
        "raw_scale, mean, scale, output_blob, labels, score)",
        "'input_blob' must be the name of a blob, not ''",
        "'resize' must be null, or height and width in pixels, not [256, True]",
        "'jpeg_round_trip' must be true or false, not 1",
        "'crop' must be null, or height and width in pixels, not [0, 224]",
        '\'channel_order\' must be "BGR", "RGB" or "grey", not \'RBG\'',
        "'mean' must be one number, or three, one a channel, not [1, 2]",
        "'scale' must be a number other than 0, not 0",
        "'interpolation' must be \"pillow\" or \"opencv\", not 'lanczos'",
        "'raw_scale' must be a number above 0, not 0",
        "'output_blob' must be null, or a blob's name, not ''",
        "'labels' must be a list of names, or the path of a file of them, not ['a', '']",
        "'score' must be null, or the number, from 0, of a label, not -1",
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


@pytest.mark.parametrize("number", ["1e400", "1" + "0" * 400, "true", '"1"', "null", "[1]"])
def test_numbers_are_finite(tmp_path: Path, number: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(f'{{"format": "{FORMAT}", "mean": [1, 2, {number}], "scale": {number}}}')
    with pytest.raises(DataError, match=r"2 problems:\n.*'mean'.*\n.*'scale'"):
        preprocessing.read(path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1" * 5000])
def test_what_json_does_not_have(tmp_path: Path, number: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(f'{{"format": "{FORMAT}", "scale": {number}}}')
    with pytest.raises(DataError, match=r"m\.json: no JSON that can be read: "):
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


# Labels


def test_labels_and_the_score(tmp_path: Path) -> None:
    found = read_manifest(written(tmp_path, labels=["cat", "dog"], score="dog", output_blob="prob", crop=[3, 4]))
    assert found == Manifest(Preprocessing(crop=(3, 4)), "prob", ("cat", "dog"), 1)
    assert read_manifest(written(tmp_path)) == Manifest()
    assert read_manifest(written(tmp_path, labels=["a", "a"], score=1)).score == 1
    assert read_manifest(written(tmp_path, score=7)).score == 7, "a score without labels is the number of an output"


def test_labels_in_a_file_beside(tmp_path: Path) -> None:
    words = "n01440764 tench, Tinca tinca\r\nn01443537 goldfish\nn02 r\u00e9v\n\n"
    (tmp_path / "synset_words.txt").write_text(words, encoding="utf-8", newline="")
    found = read_manifest(written(tmp_path, labels="synset_words.txt", score="n01443537 goldfish"))
    assert found.labels == ("n01440764 tench, Tinca tinca", "n01443537 goldfish", "n02 r\u00e9v")
    assert found.score == 1


@pytest.mark.parametrize(
    ("keys", "want"),
    [
        ({"labels": "absent.txt"}, r"'labels': .*absent\.txt: cannot be read: No such file"),
        ({"labels": "hole.txt"}, r"hole\.txt: line 2 is empty"),
        ({"labels": "nothing.txt"}, r"nothing\.txt: no label in it"),
        ({"labels": "latin.txt"}, r"latin\.txt: cannot be read: it is not in UTF-8"),
        ({"labels": ["a", "b"], "score": "c"}, "'score': 'c' is none of the labels"),
        ({"labels": ["a", "b", "a"], "score": "a"}, "'score': 'a' is there 2 times: give its number"),
        ({"labels": ["a", "b"], "score": 2}, "'score' must be null, a label, or from 0 to 1, not 2"),
        ({"score": "a"}, "'score' must be null, or the number, from 0, of a label, not 'a'"),
        ({"labels": {"0": "a"}}, "'labels' must be a list of names"),
        ({"mean": "absent.npy"}, r"'mean': .*absent\.npy: no such file"),
        ({"mean": {"file": "m.npy", "average": True}}, "'mean': an object has \"file\""),
        ({"mean": {"shape": [1, 1, 1], "dtype": "float32", "base64": "AAAA"}}, "'mean': .* has not 3 bytes"),
        ({"mean": {"shape": [1, 1], "dtype": "float32", "base64": "AAAA"}}, "'mean': .* channels, height and width"),
        ({"mean": {"shape": [1, 1, 1], "dtype": "int8", "base64": "AA=="}}, "'mean': .* of 'int8'"),
        ({"mean": {"shape": [1, 1, 1], "dtype": "float32", "base64": "AADAfw=="}}, "'mean': .* finite values only"),
        ({"mean": {"shape": [1, 1, 1], "dtype": "float32", "base64": "A*"}}, "'mean': no base64"),
        ({"channel_order": "grey", "mean": [1, 2, 3]}, r"'mean' must be one number, not \[1, 2, 3\]"),
    ],
)
def test_what_cannot_be_meant(tmp_path: Path, keys: dict[str, Any], want: str) -> None:
    (tmp_path / "hole.txt").write_text("a\n\nb\n")
    (tmp_path / "nothing.txt").write_text("\n\n")
    (tmp_path / "latin.txt").write_bytes(b"r\xe9v\n")
    with pytest.raises(DataError, match=want):
        read_manifest(written(tmp_path, **keys))


def test_labels_that_have_no_utf_8(tmp_path: Path) -> None:
    """Half of a surrogate pair, which JSON can escape."""
    found = Manifest(labels=("a", "\ud800", "é😀", "\\ud800"))
    found.write(tmp_path / "m.json")
    assert read_manifest(tmp_path / "m.json") == found
    assert "é😀" in (tmp_path / "m.json").read_text("utf-8")


def test_a_manifest_written_out_is_complete_in_itself(tmp_path: Path) -> None:
    Mean(np.arange(48, dtype=np.float64).reshape(3, 4, 4)).write(tmp_path / "mean.npy")
    (tmp_path / "words.txt").write_text("a\nb\n")
    steps = {"resize": [4, 4], "crop": [2, 2], "mean": "mean.npy", "labels": "words.txt", "score": "b"}
    found = read_manifest(written(tmp_path, **steps))
    (tmp_path / "elsewhere").mkdir()
    found.write(tmp_path / "elsewhere" / "m.json")
    assert read_manifest(tmp_path / "elsewhere" / "m.json") == found
    assert manifest_of(json.dumps(found.as_json()), "metadata") == found
    assert hash(found) == hash(pickle.loads(pickle.dumps(found)))
    # What came with a model names no files of ours.
    for key, value in (("labels", "words.txt"), ("mean", "mean.npy")):
        with pytest.raises(DataError, match=f"metadata: .*'{value}' cannot be named here"):
            manifest_of(json.dumps({"format": FORMAT, key: value}), "metadata")


# Means


@pytest.mark.parametrize("suffix", [".npy", ".binaryproto"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mean_image_in_a_file(tmp_path: Path, suffix: str, dtype: Any) -> None:
    values = np.random.default_rng(0).uniform(90, 130, (3, 6, 8)).astype(dtype)
    Mean(values).write(tmp_path / f"mean{suffix}")
    keys: dict[str, Any] = {"resize": [6, 8], "crop": [3, 4], "channel_order": "RGB"}
    steps = preprocessing.read(written(tmp_path, mean=f"mean{suffix}", **keys))
    assert isinstance(steps.mean, MeanImage)
    assert np.array_equal(steps.mean.array(), values) and steps.mean.array().dtype == dtype
    # Cut out where the picture is: rows 1 to 3, columns 2 to 5.
    assert np.array_equal(steps.mean_array(), values[:, 1:4, 2:6])
    averaged = preprocessing.read(written(tmp_path, mean={"file": f"mean{suffix}", "per_channel": True}, **keys))
    assert averaged.mean == pytest.approx(tuple(values.mean((1, 2))), rel=1e-6)
    assert len({steps, averaged, preprocessing.read(written(tmp_path, mean=f"mean{suffix}", **keys))}) == 2


@pytest.mark.parametrize(
    ("keys", "want"),
    [
        ({"resize": [8, 8]}, r"'mean' is an image of 3x6x8; it must be 3x8x8 \(give another, or its averages"),
        ({"resize": [8, 9], "crop": [3, 4]}, "it must be 3x8x9 or 3x3x4"),
        ({"resize": [6, 8], "channel_order": "grey"}, "it must be 1x6x8"),
        ({}, "it must be as large as 'resize' or 'crop', and there is neither"),
    ],
)
def test_a_mean_image_fits_what_it_is_subtracted_from(tmp_path: Path, keys: dict[str, Any], want: str) -> None:
    Mean(np.ones((3, 6, 8), np.float32)).write(tmp_path / "mean.npy")
    with pytest.raises(DataError, match=want):
        preprocessing.read(written(tmp_path, mean="mean.npy", **keys))


def test_one_number_is_for_all_channels() -> None:
    assert Preprocessing(mean=(5,)).mean_array().tolist() == [[[5]], [[5]], [[5]]]
    assert Preprocessing(mean=(5,), channel_order="grey").mean_array().tolist() == [[[5]]]


# What the steps make of a picture


def picture(height: int = 9, width: int = 12) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


def assert_bits(got: np.ndarray, want: np.ndarray) -> None:
    assert got.shape == want.shape and got.dtype == want.dtype == np.float32
    assert np.array_equal(got.view(np.uint32), want.view(np.uint32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mean_image_is_subtracted_as_caffe_s_transformer_does(dtype: Any) -> None:
    """`caffe.io.Transformer`, step by step, and Mean.apply, which follows DataTransformer."""
    mean = np.random.default_rng(2).uniform(90, 130, (3, 9, 12)).astype(dtype)
    steps = Preprocessing(
        resize=(9, 12),
        crop=(5, 7),
        mean=MeanImage((3, 9, 12), np.dtype(dtype).name, mean.tobytes()),  # type: ignore[arg-type]
        scale=0.017,
    )
    pixels = picture()
    data = (pixels / 255.0).astype(np.float32)[2:7, 2:9].transpose(2, 0, 1)[[2, 1, 0]]
    data = data * np.float32(255)
    data -= mean[:, 2:7, 2:9]
    data *= np.float32(0.017)
    got = tensor(Image.fromarray(pixels), steps)
    assert_bits(got, data)
    cut = pixels[2:7, 2:9, ::-1].transpose(2, 0, 1)
    if dtype is np.float32:
        assert_bits(got, Mean(mean).apply(cut, (2, 2)) * np.float32(0.017))


def test_grey() -> None:
    pixels = picture()
    steps = Preprocessing(channel_order="grey", mean=(33.3,), scale=1 / 256, crop=(4, 4))
    wide = pixels.astype(np.int64)
    grey = (wide @ [19595, 38470, 7471] + 32768) >> 16
    want = (grey[2:6, 4:8].astype(np.float64) - 33.3).astype(np.float32) * np.float32(1 / 256)
    assert_bits(tensor(Image.fromarray(pixels), steps), want[None])
    for mode in ("L", "1"):
        image = Image.fromarray(pixels).convert(mode)
        assert_bits(tensor(image, steps), tensor(image.convert("RGB"), steps))


def test_pixels_from_0_to_1() -> None:
    pixels = picture()
    steps = Preprocessing(raw_scale=1.0, mean=(0.485, 0.456, 0.406), scale=4.5, channel_order="RGB")
    unit = (pixels / 255.0).astype(np.float32).transpose(2, 0, 1)
    want = (unit - np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1)).astype(np.float32) * np.float32(4.5)
    assert_bits(tensor(Image.fromarray(pixels), steps), want)


def test_resized_as_opencv_does() -> None:
    """Halved, a pixel is the mean of four, halves up; Pillow's filter reaches farther."""
    pixels = picture(8, 12)
    got = tensor(Image.fromarray(pixels), Preprocessing(resize=(4, 6), interpolation="opencv", channel_order="RGB"))
    fours = pixels.reshape(4, 2, 6, 2, 3).astype(np.int64).sum((1, 3))
    assert_bits(got, ((fours + 2) // 4).transpose(2, 0, 1).astype(np.float32))
    pillow = tensor(Image.fromarray(pixels), Preprocessing(resize=(4, 6), channel_order="RGB"))
    assert np.abs(got - pillow).max() > 5
