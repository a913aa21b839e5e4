"""Elementwise layers of one bottom (Caffe's neuron layers)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from caffe_port.errors import ShapeError
from caffe_port.layers.base import Array, InPlace, LayerDef, LayerSpec, Params, RunContext, WeightSpec, refuse
from caffe_port.registry import layer
from caffe_port.shapes import Shape, format_shape, legacy_dim

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "BNLL",
    "ELU",
    "AbsVal",
    "Clip",
    "Dropout",
    "Exp",
    "ForkDropout",
    "Log",
    "Neuron",
    "PReLU",
    "Power",
    "ReLU",
    "Sigmoid",
    "Swish",
    "TanH",
    "Threshold",
    "sigmoid",
]


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), as Caffe computes it."""
    half = x.dtype.type(0.5)
    return np.asarray(half * np.tanh(half * x) + half)


class Neuron(LayerDef):
    """A layer whose top has its bottom's shape, each element a function of one element."""

    in_place: ClassVar[InPlace] = "ok"

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

    A ratio of 0 drops nothing; upstream forbids it only where it is built for debugging (DCHECK).
    Shapes: any. Raises: UnsupportedParameter unless 0 <= dropout_ratio < 1.
    Source: BVLC/caffe @ 9b89154, dropout_layer.cpp.
    """

    ratio: float = 0.5

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("dropout_param")
        ratio = params.real("dropout_ratio")
        if not 0 <= ratio < 1:
            raise refuse(f"dropout_ratio must be at least 0 and below 1, it is {ratio:g}")
        scales = not params.fork_has("scale_train") or params.flag("scale_train")
        samples = params.fork_has("sample_weights_test") and params.flag("sample_weights_test")
        if not scales or (samples and spec.phase == "TEST"):
            return ForkDropout(ratio, samples or spec.phase != "TEST", scales)  # type: ignore[return-value]
        return cls(ratio)

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        if ctx.phase == "TEST":
            return [x]
        kept = ctx.rng.random(x.shape) >= self.ratio
        return [x * kept * x.dtype.type(1 / (1 - self.ratio))]


@dataclass(frozen=True, slots=True)
class ForkDropout(Neuron):
    """Dropout as forks change it: a definition of its own, so that nobody takes it for nothing in TEST.

    With scale_train false what is kept is not scaled, and TEST multiplies with 1 - ratio; with sample_weights_test TEST
    drops as TRAIN does.
    Shapes: any. Source: rbgirshick/caffe-fast-rcnn (scale_train), alexgkendall/caffe-segnet (sample_weights_test):
    dropout_layer.cpp.
    """

    type = "Dropout"

    ratio: float
    drops: bool
    scales: bool

    @property
    def factor(self) -> float:
        """What the values, or those that are kept, are multiplied with."""
        if self.drops:
            return 1 / (1 - self.ratio) if self.scales else 1.0
        return 1.0 if self.scales else 1 - self.ratio

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        top = x * x.dtype.type(self.factor)
        return [top * (ctx.rng.random(x.shape) >= self.ratio) if self.drops else top]


@layer("Power")
@dataclass(frozen=True, slots=True)
class Power(Neuron):
    """(shift + scale * x) ^ power.

    A product scale * power of 0 gives a constant: 1 if power is 0, else shift ^ power. A negative base with a
    fractional power gives NaN.
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
        if self.power == 0.5:
            # NumPy takes the root, which is NaN for -inf and -0 for -0; C's pow is inf and 0.
            top = np.where(np.isneginf(top), np.inf, np.sqrt(top) + 0).astype(x.dtype, copy=False)
        elif self.power != 1:
            top = np.power(top, x.dtype.type(self.power))
        return [top]


@layer("Sigmoid")
@dataclass(frozen=True, slots=True)
class Sigmoid(Neuron):
    """1 / (1 + e^-x).

    Shapes: any. Source: BVLC/caffe @ 9b89154, sigmoid_layer.cpp.
    """

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        spec.params("sigmoid_param").inert("engine")
        return cls()

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        return [sigmoid(bottoms[0])]


@layer("TanH")
@dataclass(frozen=True, slots=True)
class TanH(Neuron):
    """Hyperbolic tangent.

    Shapes: any. Source: BVLC/caffe @ 9b89154, tanh_layer.cpp.
    """

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        spec.params("tanh_param").inert("engine")
        return cls()

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        return [np.tanh(bottoms[0])]


@layer("AbsVal")
@dataclass(frozen=True, slots=True)
class AbsVal(Neuron):
    """Absolute value. The one layer of this family that Caffe refuses to run in place.

    Shapes: any. Source: BVLC/caffe @ 9b89154, absval_layer.cpp.
    """

    in_place = "refused"

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        return [np.abs(bottoms[0])]


@layer("BNLL")
@dataclass(frozen=True, slots=True)
class BNLL(Neuron):
    """log(1 + e^x), without overflow.

    Shapes: any. Source: BVLC/caffe @ 9b89154, bnll_layer.cpp.
    """

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        return [np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))]


@layer("ELU")
@dataclass(frozen=True, slots=True)
class ELU(Neuron):
    """x where it is positive, else alpha * (e^x - 1).

    Shapes: any. Source: BVLC/caffe @ 9b89154, elu_layer.cpp; Clevert et al. 2015.
    """

    alpha: float = 1.0

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        return cls(spec.params("elu_param").real("alpha"))

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        return [np.maximum(x, 0) + x.dtype.type(self.alpha) * np.expm1(np.minimum(x, 0))]


@layer("Swish")
@dataclass(frozen=True, slots=True)
class Swish(Neuron):
    """x * sigmoid(beta * x).

    Shapes: any. Source: BVLC/caffe @ 9b89154, swish_layer.cpp.
    """

    beta: float = 1.0

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        return cls(spec.params("swish_param").real("beta"))

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        return [x * sigmoid(x.dtype.type(self.beta) * x)]


@layer("Clip")
@dataclass(frozen=True, slots=True)
class Clip(Neuron):
    """max(low, min(x, high)). A layer without any clip_param has low = high = 0, as in Caffe.

    Shapes: any. Raises: UnsupportedParameter if only one of min and max is given (both are required).
    Source: BVLC/caffe @ 9b89154, clip_layer.cpp.
    """

    low: float = 0.0
    high: float = 0.0

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("clip_param")
        if spec.message.HasField("clip_param") and not (params.has("min") and params.has("max")):
            raise refuse("min and max must both be given")
        return cls(params.real("min"), params.real("max"))

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        return [np.maximum(np.minimum(x, x.dtype.type(self.high)), x.dtype.type(self.low))]


@layer("Threshold")
@dataclass(frozen=True, slots=True)
class Threshold(Neuron):
    """1 where x > threshold, else 0.

    Shapes: any. Source: BVLC/caffe @ 9b89154, threshold_layer.cpp.
    """

    threshold: float = 0.0

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        return cls(spec.params("threshold_param").real("threshold"))

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        return [(x > x.dtype.type(self.threshold)).astype(x.dtype)]


def _base(params: Params) -> float:
    """The base of Exp or Log; -1 stands for e. Raises UnsupportedParameter unless it is positive."""
    base = params.real("base")
    if base == -1:
        return math.e
    if not 0 < base < math.inf:
        raise refuse(f"base must be positive (or -1 for e), it is {base:g}")
    return base


@layer("Exp")
@dataclass(frozen=True, slots=True)
class Exp(Neuron):
    """base ^ (shift + scale * x), computed as e ^ (ln(base) * scale * x) * base ^ shift.

    Shapes: any. Raises: UnsupportedParameter unless base is positive, or -1 for e.
    Source: BVLC/caffe @ 9b89154, exp_layer.cpp.
    """

    base: float = math.e
    scale: float = 1.0
    shift: float = 0.0

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("exp_param")
        return cls(_base(params), params.real("scale"), params.real("shift"))

    @property
    def inner_scale(self) -> float:
        """The factor of x in the exponent of e."""
        return math.log(self.base) * self.scale

    @property
    def outer_scale(self) -> float:
        """base ^ shift."""
        with np.errstate(over="ignore"):
            return float(np.power(np.float64(self.base), self.shift))

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        with np.errstate(over="ignore", invalid="ignore"):
            return [np.exp(x * x.dtype.type(self.inner_scale)) * x.dtype.type(self.outer_scale)]


@layer("Log")
@dataclass(frozen=True, slots=True)
class Log(Neuron):
    """log(shift + scale * x) to a base; -inf at 0 and NaN below.

    Shapes: any. Raises: UnsupportedParameter unless base is positive and not 1, or -1 for e.
    Source: BVLC/caffe @ 9b89154, log_layer.cpp.
    """

    base: float = math.e
    scale: float = 1.0
    shift: float = 0.0

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("log_param")
        base = _base(params)
        if base == 1:
            raise refuse("base must not be 1")
        return cls(base, params.real("scale"), params.real("shift"))

    @property
    def outer_scale(self) -> float:
        """What the natural logarithm is multiplied with."""
        return 1 / math.log(self.base)

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        with np.errstate(divide="ignore", invalid="ignore"):
            logarithm = np.log(x * x.dtype.type(self.scale) + x.dtype.type(self.shift))
            return [logarithm * x.dtype.type(self.outer_scale)]


@layer("PReLU")
@dataclass(frozen=True, slots=True)
class PReLU(Neuron):
    """max(x, 0) + slope * min(x, 0), a learned slope for each channel (axis 1), or one for all with channel_shared.

    Shapes: (N, C, …) of 2 to 4 axes. Weights: slope (C,), or a scalar () if channel_shared; both start at 0.25.
    Raises: ShapeError for a bottom of fewer than 2 axes or more than 4.
    Source: BVLC/caffe @ 9b89154, prelu_layer.cpp; He et al. 2015.
    """

    channel_shared: bool
    filler: Any

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("prelu_param")
        return cls(params.flag("channel_shared"), params.raw("filler") if params.has("filler") else None)

    def weight_specs(self, bottoms: Sequence[Shape]) -> list[WeightSpec]:
        if len(bottoms[0]) < 2:
            raise ShapeError(f"PReLU needs a bottom of at least 2 axes, it is {format_shape(bottoms[0])}")
        shape = () if self.channel_shared else (legacy_dim(bottoms[0], 1),)
        return [WeightSpec(shape, self.filler, default_fill=0.25)]

    def slope_shape(self, bottom: Shape) -> Shape:
        """The slope's shape with trailing 1s, so that it broadcasts against the bottom."""
        return () if self.channel_shared else (bottom[1], *[1] * (len(bottom) - 2))

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        slope = weights[0].reshape(self.slope_shape(x.shape))
        return [np.maximum(x, 0) + slope * np.minimum(x, 0)]
