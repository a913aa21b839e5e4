"""Reduction and ArgMax in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_port.converters.to_onnx.context import FLOAT, OnnxContext, Value
from caffe_port.layers import reduction
from caffe_port.net import Layer
from caffe_port.registry import emitter
from caffe_port.shapes import canonical_axis, count


@emitter("onnx", "Reduction")
def _reduction(ctx: OnnxContext, layer: Layer, definition: reduction.Reduction, bottoms: Sequence[Value]) -> None:
    axes = list(range(canonical_axis(definition.axis, len(layer.bottoms[0].shape)), len(layer.bottoms[0].shape)))
    output = ctx.tops[0] if definition.coeff == 1 else None
    if definition.operation == "SUM":
        total = ctx.op("ReduceSum", bottoms[0], ctx.integers(axes, "axes"), output=output, keepdims=0)
    else:
        op = {"ASUM": "ReduceL1", "SUMSQ": "ReduceSumSquare", "MEAN": "ReduceMean"}[definition.operation]
        total = ctx.op(op, bottoms[0], output=output, axes=axes, keepdims=0)
    if definition.coeff != 1:
        ctx.op("Mul", total, ctx.constant(definition.coeff, "coeff"), output=ctx.tops[0])


@emitter("onnx", "ArgMax")
def _argmax(ctx: OnnxContext, layer: Layer, argmax: reduction.ArgMax, bottoms: Sequence[Value]) -> None:
    """TopK on the reversed axis: of equal values it takes the one that comes first there, Caffe's larger index."""
    shape, top_shape = layer.bottoms[0].shape, layer.tops[0].shape
    x, axis = bottoms[0], argmax.axis
    if axis is None:
        x, axis, shape = ctx.op("Flatten", x, axis=1), 1, (shape[0], count(shape, 1))
    axis = canonical_axis(axis, len(shape))
    first = int(np.iinfo(np.int64).min)
    cut = (("start", -1), ("end", first), ("axis", axis), ("step", -1))
    reverse = ctx.op("Slice", x, *[ctx.integers([number], what) for what, number in cut])
    values_only = argmax.axis is not None and argmax.out_max_val
    wanted: list[Value | None] = [ctx.tops[0] if values_only else None, None]
    values, found = ctx.ops("TopK", reverse, ctx.integers([argmax.top_k], "k"), outputs=wanted, axis=axis)
    if values_only:
        return
    last = ctx.constant([shape[axis] - 1], "last", np.int64)
    in_place = argmax.axis is not None
    index = ctx.op("Cast", ctx.op("Sub", last, found), output=ctx.tops[0] if in_place else None, to=FLOAT)
    if in_place:
        return
    if argmax.out_max_val:
        index = ctx.op("Concat", index, values, axis=1)
    ctx.reshape(index, (shape[0], count(top_shape, 1)), top_shape, output=ctx.tops[0])
