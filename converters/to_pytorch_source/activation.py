"""Activations and Dropout as calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from caffe_port.converters.to_pytorch_source.expressions import finite, linear, times
from caffe_port.converters.to_pytorch_source.graph import Channels, Value
from caffe_port.converters.to_pytorch_source.translation import Translation, writes
from caffe_port.layers import activation
from caffe_port.layers.base import LayerDef
from caffe_port.net import Layer

__all__ = ["writes_neuron"]


def writes_neuron(definition: type[LayerDef], expression: Callable[[Any], str]) -> None:
    """Registers a type whose only expression works value by value; `expression` gives it for a layer's parameters."""

    def write(to: Translation, layer: Layer, d: Any, inputs: list[Value]) -> None:
        to.add(layer, expression(d), inputs, role="light", keeps_channels=True)

    writes(definition)(write)


def _power(d: activation.Power) -> str:
    if d.constant is not None:
        return f"torch.full_like({{0}}, {finite(d.constant)})"
    inner = linear(d.scale, d.shift)
    if d.power == 1:
        return inner
    base = inner if inner == "{0}" else f"({inner})"
    return f"torch.square({inner})" if d.power == 2 else f"{base} ** {finite(d.power)}"


writes_neuron(
    activation.ReLU,
    lambda d: f"F.leaky_relu({{0}}, {finite(d.negative_slope)})" if d.negative_slope else "F.relu({0})",
)
writes_neuron(activation.Sigmoid, lambda d: "torch.sigmoid({0})")
writes_neuron(activation.TanH, lambda d: "torch.tanh({0})")
writes_neuron(activation.AbsVal, lambda d: "torch.abs({0})")
# Linear from the threshold on, where the rest is beyond what float32 and float64 resolve.
writes_neuron(activation.BNLL, lambda d: "F.softplus({0}, threshold=50)")
writes_neuron(activation.ELU, lambda d: "F.elu({0})" if d.alpha == 1 else f"F.elu({{0}}, {finite(d.alpha)})")
writes_neuron(
    activation.Swish, lambda d: "F.silu({0})" if d.beta == 1 else f"{{0}} * torch.sigmoid({finite(d.beta)} * {{0}})"
)
writes_neuron(activation.Clip, lambda d: f"torch.clamp({{0}}, {finite(d.low)}, {finite(d.high)})")
writes_neuron(activation.Threshold, lambda d: f"({{0}} > {finite(d.threshold)}).to({{0}}.dtype)")
writes_neuron(activation.Exp, lambda d: times(d.outer_scale, f"torch.exp({linear(d.inner_scale, 0)})"))
writes_neuron(activation.Log, lambda d: times(d.outer_scale, f"torch.log({linear(d.scale, d.shift)})"))
writes_neuron(activation.Power, _power)


@writes(activation.PReLU)
def _prelu(to: Translation, layer: Layer, d: activation.PReLU, inputs: list[Value]) -> None:
    arguments = [] if d.channel_shared else [("", Channels(inputs[0], inputs[0].shape[1]))]
    module = to.module(layer, "nn.PReLU", arguments, "prelu", [("weight", layer.weights[0], "same")])
    if d.channel_shared:
        module.tensors["weight"] = module.tensors["weight"].reshaped((1,))
    to.add(layer, "{m0}({0})", inputs, role="light", modules=[module], keeps_channels=True)


@writes(activation.Dropout)
def _dropout(to: Translation, layer: Layer, d: activation.Dropout, inputs: list[Value]) -> None:
    to.values[layer.tops[0]] = inputs[0]
