"""What Caffe's DataTransformer does to an item: mirror, crop, mean, scale, in its order and with its random numbers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from caffe_port.errors import DataError, ShapeError
from caffe_port.layers.base import Array
from caffe_port.layers.data import Transform
from caffe_port.scoring.mean import Mean
from caffe_port.shapes import format_shape

__all__ = ["RandomStream", "Transformer", "resolved"]


class RandomStream:
    """Caffe's generator of raw random numbers: mt19937, a number below n as the 32 bits modulo n.

    seed: 32 bits. Caffe draws the seed of each layer's own stream from that of the process (`random_seed`); here it is
    the layer's own.
    """

    __slots__ = ("_bits",)

    def __init__(self, seed: int) -> None:
        self._bits = np.random.MT19937()
        # The scalar seeding of the original mt19937, which is what boost's does; numpy's own is another.
        self._bits._legacy_seeding(seed & 0xFFFFFFFF)

    def draw(self) -> int:
        """The next 32 bits."""
        return int(self._bits.random_raw())

    def below(self, n: int) -> int:
        """A number from 0 to n - 1."""
        return self.draw() % n

    def skip(self, count: int) -> None:
        """Passes over numbers."""
        self._bits.random_raw(count, output=False)


def resolved(root: str | os.PathLike[str], name: str) -> Path:
    """A path of a prototxt or a list, relative to `root`. Raises: DataError for an empty one."""
    if not name or "\0" in name:
        raise DataError(f"the source {name!r} is no path")
    return Path(root) / name


class Transformer:
    """Transforms items one after the other.

    transform: of the layer. phase: "TRAIN" crops at random places, "TEST" in the middle; mirroring is random in both,
    as in Caffe. seed: of the stream of random numbers. root: what a relative `mean_file` is relative to.
    Raises: DataError if both a mean file and mean values are given, or both colours are forced; WeightsError for a mean
    file that cannot be read.
    Source: BVLC/caffe @ 9b89154, data_transformer.cpp.
    """

    def __init__(self, transform: Transform, phase: str, *, seed: int = 0, root: str | os.PathLike[str] = ".") -> None:
        if transform.mean_file and transform.mean_values:
            raise DataError("transform_param has both mean_file and mean_value; give one")
        if transform.force_color and transform.force_gray:
            raise DataError("transform_param has both force_color and force_gray; give one")
        self._transform = transform
        self._train = phase == "TRAIN"
        self._random = RandomStream(seed)
        self._image = Mean.read(resolved(root, transform.mean_file)) if transform.mean_file else None
        self._values = np.array(transform.mean_values, np.float32)

    @property
    def draws(self) -> int:
        """How many random numbers an item needs: one to be mirrored, two to be cropped at a random place."""
        return int(self._transform.mirror) + (2 if self._train and self._transform.crop_size else 0)

    def draw(self) -> tuple[int, ...]:
        """The random numbers of the next item, for `__call__` in this process or another."""
        return tuple(self._random.draw() for _ in range(self.draws))

    def skip(self, items: int) -> None:
        """Passes over the random numbers of so many items."""
        self._random.skip(items * self.draws)

    def __call__(self, item: Array, numbers: Sequence[int] | None = None) -> Array:
        """(C, H, W) of numbers, to float32 of (C, H, W), or of (C, crop_size, crop_size).

        numbers: what `draw` gave for the item; without them it draws. Their order is mirror, row, column.
        Raises: DataError for an item smaller than the crop, a mean image of another size than the item, another number
        of mean values than channels.
        """
        transform, crop = self._transform, self._transform.crop_size
        if item.ndim != 3:
            raise DataError(f"an item must have channels, rows and columns, it is {format_shape(item.shape)}")
        channels, height, width = item.shape
        drawn = iter(self.draw() if numbers is None else numbers)
        mirror = transform.mirror and bool(next(drawn) % 2)
        top = left = 0
        if crop:
            if height < crop or width < crop:
                raise DataError(f"an item of {height}x{width} is smaller than crop_size {crop}")
            if self._train:
                top, left = next(drawn) % (height - crop + 1), next(drawn) % (width - crop + 1)
            else:
                top, left = (height - crop) // 2, (width - crop) // 2
            item = item[:, top : top + crop, left : left + crop]
        pixels = item.astype(np.float32)
        if self._image is not None:
            if (self._image.channels, self._image.size or (1, 1)) != (channels, (height, width)):
                raise DataError(
                    f"the mean image is {format_shape(self._image.values.shape)}, an item {channels}x{height}x{width}"
                )
            try:
                # In float32, as Caffe has it, whatever the file has.
                pixels = Mean(self._image.values.astype(np.float32)).apply(pixels, (top, left))
            except ShapeError as error:
                raise DataError(str(error)) from None
        elif self._values.size:
            if self._values.size not in (1, channels):
                raise DataError(f"{self._values.size} mean_value for {channels} channels; give one, or one a channel")
            pixels -= self._values[:, None, None]
        pixels *= np.float32(transform.scale)
        return np.ascontiguousarray(pixels[:, :, ::-1]) if mirror else pixels
