"""Lstm and ContinuationIndicator in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_port.converters.to_onnx.context import FLOAT, OnnxContext, Value
from caffe_port.layers import sequence
from caffe_port.net import Layer
from caffe_port.registry import emitter
from caffe_port.shapes import Shape


@emitter("onnx", "Lstm")
def _lstm(ctx: OnnxContext, layer: Layer, lstm: sequence.Lstm, bottoms: Sequence[Value]) -> None:
    shape, top = layer.bottoms[0].shape, layer.tops[0].shape
    steps = lstm.steps(shape)
    x = bottoms[0] if steps == shape else ctx.reshape(bottoms[0], shape, steps)
    if len(bottoms) == 1:
        _whole(ctx, layer, lstm, x, (*steps[:2], lstm.num_output))
        return
    clip = ctx.reshape(bottoms[1], layer.bottoms[1].shape, (*steps[:2], 1))
    if lstm.streams is None:
        some = ctx.op("Not", ctx.op("Equal", clip, ctx.constant(0, "zero")))
        clip = ctx.op("Cast", some, to=FLOAT)
    _unrolled(ctx, lstm, x, clip, steps, top)


def _reordered(matrix: np.ndarray) -> np.ndarray:
    """The rows of the gates i, f, o, g as ONNX wants them: i, o, f, g."""
    i, f, o, g = np.split(matrix, 4)
    return np.concatenate([i, o, f, g])


def _whole(ctx: OnnxContext, layer: Layer, lstm: sequence.Lstm, x: Value, made: Shape) -> None:
    """One LSTM node: without clip no sequence starts anew."""
    data = [weight.data for weight in layer.weights]
    assert all(values is not None for values in data)
    inward, recurrent, bias = (_reordered(np.asarray(values)) for values in data)
    y, _ = ctx.ops(
        "LSTM",
        x,
        ctx.constant(inward[None], "W"),
        ctx.constant(recurrent[None], "R"),
        ctx.constant(np.concatenate([bias, np.zeros_like(bias)])[None], "B"),
        outputs=[None, None],
        hidden_size=lstm.num_output,
    )
    one_way = ctx.integers([1], "direction")
    if layer.tops[0].shape == made:
        ctx.op("Squeeze", y, one_way, output=ctx.tops[0])
    else:
        ctx.reshape(ctx.op("Squeeze", y, one_way), made, layer.tops[0].shape, output=ctx.tops[0])


def _unrolled(ctx: OnnxContext, lstm: sequence.Lstm, x: Value, clip: Value, steps: Shape, top: Shape) -> None:
    """Step by step, since ONNX's LSTM cannot start a sequence anew in the middle."""
    size = lstm.num_output
    rows = ctx.reshape(x, steps, (steps[0] * steps[1], steps[2]))
    terms = ctx.op("Gemm", rows, ctx.weight(0, "W_x"), ctx.weight(2, "b"), transB=1)
    terms = ctx.op("Reshape", terms, ctx.integers((*steps[:2], 4 * size), "shape"))
    matrix = ctx.weight(1, "W_h")
    hidden = cell = ctx.constant(np.zeros((steps[1], size)), "zeros")
    zero, axis = ctx.constant(0, "zero"), ctx.integers([0], "axis")
    parts = [[ctx.op("Squeeze", one, axis) for one in _by_step(ctx, value, steps[0])] for value in (terms, clip)]
    outputs = []
    for term, goes_on in zip(*parts, strict=True):
        gates = ctx.op("Add", term, ctx.op("Gemm", ctx.op("Mul", hidden, goes_on), matrix, transB=1))
        i, f, o, g = ctx.ops("Split", gates, outputs=[None] * 4, axis=1)
        forget = ctx.op("Where", ctx.op("Equal", goes_on, zero), zero, ctx.op("Sigmoid", f))
        kept = ctx.op("Mul", forget, cell)
        cell = ctx.op("Add", kept, ctx.op("Mul", ctx.op("Sigmoid", i), ctx.op("Tanh", g)))
        hidden = ctx.op("Mul", ctx.op("Sigmoid", o), ctx.op("Tanh", cell))
        outputs.append(ctx.op("Unsqueeze", hidden, axis))
    made = (*steps[:2], size)
    if made == top:
        ctx.op("Concat", *outputs, axis=0, output=ctx.tops[0])
    else:
        ctx.reshape(ctx.op("Concat", *outputs, axis=0), made, top, output=ctx.tops[0])


def _by_step(ctx: OnnxContext, value: Value, steps: int) -> list[Value]:
    return [value] if steps == 1 else ctx.ops("Split", value, outputs=[None] * steps, axis=0)


@emitter("onnx", "ContinuationIndicator")
def _continuation(
    ctx: OnnxContext, layer: Layer, indicator: sequence.ContinuationIndicator, bottoms: Sequence[Value]
) -> None:
    ctx.op("Identity", ctx.constant(indicator.values(np.float32), "values"), output=ctx.tops[0])
