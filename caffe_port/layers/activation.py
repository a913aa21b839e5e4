"""Elementwise layers of one bottom (Caffe's neuron layers)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from caffe_port.layers.base import Array, LayerDef, LayerSpec, RunContext, refuse
from caffe_port.registry import layer
from caffe_port.shapes import Shape

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Dropout", "Neuron", "Power", "ReLU"]


class Neuron(LayerDef):
    """A layer whose top has its bottom's shape, each element a function of one element."""

    in_place = "ok"

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [bottoms[0]]


@layer("ReLU")
@dataclass(frozen=True, slots=True)
class ReLU(Neuron):
    """max(x, 0) + negative_slope * min(x, 0).

    Shapes: any. Source: BVLC/caffe @ 9b89154, relu_layer.cpp.
    """

    negative_slope: float = 0.0

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("relu_param")
        params.inert("engine")
        return cls(params.real("negative_slope"))

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        top = np.maximum(x, 0)
        if self.negative_slope:
            top += x.dtype.type(self.negative_slope) * np.minimum(x, 0)
        return [top]


@layer("Dropout")
@dataclass(frozen=True, slots=True)
class Dropout(Neuron):
    """Nothing in TEST; in TRAIN each element is kept with probability 1 - ratio and then divided by that.

    Shapes: any. Raises: UnsupportedParameter unless 0 < dropout_ratio < 1.
    Source: BVLC/caffe @ 9b89154, dropout_layer.cpp.
    """

    ratio: float = 0.5

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        ratio = spec.params("dropout_param").real("dropout_ratio")
        if not 0 < ratio < 1:
            raise refuse(f"dropout_ratio must be between 0 and 1, it is {ratio:g}")
        return cls(ratio)

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        if ctx.phase == "TEST":
            return [x]
        kept = ctx.rng.random(x.shape) >= self.ratio
        return [x * kept * x.dtype.type(1 / (1 - self.ratio))]


@layer("Power")
@dataclass(frozen=True, slots=True)
class Power(Neuron):
    """(shift + scale * x) ^ power.

    A product scale * power of 0 gives a constant: 1 if power is 0, else shift ^ power. A negative base with a fractional
    power gives NaN.
    Shapes: any. Source: BVLC/caffe @ 9b89154, power_layer.cpp.
    """

    power: float = 1.0
    scale: float = 1.0
    shift: float = 0.0

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("power_param")
        return cls(params.real("power"), params.real("scale"), params.real("shift"))

    @property
    def constant(self) -> float | None:
        """The value of every element where it does not depend on the bottom, else None."""
        if self.power * self.scale != 0:
            return None
        if self.power == 0:
            return 1.0
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(np.power(np.float64(self.shift), self.power))

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        if self.constant is not None:
            return [np.full_like(x, self.constant)]
        top = x
        if self.scale != 1:
            top = top * x.dtype.type(self.scale)
        if self.shift != 0:
            top = top + x.dtype.type(self.shift)
        if self.power != 1:
            with np.errstate(invalid="ignore", divide="ignore"):
                top = np.power(top, x.dtype.type(self.power))
        return [top]
