"""Layers that make a plane larger."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor, nn

from caffe_port.layers import upsampling
from caffe_port.shapes import Shape, count

__all__ = ["Interp", "Unpooling", "Upsample"]


class Interp(nn.Module):
    """Bilinear interpolation with aligned corners."""

    def __init__(self, definition: upsampling.Interp) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor) -> Tensor:
        (top,) = self.definition.top_shapes([tuple(x.shape)])
        before, after = self.definition.pad
        x = x[:, :, -before : x.shape[2] + after, -before : x.shape[3] + after]
        return F.interpolate(x, top[2:], mode="bilinear", align_corners=True)

    def extra_repr(self) -> str:
        return str(self.definition)


def scatter(x: Tensor, index: Tensor, plane: Shape) -> Tensor:
    """Zeros (N, C, *plane) with each value of x (N, C, H, W) at the flat index in its plane.

    Where an index comes twice PyTorch does not promise which value stands.
    """
    top = x.new_zeros(*x.shape[:2], count(plane))
    return top.scatter(2, index.flatten(2), x.flatten(2)).reshape(*x.shape[:2], *plane)


class Upsample(nn.Module):
    """Each value where its mask says, or each cell several times."""

    def __init__(self, definition: upsampling.Upsample) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            (top,) = self.definition.top_shapes([tuple(x.shape)])
            return scatter(x, mask.detach().long(), top[2:])
        height, width = self.definition.scale
        return x.repeat_interleave(height, dim=2).repeat_interleave(width, dim=3)

    def extra_repr(self) -> str:
        return str(self.definition)


class Unpooling(nn.Module):
    """Each value where its mask says, or at the first cell of its window."""

    def __init__(self, definition: upsampling.Unpooling) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            index = mask.detach().long()
        else:
            corners = self.definition.corners((x.shape[2], x.shape[3]))
            index = torch.as_tensor(corners, device=x.device).expand(x.shape)
        return scatter(x, index, self.definition.size)

    def extra_repr(self) -> str:
        return str(self.definition)
