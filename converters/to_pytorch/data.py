"""Layers that make blobs from nothing, and HDF5Output, in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.layers import data
from caffe_port.net import Layer
from caffe_port.registry import emitter

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "Parameter")
def _parameter(layer: Layer, parameter: data.Parameter) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.data import Parameter

    return Parameter(parameter.shape)


@emitter("pytorch", "DummyData")
def _dummy_data(layer: Layer, dummy: data.DummyData) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.data import DummyData

    return DummyData(dummy)


@emitter("pytorch", "HDF5Output")
def _hdf5_output(layer: Layer, output: data.HDF5Output) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.structure import Sink

    return Sink()
