"""Layers that multiply with a learned matrix, over any axes."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor, nn

__all__ = ["Embed", "InnerProduct"]


class InnerProduct(nn.Module):
    """Caffe's InnerProduct: all from `axis` on is one vector; `transpose` stores the matrix as (K, num_output)."""

    def __init__(self, weight_shape: tuple[int, ...], num_output: int, bias: bool, axis: int, transpose: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(weight_shape))
        self.bias = nn.Parameter(torch.empty(num_output)) if bias else None
        self.axis, self.transpose = axis, transpose

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(self.axis), self.weight.t() if self.transpose else self.weight, self.bias)


class Embed(nn.Module):
    """Rows of the matrix (input_dim, num_output), picked by index, plus a bias."""

    def __init__(self, input_dim: int, num_output: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(input_dim, num_output))
        self.bias = nn.Parameter(torch.empty(num_output)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        top = F.embedding(x.to(torch.int64), self.weight)
        return top if self.bias is None else top + self.bias
