"""LRN, BatchNorm and MVN in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_port.converters.to_onnx.context import OnnxContext, Value
from caffe_port.converters.to_onnx.pooling import average_pool
from caffe_port.layers import normalization, pooling
from caffe_port.net import Layer
from caffe_port.registry import emitter


@emitter("onnx", "LRN")
def _lrn(ctx: OnnxContext, layer: Layer, lrn: normalization.LRN, bottoms: Sequence[Value]) -> None:
    (x,) = bottoms
    if not lrn.within_channel:
        ctx.op("LRN", x, output=ctx.tops[0], size=lrn.local_size, alpha=lrn.alpha, beta=lrn.beta, bias=lrn.k)
        return
    half = (lrn.local_size - 1) // 2
    size = (layer.bottoms[0].shape[2], layer.bottoms[0].shape[3])
    kernel = (lrn.local_size, lrn.local_size)
    window = pooling.PoolWindow(kernel, (1, 1), (half, half), size, size)
    mean = average_pool(ctx, ctx.op("Mul", x, x), window, None)
    scaled = ctx.op("Mul", mean, ctx.constant(lrn.alpha, "alpha"))
    shifted = ctx.op("Add", scaled, ctx.constant(1, "one"))
    factor = ctx.op("Pow", shifted, ctx.constant(-lrn.beta, "exponent"))
    ctx.op("Mul", x, factor, output=ctx.tops[0])


@emitter("onnx", "BatchNorm")
def _batch_norm(
    ctx: OnnxContext,
    layer: Layer,
    norm: normalization.BatchNorm | normalization.ScaledBatchNorm,
    bottoms: Sequence[Value],
) -> None:
    (x,) = bottoms
    shape = layer.bottoms[0].shape
    if isinstance(norm, normalization.ScaledBatchNorm):
        _scaled_batch_norm(ctx, layer, norm, x)
        return
    if norm.use_global_stats:
        mean, variance = norm.stored_statistics([_values(layer, i) for i in range(3)])
        channels = shape[1]
        ctx.op(
            "BatchNormalization",
            x,
            ctx.constant(np.ones(channels), "one"),
            ctx.constant(np.zeros(channels), "zero"),
            ctx.constant(mean, "mean"),
            ctx.constant(variance, "variance"),
            output=ctx.tops[0],
            epsilon=norm.eps,
        )
        return
    axes = [0, *range(2, len(shape))]
    centred = ctx.op("Sub", x, ctx.op("ReduceMean", x, axes=axes))
    batch_variance = ctx.op("ReduceMean", ctx.op("Mul", centred, centred), axes=axes)
    deviation = ctx.op("Sqrt", ctx.op("Add", batch_variance, ctx.constant(norm.eps, "eps")))
    ctx.op("Div", centred, deviation, output=ctx.tops[0])


def _scaled_batch_norm(ctx: OnnxContext, layer: Layer, norm: normalization.ScaledBatchNorm, x: Value) -> None:
    shape = layer.bottoms[0].shape
    channels = (shape[1],)
    if norm.scale_bias:
        scale, bias = ctx.weight(3, "scale", channels), ctx.weight(4, "bias", channels)
    else:
        scale, bias = ctx.constant(np.ones(channels), "one"), ctx.constant(np.zeros(channels), "zero")
    if norm.uses_batch:
        axes = [0, *range(2, len(shape))]
        mean = ctx.op("ReduceMean", x, axes=axes, keepdims=0)
        centred = ctx.op("Sub", x, ctx.op("ReduceMean", x, axes=axes))
        variance = ctx.op("ReduceMean", ctx.op("Mul", centred, centred), axes=axes, keepdims=0)
    else:
        stored = normalization.stored_statistics([_values(layer, i) for i in range(3)])
        mean, variance = ctx.constant(stored[0], "mean"), ctx.constant(stored[1], "variance")
    ctx.op("BatchNormalization", x, scale, bias, mean, variance, output=ctx.tops[0], epsilon=norm.eps)


def _values(layer: Layer, index: int) -> np.ndarray:
    data = layer.weights[index].data
    assert data is not None
    return data


@emitter("onnx", "MVN")
def _mvn(ctx: OnnxContext, layer: Layer, mvn: normalization.MVN, bottoms: Sequence[Value]) -> None:
    shape, top_shape = layer.bottoms[0].shape, layer.tops[0].shape
    x = bottoms[0] if shape == top_shape else ctx.reshape(bottoms[0], shape, top_shape)
    mean = ctx.op("ReduceMean", x, axes=mvn.axes)
    if not mvn.normalize_variance:
        ctx.op("Sub", x, mean, output=ctx.tops[0])
        return
    centred = ctx.op("Sub", x, mean)
    variance = ctx.op("ReduceMean", ctx.op("Mul", centred, centred), axes=mvn.axes)
    deviation = ctx.op("Add", ctx.op("Sqrt", variance), ctx.constant(mvn.eps, "eps"))
    ctx.op("Div", centred, deviation, output=ctx.tops[0])
