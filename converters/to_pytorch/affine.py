"""Scale and Bias in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.layers import affine
from caffe_port.net import Layer
from caffe_port.registry import emitter

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "Scale")
def _scale(layer: Layer, scale: affine.Scale) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.affine import Scale

    shape = scale.broadcast.operand_shape([blob.shape for blob in layer.bottoms])
    return Scale(shape, scale.broadcast, len(layer.bottoms) == 1, scale.bias_term)


@emitter("pytorch", "Bias")
def _bias(layer: Layer, bias: affine.Bias) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.affine import Bias

    shape = bias.broadcast.operand_shape([blob.shape for blob in layer.bottoms])
    return Bias(shape, bias.broadcast, len(layer.bottoms) == 1)
