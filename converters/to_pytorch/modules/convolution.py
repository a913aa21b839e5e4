"""Convolution where nn.Conv1d to nn.Conv3d do not say it all."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor, nn

from caffe_port.layers.convolution import Window

__all__ = ["Convolution"]

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class Convolution(nn.Module):
    """Caffe's Convolution with several bottoms, other channel axes, no spatial axis, or a window that reads past the pad."""

    def __init__(self, weight_shape: tuple[int, ...], bias: bool, window: Window, group: int, axis: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(weight_shape))
        self.bias = nn.Parameter(torch.empty(weight_shape[0])) if bias else None
        self.window, self.group, self.axis = window, group, axis

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._one(x) for x in bottoms)

    def _one(self, x: Tensor) -> Tensor:
        axes = self.window.axes
        flat = x.reshape(-1, *x.shape[self.axis :]) if self.axis != 1 else x
        weight = self.weight
        if axes == 0:
            top = F.linear(flat, weight.reshape(weight.shape[0], -1), self.bias)
        else:
            after = self.window.pad_after(x.shape[self.axis + 1 :])
            padding = [side for pair in zip(self.window.pad, after, strict=True) for side in reversed(pair)]
            padded = F.pad(flat, padding[::-1])
            top = _CONVOLVE[axes](
                padded, weight, self.bias, self.window.stride, 0, self.window.dilation, self.group
            )
        return top.reshape(*x.shape[: self.axis], *top.shape[1:]) if self.axis != 1 else top
