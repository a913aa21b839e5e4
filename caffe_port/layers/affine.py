"""Scale and Bias: products and sums with a learned blob or a second bottom, broadcast from an axis on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caffe_port.errors import ShapeError
from caffe_port.layers.base import Array, Count, LayerDef, LayerSpec, Params, RunContext, WeightSpec, refuse
from caffe_port.registry import layer
from caffe_port.shapes import Shape, canonical_axis, format_shape

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Bias", "Broadcast", "Scale"]


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Where an operand of Scale or Bias lies in bottom[0]: `num_axes` of its axes from `axis` on (-1: to the end)."""

    axis: int
    num_axes: int

    @classmethod
    def parse(cls, params: Params) -> Broadcast:
        num_axes = params.integer("num_axes")
        if num_axes < -1:
            raise refuse(f"num_axes must be -1 or more, it is {num_axes}")
        return cls(params.integer("axis"), num_axes)

    def operand_shape(self, bottoms: Sequence[Shape]) -> Shape:
        """Shape of the operand: bottom[1]'s, or that of the learned blob. Raises ShapeError if it does not fit."""
        x = bottoms[0]
        if len(bottoms) == 2:
            operand = bottoms[1]
            start = self._start(x, operand)
            if x[start : start + len(operand)] != operand:
                raise ShapeError(
                    f"bottom[1] {format_shape(operand)} does not match bottom[0] {format_shape(x)} from axis {start} on"
                )
            return operand
        start = canonical_axis(self.axis, len(x))
        if self.num_axes == -1:
            return x[start:]
        if start + self.num_axes > len(x):
            raise ShapeError(f"{self.num_axes} axes from axis {start} on do not fit bottom[0] {format_shape(x)}")
        return x[start : start + self.num_axes]

    def _start(self, x: Shape, operand: Shape) -> int:
        """The axis the operand begins at; a scalar may always begin at 0."""
        return canonical_axis(self.axis, len(x)) if operand else 0

    def column(self, x: Shape, operand: Shape) -> Shape:
        """The operand's shape with 1s on both sides, so that it broadcasts against bottom[0]."""
        start = self._start(x, operand)
        return (1,) * start + operand + (1,) * (len(x) - start - len(operand))


@layer("Scale")
@dataclass(frozen=True, slots=True)
class Scale(LayerDef):
    """y = x * gamma (+ beta), gamma a learned blob or bottom[1].

    Shapes: bottom[0] (…) → top the same; the operand has bottom[0]'s dims axis … axis+num_axes (num_axes 0: a scalar).
    Weights: gamma unless there is a second bottom; then beta, of gamma's shape, if bias_term.
    Raises: ShapeError if bottom[1] does not match, UnsupportedParameter for num_axes < -1.
    Source: BVLC/caffe @ 9b89154, scale_layer.cpp.
    """

    bottoms = Count(1, 2)
    in_place = "ok"

    broadcast: Broadcast
    bias_term: bool
    filler: Any
    bias_filler: Any

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("scale_param")
        filler = params.raw("filler") if params.has("filler") else None
        return cls(Broadcast.parse(params), params.flag("bias_term"), filler, params.raw("bias_filler"))

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.broadcast.operand_shape(bottoms)
        return [bottoms[0]]

    def weight_specs(self, bottoms: Sequence[Shape]) -> list[WeightSpec]:
        shape = self.broadcast.operand_shape(bottoms)
        specs = [] if len(bottoms) == 2 else [WeightSpec(shape, self.filler, default_fill=1.0)]
        if self.bias_term:
            specs.append(WeightSpec(shape, self.bias_filler))
        return specs

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        x = bottoms[0]
        gamma = bottoms[1] if len(bottoms) == 2 else weights[0]
        column = self.broadcast.column(x.shape, gamma.shape)
        top = x * gamma.reshape(column)
        if self.bias_term:
            top += weights[-1].reshape(column)
        return [top]


@layer("Bias")
@dataclass(frozen=True, slots=True)
class Bias(LayerDef):
    """y = x + beta, beta a learned blob or bottom[1].

    Shapes: as Scale. Weights: beta, unless there is a second bottom.
    Raises: ShapeError if bottom[1] does not match, UnsupportedParameter for num_axes < -1.
    Source: BVLC/caffe @ 9b89154, bias_layer.cpp.
    """

    bottoms = Count(1, 2)
    in_place = "ok"

    broadcast: Broadcast
    filler: Any

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("bias_param")
        return cls(Broadcast.parse(params), params.raw("filler"))

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.broadcast.operand_shape(bottoms)
        return [bottoms[0]]

    def weight_specs(self, bottoms: Sequence[Shape]) -> list[WeightSpec]:
        return [] if len(bottoms) == 2 else [WeightSpec(self.broadcast.operand_shape(bottoms), self.filler)]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        x = bottoms[0]
        beta = bottoms[1] if len(bottoms) == 2 else weights[0]
        return [x + beta.reshape(self.broadcast.column(x.shape, beta.shape))]
