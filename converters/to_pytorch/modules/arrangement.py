"""Layers that move values and change none."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor, nn

from caffe_port.layers import arrangement

__all__ = ["Padding", "Permute", "Reverse"]


class Permute(nn.Module):
    """The axes in another order."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.axes).contiguous()

    def extra_repr(self) -> str:
        return f"axes={self.axes}"


class Reverse(nn.Module):
    """The values of an axis, last to first."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return torch.flip(x, (self.axis,))

    def extra_repr(self) -> str:
        return f"axis={self.axis}"


class Padding(nn.Module):
    """Zeros around the plane, or the plane cut."""

    def __init__(self, definition: arrangement.Padding) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor) -> Tensor:
        before, after = self.definition.before, self.definition.after
        return F.pad(x, (before, after, before, after))

    def extra_repr(self) -> str:
        return str(self.definition)
