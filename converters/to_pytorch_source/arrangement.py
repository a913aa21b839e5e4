"""Permute, Reverse, ShuffleChannel and Padding as calls."""

from __future__ import annotations

from caffe_port.converters.to_pytorch_source.graph import Value
from caffe_port.converters.to_pytorch_source.translation import Translation, writes
from caffe_port.layers import arrangement
from caffe_port.net import Layer


@writes(arrangement.Permute, arrangement.Transpose)
def _permute(to: Translation, layer: Layer, d: arrangement.Permute, inputs: list[Value]) -> None:
    to.add(layer, f"{{0}}.permute({', '.join(map(str, d.axes(len(inputs[0].shape))))})", inputs)


@writes(arrangement.Reverse)
def _reverse(to: Translation, layer: Layer, d: arrangement.Reverse, inputs: list[Value]) -> None:
    to.add(layer, f"torch.flip({{0}}, dims=[{d.axis}])", inputs)


@writes(arrangement.ShuffleChannel)
def _shuffle(to: Translation, layer: Layer, d: arrangement.ShuffleChannel, inputs: list[Value]) -> None:
    to.add(layer, f"F.channel_shuffle({{0}}, {d.group})", inputs, keeps_channels=True)


@writes(arrangement.Padding)
def _padding(to: Translation, layer: Layer, d: arrangement.Padding, inputs: list[Value]) -> None:
    sides = ", ".join(map(str, (d.before, d.after) * 2))
    to.add(layer, f"F.pad({{0}}, ({sides}))", inputs, keeps_channels=True)
