"""Losses against targets of the scores' own shape, and between pairs, in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_port.converters.to_onnx.context import FLOAT, INT64, OnnxContext, Value
from caffe_port.converters.to_onnx.loss import batch_size, divisor, total
from caffe_port.layers import regression
from caffe_port.net import Layer
from caffe_port.registry import emitter
from caffe_port.shapes import count


def _like_first(ctx: OnnxContext, layer: Layer, value: Value) -> Value:
    """Bottom 1 in the shape of bottom 0."""
    first, second = layer.bottoms[0].shape, layer.bottoms[1].shape
    return value if first == second else ctx.reshape(value, second, first)


@emitter("onnx", "EuclideanLoss")
def _euclidean_loss(
    ctx: OnnxContext, layer: Layer, definition: regression.EuclideanLoss, bottoms: Sequence[Value]
) -> None:
    difference = ctx.op("Sub", bottoms[0], _like_first(ctx, layer, bottoms[1]))
    squares = ctx.op("ReduceSumSquare", difference, keepdims=0)
    twice = ctx.op("Mul", batch_size(ctx, bottoms[0]), ctx.constant(2, "two"))
    ctx.op("Div", squares, twice, output=ctx.tops[0])


@emitter("onnx", "SigmoidCrossEntropyLoss")
def _sigmoid_loss(
    ctx: OnnxContext, layer: Layer, definition: regression.SigmoidCrossEntropyLoss, bottoms: Sequence[Value]
) -> None:
    x, target = bottoms[0], _like_first(ctx, layer, bottoms[1])
    # max(x, 0) + log(1 + e^-|x|) is Softplus.
    losses = ctx.op("Sub", ctx.op("Softplus", x), ctx.op("Mul", x, target))
    index = ctx.op("Cast", target, to=INT64)
    if definition.normalizer.ignore_label is None:
        counts = ctx.op("Equal", index, index)
    else:
        counts = ctx.op("Not", ctx.op("Equal", index, ctx.integers([definition.normalizer.ignore_label], "ignore")))
        losses = ctx.op("Mul", losses, ctx.op("Cast", counts, to=FLOAT))
    amount = divisor(ctx, definition.normalizer.mode, x, index, counts, 1)
    ctx.op("Div", total(ctx, losses), amount, output=ctx.tops[0])


@emitter("onnx", "ContrastiveLoss")
def _contrastive_loss(
    ctx: OnnxContext, layer: Layer, definition: regression.ContrastiveLoss, bottoms: Sequence[Value]
) -> None:
    flat = []
    for value, blob in zip(bottoms, layer.bottoms, strict=True):
        shape = (blob.shape[0], count(blob.shape, 1))
        flat.append(value if shape == blob.shape else ctx.reshape(value, blob.shape, shape))
    a, b, similar = flat
    squares = ctx.op("ReduceSumSquare", ctx.op("Sub", a, b), axes=[1], keepdims=1)
    margin = ctx.constant(definition.margin, "margin")
    if definition.legacy_version:
        apart = ctx.op("Relu", ctx.op("Sub", margin, squares))
    else:
        near = ctx.op("Relu", ctx.op("Sub", margin, ctx.op("Sqrt", squares)))
        apart = ctx.op("Mul", near, near)
    index = ctx.op("Cast", similar, to=INT64)
    is_other = ctx.op("Equal", index, ctx.integers([0], "other"))
    losses = ctx.op("Where", is_other, apart, squares)
    twice = ctx.op("Mul", batch_size(ctx, a), ctx.constant(2, "two"))
    ctx.op("Div", total(ctx, losses), twice, output=ctx.tops[0])
