"""Interp and Upsample as calls."""

from __future__ import annotations

from caffe_port.converters.to_pytorch_source.graph import Value
from caffe_port.converters.to_pytorch_source.translation import Translation, writes
from caffe_port.errors import UnsupportedLayer
from caffe_port.layers import upsampling
from caffe_port.net import Layer


@writes(upsampling.Interp)
def _interp(to: Translation, layer: Layer, d: upsampling.Interp, inputs: list[Value]) -> None:
    before, after = d.pad
    height, width = (f"{-before}:{side + after}" for side in inputs[0].shape[2:])
    cut = f"{{0}}[:, :, {height}, {width}]" if any(d.pad) else "{0}"
    size = ", ".join(map(str, layer.tops[0].shape[2:]))
    text = f'F.interpolate({cut}, size=({size}), mode="bilinear", align_corners=True)'
    to.add(layer, text, inputs, keeps_channels=True)


@writes(upsampling.Upsample)
def _upsample(to: Translation, layer: Layer, d: upsampling.Upsample, inputs: list[Value]) -> None:
    if d.masked:
        raise UnsupportedLayer("Upsample with a mask")
    text = f'F.interpolate({{0}}, scale_factor=({d.scale[0]}, {d.scale[1]}), mode="nearest")'
    to.add(layer, text, inputs, keeps_channels=True)
