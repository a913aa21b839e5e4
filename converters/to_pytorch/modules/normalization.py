"""Layers that normalize as Caffe does."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from caffe_port.converters.to_pytorch.modules.pooling import average_pool
from caffe_port.layers import normalization
from caffe_port.layers.pooling import PoolWindow

__all__ = ["MVN", "BatchNorm", "LRNWithinChannel", "ScaledBatchNorm"]


class LRNWithinChannel(nn.Module):
    """Caffe's LRN of one channel's neighbourhood; k is 1, whatever the file says."""

    def __init__(self, size: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        half = (self.size - 1) // 2
        plane = (x.shape[2], x.shape[3])
        mean = average_pool(x * x, PoolWindow((self.size, self.size), (1, 1), (half, half), plane, plane))
        return x * (1 + self.alpha * mean) ** -self.beta


class BatchNorm(nn.Module):
    """Caffe's BatchNorm. The buffers are Caffe's three blobs as stored: sums, and the factor to divide them by.

    Normalizing with the batch's statistics moves the buffers as Caffe does, in training mode.
    """

    blob_names = ("mean_sum", "variance_sum", "factor")
    mean_sum: Tensor
    variance_sum: Tensor
    factor: Tensor

    def __init__(self, channels: int, definition: normalization.BatchNorm) -> None:
        super().__init__()
        self.register_buffer("mean_sum", torch.zeros(channels))
        self.register_buffer("variance_sum", torch.zeros(channels))
        self.register_buffer("factor", torch.zeros(1))
        self.use_global_stats = definition.use_global_stats
        self.fraction, self.eps = definition.moving_average_fraction, definition.eps

    def forward(self, x: Tensor) -> Tensor:
        column = (1, -1, *[1] * (x.dim() - 2))
        if self.use_global_stats:
            scale = torch.where(self.factor == 0, torch.zeros_like(self.factor), 1 / self.factor)
            mean, variance = self.mean_sum * scale, self.variance_sum * scale
            centred = x - mean.reshape(column)
        else:
            axes = [0, *range(2, x.dim())]
            mean = x.mean(dim=axes)
            centred = x - mean.reshape(column)
            variance = (centred * centred).mean(dim=axes)
            if self.training:
                self._move(mean.detach(), variance.detach(), x.numel() // x.shape[1])
        return centred / torch.sqrt(variance + self.eps).reshape(column)

    def _move(self, mean: Tensor, variance: Tensor, samples: int) -> None:
        unbiased = samples / (samples - 1) if samples > 1 else 1.0
        self.mean_sum.mul_(self.fraction).add_(mean)
        self.variance_sum.mul_(self.fraction).add_(variance * unbiased)
        self.factor.mul_(self.fraction).add_(1)


class ScaledBatchNorm(nn.Module):
    """BatchNorm with scale and bias, as NVIDIA's fork has it. The first three blobs are buffers, as in BatchNorm."""

    mean: Tensor
    variance: Tensor
    factor: Tensor

    def __init__(self, channels: int, definition: normalization.ScaledBatchNorm) -> None:
        super().__init__()
        self.definition = definition
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.zeros(channels))
        self.register_buffer("factor", torch.ones(1))
        self.blob_names: tuple[str, ...] = ("mean", "variance", "factor")
        if definition.scale_bias:
            self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
            self.blob_names += ("weight", "bias")

    def forward(self, x: Tensor) -> Tensor:
        column = (1, -1, *[1] * (x.dim() - 2))
        if self.definition.uses_batch:
            axes = [0, *range(2, x.dim())]
            mean = x.mean(dim=axes)
            variance = ((x - mean.reshape(column)) ** 2).mean(dim=axes)
            if self.training:
                keep = self.definition.fraction
                self.mean.mul_(keep).add_(mean.detach() * (1 - keep))
                self.variance.mul_(keep).add_(variance.detach() * (1 - keep))
        else:
            scale = torch.where(self.factor == 0, torch.zeros_like(self.factor), 1 / self.factor)
            mean, variance = self.mean * scale, self.variance * scale
        top = (x - mean.reshape(column)) / torch.sqrt(variance + self.definition.eps).reshape(column)
        if self.definition.scale_bias:
            top = top * self.weight.reshape(column) + self.bias.reshape(column)
        return top

    def extra_repr(self) -> str:
        return str(self.definition)


class MVN(nn.Module):
    """(x - mean) / (sqrt(var) + eps).

    Caffe's gradient leaves out the derivative of eps' place outside the root: it is that of (x - mean) / sqrt(var + c)
    with the constant c for which both are equal. So is this one's.
    """

    def __init__(self, definition: normalization.MVN) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor) -> Tensor:
        axes = self.definition.axes
        x = x.reshape(*x.shape, *[1] * (4 - x.dim()))
        centred = x - x.mean(dim=axes, keepdim=True)
        if not self.definition.normalize_variance:
            return centred
        variance = (centred * centred).mean(dim=axes, keepdim=True)
        # (root + eps)^2 - var, which is infinite, and not NaN, where the variance is.
        constant = self.definition.eps * (2 * torch.sqrt(variance.detach()) + self.definition.eps)
        return centred / torch.sqrt(variance + constant)

    def extra_repr(self) -> str:
        return str(self.definition)
