"""Interp, Upsample and Unpooling in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.layers import upsampling
from caffe_port.net import Layer
from caffe_port.registry import emitter

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "Interp")
def _interp(layer: Layer, interp: upsampling.Interp) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.upsampling import Interp

    return Interp(interp)


@emitter("pytorch", "Upsample")
def _upsample(layer: Layer, upsample: upsampling.Upsample) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.upsampling import Upsample

    return Upsample(upsample)


@emitter("pytorch", "Unpooling")
def _unpooling(layer: Layer, unpooling: upsampling.Unpooling) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.upsampling import Unpooling

    return Unpooling(unpooling)
