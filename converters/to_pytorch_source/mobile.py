"""ReLU6, Mish and Axpy as calls."""

from __future__ import annotations

from caffe_port.converters.to_pytorch_source.activation import writes_neuron
from caffe_port.converters.to_pytorch_source.graph import Value
from caffe_port.converters.to_pytorch_source.translation import Translation, writes
from caffe_port.errors import UnsupportedLayer
from caffe_port.layers import mobile
from caffe_port.net import Layer

writes_neuron(mobile.ReLU6, lambda d: "F.relu6({0})")
writes_neuron(mobile.Mish, lambda d: "F.mish({0})")


@writes(mobile.Axpy)
def _axpy(to: Translation, layer: Layer, d: mobile.Axpy, inputs: list[Value]) -> None:
    if len(inputs[0].shape) != len(inputs[1].shape):
        raise UnsupportedLayer("Axpy with a factor of 2 axes")
    to.add(layer, "{0} * {1} + {2}", inputs)
