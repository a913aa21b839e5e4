"""Layers that forks added for mobile nets and their successors: ReLU6, Mish, depthwise convolution, Axpy, dropout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from caffe_port.errors import ShapeError
from caffe_port.layers import param_str
from caffe_port.layers.activation import Neuron
from caffe_port.layers.base import Array, Count, LayerDef, LayerSpec, RunContext, refuse
from caffe_port.layers.convolution import Convolution
from caffe_port.reading import shown
from caffe_port.registry import layer
from caffe_port.shapes import Shape, format_shape

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Axpy", "ConvolutionDepthwise", "DepthwiseConvolution", "Mish", "ReLU6", "SpatialDropout"]


@layer("ReLU6")
@dataclass(frozen=True, slots=True)
class ReLU6(Neuron):
    """max(0, min(x, 6)).

    Shapes: any. Source: chuanqi305/ssd, relu6_layer.cpp; recorded.
    """

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        spec.params("relu6_param").inert("engine")
        return cls()

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        return [np.minimum(np.maximum(bottoms[0], 0), 6)]


@layer("Mish")
@dataclass(frozen=True, slots=True)
class Mish(Neuron):
    """x * tanh(log(1 + e^x)).

    Shapes: any. Source: troyliu0105/caffe, mish_layer.cpp; Misra 2019.
    """

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        return [x * np.tanh(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))]


@layer("DepthwiseConvolution")
@dataclass(frozen=True, slots=True)
class DepthwiseConvolution(Convolution):
    """Convolution under another name: the forks only compute it faster where each group is one channel.

    Shapes: (N, C, H, W) → (N, num_output, out_h, out_w), as of Convolution. Raises: what Convolution raises.
    Source: yonghenglh6/DepthwiseConvolution, caffe/src/caffe/layers/depthwise_conv_layer.cpp, which derives from
    ConvolutionLayer.
    """


@layer("ConvolutionDepthwise")
@dataclass(frozen=True, slots=True)
class ConvolutionDepthwise(Convolution):
    """Convolution of each channel with a kernel of its own; `group` is not looked at.

    Shapes: (N, C, H, W) → (N, C, out_h, out_w). Weights: (C, 1, kernel_h, kernel_w), and (C,) if bias_term.
    Raises: ShapeError unless num_output is the number of channels; what Convolution raises.
    Source: farmingyard/ShuffleNet, conv_dw_layer.cpp; recorded.
    """

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        made = super(ConvolutionDepthwise, cls).parse(spec)
        # As many groups as channels, whatever is written: num_output must be that number.
        return replace(made, group=made.num_output)

    def _check(self, bottoms: Sequence[Shape]) -> None:
        if len(bottoms[0]) != 4 or bottoms[0][1] != self.num_output:
            raise ShapeError(
                f"num_output {self.num_output} must be the channels of a bottom of 4 axes, it is "
                f"{format_shape(bottoms[0])}"
            )
        super(ConvolutionDepthwise, self)._check(bottoms)


@layer("Axpy")
@dataclass(frozen=True, slots=True)
class Axpy(LayerDef):
    """a * x + y, with a factor for each channel of each item.

    Shapes: a (N, C) or (N, C, 1, 1), x and y (N, C, …) → top as x. Raises: ShapeError if they do not fit.
    Source: hujie-frank/SENet, axpy_layer.cpp; recorded.
    """

    bottoms = Count(3, 3)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        a, x, y = bottoms
        if len(x) < 2 or a[:2] != x[:2] or any(size != 1 for size in a[2:]) or x != y:
            raise ShapeError(
                f"bottoms must be (N, C, 1, 1), (N, C, …) and the same again; they are "
                f"{', '.join(map(format_shape, bottoms))}"
            )
        return [x]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        a, x, y = bottoms
        return [a.reshape(*x.shape[:2], *[1] * (x.ndim - 2)) * x + y]


@layer("spatial_dropout.SpatialDropoutLayer")
@dataclass(frozen=True, slots=True)
class SpatialDropout(Neuron):
    """The Python layer SpatialDropoutLayer of ENet: whole channels are dropped. Python is not run: its class is known.

    param_str has the phase and p. In TRAIN each channel of each item is kept with probability 1 - p; in TEST all are.
    What is kept is divided by 1 - p in both.
    Shapes: (N, C, …) → the same. Raises: UnsupportedParameter for a param_str that is not {'phase': …, 'p': …} with p
    between 0 and 1.
    Source: TimoSaemann/ENet, scripts/spatial_dropout.py.
    """

    ratio: float
    drops: bool

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("python_param")
        params.inert("module", "layer", "share_in_parallel")
        written = params.text("param_str")
        given = param_str.mapping(written)
        try:
            ratio, phase = float(given["p"]), given["phase"]  # type: ignore[arg-type]  # a tuple is a TypeError
        except (ValueError, TypeError, KeyError):
            raise refuse(f"param_str must be {{'phase': …, 'p': …}}, it is {shown(written)}") from None
        if not 0 < ratio < 1:
            raise refuse(f"p must be between 0 and 1, it is {ratio:g}")
        return cls(ratio, phase == "TRAIN")

    @property
    def factor(self) -> float:
        """What is kept is multiplied with this."""
        return 1 / (1 - self.ratio)

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        top = x * x.dtype.type(self.factor)
        if not self.drops:
            return [top]
        kept = ctx.rng.random(x.shape[:2]) >= self.ratio
        return [top * kept.reshape(*x.shape[:2], *[1] * (x.ndim - 2))]
