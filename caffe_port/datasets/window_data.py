"""WindowData: windows drawn from those of a list, cut out of their images and warped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from caffe_port.datasets import images
from caffe_port.datasets.items import LARGEST_LABEL, Batches, Root, list_lines, positive
from caffe_port.datasets.transform import RandomStream, resolved
from caffe_port.errors import DataError, ShapeError
from caffe_port.layers import data as layers
from caffe_port.layers.base import Array
from caffe_port.scoring.mean import Mean

__all__ = ["window_batches"]


@dataclass(frozen=True, slots=True)
class _Window:
    image: int
    label: int
    overlap: float
    box: tuple[int, int, int, int]
    """x1, y1, x2, y2, inclusive."""


@dataclass(frozen=True, slots=True)
class _Listed:
    path: Path
    channels: int


def window_batches(layer: layers.WindowData, *, root: Root = ".", seed: int = 0) -> Batches:
    """Windows drawn from those of a window file: background first, then floor(batch_size * fg_fraction) of foreground.

    Each is cut out with its context, warped to crop_size, mirrored at random, and stands in a blob of zeros. The scale
    is that of window_data_param. Draws are those of Caffe's generator for a layer whose own seed is `seed`.
    Raises: DataError; ImageError for an image that cannot be decoded.
    Source: BVLC/caffe @ 9b89154, window_data_layer.cpp; Girshick et al. 2014, section 2.3 and appendix A.
    """
    size, crop, transform = positive(layer.batch_size), layer.crop_size, layer.transform
    if transform.mean_file and transform.mean_values:
        raise DataError("transform_param has both mean_file and mean_value; give one")
    if layer.context_pad * 2 >= crop:
        raise DataError(f"context_pad {layer.context_pad} leaves nothing of crop_size {crop}")
    source = resolved(root, layer.source)
    listed, windows = _read_windows(source, layer, root)
    foreground = [window for window in windows if window.overlap >= layer.fg_threshold]
    background = [w for w in windows if w.overlap < layer.fg_threshold and w.overlap < layer.bg_threshold]
    if any(window.label <= 0 for window in foreground):
        raise DataError(f"{source}: a foreground window has the label of the background, 0")
    mean = Mean.read(resolved(root, transform.mean_file)) if transform.mean_file else None
    stream = RandomStream(seed)
    num_foreground = int(np.float32(size) * np.float32(layer.fg_fraction))
    draws = ((background, size - num_foreground, "background"), (foreground, num_foreground, "foreground"))
    while True:
        pixels: list[Array] = []
        labels: list[int] = []
        for pool, number, what in draws:
            if number and not pool:
                raise DataError(f"{source}: has no {what} window")
            for _ in range(number):
                window = pool[stream.draw() % len(pool)]
                mirror = transform.mirror and bool(stream.draw() % 2)
                image = images.read_image(listed[window.image].path)
                if image.shape[0] != listed[window.image].channels:
                    raise DataError(f"{listed[window.image].path}: has not the channels that {source} says")
                pixels.append(_warped(image, window, layer, mirror, mean, str(listed[window.image].path)))
                labels.append(window.label if what == "foreground" else 0)
        yield [np.stack(pixels), np.array(labels, np.float32)]


def _read_windows(source: Path, layer: layers.WindowData, root: Root) -> tuple[list[_Listed], list[_Window]]:
    """A window file is a row of: `# index`, path, channels, height, width, count, and count times label, overlap, x1 y1
    x2 y2."""
    words = iter("\n".join(list_lines(source)).split())
    listed: list[_Listed] = []
    windows: list[_Window] = []
    try:
        for word in words:
            if word != "#" or int(next(words)) != len(listed):
                raise DataError(f"{source}: `# {len(listed)}` expected, found {word!r}")
            path = resolved(root, layer.root_folder + next(words))
            channels, _height, _width, count = (int(next(words)) for _ in range(4))
            for _ in range(count):
                label, overlap = int(next(words)), float(next(words))
                x1, y1, x2, y2 = (int(next(words)) for _ in range(4))
                if max(map(abs, (label, x1, y1, x2, y2))) > LARGEST_LABEL:
                    raise ValueError
                windows.append(_Window(len(listed), label, overlap, (x1, y1, x2, y2)))
            listed.append(_Listed(path, channels))
    except (ValueError, StopIteration, RuntimeError):
        raise DataError(f"{source}: ends early, or has a word where a number belongs, in image {len(listed)}") from None
    return listed, windows


def _round(value: float) -> int:
    """Half away from zero, as C's round."""
    return int(np.floor(abs(value) + 0.5)) * (-1 if value < 0 else 1)


def _warped(
    image: Array, window: _Window, layer: layers.WindowData, mirror: bool, mean: Mean | None, where: str
) -> Array:
    """One window as (C, crop_size, crop_size), zero where it reaches over the image's edge."""
    crop, transform = layer.crop_size, layer.transform
    channels, rows, columns = image.shape
    x1, y1, x2, y2 = window.box
    pad_left = pad_top = 0
    height = width = crop
    if layer.context_pad or layer.crop_mode == "square":
        # The box grows so that, warped, it has context_pad pixels around it on each side.
        grow = np.float32(crop) / np.float32(crop - 2 * layer.context_pad)
        half_height, half_width = np.float32(y2 - y1 + 1) / 2, np.float32(x2 - x1 + 1) / 2
        centre_x, centre_y = x1 + half_width, y1 + half_height
        if layer.crop_mode == "square":
            half_height = half_width = max(half_height, half_width)
        x1, x2 = _round(centre_x - half_width * grow), _round(centre_x + half_width * grow)
        y1, y2 = _round(centre_y - half_height * grow), _round(centre_y + half_height * grow)
        scale_x, scale_y = np.float32(crop) / np.float32(x2 - x1 + 1), np.float32(crop) / np.float32(y2 - y1 + 1)
        left, top, right, bottom = max(0, -x1), max(0, -y1), max(0, x2 - columns + 1), max(0, y2 - rows + 1)
        x1, y1, x2, y2 = x1 + left, y1 + top, x2 - right, y2 - bottom
        width, height = _round((x2 - x1 + 1) * scale_x), _round((y2 - y1 + 1) * scale_y)
        pad_top = _round(top * scale_y)
        pad_left = _round((right if mirror else left) * scale_x)
        # Rounding may make it one too large.
        height, width = min(height, crop - pad_top), min(width, crop - pad_left)
    if x1 < 0 or y1 < 0 or x2 >= columns or y2 >= rows or x1 > x2 or y1 > y2 or height <= 0 or width <= 0:
        raise DataError(f"{where}: the window {window.box} does not lie in the image of {columns}x{rows}")
    pixels = images.resize(image[:, y1 : y2 + 1, x1 : x2 + 1], height, width).astype(np.float32)
    if mirror:
        pixels = pixels[:, :, ::-1]
    if mean is not None:
        if mean.size is None or mean.size[0] != mean.size[1] or mean.size[0] < crop:
            raise DataError(f"the mean image must be square and no smaller than crop_size {crop}")
        offset = (mean.size[1] - crop) // 2
        try:
            pixels = Mean(mean.values.astype(np.float32)).apply(pixels, (offset + pad_top, offset + pad_left))
        except ShapeError as error:
            raise DataError(str(error)) from None
    elif transform.mean_values:
        values = np.array(transform.mean_values, np.float32)
        if values.size not in (1, channels):
            raise DataError(f"{values.size} mean_value for {channels} channels; give one, or one a channel")
        pixels = pixels - values[:, None, None]
    out = np.zeros((channels, crop, crop), np.float32)
    out[:, pad_top : pad_top + height, pad_left : pad_left + width] = pixels * np.float32(layer.scale)
    return out
