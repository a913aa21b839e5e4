"""Layers that join, repeat and reshape blobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from caffe_port.errors import ShapeError
from caffe_port.layers.base import Array, Count, LayerDef, LayerSpec, RunContext, refuse
from caffe_port.layers.pooling import FLT_MAX
from caffe_port.registry import layer
from caffe_port.shapes import Shape, canonical_axis, count, format_shape

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Concat", "Eltwise", "Flatten", "Reshape", "Silence", "Split"]


@layer("Concat")
@dataclass(frozen=True, slots=True)
class Concat(LayerDef):
    """Bottoms one after the other along an axis.

    Shapes: bottoms equal but for `axis` → top with the sum there. Raises: ShapeError if they differ elsewhere;
    UnsupportedParameter if axis and the old concat_dim are both given.
    Source: BVLC/caffe @ 9b89154, concat_layer.cpp.
    """

    bottoms = Count(1, None)

    axis: int = 1

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("concat_param")
        if params.has("axis") and params.has("concat_dim"):
            raise refuse("both axis and concat_dim are given; give axis")
        return cls(params.integer("concat_dim") if params.has("concat_dim") else params.integer("axis"))

    def views_bottom(self, num_bottoms: int, num_tops: int) -> bool:
        return num_bottoms == 1

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        first = bottoms[0]
        axis = canonical_axis(self.axis, len(first))
        for bottom in bottoms[1:]:
            if len(bottom) != len(first) or (bottom[:axis], bottom[axis + 1 :]) != (first[:axis], first[axis + 1 :]):
                raise ShapeError(f"bottoms must agree but for axis {axis}: {', '.join(map(format_shape, bottoms))}")
        return [(*first[:axis], sum(bottom[axis] for bottom in bottoms), *first[axis + 1 :])]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        return [np.concatenate(bottoms, axis=self.axis)]


@layer("Split")
@dataclass(frozen=True, slots=True)
class Split(LayerDef):
    """The bottom under several names. Caffe inserts one wherever a blob is used more than once.

    Shapes: every top as the bottom. Source: BVLC/caffe @ 9b89154, split_layer.cpp, insert_splits.cpp.
    """

    tops = Count(1, None)
    is_pass_through = True

    num_tops: int = 1

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        return cls(spec.num_tops)

    def views_bottom(self, num_bottoms: int, num_tops: int) -> bool:
        return True

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [bottoms[0]] * self.num_tops

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        return [bottoms[0]] * self.num_tops


@layer("Eltwise")
@dataclass(frozen=True, slots=True)
class Eltwise(LayerDef):
    """Elementwise product, weighted sum, or maximum of the bottoms.

    MAX takes bottom[1] unless bottom[0] is larger, and a later bottom only if it is larger, which decides ties and
    NaN; it ignores coeff. In place, SUM and MAX lose bottom[0]: Caffe clears the top before it reads it.
    Shapes: all bottoms and the top the same. Raises: ShapeError if they differ; UnsupportedParameter for coeff with
    PROD, or another number of coeff than bottoms.
    Source: BVLC/caffe @ 9b89154, eltwise_layer.cpp.
    """

    bottoms = Count(2, None)
    in_place = "overwrites"

    operation: str = "SUM"
    coeff: tuple[float, ...] = ()

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("eltwise_param")
        params.inert("stable_prod_grad")
        operation, coeff = params.enum("operation"), params.reals("coeff")
        if coeff and len(coeff) != spec.num_bottoms:
            raise refuse(f"{len(coeff)} coeff for {spec.num_bottoms} bottoms; give one a bottom, or none")
        if coeff and operation == "PROD":
            raise refuse("coeff has no meaning for PROD, and Caffe refuses it")
        return cls(operation, coeff)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if any(bottom != bottoms[0] for bottom in bottoms):
            raise ShapeError(f"bottoms differ in shape: {', '.join(map(format_shape, bottoms))}")
        return [bottoms[0]]

    def coefficients(self, number: int) -> tuple[float, ...]:
        """SUM's factor of each of `number` bottoms."""
        return self.coeff or (1.0,) * number

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        first = bottoms[0]
        if self.operation == "PROD":
            top = bottoms[0] * bottoms[1]
            for bottom in bottoms[2:]:
                top *= bottom
        elif self.operation == "SUM":
            if ctx.in_place:
                first = np.zeros_like(first)
            coefficients = self.coefficients(len(bottoms))
            top = first * first.dtype.type(coefficients[0])
            for coefficient, bottom in zip(coefficients[1:], bottoms[1:], strict=True):
                top += bottom if coefficient == 1 else first.dtype.type(coefficient) * bottom
        else:
            if ctx.in_place:
                first = np.full_like(first, -FLT_MAX)
            top = np.where(first > bottoms[1], first, bottoms[1])
            for bottom in bottoms[2:]:
                top = np.where(bottom > top, bottom, top)
        return [top]


@layer("Flatten")
@dataclass(frozen=True, slots=True)
class Flatten(LayerDef):
    """Axes `axis` to `end_axis` (inclusive) as one.

    Shapes: (a, b, c, d) with axis 1, end_axis -1 → (a, b*c*d). Raises: ShapeError if axis lies behind end_axis.
    Source: BVLC/caffe @ 9b89154, flatten_layer.cpp.
    """

    axis: int = 1
    end_axis: int = -1

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("flatten_param")
        return cls(params.integer("axis"), params.integer("end_axis"))

    def views_bottom(self, num_bottoms: int, num_tops: int) -> bool:
        return True

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (x,) = bottoms
        start, end = canonical_axis(self.axis, len(x)), canonical_axis(self.end_axis, len(x))
        if start > end:
            raise ShapeError(f"axis {self.axis} lies behind end_axis {self.end_axis}")
        return [(*x[:start], count(x, start, end + 1), *x[end + 1 :])]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        return [bottoms[0].reshape(self.top_shapes([bottoms[0].shape])[0])]


@layer("Reshape")
@dataclass(frozen=True, slots=True)
class Reshape(LayerDef):
    """The same values under another shape.

    `dims` replace bottom axes from `axis` on (`num_axes` of them, -1: to the end): 0 keeps the bottom's dim at that
    place,
    -1 takes what is left, anything else is the dim. A negative axis counts from behind the end: -1 appends.
    Shapes: any → as told. Raises: ShapeError if the counts differ; UnsupportedParameter for two -1 or a dim below -1.
    Source: BVLC/caffe @ 9b89154, reshape_layer.cpp.
    """

    dims: Shape = ()
    axis: int = 0
    num_axes: int = -1

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("reshape_param")
        dims = params.message("shape").integers("dim")
        if sum(dim == -1 for dim in dims) > 1:
            raise refuse("only one dim may be -1")
        if any(dim < -1 for dim in dims):
            raise refuse(f"dims must be -1 or more: {', '.join(map(str, dims))}")
        num_axes = params.integer("num_axes")
        if num_axes < -1:
            raise refuse(f"num_axes must be -1 or more, it is {num_axes}")
        return cls(dims, params.integer("axis"), num_axes)

    def views_bottom(self, num_bottoms: int, num_tops: int) -> bool:
        return True

    def replaced(self, bottom: Shape) -> tuple[int, int]:
        """First and one past the last of the bottom's axes that `dims` stand for."""
        start = self.axis if self.axis >= 0 else len(bottom) + self.axis + 1
        if not 0 <= start <= len(bottom):
            raise ShapeError(f"axis {self.axis} is out of range for a blob of {len(bottom)} axes")
        end = len(bottom) if self.num_axes == -1 else start + self.num_axes
        if end > len(bottom):
            raise ShapeError(f"{self.num_axes} axes from axis {start} on do not fit a blob of {len(bottom)} axes")
        return start, end

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (x,) = bottoms
        start, end = self.replaced(x)
        dims = []
        for i, dim in enumerate(self.dims):
            if dim == 0 and start + i >= len(x):
                raise ShapeError(f"dim {i} is 0 (copy), and the bottom {format_shape(x)} has no axis {start + i}")
            dims.append(x[start + i] if dim == 0 else dim)
        top = [*x[:start], *dims, *x[end:]]
        if -1 in dims:
            known = count([dim for dim in top if dim != -1])
            if known == 0 or count(x) % known:
                raise ShapeError(f"the {count(x)} elements of {format_shape(x)} do not divide by {known}")
            top[top.index(-1)] = count(x) // known
        if count(top) != count(x):
            raise ShapeError(f"{format_shape(x)} has {count(x)} elements, {format_shape(top)} would have {count(top)}")
        return [tuple(top)]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        return [bottoms[0].reshape(self.top_shapes([bottoms[0].shape])[0])]


@layer("Silence")
@dataclass(frozen=True, slots=True)
class Silence(LayerDef):
    """Takes blobs so that they are no outputs of the net.

    Shapes: any, no top. Source: BVLC/caffe @ 9b89154, silence_layer.cpp.
    """

    bottoms = Count(1, None)
    tops = Count(0, 0)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return []

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        return []
