"""Pooling with Caffe's rounding, clipping and divisors."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor, nn

from caffe_port.layers.pooling import FLT_MAX, SPP, Pooling, PoolWindow
from caffe_port.shapes import count

__all__ = ["Pool", "PyramidPool", "average_pool", "max_pool"]


def _padding(window: PoolWindow) -> tuple[int, int, int, int]:
    (top, left), (bottom, right) = window.pad, window.pad_after
    return left, right, top, bottom


def max_pool(x: Tensor, window: PoolWindow) -> Tensor:
    """Largest cell of each window; a window without cells gives -FLT_MAX. NaN wins here, and never in Caffe."""
    padding = _padding(window)
    padded = F.pad(x, padding, value=-FLT_MAX) if any(padding) else x
    return F.max_pool2d(padded, window.kernel, window.stride)[..., : window.output[0], : window.output[1]]


def max_pool_mask(x: Tensor, window: PoolWindow) -> Tensor:
    """Flat index within the plane of the cell `max_pool` picks, as float; -1 where it picks none."""
    padded = F.pad(x, _padding(window), value=-FLT_MAX)
    _, index = F.max_pool2d(padded, window.kernel, window.stride, return_indices=True)
    index = index[..., : window.output[0], : window.output[1]]
    row = torch.div(index, padded.shape[-1], rounding_mode="floor") - window.pad[0]
    column = index % padded.shape[-1] - window.pad[1]
    height, width = window.input
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return torch.where(inside, row * width + column, -1).to(x.dtype)


def average_pool(x: Tensor, window: PoolWindow) -> Tensor:
    """Mean of each window, divided by the cells Caffe counts."""
    padding = _padding(window)
    padded = F.pad(x, padding) if any(padding) else x
    mean = F.avg_pool2d(padded, window.kernel, window.stride)[..., : window.output[0], : window.output[1]]
    divisors = np.outer(window.divisors(0), window.divisors(1))
    cells = count(window.kernel)
    if (divisors == cells).all():
        return mean
    return mean * cells / torch.as_tensor(divisors, dtype=x.dtype, device=x.device)


class Pool(nn.Module):
    """Caffe's Pooling."""

    def __init__(self, definition: Pooling) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        window = self.definition.window(tuple(x.shape))
        if self.definition.method == "AVE":
            return average_pool(x, window)
        if self.definition.num_tops == 2:
            return max_pool(x, window), max_pool_mask(x, window)
        return max_pool(x, window)

    def extra_repr(self) -> str:
        return str(self.definition)


class PyramidPool(nn.Module):
    """Caffe's SPP: the levels of a pyramid one after the other."""

    def __init__(self, definition: SPP) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor) -> Tensor:
        pool = max_pool if self.definition.method == "MAX" else average_pool
        levels = [pool(x, window) for window in self.definition.windows(tuple(x.shape))]
        return levels[0] if len(levels) == 1 else torch.cat([level.flatten(1) for level in levels], dim=1)

    def extra_repr(self) -> str:
        return str(self.definition)
