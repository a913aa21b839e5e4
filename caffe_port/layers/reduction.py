"""Layers that reduce axes: Reduction, ArgMax."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from caffe_port.errors import ShapeError
from caffe_port.layers.base import Array, LayerDef, LayerSpec, RunContext, refuse
from caffe_port.registry import layer
from caffe_port.shapes import Shape, canonical_axis, count

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ArgMax", "Reduction"]


@layer("Reduction")
@dataclass(frozen=True, slots=True)
class Reduction(LayerDef):
    """Sum, sum of magnitudes, sum of squares or mean over all axes from `axis` on, times coeff.

    Shapes: (d0, …) → (d0, …, d(axis-1)); axis 0 gives a scalar (). Raises: ShapeError if axis is out of range.
    Source: BVLC/caffe @ 9b89154, reduction_layer.cpp.
    """

    operation: str = "SUM"
    axis: int = 0
    coeff: float = 1.0

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("reduction_param")
        return cls(params.enum("operation"), params.integer("axis"), params.real("coeff"))

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [bottoms[0][: canonical_axis(self.axis, len(bottoms[0]))]]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        axis = canonical_axis(self.axis, x.ndim)
        rows = x.reshape(*x.shape[:axis], count(x.shape, axis))
        if self.operation == "ASUM":
            rows = np.abs(rows)
        elif self.operation == "SUMSQ":
            rows = np.square(rows)
        total = rows.sum(axis=-1, dtype=x.dtype)
        # The mean of nothing is 0 / 0.
        factor = np.divide(self.coeff, rows.shape[-1]) if self.operation == "MEAN" else self.coeff
        return [np.asarray(total * x.dtype.type(factor), dtype=x.dtype)]


@layer("ArgMax")
@dataclass(frozen=True, slots=True)
class ArgMax(LayerDef):
    """Indices of the top_k largest values, the largest first; of equal values the larger index first.

    Without an axis each item is one vector, and out_max_val adds the values behind the indices; with an axis
    out_max_val gives the values alone.
    Shapes: no axis: (N, …) → (N, 1, top_k) with trailing 1s up to the bottom's axes, (N, 2, top_k, …) with out_max_val;
    axis: the bottom's, top_k there. Raises: UnsupportedParameter for top_k 0; ShapeError if top_k is more than there
    is.
    Source: BVLC/caffe @ 9b89154, argmax_layer.cpp.
    """

    top_k: int = 1
    out_max_val: bool = False
    axis: int | None = None

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("argmax_param")
        top_k = params.integer("top_k")
        if top_k < 1:
            raise refuse("top_k must be at least 1")
        axis = params.integer("axis") if params.has("axis") else None
        return cls(top_k, params.flag("out_max_val"), axis)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (x,) = bottoms
        if self.axis is None:
            canonical_axis(0, len(x))
            self._check(count(x, 1), "values of an item")
            top = [x[0], 2 if self.out_max_val else 1, self.top_k, *[1] * (len(x) - 3)]
        else:
            axis = canonical_axis(self.axis, len(x))
            self._check(x[axis], f"values on axis {axis}")
            top = [*x]
            top[axis] = self.top_k
        return [tuple(top)]

    def _check(self, size: int, what: str) -> None:
        if self.top_k > size:
            raise ShapeError(f"top_k {self.top_k} is more than the {size} {what}")

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        (shape,) = self.top_shapes([x.shape])
        rows = x.reshape(x.shape[0], count(x.shape, 1)) if self.axis is None else np.moveaxis(x, self.axis, -1)
        # A stable sort of the reversed row puts the larger index first among equals.
        order = np.argsort(-rows[..., ::-1], axis=-1, kind="stable")[..., : self.top_k]
        index = rows.shape[-1] - 1 - order
        values = np.take_along_axis(rows, index, axis=-1)
        if self.axis is None:
            parts = [index.astype(x.dtype), values] if self.out_max_val else [index.astype(x.dtype)]
            return [np.stack(parts, axis=1).reshape(shape)]
        top = values if self.out_max_val else index.astype(x.dtype)
        return [np.moveaxis(top, -1, self.axis)]
