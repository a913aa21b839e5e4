"""Permute, Transpose, Reverse, ShuffleChannel and Padding in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.layers import arrangement
from caffe_port.net import Layer
from caffe_port.registry import emitter

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "Permute", "Transpose")
def _permute(layer: Layer, permute: arrangement.Permute) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.arrangement import Permute

    return Permute(permute.axes(len(layer.bottoms[0].shape)))


@emitter("pytorch", "Reverse")
def _reverse(layer: Layer, reverse: arrangement.Reverse) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.arrangement import Reverse

    return Reverse(reverse.axis)


@emitter("pytorch", "ShuffleChannel")
def _shuffle(layer: Layer, shuffle: arrangement.ShuffleChannel) -> nn.Module:
    from torch import nn

    return nn.ChannelShuffle(shuffle.group)


@emitter("pytorch", "Padding")
def _padding(layer: Layer, padding: arrangement.Padding) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.arrangement import Padding

    return Padding(padding)
