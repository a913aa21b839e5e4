"""Normalize and BN in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.layers import fork_normalization
from caffe_port.net import Layer
from caffe_port.registry import emitter

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "Normalize")
def _normalize(layer: Layer, normalize: fork_normalization.Normalize) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.fork_normalization import Normalize

    return Normalize(normalize, layer.bottoms[0].shape[1])


@emitter("pytorch", "BN")
def _bn(layer: Layer, bn: fork_normalization.BN) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.fork_normalization import BN

    return BN(bn, layer.weights[0].shape)
