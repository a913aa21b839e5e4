"""Images that are bombs, programs, cut off, or of an unusual kind."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from caffe_port.datasets import images
from caffe_port.errors import ImageError
from caffe_port.image_files import NOT_DECODED, rgb_pixels
from caffe_port.limits import limits
from caffe_port.preprocessing import OPEN_NSFW, Preprocessing
from caffe_port.scoring.preprocess import tensor
from tests.fuzzing.hostile import in_little_memory, refused


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A grey PNG of that size by its header, whatever its rows are."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(50_000, 50_000), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1), (14_000, 13_000)])
def test_a_decompression_bomb(size: tuple[int, int]) -> None:
    for read in (rgb_pixels, images.decode, lambda data: tensor(data, OPEN_NSFW)):
        refused(lambda read=read: read(png(*size)), r"decompression bomb|limit image_pixels|image size")  # type: ignore[misc]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limit_of_pixels_is_adjustable() -> None:
    before = Image.MAX_IMAGE_PIXELS
    picture = png(100, 100, bytes(101 * 100))
    with limits.adjusted(image_pixels=9_000):
        refused(lambda: rgb_pixels(picture), r"pixels")
    with limits.adjusted(image_pixels=10_000):
        assert rgb_pixels(picture).shape == (100, 100, 3)
    assert before == Image.MAX_IMAGE_PIXELS, "Pillow's limit is everybody's"


def test_a_single_column_of_many_rows(tmp_path: Path) -> None:
    """A few kilobytes; resized one way first, as open_nsfw's script does, they make 256 million pixels."""
    path = tmp_path / "column.png"
    path.write_bytes(png(1, 1_000_000, bytes(2_000_000)))
    assert path.stat().st_size < 4000
    setup = f"""
import numpy
from caffe_port.preprocessing import OPEN_NSFW, Preprocessing
from caffe_port.scoring.preprocess import tensor
path = {str(path)!r}
opencv = Preprocessing(resize=(256, 256), interpolation="opencv", mean=(0.0,))"""
    done = in_little_memory(setup, "tensor(path, OPEN_NSFW)")
    assert "ImageError" in done and "256,000,000 pixels" in done
    assert in_little_memory(setup, "tensor(path, opencv)").strip() == "read"


def test_a_size_to_resize_to_that_nothing_holds() -> None:
    picture = png(2, 2, bytes(6))
    for kind in ("pillow", "opencv"):
        steps = Preprocessing(resize=(10**6, 10**6), interpolation=kind)  # type: ignore[arg-type]
        refused(lambda steps=steps: tensor(picture, steps), "limit image_pixels")  # type: ignore[misc]


def test_resizing_is_what_it_was() -> None:
    """By the formula, whole: rows of every column, then columns of every row."""
    rng = np.random.default_rng(3)
    for shape, size in (((3, 7, 5), (4, 9)), ((1, 3, 11), (8, 2)), ((3, 40, 30), (13, 17))):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        (up, down, v), (left, right, h) = images._taps(shape[1], size[0]), images._taps(shape[2], size[1])
        wide = pixels.astype(np.float64)
        across = wide[:, :, left] * (1 - h) + wide[:, :, right] * h
        both = across[:, up] * (1 - v[:, None]) + across[:, down] * v[:, None]
        assert np.array_equal(images.resize(pixels, *size), np.floor(both + 0.5).astype(np.uint8))


def test_a_program_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would hand it to Ghostscript, whatever the file is called."""
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"
    refused(lambda: rgb_pixels(program), "EPS is not decoded here")
    assert "EPS" in NOT_DECODED


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def kinds() -> dict[str, bytes]:
    rgb = Image.fromarray(np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3))
    deep = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)
    moving = {"save_all": True, "append_images": [rgb.rotate(90)] * 3}
    return {
        "cmyk": encoded(rgb.convert("CMYK"), "JPEG"),
        "16 bits": encoded(deep, "PNG"),
        "16 bits, tiff": encoded(deep, "TIFF"),
        "float": encoded(rgb.convert("F"), "TIFF"),
        "palette": encoded(rgb.quantize(4), "PNG"),
        "alpha": encoded(rgb.convert("RGBA"), "PNG"),
        "moving gif": encoded(rgb, "GIF", **moving),
        "moving png": encoded(rgb, "PNG", **moving),
        "moving webp": encoded(rgb, "WEBP", **moving),
        "pages": encoded(rgb, "TIFF", **moving),
    }


@pytest.mark.filterwarnings("ignore")  # Pillow's remarks on what is cut off
@pytest.mark.parametrize("name", kinds())
def test_unusual_kinds_are_read_or_refused(name: str) -> None:
    content = kinds()[name]
    assert rgb_pixels(content).shape == (8, 8, 3)
    for length in range(0, len(content), max(1, len(content) // 40)):
        try:
            assert rgb_pixels(content[:length]).shape == (8, 8, 3)
            assert images.decode(content[:length]).shape[1:] == (8, 8)
        except ImageError as error:
            assert str(error)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", ".", "a\0b", "\ud800", ""])
def test_what_is_no_file(path: str) -> None:
    with pytest.raises(ImageError):
        images.read_image(path)
    with pytest.raises(ImageError):
        tensor(path, OPEN_NSFW)
