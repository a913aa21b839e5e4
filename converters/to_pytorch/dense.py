"""InnerProduct and Embed in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.layers import dense
from caffe_port.net import Layer
from caffe_port.registry import emitter

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "InnerProduct")
def _inner_product(layer: Layer, ip: dense.InnerProduct) -> nn.Module:
    shape = layer.bottoms[0].shape
    if len(shape) == 2 and ip.start(shape) == 1 and not ip.transpose:
        from torch import nn

        return nn.Linear(shape[1], ip.num_output, bias=ip.bias_term)
    from caffe_port.converters.to_pytorch.modules.dense import InnerProduct

    return InnerProduct(layer.weights[0].shape, ip.num_output, ip.bias_term, ip.start(shape), ip.transpose)


@emitter("pytorch", "Embed")
def _embed(layer: Layer, embed: dense.Embed) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.dense import Embed

    return Embed(embed.input_dim, embed.num_output, embed.bias_term)
