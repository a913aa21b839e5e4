"""Training of detectors, in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_port.converters.to_onnx.context import OnnxContext, Value
from caffe_port.layers import detection_loss
from caffe_port.net import Layer
from caffe_port.registry import emitter, inexpressible
from caffe_port.shapes import count, legacy_dim

inexpressible("onnx", "MultiBoxLoss", "it is read for inspection only; take the net of phase TEST")


@emitter("onnx", "SmoothL1Loss")
def _smooth_l1(ctx: OnnxContext, layer: Layer, loss: detection_loss.SmoothL1Loss, bottoms: Sequence[Value]) -> None:
    shape = layer.bottoms[0].shape
    rows = (shape[0], count(shape, 1)) if shape else (1,)
    a, b, *given = (ctx.reshape(value, blob.shape, rows) for value, blob in zip(bottoms, layer.bottoms, strict=True))
    difference = ctx.op("Sub", a, b)
    if given:
        difference = ctx.op("Mul", difference, given[0])
    square = loss.sigma * loss.sigma
    distance = ctx.op("Abs", difference)
    half = ctx.op("Mul", difference, ctx.constant(0.5, "half"))
    small = ctx.op("Mul", ctx.op("Mul", half, difference), ctx.constant(square, "square"))
    large = ctx.op("Sub", distance, ctx.constant(0.5 / square, "offset"))
    near = ctx.op("Less", distance, ctx.constant(1 / square, "near"))
    losses = ctx.op("Where", near, small, large)
    if len(given) > 1:
        losses = ctx.op("Mul", losses, given[1])
    total = ctx.op("ReduceSum", losses, keepdims=0)
    ctx.op("Div", total, ctx.constant(legacy_dim(shape, 0), "batch"), output=ctx.tops[0])
