"""Gradients of layers that work in place.

Some of Caffe's layers read their bottom again when they go backward. In place the top has overwritten it, so their
gradient is taken at another point. Power and Log also make it in the memory of the top's gradient, and lose that: what
they pass back is the square of their own slope. A net trained in Caffe was trained so, and so it is here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from caffe_port.layers import activation

__all__ = ["Backward", "InPlace", "bnll", "clip", "elu", "log", "power", "relu"]

Backward = Callable[[Tensor, Tensor], Tensor]
"""(top's gradient, top) → bottom's gradient."""


class _Overwritten(torch.autograd.Function):
    """The value `top`, with a gradient by `x` that is computed from the top."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, top: Tensor, backward: Backward) -> Tensor:
        ctx.save_for_backward(top)
        ctx.compute = backward
        return top.view_as(top)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (top,) = ctx.saved_tensors
        return ctx.compute(gradient, top), None, None


class InPlace(nn.Module):
    """`layer` forward, `backward` backward."""

    def __init__(self, layer: nn.Module, backward: Backward) -> None:
        super().__init__()
        self.layer, self.backward = layer, backward

    def forward(self, x: Tensor) -> Tensor:
        top: Tensor
        if not (torch.is_grad_enabled() and x.requires_grad):
            top = self.layer(x)
            return top
        with torch.no_grad():
            top = self.layer(x)
        overwritten: Tensor = _Overwritten.apply(x, top, self.backward)  # type: ignore[no-untyped-call]
        return overwritten


def bnll(gradient: Tensor, top: Tensor) -> Tensor:
    return gradient * torch.sigmoid(top)


def clip(gradient: Tensor, top: Tensor) -> Tensor:
    """As it is: every top lies on the interval."""
    return gradient


def relu(negative_slope: float, gradient: Tensor, top: Tensor) -> Tensor:
    return gradient * torch.where(top > 0, 1.0, negative_slope)


def elu(alpha: float, gradient: Tensor, top: Tensor) -> Tensor:
    return gradient * torch.where(top > 0, 1.0, alpha + top)


def log(definition: activation.Log, gradient: Tensor, top: Tensor) -> Tensor:
    return (definition.scale * definition.outer_scale / (definition.scale * top + definition.shift)) ** 2


def power(definition: activation.Power, gradient: Tensor, top: Tensor) -> Tensor:
    """The square of what Caffe takes for the slope, by its three ways to differentiate a power."""
    exponent, scale, shift = definition.power, definition.scale, definition.shift
    if exponent * scale == 0 or exponent == 1:
        slope = torch.full_like(top, exponent * scale)
    elif exponent == 2:
        slope = 2 * scale * (scale * top + shift)
    elif shift == 0:
        slope = exponent * top / top
    else:
        slope = exponent * scale * top / (scale * top + shift)
    return slope * slope
