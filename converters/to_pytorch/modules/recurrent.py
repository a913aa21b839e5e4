"""Recurrent layers whose sequences may restart at any step (`cont`), which nn.LSTM and nn.RNN cannot.

As in Caffe no gradient goes to `cont`, nor through the states that expose_hidden shows. Every call starts from zeros,
or from the states given; Caffe would go on from the last call's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor, nn

from caffe_port.layers import recurrent
from caffe_port.shapes import Shape

__all__ = ["LSTM", "RNN", "LSTMUnit"]


def lstm_unit(cell: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
    """New cell and hidden state of one time step: cell (…, H), gates (…, 4H) in the order i, f, o, g, cont (…)."""
    i, f, o, g = gates.chunk(4, dim=-1)
    goes_on = cont.detach()[..., None]
    forget = torch.where(goes_on == 0, torch.zeros_like(f), goes_on * torch.sigmoid(f))
    new_cell = forget * cell + torch.sigmoid(i) * torch.tanh(g)
    return new_cell, torch.sigmoid(o) * torch.tanh(new_cell)


class LSTMUnit(nn.Module):
    """One time step of an LSTM."""

    def forward(self, cell: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
        return lstm_unit(cell, gates, cont)


def _rows(x: Tensor, first: int) -> Tensor:
    """The axes of x from `first` on as one."""
    return x.flatten(first) if x.dim() > first else x[..., None]


class _Recurrent(nn.Module):
    """Learned blobs, the terms of the input, and the first states."""

    weight_x: Tensor
    bias: Tensor
    weight_h: Tensor
    weight_static: Tensor

    def __init__(self, definition: recurrent.Recurrent, names: Sequence[str], shapes: Sequence[Shape]) -> None:
        super().__init__()
        self.definition = definition
        static = ("weight_static",) if definition.has_static else ()
        self.blob_names = ("weight_x", "bias", *static, *names)
        for name, shape in zip(self.blob_names, shapes, strict=True):
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))

    def input_terms(self, bottoms: Sequence[Tensor]) -> Tensor:
        """What x and x_static add to every step: (T, N, rows)."""
        terms = F.linear(_rows(bottoms[0], 2), self.weight_x, self.bias)
        if self.definition.has_static:
            terms = terms + F.linear(_rows(bottoms[2], 1), self.weight_static)
        return terms

    def first_states(self, bottoms: Sequence[Tensor]) -> list[Tensor]:
        if self.definition.expose_hidden:
            return [state.detach()[0] for state in bottoms[-self.definition.states :]]
        zeros = bottoms[0].new_zeros(bottoms[0].shape[1], self.definition.num_output)
        return [zeros] * self.definition.states

    def finish(self, outputs: Sequence[Tensor], states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        top = torch.stack(tuple(outputs))
        return (top, *[state.detach()[None] for state in states]) if self.definition.expose_hidden else (top,)

    def extra_repr(self) -> str:
        d = self.definition
        return f"num_output={d.num_output}, has_static={d.has_static}, expose_hidden={d.expose_hidden}"


class LSTM(_Recurrent):
    """Caffe's LSTM: x, cont, [x_static], [h_0, c_0] → h, [h_T, c_T]."""

    def __init__(self, definition: recurrent.LSTM, shapes: Sequence[Shape]) -> None:
        super().__init__(definition, ("weight_h",), shapes)

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        cont = bottoms[1].detach()
        hidden, cell = self.first_states(bottoms)
        outputs = []
        for step, terms in enumerate(self.input_terms(bottoms)):
            gates = terms + F.linear(hidden * cont[step][:, None], self.weight_h)
            cell, hidden = lstm_unit(cell, gates, cont[step])
            outputs.append(hidden)
        return self.finish(outputs, (hidden, cell))


class RNN(_Recurrent):
    """Caffe's RNN: x, cont, [x_static], [h_0] → o, [h_T]."""

    weight_o: Tensor
    bias_o: Tensor

    def __init__(self, definition: recurrent.RNN, shapes: Sequence[Shape]) -> None:
        super().__init__(definition, ("weight_h", "weight_o", "bias_o"), shapes)

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        cont = bottoms[1].detach()
        (hidden,) = self.first_states(bottoms)
        outputs = []
        for step, terms in enumerate(self.input_terms(bottoms)):
            hidden = torch.tanh(terms + F.linear(hidden * cont[step][:, None], self.weight_h))
            outputs.append(torch.tanh(F.linear(hidden, self.weight_o, self.bias_o)))
        return self.finish(outputs, (hidden,))
