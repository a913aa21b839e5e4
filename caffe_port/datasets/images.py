"""Images as Caffe gets them from OpenCV: (C, H, W), blue first; decoded by Pillow, resized bilinearly without
smoothing.

What differs from OpenCV: a grey version of a colour image, and a resized pixel, may be one level off, since OpenCV
rounds inside (coefficients of 11 bits) where Pillow does otherwise and we round once; JPEG decoders may differ by a
level or two. EXIF orientation is ignored, as OpenCV 2 did in Caffe's time.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from caffe_port.errors import ImageError
from caffe_port.image_files import opened_image
from caffe_port.layers.base import Array
from caffe_port.limits import limits

__all__ = ["decode", "read_image", "resize"]


def read_image(path: str | os.PathLike[str], color: bool = True) -> Array:
    """The image file as uint8, (3, H, W), blue first; (1, H, W) in grey. Raises: ImageError."""
    return _pixels(Path(path), "BGR" if color else "L")


def decode(data: bytes, color: bool | None = None) -> Array:
    """An encoded image as uint8, (C, H, W), blue first. color None: with the channels that it has, 1, 3 or 4.

    Raises: ImageError.
    """
    return _pixels(data, "" if color is None else "BGR" if color else "L")


def _pixels(source: Path | bytes, mode: str) -> Array:
    with opened_image(source) as image:
        if not mode:
            mode = {"1": "L", "L": "L", "RGBA": "BGRA", "LA": "BGRA", "PA": "BGRA"}.get(image.mode, "BGR")
        converted = image.convert({"L": "L", "BGR": "RGB", "BGRA": "RGBA"}[mode])
        pixels = np.asarray(converted)
    if pixels.ndim == 2:
        return pixels[None]
    channels = [2, 1, 0, 3][: pixels.shape[2]]
    return np.ascontiguousarray(pixels[:, :, channels].transpose(2, 0, 1))


def _taps(size: int, new_size: int) -> tuple[Array, Array, Array]:
    """For each new place: the two old places it lies between, and how far it is towards the second."""
    centre = (np.arange(new_size) + 0.5) * (size / new_size) - 0.5
    first = np.floor(centre).astype(np.int64)
    share = centre - first
    # Beyond the outermost centres the edge is repeated.
    share[first < 0] = 0
    share[first >= size - 1] = 0
    first = np.clip(first, 0, size - 1)
    return first, np.minimum(first + 1, size - 1), share


def resize(pixels: Array, height: int, width: int) -> Array:
    """(C, H, W) of uint8, to (C, height, width): OpenCV's INTER_LINEAR, rounded to the nearest level (see above).

    Pixel centres lie at half places; the two nearest pixels on each axis count, also where the image gets smaller.
    """
    if pixels.shape[1:] == (height, width):
        return pixels
    if not height or not width or not pixels.size:
        raise ImageError(f"an image of {pixels.shape[1]}x{pixels.shape[2]} cannot be resized to {height}x{width}")
    if height * width > limits.image_pixels:
        most = f"at most {limits.image_pixels:,} pixels are held (limit image_pixels)"
        raise ImageError(f"an image cannot be resized to {height}x{width}: {most}")
    up, down, vertical = _taps(pixels.shape[1], height)
    left, right, horizontal = _taps(pixels.shape[2], width)

    def across(rows: Array) -> Array:
        # Only what is looked at is widened: an image may have a single column and very many rows.
        near, far = (pixels[:, rows[:, None], columns] for columns in (left, right))
        between: Array = near * (1 - horizontal) + far * horizontal
        return between

    both = across(up) * (1 - vertical[:, None]) + across(down) * vertical[:, None]
    rounded: Array = np.floor(both + 0.5).astype(np.uint8)
    return rounded
