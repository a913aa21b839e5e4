"""Elementwise layers of one bottom in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.layers import activation
from caffe_port.net import Layer
from caffe_port.registry import emitter

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "ReLU")
def _relu(layer: Layer, relu: activation.ReLU) -> nn.Module:
    from torch import nn

    return nn.LeakyReLU(relu.negative_slope) if relu.negative_slope else nn.ReLU()


@emitter("pytorch", "Dropout")
def _dropout(layer: Layer, dropout: activation.Dropout) -> nn.Module:
    from torch import nn

    return nn.Identity() if layer.phase == "TEST" else nn.Dropout(dropout.ratio)


@emitter("pytorch", "Power")
def _power(layer: Layer, power: activation.Power) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.activation import Power

    return Power(power)
