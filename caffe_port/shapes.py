"""Caffe's shape arithmetic, written once: axes, counts, and the rounding of convolution and pooling windows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from caffe_port.errors import ShapeError
from caffe_port.limits import MAX_AXES, MAX_ELEMENTS

__all__ = [
    "UNKNOWN",
    "Shape",
    "canonical_axis",
    "conv_output",
    "count",
    "deconv_output",
    "format_shape",
    "legacy_dim",
    "pool_output",
]

Shape = tuple[int, ...]


class _Unknown(tuple[int, ...]):
    __slots__ = ()


UNKNOWN: Shape = _Unknown()
"""The shape of a blob behind a layer that nobody understands (see `layers.unknown`). To be told by `is`."""


def count(shape: Sequence[int], start: int = 0, stop: int | None = None) -> int:
    """Product of the dims `shape[start:stop]`; 1 where the range is empty, 0 for an unknown shape."""
    return 0 if shape is UNKNOWN else math.prod(shape[start:stop])


def format_shape(shape: Sequence[int]) -> str:
    """The shape as people write it: `1x3x224x224`, `()` for a scalar, `?` for an unknown one."""
    return "?" if shape is UNKNOWN else "x".join(map(str, shape)) or "()"


def canonical_axis(axis: int, num_axes: int) -> int:
    """`axis` counted from the front; a negative one counts from the end.

    Raises: ShapeError if it is out of range. Source: Blob::CanonicalAxisIndex.
    """
    if not -num_axes <= axis < num_axes:
        raise ShapeError(f"axis {axis} is out of range for a blob of {num_axes} axes")
    return axis + num_axes if axis < 0 else axis


def legacy_dim(shape: Sequence[int], axis: int) -> int:
    """The dim that Caffe's old accessors num, channels, height, width (axes 0 to 3) give: 1 for an axis that is not
    there.

    Raises: ShapeError for more than 4 axes. Source: Blob::LegacyShape.
    """
    if len(shape) > 4:
        raise ShapeError(f"a blob of {len(shape)} axes ({format_shape(shape)}): this layer takes at most 4")
    return shape[axis] if axis < len(shape) else 1


def check_shape(shape: Sequence[int]) -> Shape:
    """`shape` as a tuple, if Caffe would allocate it; else ShapeError."""
    if len(shape) > MAX_AXES:
        raise ShapeError(f"{len(shape)} axes; Caffe allows {MAX_AXES}")
    if any(dim < 0 for dim in shape):
        raise ShapeError(f"shape {format_shape(shape)} has a negative dim")
    if count(shape) > MAX_ELEMENTS:
        raise ShapeError(f"shape {format_shape(shape)} has more than {MAX_ELEMENTS} elements")
    return tuple(shape)


def _truncated_quotient(numerator: int, denominator: int) -> int:
    """Division as C does it: rounded toward zero."""
    quotient = abs(numerator) // abs(denominator)
    return quotient if (numerator < 0) == (denominator < 0) else -quotient


def conv_output(size: int, kernel: int, stride: int, pad: int, dilation: int = 1) -> int:
    """Output size of a convolution along one axis.

    C's division truncates toward zero, so a kernel larger than the padded input by less than the stride gives 1, not 0.
    """
    extent = dilation * (kernel - 1) + 1
    return _truncated_quotient(size + 2 * pad - extent, stride) + 1


def deconv_output(size: int, kernel: int, stride: int, pad: int, dilation: int = 1) -> int:
    """Output size of a deconvolution along one axis."""
    return stride * (size - 1) + dilation * (kernel - 1) + 1 - 2 * pad


def pool_output(size: int, kernel: int, stride: int, pad: int, *, clip: bool, floor: bool = False) -> int:
    """Output size of a pooling along one axis: rounded up unless `floor`.

    With `clip` (Caffe: any pad is positive, on either axis) a last window that would start in the far padding is
    dropped.
    """
    steps = (size + 2 * pad - kernel) / stride
    output = (math.floor(steps) if floor else math.ceil(steps)) + 1
    if clip and (output - 1) * stride >= size + pad:
        output -= 1
    return output
