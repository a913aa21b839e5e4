"""Lstm and ContinuationIndicator in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.layers import sequence
from caffe_port.net import Layer
from caffe_port.registry import emitter

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "Lstm")
def _lstm(layer: Layer, lstm: sequence.Lstm) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.sequence import Lstm

    return Lstm(lstm, [weight.shape for weight in layer.weights])


@emitter("pytorch", "ContinuationIndicator")
def _continuation(layer: Layer, indicator: sequence.ContinuationIndicator) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.sequence import ContinuationIndicator

    return ContinuationIndicator(indicator)
