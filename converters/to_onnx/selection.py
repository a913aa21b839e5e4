"""Layers that cut out, pick and repeat parts of blobs, in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_port.converters.to_onnx.context import INT64, OnnxContext, Value
from caffe_port.layers import selection
from caffe_port.net import Layer
from caffe_port.registry import emitter
from caffe_port.shapes import canonical_axis


@emitter("onnx", "Slice")
def _slice(ctx: OnnxContext, layer: Layer, definition: selection.Slice, bottoms: Sequence[Value]) -> None:
    shape = layer.bottoms[0].shape
    axis = canonical_axis(definition.axis, len(shape))
    if len(ctx.tops) == 1:
        ctx.op("Identity", bottoms[0], output=ctx.tops[0])
        return
    sizes = ctx.integers(definition.sizes(shape), "sizes")
    ctx.ops("Split", bottoms[0], sizes, outputs=ctx.tops, axis=axis)


@emitter("onnx", "Crop")
def _crop(ctx: OnnxContext, layer: Layer, crop: selection.Crop, bottoms: Sequence[Value]) -> None:
    shape, top_shape = layer.bottoms[0].shape, layer.tops[0].shape
    first = canonical_axis(crop.axis, len(shape))
    starts, sizes = crop.starts(shape)[first:], top_shape[first:]
    ctx.op(
        "Slice",
        bottoms[0],
        ctx.integers(starts, "starts"),
        ctx.integers([start + size for start, size in zip(starts, sizes, strict=True)], "ends"),
        ctx.integers(range(first, len(shape)), "axes"),
        output=ctx.tops[0],
    )


@emitter("onnx", "Tile")
def _tile(ctx: OnnxContext, layer: Layer, tile: selection.Tile, bottoms: Sequence[Value]) -> None:
    repeats = ctx.integers(tile.repeats(layer.bottoms[0].shape), "repeats")
    ctx.op("Tile", bottoms[0], repeats, output=ctx.tops[0])


@emitter("onnx", "BatchReindex")
def _batch_reindex(ctx: OnnxContext, layer: Layer, reindex: selection.BatchReindex, bottoms: Sequence[Value]) -> None:
    ctx.op("Gather", bottoms[0], ctx.op("Cast", bottoms[1], to=INT64), output=ctx.tops[0], axis=0)


@emitter("onnx", "Filter")
def _filter(ctx: OnnxContext, layer: Layer, definition: selection.Filter, bottoms: Sequence[Value]) -> None:
    *data, selector = bottoms
    flat = ctx.op("Reshape", selector, ctx.integers([-1], "shape"))
    chosen = ctx.op("Not", ctx.op("Equal", flat, ctx.constant(np.zeros(()), "zero")))
    for value, top in zip(data, ctx.tops, strict=True):
        ctx.op("Compress", value, chosen, output=top, axis=0)
