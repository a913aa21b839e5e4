"""Layers that cut out, pick and repeat parts of blobs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from caffe_port.errors import GraphError, ShapeError
from caffe_port.layers.base import Array, Count, LayerDef, LayerSpec, RunContext, refuse
from caffe_port.registry import layer
from caffe_port.shapes import Shape, canonical_axis, count, format_shape

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["BatchReindex", "Crop", "Filter", "Slice", "Tile"]


@layer("Slice")
@dataclass(frozen=True, slots=True)
class Slice(LayerDef):
    """The bottom cut along an axis, at slice_point or into equal parts.

    Shapes: bottom → tops equal but for `axis`, where they add up to the bottom's.
    Raises: ShapeError if the tops do not divide the axis, or the points do not fit it; GraphError for another number of
    points than tops - 1; UnsupportedParameter if axis and the old slice_dim are both given, or points do not increase.
    Source: BVLC/caffe @ 9b89154, slice_layer.cpp.
    """

    tops = Count(1, None)

    axis: int
    points: tuple[int, ...]
    num_tops: int

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("slice_param")
        if params.has("axis") and params.has("slice_dim"):
            raise refuse("both axis and slice_dim are given; give axis")
        axis = params.integer("slice_dim") if params.has("slice_dim") else params.integer("axis")
        points = params.integers("slice_point")
        if points and len(points) != spec.num_tops - 1:
            raise GraphError(f"{len(points)} slice_point for {spec.num_tops} tops; give one less than tops, or none")
        if any(after <= before for before, after in itertools.pairwise((0, *points))):
            raise refuse(f"slice_point must increase from 1 on: {', '.join(map(str, points))}")
        return cls(axis, points, spec.num_tops)

    def views_bottom(self, num_bottoms: int, num_tops: int) -> bool:
        return num_tops == 1

    def sizes(self, bottom: Shape) -> list[int]:
        """Size of each top along the axis."""
        size = bottom[canonical_axis(self.axis, len(bottom))]
        if not self.points:
            if size % self.num_tops:
                raise ShapeError(f"{self.num_tops} tops do not divide the {size} of axis {self.axis}; give slice_point")
            return [size // self.num_tops] * self.num_tops
        if self.points[-1] > size or self.num_tops > size:
            raise ShapeError(
                f"slice_point {', '.join(map(str, self.points))} do not fit the {size} of axis {self.axis}"
            )
        return [stop - start for start, stop in itertools.pairwise((0, *self.points, size))]

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (x,) = bottoms
        axis = canonical_axis(self.axis, len(x))
        return [(*x[:axis], size, *x[axis + 1 :]) for size in self.sizes(x)]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        return list(np.split(x, np.cumsum(self.sizes(x.shape))[:-1], axis=self.axis))


@layer("Crop")
@dataclass(frozen=True, slots=True)
class Crop(LayerDef):
    """bottom[0] cut to the size of bottom[1] on every axis from `axis` on. bottom[1] gives its shape only.

    Shapes: bottom[0] (…), bottom[1] (…) → bottom[0]'s dims before `axis`, bottom[1]'s from there on.
    Raises: ShapeError if offset + size goes past the end, or the offsets are not one, or one an axis.
    Source: BVLC/caffe @ 9b89154, crop_layer.cpp.
    """

    bottoms = Count(2, 2)

    axis: int = 2
    offset: tuple[int, ...] = ()

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("crop_param")
        return cls(params.integer("axis"), params.integers("offset"))

    def starts(self, bottom: Shape) -> Shape:
        """Where the cut begins, on each axis of bottom[0]."""
        axis = canonical_axis(self.axis, len(bottom))
        axes = len(bottom) - axis
        if len(self.offset) > 1 and len(self.offset) != axes:
            raise ShapeError(f"{len(self.offset)} offset for {axes} cropped axes; give one, or one an axis")
        offset = self.offset or (0,)
        return (0,) * axis + (offset * axes if len(offset) == 1 else offset)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x, reference = bottoms
        axis = canonical_axis(self.axis, len(x))
        if len(reference) < len(x):
            raise ShapeError(f"bottom[1] {format_shape(reference)} has fewer axes than bottom[0] {format_shape(x)}")
        top = (*x[:axis], *reference[axis : len(x)])
        for i, (size, start, wanted) in enumerate(zip(x, self.starts(x), top, strict=True)):
            if start + wanted > size:
                raise ShapeError(f"axis {i}: offset {start} and size {wanted} go past the {size} of bottom[0]")
        return [top]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        x, reference = bottoms
        (top,) = self.top_shapes([x.shape, reference.shape])
        cut = (slice(start, start + size) for start, size in zip(self.starts(x.shape), top, strict=True))
        return [x[tuple(cut)]]


@layer("Tile")
@dataclass(frozen=True, slots=True)
class Tile(LayerDef):
    """The bottom repeated as a whole along an axis.

    Shapes: (…, d, …) → (…, d * tiles, …). Raises: UnsupportedParameter without a positive tiles; ShapeError if axis is
    out of range.
    Source: BVLC/caffe @ 9b89154, tile_layer.cpp.
    """

    axis: int
    tiles: int

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("tile_param")
        tiles = params.integer("tiles")
        if tiles <= 0:
            raise refuse("tiles must be given and positive")
        return cls(params.integer("axis"), tiles)

    def repeats(self, bottom: Shape) -> Shape:
        """How often the bottom is repeated, on each of its axes."""
        axis = canonical_axis(self.axis, len(bottom))
        return tuple(self.tiles if i == axis else 1 for i in range(len(bottom)))

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (x,) = bottoms
        return [tuple(size * times for size, times in zip(x, self.repeats(x), strict=True))]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        return [np.tile(x, self.repeats(x.shape))]


@layer("BatchReindex")
@dataclass(frozen=True, slots=True)
class BatchReindex(LayerDef):
    """Items of bottom[0], picked by the indices in bottom[1] (a fraction is cut off).

    Shapes: bottom[0] (N, …), bottom[1] (M,) → (M, …). Raises: ShapeError unless bottom[1] has 1 axis, and when running
    for an index that is not in 0 … N-1.
    Source: BVLC/caffe @ 9b89154, batch_reindex_layer.cpp.
    """

    bottoms = Count(2, 2)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x, index = bottoms
        canonical_axis(0, len(x))
        if len(index) != 1:
            raise ShapeError(f"bottom[1] must be indices of 1 axis, it is {format_shape(index)}")
        return [(*index, *x[1:])]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        x, index = bottoms
        wrong = ~((index >= 0) & (index < len(x)))
        if wrong.any():
            raise ShapeError(f"index {index[wrong][0]:g} is not in 0 to {len(x) - 1}")
        return [x[index.astype(np.int64)]]


@layer("Filter")
@dataclass(frozen=True, slots=True)
class Filter(LayerDef):
    """The items of each bottom for which the last bottom, the selector, is not 0.

    Shapes: bottoms (N, …), selector (N,) or (N, 1, …) → a top for each other bottom, with as many items as are
    selected; N at setup, possibly 0 when running. Raises: ShapeError if the bottoms differ in N, or the selector in
    other dims from 1; GraphError unless there is a top for each bottom but the selector.
    Source: BVLC/caffe @ 9b89154, filter_layer.cpp.
    """

    bottoms = Count(2, None)
    tops = Count(1, None)
    data_dependent = True

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        if spec.num_tops != spec.num_bottoms - 1:
            raise GraphError(f"{spec.num_bottoms} bottoms need {spec.num_bottoms - 1} tops, {spec.num_tops} are given")
        return cls()

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        *data, selector = bottoms
        if not selector or count(selector, 1) != 1:
            raise ShapeError(f"the selector must have one value an item, it is {format_shape(selector)}")
        if any(x[:1] != selector[:1] for x in data):
            raise ShapeError(f"bottoms differ in axis 0: {', '.join(map(format_shape, bottoms))}")
        return list(data)

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        *data, selector = bottoms
        selected = selector.reshape(len(selector)) != 0
        return [x[selected] for x in data]
