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
from caffe_port.scoring import preprocess
from caffe_port.scoring.preprocess import open_nsfw_tensor

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
    tensor = open_nsfw_tensor(FOLDER / "images" / name)
    assert tensor.shape == (3, 224, 224) and tensor.dtype == np.float32
    assert tensor.flags.c_contiguous and tensor.flags.writeable
    assert digest(tensor) == SCORES[name]["tensor"]


@pytest.mark.parametrize("name", ["astronaut.png", "chelsea.png", "retina.jpg"])
def test_tensor_is_the_recorded_input(name: str) -> None:
    with np.load(FOLDER / Path(name).with_suffix(".npz"), allow_pickle=False) as recorded:
        want = recorded["in:data"][0]
    assert np.array_equal(open_nsfw_tensor(FOLDER / "images" / name).view(np.uint32), want.view(np.uint32))


def test_every_value_in_every_channel_equals_the_literal_steps() -> None:
    for value in range(256):
        pixels = np.full((256, 256, 3), value, np.uint8)
        want = literal(pixels)[:, 0, 0]
        got = preprocess._tables()[:, value]
        assert got.dtype == want.dtype == np.float32
        assert np.array_equal(got.view(np.uint32), want.view(np.uint32)), value


def test_channels_and_crop_equal_the_literal_steps() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (256, 256, 3), np.uint8)
    image = Image.fromarray(noise)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG")
    with Image.open(io.BytesIO(encoded.getvalue())) as decoded:
        want = literal(np.asarray(decoded))
    assert np.array_equal(open_nsfw_tensor(image).view(np.uint32), want.view(np.uint32))


def test_every_kind_of_source_gives_the_same() -> None:
    path = FOLDER / "images" / "chelsea.png"
    want = SCORES["chelsea.png"]["tensor"]
    assert digest(open_nsfw_tensor(str(path))) == want
    assert digest(open_nsfw_tensor(path.read_bytes())) == want
    with path.open("rb") as opened:
        assert digest(open_nsfw_tensor(opened)) == want
        assert not opened.closed
    with Image.open(path) as image:
        assert digest(open_nsfw_tensor(image)) == want
        assert digest(open_nsfw_tensor(image)) == want
        assert image.size == Image.open(path).size


def test_results_do_not_share_memory() -> None:
    path = FOLDER / "images" / "coffee_1x1.png"
    first = open_nsfw_tensor(path)
    first[:] = 0
    assert digest(open_nsfw_tensor(path)) == SCORES["coffee_1x1.png"]["tensor"]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_an_image_error_with_its_path(name: str) -> None:
    path = FOLDER / "images" / name
    with pytest.raises(ImageError) as caught:
        open_nsfw_tensor(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_reasons() -> None:
    images = FOLDER / "images"
    with pytest.raises(ImageError, match="empty"):
        open_nsfw_tensor(images / "empty.png")
    with pytest.raises(ImageError, match="empty"):
        open_nsfw_tensor(b"")
    with pytest.raises(ImageError, match="empty"):
        open_nsfw_tensor(io.BytesIO())
    with pytest.raises(ImageError, match="not an image"):
        open_nsfw_tensor(images / "not_an_image.jpg")
    with pytest.raises(ImageError, match="truncated"):
        open_nsfw_tensor(images / "rocket_truncated.jpg")
    with pytest.raises(ImageError, match="no such file"):
        open_nsfw_tensor(images / "absent.png")
    with pytest.raises(ImageError):
        open_nsfw_tensor(images)


def test_a_decompression_bomb_is_an_image_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="decompression bomb"):
        open_nsfw_tensor(FOLDER / "images" / "chelsea.png")


def test_a_mode_that_has_no_rgb_is_an_image_error() -> None:
    with pytest.raises(ImageError, match="conversion"):
        open_nsfw_tensor(Image.new("La", (4, 4)))


def test_a_comment_of_the_file_does_not_matter() -> None:
    image = Image.open(FOLDER / "images" / "coffee_1x1.png")
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 70_000)
    encoded = io.BytesIO()
    image.save(encoded, "PNG", pnginfo=info)
    assert digest(open_nsfw_tensor(encoded.getvalue())) == SCORES["coffee_1x1.png"]["tensor"]


@pytest.mark.parametrize("name", ["chelsea.webp", "chelsea.png", "two_frames.gif", "coffee_palette.png", "coffee.bmp"])
def test_damaged_bytes_raise_nothing_but_image_errors(name: str) -> None:
    original = (FOLDER / "images" / name).read_bytes()
    random = np.random.default_rng(7)
    for _ in range(15):
        damaged = bytearray(original[: int(random.integers(1, len(original)))])
        for place in random.integers(0, min(len(damaged), 400), 6):
            damaged[place] = int(random.integers(0, 256))
        try:
            tensor = open_nsfw_tensor(bytes(damaged))
        except ImageError:
            continue
        assert tensor.shape == (3, 224, 224)
