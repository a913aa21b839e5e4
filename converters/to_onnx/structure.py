"""Layers that join, repeat and reshape blobs in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_port.converters.to_onnx.context import OnnxContext, Value
from caffe_port.layers import structure
from caffe_port.net import Layer
from caffe_port.registry import emitter
from caffe_port.shapes import canonical_axis, count


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
    elif before and after == (before[0], count(before, 1)):
        ctx.op("Flatten", bottoms[0], output=ctx.tops[0], axis=1)
    else:
        ctx.reshape(bottoms[0], before, after, output=ctx.tops[0])


@emitter("onnx", "Silence")
def _silence(ctx: OnnxContext, layer: Layer, silence: structure.Silence, bottoms: Sequence[Value]) -> None:
    """Nothing: it makes no value, and what it takes is no output of the net."""
