"""From an image file to the input of a net, for open_nsfw bit for bit what its original script made of it."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from caffe_port.image_files import Source, as_rgb, image_error, opened_image, require_pixels, source_name
from caffe_port.preprocessing import MeanImage, Preprocessing

__all__ = ["tensor"]

_BILINEAR = Image.Resampling.BILINEAR


def tensor(
    source: Source,
    preprocessing: Preprocessing,
    *,
    draft: bool = False,
    out: NDArray[np.float32] | None = None,
    decoding: Callable[[int], AbstractContextManager[None]] | None = None,
    name: str | None = None,
) -> NDArray[np.float32]:
    """The input of a net for one image: float32, shape (channels, height, width), C order.

    The image is converted to RGB (and from that to grey), then what `preprocessing` says. Values are rounded as
    pycaffe's `caffe.io` rounds them; for OPEN_NSFW they are bit for bit what the original script fed to Caffe. Of a
    file with several frames the first is used; EXIF orientation is ignored, as the original does. A given
    `Image.Image` or open file is left open.

    - `draft`: quicker and not the same: no JPEG round trip, and a JPEG file is decoded at 1/2, 1/4 or 1/8 of its size
      where that is not below the size it is resized to.
    - `out`: where the result is written, of its shape; by default a new array.
    - `decoding`: what is entered, with the number of pixels, while the image is decoded and resized.
    - `name`: what an error calls the image, nothing if empty; by default `source_name(source)`.

    Raises: ImageError if there is no such file, Pillow cannot decode it, or it is smaller than the crop, with the
    file's name and the reason.
    Source: yahoo/open_nsfw, classify_nsfw.py; BVLC/caffe @ 9b89154, python/caffe/io.py (Transformer).
    """
    name = source_name(source) if name is None else name
    with opened_image(source, name) as image:
        with nullcontext() if decoding is None else decoding(image.width * image.height):
            if draft and image is not source and preprocessing.resize is not None:
                image.draft(None, preprocessing.resize[::-1])
            picture = _resized(_converted(image, preprocessing), preprocessing)
        round_trip = preprocessing.jpeg_round_trip and not draft
        pixels = _jpeg_round_trip(picture) if round_trip else np.asarray(picture)
    height, width = preprocessing.crop or pixels.shape[:2]
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    if top < 0 or left < 0:
        size = f"{pixels.shape[0]}x{pixels.shape[1]}"
        raise image_error(name, f"{size} pixels are too few to crop {height}x{width} (height x width)")
    # From here on every step looks at one pixel of one channel alone, so all of them together are one look-up.
    centre = pixels[top : top + height, left : left + width]
    order = preprocessing.channel_order
    planes = [centre] if order == "grey" else [centre[:, :, "RGB".index(letter)] for letter in order]
    blob = np.empty((len(planes), height, width), np.float32) if out is None else out
    for channel, (plane, table) in enumerate(zip(planes, _tables(preprocessing), strict=True)):
        np.take(table, plane, out=blob[channel], mode="clip")
    if isinstance(preprocessing.mean, MeanImage):
        np.subtract(blob, _mean_image(preprocessing), out=blob, casting="same_kind")
        blob *= np.float32(preprocessing.scale)
    return blob


def _converted(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    # Grey by way of RGB, whatever the file holds; of what is grey already that changes nothing.
    if preprocessing.channel_order == "grey":
        return image if image.mode == "L" else as_rgb(image).convert("L")
    return as_rgb(image)


def _resized(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    if preprocessing.resize is None:
        return image
    height, width = preprocessing.resize
    require_pixels(height, width)
    if preprocessing.interpolation == "opencv":
        from caffe_port.datasets import images

        pixels = np.asarray(image)
        planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        resized = images.resize(planes, height, width)
        return Image.fromarray(resized[0] if pixels.ndim == 2 else np.ascontiguousarray(resized.transpose(1, 2, 0)))
    # Between the two passes an image of one column and very many rows is large.
    require_pixels(image.height, width)
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
