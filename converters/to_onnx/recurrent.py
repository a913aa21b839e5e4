"""LSTM, LSTMUnit and RNN in ONNX, unrolled over time as Caffe does it.

ONNX's own LSTM and RNN cannot restart a sequence in the middle, as `cont` does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_port.converters.to_onnx.context import OnnxContext, Value
from caffe_port.layers import recurrent
from caffe_port.net import Layer
from caffe_port.registry import emitter
from caffe_port.shapes import count


def _lstm_unit(
    ctx: OnnxContext, cell: Value, gates: Value, cont: Value, outputs: tuple[Value | None, Value | None]
) -> tuple[Value, Value]:
    """New cell and hidden state, (N, H) or (1, N, H); cont has the same axes, the last of size 1."""
    i, f, o, g = ctx.ops("Split", gates, outputs=[None] * 4, axis=-1)
    kept = ctx.op("Mul", ctx.op("Mul", cont, ctx.op("Sigmoid", f)), cell)
    new_cell = ctx.op("Add", kept, ctx.op("Mul", ctx.op("Sigmoid", i), ctx.op("Tanh", g)), output=outputs[0])
    return new_cell, ctx.op("Mul", ctx.op("Sigmoid", o), ctx.op("Tanh", new_cell), output=outputs[1])


@emitter("onnx", "LSTMUnit")
def _unit(ctx: OnnxContext, layer: Layer, unit: recurrent.LSTMUnit, bottoms: Sequence[Value]) -> None:
    cell, gates, cont = bottoms
    column = ctx.op("Unsqueeze", cont, ctx.integers([2], "last"))
    _lstm_unit(ctx, cell, gates, column, (ctx.tops[0], ctx.tops[1]))


class _Steps:
    """What LSTM and RNN have in common: the terms of the input, time step by time step, the states, and the tops."""

    def __init__(
        self, ctx: OnnxContext, layer: Layer, definition: recurrent.Recurrent, bottoms: Sequence[Value]
    ) -> None:
        self.ctx = ctx
        x = layer.bottoms[0].shape
        self.steps, self.streams, self.size = x[0], x[1], definition.num_output
        rows = layer.weights[0].shape[0]
        flat = ctx.reshape(bottoms[0], x, (x[0] * x[1], count(x, 2)))
        product = ctx.op("Gemm", flat, ctx.weight(0, "W_x"), ctx.weight(1, "b"), transB=1)
        terms = ctx.op("Reshape", product, ctx.integers((x[0], x[1], rows), "shape"))
        if definition.has_static:
            static = layer.bottoms[2].shape
            by_stream = ctx.reshape(bottoms[2], static, (static[0], count(static, 1)))
            terms = ctx.op("Add", terms, ctx.op("Gemm", by_stream, ctx.weight(2, "W_static"), transB=1))
        self.zeroth = ctx.integers([0], "axis")
        self.terms = self._by_step(terms)
        self.cont = self._by_step(ctx.op("Unsqueeze", bottoms[1], ctx.integers([2], "last")))
        if definition.expose_hidden:
            self.states = [ctx.op("Squeeze", value, self.zeroth) for value in bottoms[-definition.states :]]
        else:
            zeros = ctx.constant(np.zeros((self.streams, self.size)), "zeros")
            self.states = [zeros] * definition.states

    def _by_step(self, value: Value) -> list[Value]:
        """(T, N, …) → T values (N, …)."""
        if self.steps == 1:
            return [self.ctx.op("Squeeze", value, self.zeroth)]
        parts = self.ctx.ops("Split", value, outputs=[None] * self.steps, axis=0)
        return [self.ctx.op("Squeeze", part, self.zeroth) for part in parts]

    def gates(self, step: int, hidden: Value, matrix: Value) -> Value:
        """Terms of a step plus W_h (cont * h)."""
        going_on = self.ctx.op("Mul", hidden, self.cont[step])
        return self.ctx.op("Add", self.terms[step], self.ctx.op("Gemm", going_on, matrix, transB=1))

    def finish(self, outputs: Sequence[Value], states: Sequence[Value]) -> None:
        """The tops: all outputs on a time axis, and the last states."""
        ctx = self.ctx
        rows = [ctx.op("Unsqueeze", value, self.zeroth) for value in outputs]
        ctx.op("Concat", *rows, output=ctx.tops[0], axis=0)
        for state, top in zip(states, ctx.tops[1:], strict=False):
            ctx.op("Unsqueeze", state, self.zeroth, output=top)


@emitter("onnx", "LSTM")
def _lstm(ctx: OnnxContext, layer: Layer, lstm: recurrent.LSTM, bottoms: Sequence[Value]) -> None:
    unrolled = _Steps(ctx, layer, lstm, bottoms)
    matrix = ctx.weight(len(layer.weights) - 1, "W_h")
    hidden, cell = unrolled.states
    outputs = []
    for step in range(unrolled.steps):
        gates = unrolled.gates(step, hidden, matrix)
        cell, hidden = _lstm_unit(ctx, cell, gates, unrolled.cont[step], (None, None))
        outputs.append(hidden)
    unrolled.finish(outputs, [hidden, cell])


@emitter("onnx", "RNN")
def _rnn(ctx: OnnxContext, layer: Layer, rnn: recurrent.RNN, bottoms: Sequence[Value]) -> None:
    unrolled = _Steps(ctx, layer, rnn, bottoms)
    first = len(layer.weights) - 3
    matrix, outward, bias = (ctx.weight(first + i, what) for i, what in enumerate(("W_h", "W_o", "b_o")))
    (hidden,) = unrolled.states
    outputs = []
    for step in range(unrolled.steps):
        hidden = ctx.op("Tanh", unrolled.gates(step, hidden, matrix))
        outputs.append(ctx.op("Tanh", ctx.op("Gemm", hidden, outward, bias, transB=1)))
    unrolled.finish(outputs, [hidden])
