"""Elementwise layers of one bottom in PyTorch."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from caffe_port.layers import activation
from caffe_port.net import Layer
from caffe_port.registry import emitter

if TYPE_CHECKING:
    from torch import nn


def _in_place(layer: Layer, module: nn.Module, backward: str, *parameters: object) -> nn.Module:
    """`module`, with the gradient Caffe computes if the layer works in place."""
    if not layer.is_in_place:
        return module
    from caffe_port.converters.to_pytorch.modules import in_place

    function = getattr(in_place, backward)
    return in_place.InPlace(module, functools.partial(function, *parameters) if parameters else function)


@emitter("pytorch", "ReLU")
def _relu(layer: Layer, relu: activation.ReLU) -> nn.Module:
    from torch import nn

    module = nn.LeakyReLU(relu.negative_slope) if relu.negative_slope else nn.ReLU()
    return _in_place(layer, module, "relu", relu.negative_slope) if relu.negative_slope < 0 else module


@emitter("pytorch", "Dropout")
def _dropout(layer: Layer, dropout: activation.Dropout | activation.ForkDropout) -> nn.Module:
    from torch import nn

    if isinstance(dropout, activation.ForkDropout):
        from caffe_port.converters.to_pytorch.modules.activation import ForkDropout

        return ForkDropout(dropout)
    return nn.Identity() if layer.phase == "TEST" else nn.Dropout(dropout.ratio)


@emitter("pytorch", "Power")
def _power(layer: Layer, power: activation.Power) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.activation import Power

    return _in_place(layer, Power(power), "power", power)


@emitter("pytorch", "Sigmoid")
def _sigmoid(layer: Layer, sigmoid: activation.Sigmoid) -> nn.Module:
    from torch import nn

    return nn.Sigmoid()


@emitter("pytorch", "TanH")
def _tanh(layer: Layer, tanh: activation.TanH) -> nn.Module:
    from torch import nn

    return nn.Tanh()


@emitter("pytorch", "AbsVal")
def _abs(layer: Layer, absval: activation.AbsVal) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.activation import AbsVal

    return AbsVal()


@emitter("pytorch", "BNLL")
def _bnll(layer: Layer, bnll: activation.BNLL) -> nn.Module:
    from torch import nn

    # Linear from the threshold on, where the rest is beyond what the dtype resolves; Caffe's gradient stops there too.
    return _in_place(layer, nn.Softplus(threshold=50), "bnll")


@emitter("pytorch", "ELU")
def _elu(layer: Layer, elu: activation.ELU) -> nn.Module:
    from torch import nn

    return _in_place(layer, nn.ELU(elu.alpha), "elu", elu.alpha) if elu.alpha < 0 else nn.ELU(elu.alpha)


@emitter("pytorch", "Swish")
def _swish(layer: Layer, swish: activation.Swish) -> nn.Module:
    if swish.beta == 1:
        from torch import nn

        return nn.SiLU()
    from caffe_port.converters.to_pytorch.modules.activation import Swish

    return Swish(swish.beta)


@emitter("pytorch", "Clip")
def _clip(layer: Layer, clip: activation.Clip) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.activation import Clip

    return _in_place(layer, Clip(clip.low, clip.high), "clip")


@emitter("pytorch", "Threshold")
def _threshold(layer: Layer, threshold: activation.Threshold) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.activation import Threshold

    return Threshold(threshold.threshold)


@emitter("pytorch", "Exp")
def _exp(layer: Layer, exp: activation.Exp) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.activation import Exp

    return Exp(exp)


@emitter("pytorch", "Log")
def _log(layer: Layer, log: activation.Log) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.activation import Log

    return _in_place(layer, Log(log), "log", log)


@emitter("pytorch", "PReLU")
def _prelu(layer: Layer, prelu: activation.PReLU) -> nn.Module:
    from torch import nn

    return nn.PReLU(1 if prelu.channel_shared else layer.bottoms[0].shape[1])
