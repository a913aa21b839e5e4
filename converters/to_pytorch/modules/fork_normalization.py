"""Normalize and BN."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from caffe_port.layers import fork_normalization
from caffe_port.shapes import Shape

__all__ = ["BN", "Normalize"]


class Normalize(nn.Module):
    """x / sqrt(sum of x^2 + eps) * weight.

    Caffe's gradient to x leaves the scale of each channel out of the sum over channels and multiplies with it at the
    end, which is another gradient where scales differ. So is this one's.
    """

    def __init__(self, definition: fork_normalization.Normalize, channels: int) -> None:
        super().__init__()
        self.definition = definition
        self.weight = nn.Parameter(torch.empty(() if definition.channel_shared else (channels,)))

    def forward(self, x: Tensor) -> Tensor:
        if self.definition.channel_shared:
            return self._normal(x) * self.weight
        scale = self.weight.reshape(-1, *[1] * (x.dim() - 2))
        if not torch.is_grad_enabled():
            return self._normal(x) * scale
        # Terms of value 0 carry the gradient: that of the norm first, then the scale.
        scaled = x * scale.detach()
        normal = self._normal(x.detach() + (scaled - scaled.detach()))
        return normal.detach() * scale + (normal - normal.detach())

    def _normal(self, x: Tensor) -> Tensor:
        squares = (x * x).sum(dim=self.definition.axes(x.dim()), keepdim=True)
        return x / torch.sqrt(squares + self.definition.eps)

    def extra_repr(self) -> str:
        return str(self.definition)


class BN(nn.Module):
    """Normalization by channel with scale and shift. The moving averages, where the fork has them, are buffers."""

    mean: Tensor
    variance: Tensor

    def __init__(self, definition: fork_normalization.BN, shape: Shape) -> None:
        super().__init__()
        self.definition = definition
        self.weight, self.bias = nn.Parameter(torch.empty(shape)), nn.Parameter(torch.empty(shape))
        self.blob_names: tuple[str, ...] = ("weight", "bias")
        if definition.kind != "segnet":
            self.register_buffer("mean", torch.zeros(shape))
            self.register_buffer("variance", torch.zeros(shape))
            self.blob_names += ("mean", "variance")

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        bn = self.definition
        if bn.kind == "segnet":
            x = x.reshape(*x.shape, *[1] * (4 - x.dim()))
        column = (1, -1, *[1] * (x.dim() - 2))
        scale, shift = self.weight.reshape(column), self.bias.reshape(column)
        unused = x.new_zeros(1, x.shape[1], 1, 1)
        statistics: tuple[Tensor, ...] = (unused, unused)
        if bn.uses_batch:
            axes = [0, *range(2, x.dim())]
            mean = x.mean(dim=axes, keepdim=True)
            variance = ((x - mean) ** 2).mean(dim=axes, keepdim=True)
            statistics = (mean, variance)
            if bn.moves and self.training:
                for average, statistic in ((self.mean, mean), (self.variance, variance)):
                    average.mul_(bn.momentum).add_(statistic.detach().reshape(average.shape) * (1 - bn.momentum))
            normal = (x - mean) / torch.sqrt(variance + bn.eps)
        elif bn.kind == "segnet":
            normal = x
        else:
            normal = (x - self.mean.reshape(column)) / torch.sqrt(self.variance.reshape(column) + bn.eps)
        top = normal * scale + shift
        return (top, *statistics[: bn.num_tops - 1]) if bn.num_tops > 1 else top

    def extra_repr(self) -> str:
        return str(self.definition)
