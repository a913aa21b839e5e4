"""Reduction and ArgMax in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.layers import reduction
from caffe_port.net import Layer
from caffe_port.registry import emitter

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "Reduction")
def _reduction(layer: Layer, definition: reduction.Reduction) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.reduction import Reduction

    return Reduction(definition)


@emitter("pytorch", "ArgMax")
def _argmax(layer: Layer, argmax: reduction.ArgMax) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.reduction import ArgMax

    return ArgMax(argmax)
