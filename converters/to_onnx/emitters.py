"""How each layer type is written in ONNX. One function a type, in the order of caffe_port/layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_port.converters.to_onnx.context import OnnxContext, Value
from caffe_port.layers import activation, affine, convolution, dense, loss, normalization, pooling, structure
from caffe_port.net import Layer
from caffe_port.registry import emitter
from caffe_port.shapes import Shape, canonical_axis, count

__all__: list[str] = []

INT64, FLOAT, BOOL = 7, 1, 9
"""onnx.TensorProto's numbers of the types, without importing onnx."""


@emitter("onnx", "Convolution")
def _convolution(ctx: OnnxContext, layer: Layer, conv: convolution.Convolution, bottoms: Sequence[Value]) -> None:
    weight_shape = layer.weights[0].shape
    kernel = weight_shape[2:] or (1,)
    weight = ctx.weight(0, "weight", (*weight_shape[:2], *kernel))
    bias = [ctx.weight(1, "bias")] if conv.bias_term else []
    for bottom, blob, top, top_blob in zip(bottoms, layer.bottoms, ctx.tops, layer.tops, strict=True):
        axis = conv.channel_axis(blob.shape)
        window = conv.window(blob.shape)
        spatial = blob.shape[axis + 1 :]
        flat = (count(blob.shape, 0, axis), blob.shape[axis], *(spatial or (1,)))
        x = bottom if flat == blob.shape else ctx.reshape(bottom, blob.shape, flat)
        flat_top = (flat[0], conv.num_output, *(top_blob.shape[axis + 1 :] or (1,)))
        y = ctx.op(
            "Conv",
            x,
            weight,
            *bias,
            output=top if flat_top == top_blob.shape else None,
            kernel_shape=kernel,
            strides=window.stride or (1,),
            pads=(*window.pad, *window.pad_after(spatial)) or (0, 0),
            dilations=window.dilation or (1,),
            group=conv.group,
        )
        if flat_top != top_blob.shape:
            ctx.reshape(y, flat_top, top_blob.shape, output=top)


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


@emitter("onnx", "Pooling")
def _pooling(ctx: OnnxContext, layer: Layer, pool: pooling.Pooling, bottoms: Sequence[Value]) -> None:
    window = pool.window(layer.bottoms[0].shape)
    if pool.method == "AVE":
        average_pool(ctx, bottoms[0], window, ctx.tops[0])
        return
    x, pads = bottoms[0], (*window.pad, *window.pad_after)
    if any(after >= kernel for after, kernel in zip(window.pad_after, window.kernel, strict=True)):
        # A window wholly outside the input: no attribute allows it, so the padding becomes a node of its own.
        lowest = ctx.constant(-pooling.FLT_MAX, "lowest")
        x = ctx.op("Pad", x, ctx.integers((0, 0, *pads[:2], 0, 0, *pads[2:]), "pads"), lowest)
        pads = (0, 0, 0, 0)
    indices = [None] if pool.num_tops == 2 else []
    made = ctx.ops(
        "MaxPool",
        x,
        outputs=[ctx.tops[0], *indices],
        kernel_shape=window.kernel,
        strides=window.stride,
        pads=pads,
    )
    if pool.num_tops == 2:
        # ONNX counts through the whole tensor, Caffe within the plane.
        plane = ctx.integers([count(layer.bottoms[0].shape, 2)], "plane")
        within = ctx.op("Mod", made[1], plane)
        ctx.op("Cast", within, to=FLOAT, output=ctx.tops[1])


def average_pool(ctx: OnnxContext, x: Value, window: pooling.PoolWindow, output: Value | None) -> Value:
    """Average pooling with Caffe's divisors."""
    divisors = np.outer(window.divisors(0), window.divisors(1)).astype(np.float32)
    cells = count(window.kernel)
    pads = (*window.pad, *window.pad_after)
    inside = all(after < kernel for after, kernel in zip(window.pad_after, window.kernel, strict=True))
    attributes = {"kernel_shape": window.kernel, "strides": window.stride}
    if inside and (divisors == cells).all():
        return ctx.op("AveragePool", x, output=output, pads=pads, count_include_pad=1, **attributes)
    if inside and not any(window.pad):
        # Without padding Caffe counts real cells only, and so does ONNX.
        return ctx.op("AveragePool", x, output=output, pads=pads, count_include_pad=0, **attributes)
    padded = ctx.op("Pad", x, ctx.integers((0, 0, *pads[:2], 0, 0, *pads[2:]), "pads"))
    mean = ctx.op("AveragePool", padded, **attributes)
    total = ctx.op("Mul", mean, ctx.constant(cells, "cells"))
    return ctx.op("Div", total, ctx.constant(divisors, "divisors"), output=output)


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
def _batch_norm(ctx: OnnxContext, layer: Layer, norm: normalization.BatchNorm, bottoms: Sequence[Value]) -> None:
    (x,) = bottoms
    shape = layer.bottoms[0].shape
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


def _values(layer: Layer, index: int) -> np.ndarray:  # type: ignore[type-arg]
    data = layer.weights[index].data
    assert data is not None
    return data


def _operand(ctx: OnnxContext, layer: Layer, place: affine.Broadcast, bottoms: Sequence[Value], what: str) -> Value:
    """The second operand of Scale or Bias, shaped to broadcast (leading 1s are ONNX's default)."""
    x = layer.bottoms[0].shape
    if len(bottoms) == 1:
        return ctx.weight(0, what, _trailing(place, x, layer.weights[0].shape))
    shape = layer.bottoms[1].shape
    wanted = _trailing(place, x, shape)
    return bottoms[1] if wanted == shape else ctx.reshape(bottoms[1], shape, wanted)


def _trailing(place: affine.Broadcast, x: Shape, operand: Shape) -> Shape:
    if not operand:
        return ()
    return operand + (1,) * (len(x) - canonical_axis(place.axis, len(x)) - len(operand))


@emitter("onnx", "Scale")
def _scale(ctx: OnnxContext, layer: Layer, scale: affine.Scale, bottoms: Sequence[Value]) -> None:
    gamma = _operand(ctx, layer, scale.broadcast, bottoms, "gamma")
    if not scale.bias_term:
        ctx.op("Mul", bottoms[0], gamma, output=ctx.tops[0])
        return
    beta_shape = _trailing(scale.broadcast, layer.bottoms[0].shape, layer.weights[-1].shape)
    beta = ctx.weight(len(layer.weights) - 1, "beta", beta_shape)
    ctx.op("Add", ctx.op("Mul", bottoms[0], gamma), beta, output=ctx.tops[0])


@emitter("onnx", "Bias")
def _bias(ctx: OnnxContext, layer: Layer, bias: affine.Bias, bottoms: Sequence[Value]) -> None:
    beta = _operand(ctx, layer, bias.broadcast, bottoms, "beta")
    ctx.op("Add", bottoms[0], beta, output=ctx.tops[0])


@emitter("onnx", "ReLU")
def _relu(ctx: OnnxContext, layer: Layer, relu: activation.ReLU, bottoms: Sequence[Value]) -> None:
    if relu.negative_slope:
        ctx.op("LeakyRelu", bottoms[0], output=ctx.tops[0], alpha=relu.negative_slope)
    else:
        ctx.op("Relu", bottoms[0], output=ctx.tops[0])


@emitter("onnx", "Dropout")
def _dropout(ctx: OnnxContext, layer: Layer, dropout: activation.Dropout, bottoms: Sequence[Value]) -> None:
    if layer.phase == "TEST":
        ctx.op("Identity", bottoms[0], output=ctx.tops[0])
        return
    ratio = ctx.constant(dropout.ratio, "ratio")
    training = ctx.constant(np.array(True), "training", np.bool_)
    ctx.op("Dropout", bottoms[0], ratio, training, output=ctx.tops[0])


@emitter("onnx", "Power")
def _power(ctx: OnnxContext, layer: Layer, power: activation.Power, bottoms: Sequence[Value]) -> None:
    (x,) = bottoms
    if power.constant is not None:
        # Shape of the bottom, whatever its batch; 0 * x would let its NaN and infinities through.
        ctx.op("Expand", ctx.constant(power.constant, "constant"), ctx.op("Shape", x), output=ctx.tops[0])
        return
    steps = []
    if power.scale != 1:
        steps.append(("Mul", power.scale, "scale"))
    if power.shift != 0:
        steps.append(("Add", power.shift, "shift"))
    if power.power != 1 or not steps:
        steps.append(("Pow", power.power, "power"))
    for i, (op, value, what) in enumerate(steps):
        x = ctx.op(op, x, ctx.constant(value, what), output=ctx.tops[0] if i == len(steps) - 1 else None)


@emitter("onnx", "Concat")
def _concat(ctx: OnnxContext, layer: Layer, concat: structure.Concat, bottoms: Sequence[Value]) -> None:
    ctx.op("Concat", *bottoms, output=ctx.tops[0], axis=canonical_axis(concat.axis, len(layer.bottoms[0].shape)))


@emitter("onnx", "Eltwise")
def _eltwise(ctx: OnnxContext, layer: Layer, eltwise: structure.Eltwise, bottoms: Sequence[Value]) -> None:
    (top,) = ctx.tops
    values = list(bottoms)
    if eltwise.operation == "SUM":
        coefficients = eltwise.coefficients(len(values))
        if layer.is_in_place:
            coefficients = (0.0, *coefficients[1:])
        if set(coefficients) == {1.0}:
            ctx.op("Add" if len(values) == 2 else "Sum", *values, output=top)
            return
        terms = [
            value if coefficient == 1 else ctx.op("Mul", value, ctx.constant(coefficient, "coeff"))
            for value, coefficient in zip(values, coefficients, strict=True)
            if not (layer.is_in_place and value == values[0])
        ]
        ctx.op("Sum", *terms, output=top)
    elif eltwise.operation == "MAX":
        ctx.op("Max", *(values[1:] if layer.is_in_place else values), output=top)
    else:
        x = values[0]
        for i, value in enumerate(values[1:], 1):
            x = ctx.op("Mul", x, value, output=top if i == len(values) - 1 else None)


@emitter("onnx", "Flatten", "Reshape")
def _reshape(
    ctx: OnnxContext, layer: Layer, definition: structure.Flatten | structure.Reshape, bottoms: Sequence[Value]
) -> None:
    before, after = layer.bottoms[0].shape, layer.tops[0].shape
    if before == after:
        ctx.op("Identity", bottoms[0], output=ctx.tops[0])
    elif after == (before[0], count(before, 1)):
        ctx.op("Flatten", bottoms[0], output=ctx.tops[0], axis=1)
    else:
        ctx.reshape(bottoms[0], before, after, output=ctx.tops[0])


@emitter("onnx", "Softmax")
def _softmax(ctx: OnnxContext, layer: Layer, softmax: loss.Softmax, bottoms: Sequence[Value]) -> None:
    axis = canonical_axis(softmax.axis, len(layer.bottoms[0].shape))
    ctx.op("Softmax", bottoms[0], output=ctx.tops[0], axis=axis)


def _labels(ctx: OnnxContext, layer: Layer, labels: Value, axis: int, ignore: int | None) -> tuple[Value, Value]:
    """Labels as int64 with a class axis of 1 (an ignored one as 0), and which of them count (bool, the same shape)."""
    scores = layer.bottoms[0].shape
    shape = (*scores[:axis], 1, *scores[axis + 1 :])
    index = ctx.op("Cast", ctx.reshape(labels, layer.bottoms[1].shape, shape), to=INT64)
    if ignore is None:
        return index, ctx.op("Equal", index, index)
    counts = ctx.op("Not", ctx.op("Equal", index, ctx.integers([ignore], "ignore_label")))
    return ctx.op("Where", counts, index, ctx.integers([0], "first")), counts


def _total(ctx: OnnxContext, value: Value, output: Value | None = None) -> Value:
    """Sum over everything, a scalar."""
    return ctx.op("ReduceSum", value, output=output, keepdims=0)


def _at_least_one(ctx: OnnxContext, value: Value) -> Value:
    return ctx.op("Max", value, ctx.constant(1, "one"))


@emitter("onnx", "SoftmaxWithLoss")
def _softmax_loss(ctx: OnnxContext, layer: Layer, definition: loss.SoftmaxWithLoss, bottoms: Sequence[Value]) -> None:
    scores, labels = bottoms
    axis = canonical_axis(definition.axis, len(layer.bottoms[0].shape))
    index, counts = _labels(ctx, layer, labels, axis, definition.normalizer.ignore_label)
    probabilities = ctx.op("Softmax", scores, axis=axis)
    picked = ctx.op("GatherElements", probabilities, index, axis=axis)
    floored = ctx.op("Max", picked, ctx.constant(loss.FLT_MIN, "least"))
    losses = ctx.op("Mul", ctx.op("Neg", ctx.op("Log", floored)), ctx.op("Cast", counts, to=FLOAT))
    divisor = _divisor(ctx, definition.normalizer.mode, scores, index, counts, axis)
    ctx.op("Div", _total(ctx, losses), divisor, output=ctx.tops[0])


def _divisor(ctx: OnnxContext, mode: str, scores: Value, index: Value, counts: Value, axis: int) -> Value:
    """What the loss is divided by (LossNormalizer), for any batch."""
    if mode == "NONE":
        return ctx.constant(1, "one")
    if mode == "VALID":
        amount = _total(ctx, ctx.op("Cast", counts, to=FLOAT))
    elif mode == "FULL":
        amount = ctx.op("Cast", ctx.op("Size", index), to=FLOAT)
    else:
        outer = ctx.op("ReduceProd", ctx.op("Shape", scores, end=axis), keepdims=0)
        amount = ctx.op("Cast", outer, to=FLOAT)
    return _at_least_one(ctx, amount)


@emitter("onnx", "Accuracy")
def _accuracy(ctx: OnnxContext, layer: Layer, accuracy: loss.Accuracy, bottoms: Sequence[Value]) -> None:
    scores, labels = bottoms
    shape = layer.bottoms[0].shape
    axis = canonical_axis(accuracy.axis, len(shape))
    index, counts = _labels(ctx, layer, labels, axis, accuracy.ignore_label)
    own = ctx.op("GatherElements", scores, index, axis=axis)
    as_good = ctx.op("Cast", ctx.op("GreaterOrEqual", scores, own), to=FLOAT)
    rank = ctx.op("ReduceSum", as_good, ctx.integers([axis], "axis"), keepdims=1)
    right = ctx.op("And", ctx.op("LessOrEqual", rank, ctx.constant(accuracy.top_k, "top_k")), counts)
    hits, seen = ctx.op("Cast", right, to=FLOAT), ctx.op("Cast", counts, to=FLOAT)
    ctx.op("Div", _total(ctx, hits), _at_least_one(ctx, _total(ctx, seen)), output=ctx.tops[0])
    if accuracy.num_tops == 2:
        classes = ctx.constant(np.arange(shape[axis]).reshape(-1, *[1] * (len(shape) - 1 - axis)), "classes", np.int64)
        is_class = ctx.op("Cast", ctx.op("Equal", index, classes), to=FLOAT)
        others = ctx.integers([i for i in range(len(shape)) if i != axis], "others")
        hits_of = ctx.op("ReduceSum", ctx.op("Mul", is_class, hits), others, keepdims=0)
        seen_of = ctx.op("ReduceSum", ctx.op("Mul", is_class, seen), others, keepdims=0)
        ctx.op("Div", hits_of, _at_least_one(ctx, seen_of), output=ctx.tops[1])
