"""Blobs: values and their gradients, in memory that several blobs may share, as in Caffe."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from caffe_port.errors import ShapeError
from caffe_port.layers.base import Array
from caffe_port.pycaffe.errors import BlobShapeError
from caffe_port.shapes import Shape, check_shape, count, format_shape, legacy_dim

__all__ = ["Blob", "BlobVec"]


class _Memory:
    """float32 values that blobs share: allocated, as zeros, when somebody first looks at them."""

    __slots__ = ("_values", "capacity")

    def __init__(self, capacity: int, values: Array | None = None) -> None:
        self.capacity = capacity
        self._values = values

    @property
    def values(self) -> Array:
        if self._values is None:
            self._values = np.zeros(self.capacity, np.float32)
        return self._values


class Blob:
    """A blob of any number of axes, float32. `data` and `diff` are arrays to be read and written in place.

    They view the blob's memory, which lives as long as one of them does, the net gone or not. Whoever holds such an
    array sees what the net writes later, until the blob is reshaped to more values than it ever had: then it gets new
    memory, as in Caffe.
    """

    __slots__ = ("_data", "_diff", "_shape")

    def __init__(self, *dims: int) -> None:
        self._shape: Shape = ()
        self._data = self._diff = _Memory(0)
        self.reshape(*dims)

    @property
    def data(self) -> Array:
        return self._data.values[: self.count].reshape(self._shape)

    @property
    def diff(self) -> Array:
        return self._diff.values[: self.count].reshape(self._shape)

    @property
    def shape(self) -> Shape:
        return self._shape

    @property
    def count(self) -> int:
        return count(self._shape)

    @property
    def num(self) -> int:
        return legacy_dim(self._shape, 0)

    @property
    def channels(self) -> int:
        return legacy_dim(self._shape, 1)

    @property
    def height(self) -> int:
        return legacy_dim(self._shape, 2)

    @property
    def width(self) -> int:
        return legacy_dim(self._shape, 3)

    def reshape(self, *dims: int) -> None:
        """Gives the blob another shape. Memory is kept, values too, unless it is too small for the new shape.

        Raises: BlobShapeError for dims that are no integers, negative, or too many.
        """
        try:
            shape = check_shape([operator.index(dim) for dim in dims])
        except TypeError:
            raise BlobShapeError(f"dims must be integers, not {dims}") from None
        except ShapeError as error:
            raise BlobShapeError(str(error)) from None
        if shape == self._shape and self._data.capacity:
            return
        self._shape = shape
        if self.count > min(self._data.capacity, self._diff.capacity):
            self._data, self._diff = _Memory(self.count), _Memory(self.count)

    def share_data(self, other: Blob) -> None:
        """Takes the memory of another blob's values for its own. Raises: BlobShapeError for another number of them."""
        self._require_count(other)
        self._data = other._data

    def share_diff(self, other: Blob) -> None:
        """Takes the memory of another blob's gradient for its own. Raises: BlobShapeError as `share_data`."""
        self._require_count(other)
        self._diff = other._diff

    def fill(self, values: Array) -> None:
        """Takes values of its own shape: the array itself for its memory, if that may be written, else a copy.

        Raises: BlobShapeError for another shape.
        """
        if values.shape != self._shape:
            raise BlobShapeError(f"values are {format_shape(values.shape)}, the blob is {format_shape(self._shape)}")
        own = np.require(values, np.float32, ["C", "A", "W"])
        self._data = _Memory(self.count, own.reshape(-1))

    def _require_count(self, other: Blob) -> None:
        if other.count != self.count:
            raise BlobShapeError(f"{format_shape(other.shape)} cannot be shared as {format_shape(self._shape)}")

    def __repr__(self) -> str:
        return f"<Blob {format_shape(self._shape)}>"


class BlobVec(list[Blob]):
    """The learned blobs of a layer. A Python layer adds its own in `setup`."""

    def add_blob(self, *dims: int, **options: Any) -> None:
        """Appends a blob of this shape, of zeros. Raises: BlobShapeError; TypeError for anything by name."""
        if options:
            raise TypeError("BlobVec.add_blob takes no keyword arguments")
        self.append(Blob(*dims))
