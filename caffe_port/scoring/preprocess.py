"""From an image file to the input of a net, for open_nsfw bit for bit what its original script made of it."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from caffe_port.errors import ImageError
from caffe_port.preprocessing import MeanImage, Preprocessing

__all__ = ["Source", "opened_image", "rgb_pixels", "tensor"]

Source = str | os.PathLike[str] | bytes | IO[bytes] | Image.Image
"""An image: a path, the bytes of a file, an open file (read from its start), or an image of Pillow."""

_BILINEAR = Image.Resampling.BILINEAR

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


def tensor(source: Source, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """The input of a net for one image: float32, shape (channels, height, width), C order.

    The image is converted to RGB (and from that to grey), then what `preprocessing` says. Values are rounded as pycaffe's `caffe.io` rounds
    them; for OPEN_NSFW they are bit for bit what the original script fed to Caffe. Of a file with several frames the
    first is used; EXIF orientation is ignored, as the original does. A given `Image.Image` or open file is left open.

    Raises: ImageError if there is no such file, Pillow cannot decode it, or it is smaller than the crop, with the
    file's name and the reason.
    Source: yahoo/open_nsfw, classify_nsfw.py; BVLC/caffe @ 9b89154, python/caffe/io.py (Transformer).
    """
    with opened_image(source) as image:
        picture = _resized(_converted(image, preprocessing), preprocessing)
        pixels = _jpeg_round_trip(picture) if preprocessing.jpeg_round_trip else np.asarray(picture)
    height, width = preprocessing.crop or pixels.shape[:2]
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    if top < 0 or left < 0:
        size = f"{pixels.shape[0]}x{pixels.shape[1]}"
        raise ImageError(f"{_name(source)}: {size} pixels are too few to crop {height}x{width} (height x width)")
    # From here on every step looks at one pixel of one channel alone, so all of them together are one look-up.
    centre = pixels[top : top + height, left : left + width]
    order = preprocessing.channel_order
    planes = [centre] if order == "grey" else [centre[:, :, "RGB".index(letter)] for letter in order]
    blob = np.empty((len(planes), height, width), np.float32)
    for channel, (plane, table) in enumerate(zip(planes, _tables(preprocessing), strict=True)):
        np.take(table, plane, out=blob[channel], mode="clip")
    if isinstance(preprocessing.mean, MeanImage):
        np.subtract(blob, _mean_image(preprocessing), out=blob, casting="same_kind")
        blob *= np.float32(preprocessing.scale)
    return blob


def rgb_pixels(source: Source) -> NDArray[np.uint8]:
    """One image as it is, converted to RGB: uint8, shape (height, width, 3). Raises: ImageError, as `tensor`."""
    with opened_image(source) as image:
        return np.asarray(_rgb(image))


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _converted(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    # Grey by way of RGB, whatever the file holds; of what is grey already that changes nothing.
    if preprocessing.channel_order == "grey":
        return image if image.mode == "L" else _rgb(image).convert("L")
    return _rgb(image)


def _resized(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    if preprocessing.resize is None:
        return image
    height, width = preprocessing.resize
    if preprocessing.interpolation == "opencv":
        from caffe_port.datasets import images

        pixels = np.asarray(image)
        planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        resized = images.resize(planes, height, width)
        return Image.fromarray(resized[0] if pixels.ndim == 2 else np.ascontiguousarray(resized.transpose(1, 2, 0)))
    # In two calls: given both sizes at once, some versions of Pillow resize the columns of some pictures first, and
    # each pass rounds to 8 bits.
    return image.resize((width, image.height), _BILINEAR).resize((width, height), _BILINEAR)


def _jpeg_round_trip(image: Image.Image) -> NDArray[np.uint8]:
    bare = image.copy()
    # The encoder writes a comment that came with the file, and fails if it is too long; no pixel depends on it.
    bare.info = {}
    encoded = io.BytesIO()
    bare.save(encoded, "JPEG")
    encoded.seek(0)
    with Image.open(encoded, formats=("JPEG",)) as decoded:
        return np.asarray(decoded)


@lru_cache(maxsize=8)
def _tables(preprocessing: Preprocessing) -> NDArray[np.float32]:
    """What becomes of each pixel value in each channel: float32, shape (channels, 256), in the order of the channels.

    The same floating-point operations, in the same order and precision, as on a whole image; none after the raw scale
    where the mean is an image.
    """
    unit = (np.arange(256, dtype=np.float64) / 255.0).astype(np.float32)
    values = unit * np.float32(preprocessing.raw_scale)
    if isinstance(preprocessing.mean, MeanImage):
        tables = np.tile(values, (preprocessing.channels, 1))
    else:
        mean = preprocessing.mean_array()[:, :, 0]
        centred = (values.astype(np.float64)[None, :] - mean).astype(np.float32)
        tables = centred * np.float32(preprocessing.scale)
    tables.flags.writeable = False
    return tables


@lru_cache(maxsize=8)
def _mean_image(preprocessing: Preprocessing) -> NDArray[np.float64]:
    return preprocessing.mean_array()


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
