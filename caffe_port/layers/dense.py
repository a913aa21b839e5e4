"""Layers that multiply with a learned matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caffe_port.layers.base import Array, LayerDef, LayerSpec, RunContext, WeightSpec, as_indices, refuse
from caffe_port.registry import layer
from caffe_port.shapes import Shape, canonical_axis, count

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Embed", "InnerProduct"]


@layer("InnerProduct")
@dataclass(frozen=True, slots=True)
class InnerProduct(LayerDef):
    """Fully connected layer: everything from `axis` on is one vector.

    Shapes: bottom (d0, …, K…) → top (d0, …, num_output), K the product of dims from `axis`. Weights: (num_output, K),
    or (K, num_output) with `transpose`; and (num_output,) if bias_term.
    Raises: UnsupportedParameter without a positive num_output; ShapeError if axis is out of range.
    Source: BVLC/caffe @ 9b89154, inner_product_layer.cpp.
    """

    num_output: int
    bias_term: bool
    axis: int
    transpose: bool
    weight_filler: Any
    bias_filler: Any

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("inner_product_param")
        num_output = params.integer("num_output")
        if num_output <= 0:
            raise refuse("num_output must be given and positive")
        return cls(
            num_output=num_output,
            bias_term=params.flag("bias_term"),
            axis=params.integer("axis"),
            transpose=params.flag("transpose"),
            weight_filler=params.raw("weight_filler"),
            bias_filler=params.raw("bias_filler"),
        )

    def start(self, bottom: Shape) -> int:
        return canonical_axis(self.axis, len(bottom))

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [(*bottoms[0][: self.start(bottoms[0])], self.num_output)]

    def weight_specs(self, bottoms: Sequence[Shape]) -> list[WeightSpec]:
        inner = count(bottoms[0], self.start(bottoms[0]))
        shape = (inner, self.num_output) if self.transpose else (self.num_output, inner)
        specs = [WeightSpec(shape, self.weight_filler)]
        if self.bias_term:
            specs.append(WeightSpec((self.num_output,), self.bias_filler))
        return specs

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        start = self.start(x.shape)
        matrix = weights[0] if self.transpose else weights[0].T
        top = x.reshape(count(x.shape, 0, start), count(x.shape, start)) @ matrix
        if self.bias_term:
            top += weights[1]
        return [top.reshape(*x.shape[:start], self.num_output)]

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return count(bottoms[0]) * self.num_output


@layer("Embed")
@dataclass(frozen=True, slots=True)
class Embed(LayerDef):
    """Rows of a learned matrix, picked by index (a fraction is cut off).

    Shapes: bottom (…) of indices → top (…, num_output). Weights: (input_dim, num_output), and (num_output,) if
    bias_term.
    Raises: UnsupportedParameter unless num_output and input_dim are positive; ShapeError when running for an index
    that is not in 0 … input_dim-1 (Caffe reads past the end).
    Source: BVLC/caffe @ 9b89154, embed_layer.cpp.
    """

    num_output: int
    input_dim: int
    bias_term: bool
    weight_filler: Any
    bias_filler: Any

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("embed_param")
        num_output, input_dim = params.integer("num_output"), params.integer("input_dim")
        if num_output <= 0:
            raise refuse("num_output must be given and positive")
        if input_dim <= 0:
            raise refuse("input_dim must be given and positive")
        return cls(
            num_output=num_output,
            input_dim=input_dim,
            bias_term=params.flag("bias_term"),
            weight_filler=params.raw("weight_filler"),
            bias_filler=params.raw("bias_filler"),
        )

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [(*bottoms[0], self.num_output)]

    def weight_specs(self, bottoms: Sequence[Shape]) -> list[WeightSpec]:
        specs = [WeightSpec((self.input_dim, self.num_output), self.weight_filler)]
        if self.bias_term:
            specs.append(WeightSpec((self.num_output,), self.bias_filler))
        return specs

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        index = as_indices(bottoms[0], self.input_dim, "indices")
        top = weights[0][index]
        return [top + weights[1] if self.bias_term else top]
