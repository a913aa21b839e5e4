"""Slice, Crop and Tile as calls."""

from __future__ import annotations

from caffe_port.converters.to_pytorch_source.graph import Value
from caffe_port.converters.to_pytorch_source.translation import Translation, writes
from caffe_port.layers import selection
from caffe_port.net import Layer
from caffe_port.shapes import canonical_axis


@writes(selection.Slice)
def _slice(to: Translation, layer: Layer, d: selection.Slice, inputs: list[Value]) -> None:
    axis, sizes = canonical_axis(d.axis, len(inputs[0].shape)), d.sizes(inputs[0].shape)
    if len(sizes) == 1:
        to.values[layer.tops[0]] = inputs[0]
    elif not d.points:
        to.add(layer, f"torch.chunk({{0}}, {len(sizes)}, dim={axis})", inputs)
    else:
        to.add(layer, f"torch.split({{0}}, [{', '.join(map(str, sizes))}], dim={axis})", inputs)


@writes(selection.Crop)
def _crop(to: Translation, layer: Layer, d: selection.Crop, inputs: list[Value]) -> None:
    starts, axis = d.starts(inputs[0].shape), canonical_axis(d.axis, len(inputs[0].shape))
    cuts = []
    for i, start in enumerate(starts):
        size = f"{{1}}.shape[{i}]"
        cuts.append(":" if i < axis else f"{start} : {start} + {size}" if start else f": {size}")
    to.add(layer, f"{{0}}[{', '.join(cuts)}]", inputs)


@writes(selection.Tile)
def _tile(to: Translation, layer: Layer, d: selection.Tile, inputs: list[Value]) -> None:
    to.add(layer, f"{{0}}.repeat({', '.join(map(str, d.repeats(inputs[0].shape)))})", inputs)
