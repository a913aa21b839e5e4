"""Pooling in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.layers import pooling
from caffe_port.net import Layer
from caffe_port.registry import emitter

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "Pooling")
def _pooling(layer: Layer, pool: pooling.Pooling) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.pooling import Pool

    return Pool(pool)


@emitter("pytorch", "SPP")
def _spp(layer: Layer, spp: pooling.SPP) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.pooling import PyramidPool

    return PyramidPool(spp)
