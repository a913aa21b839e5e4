"""Layers that reduce axes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from caffe_port.layers import reduction
from caffe_port.shapes import canonical_axis

__all__ = ["ArgMax", "Reduction"]


class Reduction(nn.Module):
    """Sum, sum of magnitudes, sum of squares or mean over all axes from one on, times a coefficient."""

    def __init__(self, definition: reduction.Reduction) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(canonical_axis(self.definition.axis, x.dim()))
        operation = self.definition.operation
        if operation == "MEAN":
            return rows.mean(dim=-1) * self.definition.coeff
        if operation == "ASUM":
            rows = rows.abs()
        elif operation == "SUMSQ":
            rows = rows * rows
        return rows.sum(dim=-1) * self.definition.coeff

    def extra_repr(self) -> str:
        return str(self.definition)


class ArgMax(nn.Module):
    """Indices (and values) of the largest, of equal ones the larger index first."""

    def __init__(self, definition: reduction.ArgMax) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor) -> Tensor:
        definition = self.definition
        whole = definition.axis is None
        rows = x.flatten(1) if whole else x
        axis = 1 if definition.axis is None else canonical_axis(definition.axis, x.dim())
        # A stable sort of the reversed axis puts the larger index first among equals.
        values, order = torch.sort(rows.flip(axis), dim=axis, descending=True, stable=True)
        values = values.narrow(axis, 0, definition.top_k)
        index = (rows.shape[axis] - 1 - order.narrow(axis, 0, definition.top_k)).to(x.dtype)
        if not whole:
            return values if definition.out_max_val else index
        top = torch.stack([index, values] if definition.out_max_val else [index], dim=1)
        return top.reshape(*top.shape, *[1] * (x.dim() - 3))

    def extra_repr(self) -> str:
        return str(self.definition)
