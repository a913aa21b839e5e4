"""Preprocessing, bit for bit: the hashes in scores.json are of what the original script fed to Caffe."""

from __future__ import annotations

import hashlib
import importlib.resources
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from caffe_port.errors import ImageError
from caffe_port.preprocessing import OPEN_NSFW, Preprocessing
from caffe_port.scoring import preprocess
from caffe_port.scoring.preprocess import tensor

FOLDER = Path(str(importlib.resources.files("caffe_port.reference_outputs"))) / "open_nsfw"
SCORES = json.loads((FOLDER / "scores.json").read_text())
GOOD = sorted(name for name, entry in SCORES.items() if "tensor" in entry)
BROKEN = sorted(name for name, entry in SCORES.items() if "error" in entry)


def digest(tensor: np.ndarray) -> str:
    return hashlib.sha256(tensor.tobytes()).hexdigest()


def literal(pixels: np.ndarray) -> np.ndarray:
    """The original script's steps after the JPEG round trip, one by one: (256, 256, 3) uint8 to (3, 224, 224)."""
    image = (pixels.astype(np.float64) / 255.0).astype(np.float32)
    height, width, _ = image.shape
    top, left = max((height - 224) // 2, 0), max((width - 224) // 2, 0)
    image = image[top : top + 224, left : left + 224, :]
    data = image.astype(np.float32, copy=False).transpose(2, 0, 1)[[2, 1, 0], :, :]
    data *= np.float32(255.0)
    data -= np.array([104, 117, 123], np.float64)[:, np.newaxis, np.newaxis]
    return data


def test_there_are_recordings() -> None:
    assert len(GOOD) == 25 and len(BROKEN) == 3
    assert sorted(path.name for path in (FOLDER / "images").iterdir()) == sorted(SCORES)


@pytest.mark.parametrize("name", GOOD)
def test_tensor_is_the_recorded_one(name: str) -> None:
    got = tensor(FOLDER / "images" / name, OPEN_NSFW)
    assert got.shape == (3, 224, 224) and got.dtype == np.float32
    assert got.flags.c_contiguous and got.flags.writeable
    assert digest(got) == SCORES[name]["tensor"]


@pytest.mark.parametrize("name", ["astronaut.png", "chelsea.png", "retina.jpg"])
def test_tensor_is_the_recorded_input(name: str) -> None:
    with np.load(FOLDER / Path(name).with_suffix(".npz"), allow_pickle=False) as recorded:
        want = recorded["in:data"][0]
    assert np.array_equal(tensor(FOLDER / "images" / name, OPEN_NSFW).view(np.uint32), want.view(np.uint32))


def test_every_value_in_every_channel_equals_the_literal_steps() -> None:
    for value in range(256):
        pixels = np.full((256, 256, 3), value, np.uint8)
        want = literal(pixels)[:, 0, 0]
        got = preprocess._tables(OPEN_NSFW)[:, value]
        assert got.dtype == want.dtype == np.float32
        assert np.array_equal(got.view(np.uint32), want.view(np.uint32)), value


def test_channels_and_crop_equal_the_literal_steps() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (256, 256, 3), np.uint8)
    image = Image.fromarray(noise)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG")
    with Image.open(io.BytesIO(encoded.getvalue())) as decoded:
        want = literal(np.asarray(decoded))
    assert np.array_equal(tensor(image, OPEN_NSFW).view(np.uint32), want.view(np.uint32))


def test_every_kind_of_source_gives_the_same() -> None:
    path = FOLDER / "images" / "chelsea.png"
    want = SCORES["chelsea.png"]["tensor"]
    assert digest(tensor(str(path), OPEN_NSFW)) == want
    assert digest(tensor(path.read_bytes(), OPEN_NSFW)) == want
    with path.open("rb") as opened:
        assert digest(tensor(opened, OPEN_NSFW)) == want
        assert not opened.closed
    with Image.open(path) as image:
        assert digest(tensor(image, OPEN_NSFW)) == want
        assert digest(tensor(image, OPEN_NSFW)) == want
        assert image.size == Image.open(path).size


def test_results_do_not_share_memory() -> None:
    path = FOLDER / "images" / "coffee_1x1.png"
    first = tensor(path, OPEN_NSFW)
    first[:] = 0
    assert digest(tensor(path, OPEN_NSFW)) == SCORES["coffee_1x1.png"]["tensor"]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_an_image_error_with_its_path(name: str) -> None:
    path = FOLDER / "images" / name
    with pytest.raises(ImageError) as caught:
        tensor(path, OPEN_NSFW)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_reasons() -> None:
    images = FOLDER / "images"
    with pytest.raises(ImageError, match="empty"):
        tensor(images / "empty.png", OPEN_NSFW)
    with pytest.raises(ImageError, match="empty"):
        tensor(b"", OPEN_NSFW)
    with pytest.raises(ImageError, match="empty"):
        tensor(io.BytesIO(), OPEN_NSFW)
    with pytest.raises(ImageError, match="not an image"):
        tensor(images / "not_an_image.jpg", OPEN_NSFW)
    with pytest.raises(ImageError, match="truncated"):
        tensor(images / "rocket_truncated.jpg", OPEN_NSFW)
    with pytest.raises(ImageError, match="no such file"):
        tensor(images / "absent.png", OPEN_NSFW)
    with pytest.raises(ImageError):
        tensor(images, OPEN_NSFW)


def test_a_decompression_bomb_is_an_image_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="decompression bomb"):
        tensor(FOLDER / "images" / "chelsea.png", OPEN_NSFW)


def test_a_mode_that_has_no_rgb_is_an_image_error() -> None:
    with pytest.raises(ImageError, match="conversion"):
        tensor(Image.new("La", (4, 4)), OPEN_NSFW)


def test_a_comment_of_the_file_does_not_matter() -> None:
    image = Image.open(FOLDER / "images" / "coffee_1x1.png")
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 70_000)
    encoded = io.BytesIO()
    image.save(encoded, "PNG", pnginfo=info)
    assert digest(tensor(encoded.getvalue(), OPEN_NSFW)) == SCORES["coffee_1x1.png"]["tensor"]


@pytest.mark.parametrize("name", ["chelsea.webp", "chelsea.png", "two_frames.gif", "coffee_palette.png", "coffee.bmp"])
def test_damaged_bytes_raise_nothing_but_image_errors(name: str) -> None:
    original = (FOLDER / "images" / name).read_bytes()
    random = np.random.default_rng(7)
    for _ in range(15):
        damaged = bytearray(original[: int(random.integers(1, len(original)))])
        for place in random.integers(0, min(len(damaged), 400), 6):
            damaged[place] = int(random.integers(0, 256))
        try:
            got = tensor(bytes(damaged), OPEN_NSFW)
        except ImageError:
            continue
        assert got.shape == (3, 224, 224)


# Other preprocessing than open_nsfw's


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8))


def test_nothing_but_the_blob() -> None:
    image = noise(5, 7)
    pixels = np.asarray(image).astype(np.float32).transpose(2, 0, 1)
    assert np.array_equal(tensor(image, Preprocessing(channel_order="RGB")), pixels)
    assert np.array_equal(tensor(image, Preprocessing()), pixels[::-1])


def test_mean_and_scale() -> None:
    """In the order of the channels; float32(float32(value - mean) * scale)."""
    image = noise(5, 7)
    mean, scale = (103.939, 116.779, 123.68), 0.017
    blob = np.asarray(image).astype(np.float64).transpose(2, 0, 1)[::-1] - np.array(mean).reshape(3, 1, 1)
    want = blob.astype(np.float32) * np.float32(scale)
    assert np.array_equal(tensor(image, Preprocessing(mean=mean, scale=scale)), want)


def test_the_centre_is_cropped() -> None:
    image = noise(9, 6)
    want = np.asarray(image).astype(np.float32).transpose(2, 0, 1)[::-1, 2:6, 1:4]
    assert np.array_equal(tensor(image, Preprocessing(crop=(4, 3))), want)
    with pytest.raises(ImageError, match=r"9x6 pixels are too few to crop 9x7 \(height x width\)"):
        tensor(image, Preprocessing(crop=(9, 7)))


def test_jpeg_without_resizing_leaves_the_image_alone() -> None:
    image = noise(20, 24)
    image.info["comment"] = b"x" * 70_000
    encoded = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(encoded, "JPEG")
    want = np.asarray(Image.open(encoded)).astype(np.float32).transpose(2, 0, 1)[::-1]
    assert np.array_equal(tensor(image, Preprocessing(jpeg_round_trip=True)), want)
    assert len(image.info["comment"]) == 70_000


@pytest.mark.parametrize("size", [(300, 20), (20, 300), (700, 3), (1, 1)])
def test_rows_are_resized_before_columns_whatever_the_shape(size: tuple[int, int]) -> None:
    """Written out: a triangle filter, weights and sums as Pillow's integers, 8 bits between the passes."""

    def along(x: np.ndarray, axis: int, to: int) -> np.ndarray:
        n = x.shape[axis]
        support = max(n / to, 1.0)
        matrix = np.zeros((to, n))
        for i in range(to):
            centre = (i + 0.5) * n / to
            places = np.arange(max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), n))
            weights = np.maximum(1 - np.abs((places - centre + 0.5) / support), 0)
            matrix[i, places] = np.floor(weights / weights.sum() * 2**22 + 0.5)
        sums = np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)
        return np.clip(np.floor((sums + 2**21) / 2**22), 0, 255)

    image = noise(*size)
    want = along(along(np.asarray(image).astype(np.float64), 1, 64), 0, 48).transpose(2, 0, 1)
    assert np.array_equal(tensor(image, Preprocessing(resize=(48, 64), channel_order="RGB")), want)
