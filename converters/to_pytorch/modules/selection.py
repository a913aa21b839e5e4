"""Layers that cut out, pick and repeat parts of blobs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from caffe_port.layers import selection
from caffe_port.shapes import canonical_axis

__all__ = ["BatchReindex", "Crop", "Filter", "Slice", "Tile"]


class Slice(nn.Module):
    """The bottom cut along an axis."""

    def __init__(self, definition: selection.Slice) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        axis = canonical_axis(self.definition.axis, x.dim())
        return torch.split(x, self.definition.sizes(tuple(x.shape)), dim=axis)

    def extra_repr(self) -> str:
        return str(self.definition)


class Crop(nn.Module):
    """The first bottom cut to the size of the second."""

    def __init__(self, definition: selection.Crop) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        (top,) = self.definition.top_shapes([tuple(x.shape), tuple(reference.shape)])
        starts = self.definition.starts(tuple(x.shape))
        return x[tuple(slice(start, start + size) for start, size in zip(starts, top, strict=True))]

    def extra_repr(self) -> str:
        return str(self.definition)


class Tile(nn.Module):
    """The bottom repeated as a whole along an axis."""

    def __init__(self, definition: selection.Tile) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(self.definition.repeats(tuple(x.shape)))

    def extra_repr(self) -> str:
        return str(self.definition)


class BatchReindex(nn.Module):
    """Items of the first bottom, picked by the indices in the second."""

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return x.index_select(0, index.to(torch.int64))


class Filter(nn.Module):
    """The items of each bottom for which the last one, the selector, is not 0."""

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        *data, selector = bottoms
        selected = selector.reshape(-1) != 0
        return tuple(x[selected] for x in data)
