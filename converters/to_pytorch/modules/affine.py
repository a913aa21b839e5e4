"""Scale and Bias: broadcast from an axis on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from caffe_port.layers.affine import Broadcast

__all__ = ["Bias", "Scale"]


def _column(operand: Tensor, x: Tensor, place: Broadcast) -> Tensor:
    """`operand` with 1s behind, so that it broadcasts against x from the place's axis on."""
    if operand.dim() == 0:
        return operand
    behind = x.dim() - (place.axis % x.dim()) - operand.dim()
    return operand.reshape(*operand.shape, *[1] * behind)


class Scale(nn.Module):
    """x * weight (+ bias), or x * second bottom (+ bias)."""

    def __init__(self, shape: tuple[int, ...], place: Broadcast, learned: bool, bias: bool) -> None:
        super().__init__()
        self.place = place
        self.weight = nn.Parameter(torch.empty(shape)) if learned else None
        self.bias = nn.Parameter(torch.empty(shape)) if bias else None

    def forward(self, x: Tensor, operand: Tensor | None = None) -> Tensor:
        factor = operand if self.weight is None else self.weight
        assert factor is not None
        top = x * _column(factor, x, self.place)
        return top if self.bias is None else top + _column(self.bias, x, self.place)


class Bias(nn.Module):
    """x + bias, or x + second bottom."""

    def __init__(self, shape: tuple[int, ...], place: Broadcast, learned: bool) -> None:
        super().__init__()
        self.place = place
        self.bias = nn.Parameter(torch.empty(shape)) if learned else None

    def forward(self, x: Tensor, operand: Tensor | None = None) -> Tensor:
        term = operand if self.bias is None else self.bias
        assert term is not None
        return x + _column(term, x, self.place)
