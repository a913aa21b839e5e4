"""InnerProduct and Embed in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_port.converters.to_onnx.context import INT64, OnnxContext, Value
from caffe_port.layers import dense
from caffe_port.net import Layer
from caffe_port.registry import emitter
from caffe_port.shapes import Shape, count


@emitter("onnx", "InnerProduct")
def _inner_product(ctx: OnnxContext, layer: Layer, ip: dense.InnerProduct, bottoms: Sequence[Value]) -> None:
    shape, top_shape = layer.bottoms[0].shape, layer.tops[0].shape
    start = ip.start(shape)
    flat: Shape = (count(shape, 0, start), count(shape, start))
    x = bottoms[0] if flat == shape else ctx.reshape(bottoms[0], shape, flat)
    flat_top = (flat[0], ip.num_output)
    inputs = [x, ctx.weight(0, "weight")] + ([ctx.weight(1, "bias")] if ip.bias_term else [])
    y = ctx.op("Gemm", *inputs, output=ctx.tops[0] if flat_top == top_shape else None, transB=int(not ip.transpose))
    if flat_top != top_shape:
        ctx.reshape(y, flat_top, top_shape, output=ctx.tops[0])


@emitter("onnx", "Embed")
def _embed(ctx: OnnxContext, layer: Layer, embed: dense.Embed, bottoms: Sequence[Value]) -> None:
    index = ctx.op("Cast", bottoms[0], to=INT64)
    rows = ctx.op("Gather", ctx.weight(0, "weight"), index, output=None if embed.bias_term else ctx.tops[0], axis=0)
    if embed.bias_term:
        ctx.op("Add", rows, ctx.weight(1, "bias"), output=ctx.tops[0])
