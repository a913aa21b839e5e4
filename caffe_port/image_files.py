"""Images as Pillow opens them, whatever they come as: paths, bytes, open files, arrays."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from caffe_port.errors import ImageError
from caffe_port.limits import Limits, limits
from caffe_port.reading import open_regular, reason

__all__ = [
    "NOT_DECODED",
    "Source",
    "as_rgb",
    "image_error",
    "opened_image",
    "require_pixels",
    "rgb_pixels",
    "source_name",
]

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | NDArray[np.uint8]
"""An image: a path, the bytes of a file, an open file (read from its start), an image of Pillow, or its pixels, uint8,
(height, width, 3) in RGB or (height, width) in grey."""

NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
"""Formats that Pillow recognises and has no decoder of its own for. EPS, a program, would be handed to Ghostscript."""

_BYTES = bytes | bytearray | memoryview

_PILLOWS_LIMIT = Image.MAX_IMAGE_PIXELS

# What Pillow's decoders raise on broken files, beyond its documented OSError.
_BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def rgb_pixels(source: Source) -> NDArray[np.uint8]:
    """One image as it is, converted to RGB: uint8, shape (height, width, 3). Raises: ImageError, as `opened_image`."""
    with opened_image(source) as image:
        return np.asarray(as_rgb(image))


def as_rgb(image: Image.Image) -> Image.Image:
    """The image converted to RGB; itself if it is that already."""
    return image if image.mode == "RGB" else image.convert("RGB")


@contextmanager
def opened_image(source: Source, name: str | None = None) -> Iterator[Image.Image]:
    """The opened image; whatever fails while it is in use becomes an ImageError, which calls it `name`."""
    name = source_name(source) if name is None else name
    try:
        if isinstance(source, Image.Image):
            yield source
            return
        if isinstance(source, np.ndarray):
            yield _of_array(source)
            return
        with ExitStack() as stack:
            opened: Any = io.BytesIO(source) if isinstance(source, _BYTES) else source
            if isinstance(source, str | os.PathLike):
                opened = stack.enter_context(open_regular(source))
            if limits.image_pixels != Limits().image_pixels:
                # Pillow has a limit of its own, which holds for an image inside an image too: half of what it refuses.
                Image.MAX_IMAGE_PIXELS = limits.image_pixels // 2
                stack.callback(setattr, Image, "MAX_IMAGE_PIXELS", _PILLOWS_LIMIT)
            image = stack.enter_context(Image.open(opened))
            require_pixels(image.height, image.width)
            if image.format in NOT_DECODED:
                raise ValueError(f"{image.format} is not decoded here")
            yield image
    except UnidentifiedImageError as err:
        what = "the file is empty" if _is_empty(source) else "not an image that Pillow can read"
        raise image_error(name, what) from err
    except _BROKEN as err:
        raise image_error(name, reason(err)) from err


def require_pixels(height: int, width: int) -> None:
    """Raises ValueError where a picture of this size would be beyond the limit of pixels."""
    if height * width > limits.image_pixels:
        held = f"at most {limits.image_pixels:,} are held (limit image_pixels)"
        raise ValueError(f"{height * width:,} pixels ({height}x{width}, height x width); {held}")


def source_name(source: Source) -> str:
    """What an image is called in an error: its path, or what it is."""
    if isinstance(source, _BYTES):
        return f"image of {len(source)} bytes"
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, np.ndarray):
        return f"array {'x'.join(map(str, source.shape))}"
    name = getattr(source, "filename", None) or getattr(source, "name", None)
    return str(name) if name else f"image from {type(source).__name__}"


def image_error(name: str, why: str) -> ImageError:
    """The error that calls an image `name`, or by nothing if that is empty."""
    return ImageError(f"{name}: {why}" if name else why)


def _of_array(pixels: NDArray[Any]) -> Image.Image:
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or pixels.shape[2:] == (3,)) or not pixels.size:
        raise ValueError(f"pixels are uint8, (height, width, 3) in RGB or (height, width), not {pixels.dtype}")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _is_empty(source: Source) -> bool:
    if isinstance(source, _BYTES):
        return not source
    if isinstance(source, str | os.PathLike):
        return Path(source).stat().st_size == 0
    return not isinstance(source, Image.Image | np.ndarray) and source.seek(0, io.SEEK_END) == 0
