"""Convolution and its relatives where nn.Conv1d to nn.ConvTranspose3d do not say it all."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor, nn

from caffe_port.layers.convolution import Window

__all__ = ["Convolution", "Deconvolution", "Im2col"]

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_DECONVOLVE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _padded(x: Tensor, window: Window, first: int) -> Tensor:
    """x with zeros on its axes from `first` on, before and behind as far as the window reads."""
    after = window.pad_after(x.shape[first:])
    sides = [side for pair in zip(window.pad, after, strict=True) for side in reversed(pair)]
    return F.pad(x, sides[::-1])


class Convolution(nn.Module):
    """Caffe's Convolution where torch's do not fit: several bottoms, another channel axis, a window past the pad."""

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
            padded = _padded(flat, self.window, 2)
            top = _CONVOLVE[axes](padded, weight, self.bias, self.window.stride, 0, self.window.dilation, self.group)
        return top.reshape(*x.shape[: self.axis], *top.shape[1:]) if self.axis != 1 else top


class Deconvolution(nn.Module):
    """Caffe's Deconvolution with several bottoms, other channel axes, or no spatial axis."""

    def __init__(
        self, weight_shape: tuple[int, ...], num_output: int, bias: bool, window: Window, group: int, axis: int
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(weight_shape))
        self.bias = nn.Parameter(torch.empty(num_output)) if bias else None
        self.window, self.group, self.axis = window, group, axis

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._one(x) for x in bottoms)

    def _one(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, *x.shape[self.axis :])
        window = self.window
        weight: Tensor = self.weight
        if window.axes == 0:
            # A kernel of one cell over one position.
            flat, weight = flat[..., None], weight[..., None]
        stride, pad, dilation = window.stride or 1, window.pad or 0, window.dilation or 1
        deconvolve = _DECONVOLVE[max(window.axes, 1)]
        top = deconvolve(flat, weight, self.bias, stride, pad, 0, self.group, dilation)
        return top.reshape(*x.shape[: self.axis], top.shape[1], *top.shape[2 : 2 + window.axes])


class Im2col(nn.Module):
    """The windows a convolution would meet, as channels."""

    def __init__(self, window: Window, axis: int) -> None:
        super().__init__()
        self.window, self.axis = window, axis

    def forward(self, x: Tensor) -> Tensor:
        first = self.axis + 1
        output = self.window.output(x.shape[first:])
        padded = _padded(x, self.window, first)
        before = (slice(None),) * first
        cells = [padded[before + self.window.cells(offset, output)] for offset in self.window.offsets()]
        return torch.stack(cells, dim=first).flatten(self.axis, first)
