"""Axpy, and dropout of channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from caffe_port.layers import mobile

__all__ = ["Axpy", "SpatialDropout"]


class Axpy(nn.Module):
    """a * x + y, with a factor for each channel of each item."""

    def forward(self, a: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return a.reshape(*x.shape[:2], *[1] * (x.dim() - 2)) * x + y


class SpatialDropout(nn.Module):
    """Drops whole channels, or only scales, whatever the module's mode is."""

    def __init__(self, definition: mobile.SpatialDropout) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.definition.factor
        if not self.definition.drops:
            return x
        chance = torch.rand(*x.shape[:2], *[1] * (x.dim() - 2), device=x.device)
        return x * (chance >= self.definition.ratio)

    def extra_repr(self) -> str:
        return str(self.definition)
