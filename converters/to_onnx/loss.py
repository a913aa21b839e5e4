"""Softmax, losses and measures in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from caffe_port.converters.to_onnx.context import FLOAT, INT64, OnnxContext, Value

from caffe_port.layers import loss
from caffe_port.net import Layer
from caffe_port.registry import emitter
from caffe_port.shapes import canonical_axis


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
