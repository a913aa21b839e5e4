"""Softmax as a call."""

from __future__ import annotations

from caffe_port.converters.to_pytorch_source.graph import Value
from caffe_port.converters.to_pytorch_source.translation import Translation, writes
from caffe_port.layers import loss
from caffe_port.net import Layer
from caffe_port.shapes import canonical_axis


@writes(loss.Softmax)
def _softmax(to: Translation, layer: Layer, d: loss.Softmax, inputs: list[Value]) -> None:
    axis = canonical_axis(d.axis, len(inputs[0].shape))
    to.add(layer, f"F.softmax({{0}}, dim={axis})", inputs, keeps_channels=True)
