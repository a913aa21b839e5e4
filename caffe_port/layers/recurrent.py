"""Recurrent layers, which Caffe unrolls over time into a net of its own.

State is never kept between runs: where Caffe carries the last state over to the next Forward (expose_hidden off), a run
here starts from zeros, as Caffe's first does. Caffe also fixes the number of time steps at setup; here it may change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from caffe_port.errors import GraphError, ShapeError
from caffe_port.layers.activation import sigmoid
from caffe_port.layers.base import Array, Count, LayerDef, LayerSpec, RunContext, WeightSpec, refuse
from caffe_port.registry import layer
from caffe_port.shapes import Shape, count, format_shape

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LSTM", "RNN", "LSTMUnit", "Recurrent"]


def lstm_unit(cell: Array, gates: Array, cont: Array) -> tuple[Array, Array]:
    """New cell and hidden state of one time step: cell (…, H), gates (…, 4H) in the order i, f, o, g, cont (…)."""
    size = cell.shape[-1]
    i, f, o = (sigmoid(gates[..., k * size : (k + 1) * size]) for k in range(3))
    goes_on = cont[..., None]
    forget = np.where(goes_on == 0, 0, goes_on * f)
    new_cell = forget * cell + i * np.tanh(gates[..., 3 * size :])
    return new_cell, o * np.tanh(new_cell)


@layer("LSTMUnit")
@dataclass(frozen=True, slots=True)
class LSTMUnit(LayerDef):
    """One time step of an LSTM: c = cont * sig(f) * c_prev + sig(i) * tanh(g), h = sig(o) * tanh(c).

    Shapes: c_prev (1, N, H), gates i, f, o, g (1, N, 4H), cont (1, N) → c, h (1, N, H). Raises: ShapeError if they
    differ.
    Source: BVLC/caffe @ 9b89154, lstm_unit_layer.cpp.
    """

    bottoms = Count(3, 3)
    tops = Count(2, 2)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        cell, gates, cont = bottoms
        if len(cell) != 3 or cell[0] != 1 or gates != (1, cell[1], 4 * cell[2]) or cont != cell[:2]:
            raise ShapeError(
                f"bottoms must be (1, N, H), (1, N, 4H) and (1, N); they are {', '.join(map(format_shape, bottoms))}"
            )
        return [cell, cell]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        cell, gates, cont = bottoms
        return list(lstm_unit(cell, gates, cont))


@dataclass(frozen=True, slots=True)
class Recurrent(LayerDef):
    """What LSTM and RNN have in common: bottoms, tops and parameters.

    Bottoms: x (T, N, …), cont (T, N), then x_static (N, …) if there is one, then with expose_hidden the first states.
    Tops: output (T, N, num_output), then with expose_hidden the last states (1, N, num_output).
    """

    bottoms = Count(2, None)
    tops = Count(1, None)
    states: ClassVar[int]
    """How many states go from step to step."""

    num_output: int
    expose_hidden: bool
    has_static: bool
    weight_filler: Any
    bias_filler: Any

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("recurrent_param")
        params.inert("debug_info")
        num_output = params.integer("num_output")
        if num_output <= 0:
            raise refuse("num_output must be given and positive")
        expose_hidden = params.flag("expose_hidden")
        exposed = cls.states if expose_hidden else 0
        if spec.num_bottoms not in Count(2 + exposed, 3 + exposed):
            raise GraphError(f"takes {2 + exposed} or {3 + exposed} bottoms, {spec.num_bottoms} are given")
        if spec.num_tops != 1 + exposed:
            raise GraphError(f"makes {1 + exposed} tops, {spec.num_tops} are given")
        return cls(
            num_output=num_output,
            expose_hidden=expose_hidden,
            has_static=spec.num_bottoms == 3 + exposed,
            weight_filler=params.raw("weight_filler"),
            bias_filler=params.raw("bias_filler"),
        )

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x, cont = bottoms[:2]
        if len(x) < 2:
            raise ShapeError(f"bottom[0] must be (time steps, streams, …), it is {format_shape(x)}")
        if cont != x[:2]:
            raise ShapeError(
                f"bottom[1] must be (time steps, streams) {format_shape(x[:2])}, it is {format_shape(cont)}"
            )
        if self.has_static and bottoms[2][:1] != x[1:2]:
            raise ShapeError(f"bottom[2] must have {x[1]} streams on axis 0, it is {format_shape(bottoms[2])}")
        state = (1, x[1], self.num_output)
        first = 3 if self.has_static else 2
        for i, given in enumerate(bottoms[first:], first):
            if given != state:
                raise ShapeError(
                    f"bottom[{i}], a first state, must be {format_shape(state)}, it is {format_shape(given)}"
                )
        return [(*x[:2], self.num_output), *[state] * len(bottoms[first:])]

    def first_states(self, bottoms: Sequence[Array]) -> list[Array]:
        """The states before the first step, each (N, num_output): given ones, or zeros."""
        if self.expose_hidden:
            return [state[0] for state in bottoms[-self.states :]]
        return [np.zeros((bottoms[0].shape[1], self.num_output), bottoms[0].dtype)] * self.states

    def input_terms(self, bottoms: Sequence[Array], weights: Sequence[Array]) -> Array:
        """What x and x_static add to every step: (T, N, rows of weights[0]). weights: matrix, bias, static matrix."""
        steps, streams = bottoms[0].shape[:2]
        terms: Array = bottoms[0].reshape(steps * streams, count(bottoms[0].shape, 2)) @ weights[0].T + weights[1]
        terms = terms.reshape(steps, streams, len(weights[1]))
        if self.has_static:
            static = bottoms[2]
            terms = terms + static.reshape(streams, count(static.shape, 1)) @ weights[2].T
        return terms

    def input_specs(self, bottoms: Sequence[Shape], rows: int) -> list[WeightSpec]:
        """Matrix and bias of x, and the matrix of x_static."""
        specs = [WeightSpec((rows, count(bottoms[0], 2)), self.weight_filler), WeightSpec((rows,), self.bias_filler)]
        if self.has_static:
            specs.append(WeightSpec((rows, count(bottoms[2], 1)), self.weight_filler))
        return specs

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        matrices = [spec.shape for spec in self.weight_specs(bottoms) if len(spec.shape) == 2]
        static = count(matrices.pop(1)) if self.has_static else 0
        steps, streams = bottoms[0][:2]
        return streams * (static + steps * sum(count(matrix) for matrix in matrices))


@layer("LSTM")
@dataclass(frozen=True, slots=True)
class LSTM(Recurrent):
    """Long short-term memory: gates i, f, o, g = W_x x + b (+ W_static x_static) + W_h (cont * h), then LSTMUnit.

    cont is 0 at the first step of a sequence, else 1. Every run starts from zeros unless expose_hidden gives h and c.
    Shapes: x (T, N, …), cont (T, N), [x_static (N, …)], [h_0, c_0 (1, N, H)] → h (T, N, H), [h_T, c_T (1, N, H)].
    Weights: W_x (4H, D), b (4H,), [W_static (4H, D_static)], W_h (4H, H). Raises: ShapeError if bottoms do not fit;
    GraphError for another number of bottoms or tops; UnsupportedParameter without a positive num_output.
    Source: BVLC/caffe @ 9b89154, recurrent_layer.cpp, lstm_layer.cpp; Hochreiter and Schmidhuber 1997.
    """

    states = 2

    def weight_specs(self, bottoms: Sequence[Shape]) -> list[WeightSpec]:
        rows = 4 * self.num_output
        return [*self.input_specs(bottoms, rows), WeightSpec((rows, self.num_output), self.weight_filler)]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        cont = bottoms[1]
        hidden, cell = self.first_states(bottoms)
        top = np.empty((*cont.shape, self.num_output), cont.dtype)
        for step, terms in enumerate(self.input_terms(bottoms, weights)):
            gates = terms + (hidden * cont[step][:, None]) @ weights[-1].T
            cell, hidden = lstm_unit(cell, gates, cont[step])
            top[step] = hidden
        return [top, hidden[None], cell[None]] if self.expose_hidden else [top]


@layer("RNN")
@dataclass(frozen=True, slots=True)
class RNN(Recurrent):
    """Plain recurrent layer: h = tanh(W_x x + b_h (+ W_static x_static) + W_h (cont * h)), o = tanh(W_o h + b_o).

    cont is 0 at the first step of a sequence, else 1. Every run starts from zeros unless expose_hidden gives h.
    Shapes: x (T, N, …), cont (T, N), [x_static (N, …)], [h_0 (1, N, H)] → o (T, N, H), [h_T (1, N, H)].
    Weights: W_x (H, D), b_h (H,), [W_static (H, D_static)], W_h (H, H), W_o (H, H), b_o (H,). Raises: as LSTM.
    Source: BVLC/caffe @ 9b89154, recurrent_layer.cpp, rnn_layer.cpp.
    """

    states = 1

    def weight_specs(self, bottoms: Sequence[Shape]) -> list[WeightSpec]:
        size = self.num_output
        square = WeightSpec((size, size), self.weight_filler)
        return [*self.input_specs(bottoms, size), square, square, WeightSpec((size,), self.bias_filler)]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        cont = bottoms[1]
        recurrent, outward, bias = weights[-3:]
        (hidden,) = self.first_states(bottoms)
        top = np.empty((*cont.shape, self.num_output), cont.dtype)
        for step, terms in enumerate(self.input_terms(bottoms, weights)):
            hidden = np.tanh(terms + (hidden * cont[step][:, None]) @ recurrent.T)
            top[step] = np.tanh(hidden @ outward.T + bias)
        return [top, hidden[None]] if self.expose_hidden else [top]
