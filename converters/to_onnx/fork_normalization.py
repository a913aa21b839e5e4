"""Normalize and BN in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_port.converters.to_onnx.context import OnnxContext, Value
from caffe_port.layers import fork_normalization
from caffe_port.net import Layer
from caffe_port.registry import emitter


@emitter("onnx", "Normalize")
def _normalize(
    ctx: OnnxContext, layer: Layer, normalize: fork_normalization.Normalize, bottoms: Sequence[Value]
) -> None:
    (x,) = bottoms
    shape = layer.bottoms[0].shape
    axes = ctx.integers(normalize.axes(len(shape)), "axes")
    squares = ctx.op("ReduceSum", ctx.op("Mul", x, x), axes, keepdims=1)
    norm = ctx.op("Sqrt", ctx.op("Add", squares, ctx.constant(normalize.eps, "eps")))
    scale = ctx.weight(0, "scale", () if normalize.channel_shared else (shape[1], *[1] * (len(shape) - 2)))
    ctx.op("Mul", ctx.op("Div", x, norm), scale, output=ctx.tops[0])


@emitter("onnx", "BN")
def _bn(ctx: OnnxContext, layer: Layer, bn: fork_normalization.BN, bottoms: Sequence[Value]) -> None:
    shape, top = layer.bottoms[0].shape, layer.tops[0].shape
    x = bottoms[0] if shape == top else ctx.reshape(bottoms[0], shape, top)
    channels = (top[1],)
    if not bn.uses_batch and bn.kind != "segnet":
        names = ("scale", "shift", "mean", "variance")
        values = [ctx.weight(i, name, channels) for i, name in enumerate(names)]
        ctx.op("BatchNormalization", x, *values, output=ctx.tops[0], epsilon=bn.eps)
        return
    column = (*channels, *[1] * (len(top) - 2))
    scale, shift = ctx.weight(0, "scale", column), ctx.weight(1, "shift", column)
    if not bn.uses_batch:
        ctx.op("Add", ctx.op("Mul", x, scale), shift, output=ctx.tops[0])
        for name in ctx.tops[1:]:
            ctx.op("Identity", ctx.constant([[[[0.0]]] * top[1]], "unused"), output=name)
        return
    axes = [0, *range(2, len(top))]
    mean = ctx.op("ReduceMean", x, axes=axes, output=ctx.tops[1] if len(ctx.tops) > 1 else None)
    centred = ctx.op("Sub", x, mean)
    squares = ctx.op("Mul", centred, centred)
    variance = ctx.op("ReduceMean", squares, axes=axes, output=ctx.tops[2] if len(ctx.tops) > 2 else None)
    deviation = ctx.op("Sqrt", ctx.op("Add", variance, ctx.constant(bn.eps, "eps")))
    normal = ctx.op("Div", centred, deviation)
    ctx.op("Add", ctx.op("Mul", normal, scale), shift, output=ctx.tops[0])
