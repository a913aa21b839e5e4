"""Layers that join and reshape blobs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from caffe_port.layers import structure
from caffe_port.layers.pooling import FLT_MAX
from caffe_port.shapes import canonical_axis

__all__ = ["Concat", "Eltwise", "Flatten", "Reshape", "Sink"]


class Concat(nn.Module):
    """torch.cat along an axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *bottoms: Tensor) -> Tensor:
        return torch.cat(bottoms, dim=self.axis)

    def extra_repr(self) -> str:
        return f"axis={self.axis}"


class Eltwise(nn.Module):
    """Caffe's Eltwise; `in_place` loses the first bottom of SUM and MAX, as Caffe does."""

    def __init__(self, definition: structure.Eltwise, in_place: bool) -> None:
        super().__init__()
        self.definition, self.in_place = definition, in_place

    def forward(self, *bottoms: Tensor) -> Tensor:
        first = bottoms[0]
        if self.definition.operation == "PROD":
            for bottom in bottoms[1:]:
                first = first * bottom
            return first
        if self.definition.operation == "SUM":
            coefficients = self.definition.coefficients(len(bottoms))
            top = torch.zeros_like(first) if self.in_place else _times(first, coefficients[0])
            for bottom, coefficient in zip(bottoms[1:], coefficients[1:], strict=True):
                top = top + _times(bottom, coefficient)
            return top
        top = torch.full_like(first, -FLT_MAX) if self.in_place else first
        top = torch.where(top > bottoms[1], top, bottoms[1])
        for bottom in bottoms[2:]:
            top = torch.where(bottom > top, bottom, top)
        return top

    def extra_repr(self) -> str:
        return str(self.definition)


def _times(x: Tensor, coefficient: float) -> Tensor:
    return x if coefficient == 1 else x * coefficient


class Flatten(nn.Module):
    """torch.flatten between two axes."""

    def __init__(self, definition: structure.Flatten) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor) -> Tensor:
        start = canonical_axis(self.definition.axis, x.dim())
        end = canonical_axis(self.definition.end_axis, x.dim())
        return x.flatten(start, end)


class Reshape(nn.Module):
    """Caffe's Reshape, with dims copied from the tensor at hand."""

    def __init__(self, definition: structure.Reshape) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor) -> Tensor:
        start, end = self.definition.replaced(tuple(x.shape))
        dims = [x.shape[start + i] if dim == 0 else dim for i, dim in enumerate(self.definition.dims)]
        return x.reshape(*x.shape[:start], *dims, *x.shape[end:])


class Sink(nn.Module):
    """Takes tensors and gives none."""

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return ()
