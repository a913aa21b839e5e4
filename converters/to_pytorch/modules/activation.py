"""Elementwise layers of one bottom that PyTorch has no module for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from caffe_port.layers import activation

__all__ = ["Power"]


class Power(nn.Module):
    """(shift + scale * x) ^ power."""

    def __init__(self, definition: activation.Power) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor) -> Tensor:
        power = self.definition
        if power.constant is not None:
            return torch.full_like(x, power.constant)
        if power.scale != 1:
            x = x * power.scale
        if power.shift != 0:
            x = x + power.shift
        return x if power.power == 1 else x**power.power

    def extra_repr(self) -> str:
        return str(self.definition)
