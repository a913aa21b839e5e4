"""Softmax, losses and measures in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_port.converters.to_onnx.context import FLOAT, INT64, OnnxContext, Value
from caffe_port.layers import loss
from caffe_port.net import Layer
from caffe_port.registry import emitter
from caffe_port.shapes import canonical_axis, count


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


def total(ctx: OnnxContext, value: Value, output: Value | None = None) -> Value:
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
    amount = divisor(ctx, definition.normalizer.mode, scores, index, counts, axis)
    ctx.op("Div", total(ctx, losses), amount, output=ctx.tops[0])


def divisor(ctx: OnnxContext, mode: str, scores: Value, index: Value, counts: Value, axis: int) -> Value:
    """What the loss is divided by (LossNormalizer), for any batch."""
    if mode == "NONE":
        return ctx.constant(1, "one")
    if mode == "VALID":
        amount = total(ctx, ctx.op("Cast", counts, to=FLOAT))
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
    ctx.op("Div", total(ctx, hits), _at_least_one(ctx, total(ctx, seen)), output=ctx.tops[0])
    if accuracy.num_tops == 2:
        classes = ctx.constant(np.arange(shape[axis]).reshape(-1, *[1] * (len(shape) - 1 - axis)), "classes", np.int64)
        is_class = ctx.op("Cast", ctx.op("Equal", index, classes), to=FLOAT)
        others = ctx.integers([i for i in range(len(shape)) if i != axis], "others")
        hits_of = ctx.op("ReduceSum", ctx.op("Mul", is_class, hits), others, keepdims=0)
        seen_of = ctx.op("ReduceSum", ctx.op("Mul", is_class, seen), others, keepdims=0)
        ctx.op("Div", hits_of, _at_least_one(ctx, seen_of), output=ctx.tops[1])


def batch_size(ctx: OnnxContext, x: Value) -> Value:
    """Dim 0 of `x`, a float scalar, for any batch."""
    return ctx.op("Cast", ctx.op("ReduceProd", ctx.op("Shape", x, end=1), keepdims=0), to=FLOAT)


def _items(ctx: OnnxContext, layer: Layer, index: int, value: Value) -> Value:
    """Bottom `index` as (N, the rest)."""
    shape = layer.bottoms[index].shape
    return value if len(shape) == 2 else ctx.reshape(value, shape, (shape[0], count(shape, 1)))


@emitter("onnx", "HingeLoss")
def _hinge_loss(ctx: OnnxContext, layer: Layer, hinge: loss.HingeLoss, bottoms: Sequence[Value]) -> None:
    scores = _items(ctx, layer, 0, bottoms[0])
    index = ctx.op("Cast", _items(ctx, layer, 1, bottoms[1]), to=INT64)
    classes = ctx.constant(np.arange(count(layer.bottoms[0].shape, 1)), "classes", np.int64)
    minus, plus = ctx.constant(-1, "minus"), ctx.constant(1, "plus")
    signs = ctx.op("Where", ctx.op("Equal", index, classes), minus, plus)
    margins = ctx.op("Relu", ctx.op("Add", ctx.op("Mul", signs, scores), plus))
    amount = total(ctx, margins) if hinge.norm == "L1" else ctx.op("ReduceSumSquare", margins, keepdims=0)
    ctx.op("Div", amount, batch_size(ctx, scores), output=ctx.tops[0])


@emitter("onnx", "MultinomialLogisticLoss")
def _multinomial_loss(
    ctx: OnnxContext, layer: Layer, definition: loss.MultinomialLogisticLoss, bottoms: Sequence[Value]
) -> None:
    probabilities = _items(ctx, layer, 0, bottoms[0])
    index = ctx.op("Cast", _items(ctx, layer, 1, bottoms[1]), to=INT64)
    picked = ctx.op("GatherElements", probabilities, index, axis=1)
    floored = ctx.op("Max", picked, ctx.constant(loss.LOG_THRESHOLD, "least"))
    losses = total(ctx, ctx.op("Neg", ctx.op("Log", floored)))
    ctx.op("Div", losses, batch_size(ctx, probabilities), output=ctx.tops[0])


@emitter("onnx", "InfogainLoss")
def _infogain_loss(ctx: OnnxContext, layer: Layer, definition: loss.InfogainLoss, bottoms: Sequence[Value]) -> None:
    scores, labels = bottoms[:2]
    shape = layer.bottoms[0].shape
    axis = canonical_axis(definition.axis, len(shape))
    square = (shape[axis], shape[axis])
    if definition.matrix is None:
        matrix = ctx.op("Reshape", bottoms[2], ctx.integers(square, "shape"))
    else:
        matrix = ctx.constant(definition.matrix.reshape(square), "matrix")
    index, counts = _labels(ctx, layer, labels, axis, definition.normalizer.ignore_label)
    probabilities = ctx.op("Softmax", scores, output=ctx.tops[1] if definition.num_tops == 2 else None, axis=axis)
    logs = ctx.op("Log", ctx.op("Max", probabilities, ctx.constant(loss.LOG_THRESHOLD, "least")))
    # Rows of the matrix stand on a new last axis, which then takes the class axis's place.
    flat = ctx.op("Squeeze", index, ctx.integers([axis], "class_axis"))
    last = len(shape) - 1
    order = [*range(axis), last, *range(axis, last)]
    gains = ctx.op("Transpose", ctx.op("Gather", matrix, flat, axis=0), perm=order)
    losses = ctx.op("Mul", ctx.op("Mul", gains, logs), ctx.op("Cast", counts, to=FLOAT))
    amount = divisor(ctx, definition.normalizer.mode, scores, index, counts, axis)
    ctx.op("Div", ctx.op("Neg", total(ctx, losses)), amount, output=ctx.tops[0])
