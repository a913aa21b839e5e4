"""Lstm of caffe-lstm, and ContinuationIndicator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor, nn

from caffe_port.layers import sequence
from caffe_port.shapes import Shape

__all__ = ["ContinuationIndicator", "Lstm"]


class Lstm(nn.Module):
    """An LSTM whose sequences may start anew at any step, where `clip` is 0; every call starts from zeros."""

    blob_names = ("weight_x", "weight_h", "bias")

    def __init__(self, definition: sequence.Lstm, shapes: Sequence[Shape]) -> None:
        super().__init__()
        self.definition = definition
        self.weight_x, self.weight_h, self.bias = (nn.Parameter(torch.empty(shape)) for shape in shapes)

    def forward(self, x: Tensor, clip: Tensor | None = None) -> Tensor:
        steps, streams, size = self.definition.steps(tuple(x.shape))
        terms = F.linear(x.reshape(-1, size), self.weight_x, self.bias).reshape(steps, streams, -1)
        goes_on = x.new_ones(steps, streams, 1)
        if clip is not None:
            goes_on = clip.detach().reshape(steps, streams, 1)
        if self.definition.streams is None:
            goes_on = (goes_on != 0).to(x.dtype)
        hidden = cell = x.new_zeros(streams, self.definition.num_output)
        outputs = []
        for step in range(steps):
            gates = terms[step] + F.linear(hidden * goes_on[step], self.weight_h)
            i, f, o, g = gates.chunk(4, dim=1)
            forget = torch.where(goes_on[step] == 0, torch.zeros_like(f), torch.sigmoid(f))
            cell = forget * cell + torch.sigmoid(i) * torch.tanh(g)
            hidden = torch.sigmoid(o) * torch.tanh(cell)
            outputs.append(hidden)
        top = torch.stack(outputs)
        return top if self.definition.streams is None else top.flatten(0, 1)

    def extra_repr(self) -> str:
        return f"num_output={self.definition.num_output}, streams={self.definition.streams}"


class ContinuationIndicator(nn.Module):
    """0 for the first time step, 1 for the others."""

    values: Tensor

    def __init__(self, definition: sequence.ContinuationIndicator) -> None:
        super().__init__()
        values = torch.ones(definition.steps, definition.streams)
        values[0] = 0
        self.register_buffer("values", values, persistent=False)

    def forward(self) -> Tensor:
        return self.values
