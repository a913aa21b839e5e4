"""From an image file to the input of a released model, bit for bit what the model's original script made of it."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from caffe_port.errors import ImageError

__all__ = ["Source", "open_nsfw_tensor", "opened_image"]

Source = str | os.PathLike[str] | bytes | IO[bytes] | Image.Image
"""An image: a path, the bytes of a file, an open file (read from its start), or an image of Pillow."""

_RESIZED = 256
_CROP = 224
_OFFSET = (_RESIZED - _CROP) // 2
_RGB_OF_BGR = (2, 1, 0)
_MEAN_BGR = (104.0, 117.0, 123.0)
_RAW_SCALE = 255.0

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


def open_nsfw_tensor(source: Source) -> NDArray[np.float32]:
    """The input of open_nsfw for one image: float32, shape (3, 224, 224), C order, channels blue, green, red.

    Values are pixels in 0 … 255 minus the mean (104, 117, 123) of blue, green, red, rounded as the original script
    rounds them. The image is converted to RGB, resized to 256 x 256 by Pillow's BILINEAR filter, encoded as a JPEG
    with Pillow's defaults, decoded again, and its centre taken. Of a file with several frames the first is used; EXIF
    orientation is ignored, as the original does. A given `Image.Image` or open file is left open.

    Raises: ImageError if there is no such file or Pillow cannot decode it, with the file's name and the reason.
    Source: yahoo/open_nsfw, classify_nsfw.py; BVLC/caffe @ 9b89154, python/caffe/io.py (Transformer).
    """
    with opened_image(source) as image:
        pixels = _jpeg_round_trip(_resized(image))
    # From here on every step looks at one pixel of one channel alone, so all of them together are one look-up.
    centre = pixels[_OFFSET : _OFFSET + _CROP, _OFFSET : _OFFSET + _CROP]
    tensor = np.empty((3, _CROP, _CROP), np.float32)
    for channel, (rgb, table) in enumerate(zip(_RGB_OF_BGR, _tables(), strict=True)):
        np.take(table, centre[:, :, rgb], out=tensor[channel], mode="clip")
    return tensor


def _resized(image: Image.Image) -> Image.Image:
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    small = rgb.resize((_RESIZED, _RESIZED), Image.Resampling.BILINEAR)
    # The encoder writes a comment that came with the file, and fails if it is too long; no pixel depends on it.
    small.info = {}
    return small


def _jpeg_round_trip(image: Image.Image) -> NDArray[np.uint8]:
    encoded = io.BytesIO()
    image.save(encoded, "JPEG")
    encoded.seek(0)
    with Image.open(encoded, formats=("JPEG",)) as decoded:
        return np.asarray(decoded)


@cache
def _tables() -> NDArray[np.float32]:
    """What becomes of each pixel value in each channel: float32, shape (3, 256), rows blue, green, red.

    The same floating-point operations, in the same order and precision, as on a whole image.
    """
    unit = (np.arange(256, dtype=np.float64) / 255.0).astype(np.float32)
    scaled = unit * np.float32(_RAW_SCALE)
    mean = np.array(_MEAN_BGR, np.float64)
    tables: NDArray[np.float32] = (scaled.astype(np.float64)[None, :] - mean[:, None]).astype(np.float32)
    tables.flags.writeable = False
    return tables


@contextmanager
def opened_image(source: Source) -> Iterator[Image.Image]:
    """The opened image; whatever fails while it is in use becomes an ImageError."""
    name = _name(source)
    try:
        if isinstance(source, Image.Image):
            yield source
            return
        opened: Any = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(opened) as image:
            yield image
    except FileNotFoundError as err:
        raise ImageError(f"{name}: no such file") from err
    except UnidentifiedImageError as err:
        reason = "the file is empty" if _is_empty(source) else "not an image that Pillow can read"
        raise ImageError(f"{name}: {reason}") from err
    except _BROKEN as err:
        reason = err.strerror if isinstance(err, OSError) and err.strerror else str(err) or type(err).__name__
        raise ImageError(f"{name}: {reason}") from err


def _name(source: Source) -> str:
    if isinstance(source, bytes):
        return f"image of {len(source)} bytes"
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    name = getattr(source, "filename", None) or getattr(source, "name", None)
    return str(name) if name else f"image from {type(source).__name__}"


def _is_empty(source: Source) -> bool:
    if isinstance(source, bytes):
        return not source
    if isinstance(source, str | os.PathLike):
        return Path(source).stat().st_size == 0
    return not isinstance(source, Image.Image) and source.seek(0, io.SEEK_END) == 0
