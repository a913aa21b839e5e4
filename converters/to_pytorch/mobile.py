"""ReLU6, Mish and Axpy in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.layers import mobile
from caffe_port.net import Layer
from caffe_port.registry import emitter

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "ReLU6")
def _relu6(layer: Layer, relu6: mobile.ReLU6) -> nn.Module:
    from torch import nn

    return nn.ReLU6()


@emitter("pytorch", "Mish")
def _mish(layer: Layer, mish: mobile.Mish) -> nn.Module:
    from torch import nn

    return nn.Mish()


@emitter("pytorch", "Axpy")
def _axpy(layer: Layer, axpy: mobile.Axpy) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.mobile import Axpy

    return Axpy()


@emitter("pytorch", "spatial_dropout.SpatialDropoutLayer")
def _spatial_dropout(layer: Layer, dropout: mobile.SpatialDropout) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.mobile import SpatialDropout

    return SpatialDropout(dropout)
