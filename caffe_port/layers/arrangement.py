"""Layers of forks that move values and change none: Permute, Transpose, Reverse, ShuffleChannel, Padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from caffe_port.errors import ShapeError
from caffe_port.layers.base import Array, LayerDef, LayerSpec, RunContext, refuse
from caffe_port.registry import layer
from caffe_port.shapes import Shape, canonical_axis, format_shape

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Padding", "Permute", "Reverse", "ShuffleChannel", "Transpose"]


@layer("Permute")
@dataclass(frozen=True, slots=True)
class Permute(LayerDef):
    """The axes in another order: `order` first, then those it does not name, as they were.

    Shapes: bottom (d0, d1, …) → top (d[order[0]], d[order[1]], …). Raises: UnsupportedParameter for an axis that stands
    in `order` twice; ShapeError for one the bottom has not.
    Source: weiliu89/caffe (ssd), permute_layer.cpp; recorded.
    """

    order: tuple[int, ...] = ()

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        order = spec.params("permute_param").integers("order")
        if len(set(order)) < len(order):
            raise refuse(f"order names an axis twice: {', '.join(map(str, order))}")
        return cls(order)

    def axes(self, num_axes: int) -> tuple[int, ...]:
        """The bottom's axis of each of the top's. Raises ShapeError for an axis out of range."""
        if any(axis >= num_axes for axis in self.order):
            raise ShapeError(f"order {', '.join(map(str, self.order))} for a bottom of {num_axes} axes")
        return (*self.order, *(axis for axis in range(num_axes) if axis not in self.order))

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (x,) = bottoms
        return [tuple(x[axis] for axis in self.axes(len(x)))]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        return [np.ascontiguousarray(x.transpose(self.axes(x.ndim)))]


@layer("Transpose")
@dataclass(frozen=True, slots=True)
class Transpose(Permute):
    """The axes in the order of `dim`, which names each of them once.

    Shapes: bottom (d0, d1, …) → top (d[dim[0]], d[dim[1]], …).
    Raises: UnsupportedParameter for an axis that stands in `dim` twice, or is negative; ShapeError if `dim` does not
    name every axis of the bottom.
    Source: tianzhi0549/CTPN, caffe/src/caffe/layers/transpose_layer.cpp.
    """

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        dims = spec.params("transpose_param").integers("dim")
        if len(set(dims)) < len(dims) or any(dim < 0 for dim in dims):
            raise refuse(f"dim must name each axis once: {', '.join(map(str, dims))}")
        return cls(dims)

    def axes(self, num_axes: int) -> tuple[int, ...]:
        if sorted(self.order) != list(range(num_axes)):
            raise ShapeError(f"dim {', '.join(map(str, self.order))} for a bottom of {num_axes} axes")
        return self.order


@layer("Reverse")
@dataclass(frozen=True, slots=True)
class Reverse(LayerDef):
    """The values of one axis, last to first.

    Shapes: top as the bottom. Raises: UnsupportedParameter for a negative axis; ShapeError for one the bottom has not.
    Source: tianzhi0549/CTPN, caffe/src/caffe/layers/reverse_layer.cpp.
    """

    axis: int = 0

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        axis = spec.params("reverse_param").integer("axis")
        if axis < 0:
            raise refuse(f"axis must not be negative, it is {axis}")
        return cls(axis)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        canonical_axis(self.axis, len(bottoms[0]))
        return [bottoms[0]]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        return [np.flip(bottoms[0], self.axis)]


@layer("ShuffleChannel")
@dataclass(frozen=True, slots=True)
class ShuffleChannel(LayerDef):
    """The channels (axis 1) as a matrix of `group` rows, transposed: channel g * n + i goes to i * group + g.

    Shapes: (N, C, …) → the same. Raises: UnsupportedParameter unless group is positive; ShapeError if it does not
    divide C, or there are fewer than 2 axes.
    Source: farmingyard/ShuffleNet, shuffle_channel_layer.cpp; recorded.
    """

    group: int = 1

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        group = spec.params("shuffle_channel_param").integer("group")
        if group <= 0:
            raise refuse(f"group must be positive, it is {group}")
        return cls(group)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (x,) = bottoms
        if len(x) < 2 or x[1] % self.group:
            raise ShapeError(f"group {self.group} must divide axis 1 of the bottom, which is {format_shape(x)}")
        return [x]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        rows = x.reshape(x.shape[0], self.group, x.shape[1] // self.group, *x.shape[2:])
        return [rows.swapaxes(1, 2).reshape(x.shape)]


@layer("Padding")
@dataclass(frozen=True, slots=True)
class Padding(LayerDef):
    """Zeros around the plane, `before` rows and columns in front and `after` behind; negative numbers cut it.

    Shapes: (N, C, H, W) → (N, C, H + before + after, W + before + after). Raises: UnsupportedParameter if one pads and
    the other cuts; ShapeError unless the bottom has 4 axes and something is left.
    Source: TheLegendAli/DeepLab-Context and gpapan/caffe, padding_layer.cpp.
    """

    before: int = 0
    after: int = 0

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("padding_param")
        before, after = params.integer("pad_beg"), params.integer("pad_end")
        if before * after < 0:
            raise refuse(f"pad_beg {before} and pad_end {after}: one pads, the other cuts")
        return cls(before, after)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (x,) = bottoms
        if len(x) != 4:
            raise ShapeError(f"Padding needs a bottom of 4 axes, it is {format_shape(x)}")
        plane = tuple(size + self.before + self.after for size in x[2:])
        if min(plane) <= 0:
            raise ShapeError(f"pad_beg {self.before} and pad_end {self.after} leave nothing of {format_shape(x)}")
        return [(*x[:2], *plane)]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        height, width = (slice(max(-self.before, 0), size + min(self.after, 0)) for size in x.shape[2:])
        pads = (max(self.before, 0), max(self.after, 0))
        return [np.pad(x[:, :, height, width], ((0, 0), (0, 0), pads, pads))]
