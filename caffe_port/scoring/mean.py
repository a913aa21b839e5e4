"""Mean images and mean values: read, written, and subtracted as Caffe does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from caffe_port.arrays import NPY_MAGIC, read_npy
from caffe_port.errors import ShapeError, WeightsError
from caffe_port.proto import wire
from caffe_port.proto.blobs import BlobData
from caffe_port.proto.files import replacing
from caffe_port.reading import open_regular, reason
from caffe_port.shapes import format_shape

__all__ = ["Mean"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Mean:
    """What is subtracted from an image: a value for each channel, or for each pixel of each channel.

    values: (C,) or (C, H, W), float32 or float64, read-only; the channels in the order of the data, blue first where
    Caffe's own tools made it. Units: those of the pixels, usually 0 to 255.
    """

    values: Array

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if values.dtype.kind not in "iuf":
            raise ShapeError(f"a mean is an array of numbers, not of {values.dtype}")
        if values.ndim == 4 and values.shape[0] == 1:
            values = values[0]
        if values.ndim == 3 and values.shape[1:] == (1, 1):
            values = values[:, 0, 0]
        if values.ndim not in (1, 3) or not values.size:
            raise ShapeError(f"a mean has the shape (C,), (C, H, W) or (1, C, H, W), not {format_shape(values.shape)}")
        if not np.isfinite(values).all():
            raise ShapeError("a mean has finite values only, and NaN or infinite ones are among these")
        if values.dtype != np.float64:
            values = values.astype(np.float32, copy=False)
        values = values.view()
        values.flags.writeable = False
        object.__setattr__(self, "values", values)

    @property
    def channels(self) -> int:
        return int(self.values.shape[0])

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of a mean image; None for a value a channel."""
        return None if self.values.ndim == 1 else (int(self.values.shape[1]), int(self.values.shape[2]))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Mean:
        """Reads a .binaryproto (one BlobProto) or an .npy file; which one it is, its content says.

        Raises: WeightsError for a file that is missing, damaged, or holds no mean.
        """
        name = os.fspath(path)
        try:
            values = _read_npy(name)
        except OSError as error:
            raise WeightsError(f"{name}: {reason(error)}") from None
        if values is None:
            blob = wire.read_blob(path)
            # A view of the file would change with it; a mean is small.
            values = blob.data.reshape(blob.shape).copy()
        try:
            return cls(values)
        except ShapeError as error:
            raise WeightsError(f"{name}: {error}") from None

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the mean as .npy where the path ends so, else as .binaryproto, which appears complete or not at all.

        A .binaryproto is what Caffe's compute_image_mean writes: a legacy blob of 1, channels, height, width; of a
        value a channel, height and width are 1. float64 values are written as `double_data`, which Caffe reads too.
        Raises: ArtifactError where it cannot be written.
        """
        if os.fspath(path).endswith(".npy"):
            with replacing(path) as stream:
                np.lib.format.write_array(stream, self.values, allow_pickle=False)
            return
        shape = (1, self.channels, *(self.size or (1, 1)))
        wire.write_blob(path, BlobData(shape, True, np.ascontiguousarray(self.values).reshape(-1)))

    def per_channel(self) -> Mean:
        """One value a channel: the average over the pixels, summed in float64 and rounded to the dtype of the values.

        As people do with Caffe's own means: `mean.mean(1).mean(1)`.
        """
        if self.size is None:
            return self
        return Mean(self.values.mean(axis=(1, 2), dtype=np.float64).astype(self.values.dtype))

    def apply(self, image: npt.ArrayLike, offset: tuple[int, int] = (0, 0)) -> Array:
        """`image` minus the mean.

        image: (…, C, h, w); comes back as float32, as float64 where it was. offset: row and column of the uncropped
        image at which `image` was cut out; a mean image is looked at there, as Caffe's DataTransformer does (before
        mirroring).
        Raises: ShapeError if the channels differ or the mean image does not reach over the cut.
        Source: BVLC/caffe @ 9b89154, data_transformer.cpp.
        """
        x = np.asarray(image)
        if x.dtype != np.float64:
            x = x.astype(np.float32, copy=False)
        if x.ndim < 3 or x.shape[-3] not in (self.channels, *([] if self.channels > 1 else [x.shape[-3]])):
            raise ShapeError(f"a mean of {self.channels} channels does not fit an image {format_shape(x.shape)}")
        if self.size is None:
            mean = self.values[:, None, None]
        else:
            (top, left), (height, width) = offset, x.shape[-2:]
            if top < 0 or left < 0 or top + height > self.size[0] or left + width > self.size[1]:
                raise ShapeError(
                    f"a mean of {format_shape(self.values.shape)} does not reach over {height}x{width} "
                    f"at row {top}, column {left}"
                )
            mean = self.values[:, top : top + height, left : left + width]
        difference: Array = np.subtract(x, mean).astype(x.dtype, copy=False)
        return difference


def _read_npy(name: str) -> Array | None:
    """The array of an .npy file; None for another file. Raises: OSError; WeightsError for a damaged one."""
    with open_regular(name) as stream:
        if stream.read(len(NPY_MAGIC)) != NPY_MAGIC:
            return None
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        try:
            return read_npy(stream, size)
        except ValueError as error:
            raise WeightsError(f"{name}: no .npy file that can be read: {error}") from None
