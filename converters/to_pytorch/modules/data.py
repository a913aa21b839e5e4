"""Layers that make blobs from nothing."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from caffe_port.fillers import Filler
from caffe_port.layers import data
from caffe_port.shapes import Shape

__all__ = ["DummyData", "Parameter"]


class Parameter(nn.Module):
    """A learned blob as a top."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))

    def forward(self) -> Tensor:
        return self.weight


class DummyData(nn.Module):
    """Blobs made by fillers: constant ones once, random ones anew in every call, from torch's own stream."""

    def __init__(self, definition: data.DummyData) -> None:
        super().__init__()
        self.definition = definition
        # A buffer a top, the random ones for their device and dtype alone.
        for i, (filler, shape) in enumerate(zip(definition.fillers, definition.shapes, strict=True)):
            values = torch.empty(shape)
            if not filler.is_random:
                values = torch.from_numpy(filler.fill(shape, np.random.default_rng(0)))
            self.register_buffer(f"blob_{i}", values, persistent=False)

    def forward(self) -> tuple[Tensor, ...]:
        blobs = (getattr(self, f"blob_{i}") for i in range(len(self.definition.fillers)))
        return tuple(
            _draw(filler, blob) if filler.is_random else blob
            for filler, blob in zip(self.definition.fillers, blobs, strict=True)
        )

    def extra_repr(self) -> str:
        return str(self.definition)


def _draw(filler: Filler, like: Tensor) -> Tensor:
    """A random blob of the shape, dtype and device of `like`."""
    shape = tuple(like.shape)
    if filler.type in ("gaussian", "msra"):
        mean, std = filler.normal(shape)
        values = torch.randn_like(like) * std + mean
        return values if filler.sparse < 0 else values * (torch.rand_like(like) < filler.keep_probability(shape))
    low, high = filler.bounds(shape)
    values = torch.rand_like(like) * (high - low) + low
    if filler.type == "positive_unitball":
        items = values.reshape(shape[0] if shape else 1, -1)
        values = (items / items.sum(dim=1, keepdim=True)).reshape(shape)
    return values
