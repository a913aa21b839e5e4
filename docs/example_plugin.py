"""An example of a plug-in: two layer types that Caffe does not have, whole in one file. See plugins.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from caffe_port.converters.to_onnx.context import OnnxContext, Value
from caffe_port.layers.activation import Neuron
from caffe_port.layers.base import Array, LayerSpec, RunContext, refuse
from caffe_port.net import Layer
from caffe_port.registry import emitter, layer

if TYPE_CHECKING:
    from torch import nn
    from typing_extensions import Self

ROOT = math.sqrt(2 / math.pi)
CUBIC = 0.044715


@layer("Gelu")
@dataclass(frozen=True, slots=True)
class Gelu(Neuron):
    """0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))).

    Shapes: any. Source: Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", section 2.
    """

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        return [0.5 * x * (1 + np.tanh(ROOT * (x + CUBIC * x * x * x)))]


@emitter("pytorch", "Gelu")
def _gelu_pytorch(layer: Layer, gelu: Gelu) -> nn.Module:
    from torch import nn

    return nn.GELU(approximate="tanh")


@emitter("onnx", "Gelu")
def _gelu_onnx(ctx: OnnxContext, layer: Layer, gelu: Gelu, bottoms: Sequence[Value]) -> None:
    (x,) = bottoms
    cube = ctx.op("Mul", ctx.op("Mul", ctx.op("Mul", x, x), x), ctx.constant(CUBIC, "cubic"))
    inner = ctx.op("Tanh", ctx.op("Mul", ctx.op("Add", x, cube), ctx.constant(ROOT, "root")))
    gate = ctx.op("Add", inner, ctx.constant(1, "one"))
    ctx.op("Mul", ctx.op("Mul", x, ctx.constant(0.5, "half")), gate, output=ctx.tops[0])


@layer("Softplus")
@dataclass(frozen=True, slots=True)
class Softplus(Neuron):
    """log(1 + exp(beta * x)) / beta.

    Parameters: `python_param { param_str: "2.5" }` is beta; 1 if there is none.
    Shapes: any. Raises: UnsupportedParameter unless beta is a positive number.
    """

    beta: float = 1.0

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        text = spec.params("python_param").text("param_str")
        try:
            beta = float(text or 1)
        except ValueError:
            raise refuse(f"param_str must be a number, not {text!r}") from None
        if not 0 < beta < math.inf:
            raise refuse(f"beta must be positive, it is {beta:g}")
        return cls(beta)

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        return [np.logaddexp(self.beta * x, x.dtype.type(0)) / x.dtype.type(self.beta)]


@emitter("pytorch", "Softplus")
def _softplus_pytorch(layer: Layer, softplus: Softplus) -> nn.Module:
    from torch import nn

    return nn.Softplus(softplus.beta)


@emitter("onnx", "Softplus")
def _softplus_onnx(ctx: OnnxContext, layer: Layer, softplus: Softplus, bottoms: Sequence[Value]) -> None:
    beta = ctx.constant(softplus.beta, "beta")
    ctx.op("Div", ctx.op("Softplus", ctx.op("Mul", bottoms[0], beta)), beta, output=ctx.tops[0])
