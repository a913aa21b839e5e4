"""Elementwise layers of one bottom that PyTorch has no module for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from caffe_port.layers import activation

__all__ = ["AbsVal", "Clip", "Exp", "ForkDropout", "Log", "Power", "Swish", "Threshold"]


class Power(nn.Module):
    """(shift + scale * x) ^ power."""

    def __init__(self, definition: activation.Power) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor) -> Tensor:
        power = self.definition
        if power.constant is not None:
            return torch.full_like(x, power.constant)
        if power.scale != 1:
            x = x * power.scale
        if power.shift != 0:
            x = x + power.shift
        if power.power == 0.5:
            # By a number PyTorch takes the root, which is NaN for -inf; C's pow, and this, is inf.
            return torch.pow(x, torch.full_like(x, 0.5))
        return x if power.power == 1 else x**power.power

    def extra_repr(self) -> str:
        return str(self.definition)


class AbsVal(nn.Module):
    """|x|."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


class Swish(nn.Module):
    """x * sigmoid(beta * x)."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)

    def extra_repr(self) -> str:
        return f"beta={self.beta}"


class Clip(nn.Module):
    """max(low, min(x, high)); the gradient is 1 on the closed interval."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(max=self.high).clamp(min=self.low)

    def extra_repr(self) -> str:
        return f"low={self.low}, high={self.high}"


class ForkDropout(nn.Module):
    """Dropout as forks have it: it drops, or scales, whatever the module's mode is."""

    def __init__(self, definition: activation.ForkDropout) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.definition.factor
        return x * (torch.rand_like(x) >= self.definition.ratio) if self.definition.drops else x

    def extra_repr(self) -> str:
        return str(self.definition)


class Threshold(nn.Module):
    """1 where x > threshold, else 0; without a gradient."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        return (x > self.threshold).to(x.dtype)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}"


class Exp(nn.Module):
    """base ^ (shift + scale * x)."""

    def __init__(self, definition: activation.Exp) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(x * self.definition.inner_scale) * self.definition.outer_scale

    def extra_repr(self) -> str:
        return str(self.definition)


class Log(nn.Module):
    """log(shift + scale * x) to a base."""

    def __init__(self, definition: activation.Log) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(x * self.definition.scale + self.definition.shift) * self.definition.outer_scale

    def extra_repr(self) -> str:
        return str(self.definition)
