"""Convolution in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.errors import UnsupportedLayer
from caffe_port.layers import convolution
from caffe_port.net import Layer
from caffe_port.registry import emitter

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "Convolution")
def _convolution(layer: Layer, conv: convolution.Convolution) -> nn.Module:
    from torch import nn

    shape = layer.bottoms[0].shape
    axis, window = conv.channel_axis(shape), conv.window(shape)
    if window.axes > 3:
        raise UnsupportedLayer(f"layer {layer.name!r}: PyTorch convolves over at most 3 axes, this has {window.axes}")
    spatial = shape[axis + 1 :]
    plain = axis == 1 and len(layer.bottoms) == 1 and window.axes > 0 and window.pad_after(spatial) == window.pad
    if not plain:
        from caffe_port.converters.to_pytorch.modules.convolution import Convolution

        return Convolution(layer.weights[0].shape, conv.bias_term, window, conv.group, axis)
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[window.axes]
    return kind(
        shape[1],
        conv.num_output,
        window.kernel,  # type: ignore[arg-type]
        stride=window.stride,  # type: ignore[arg-type]
        padding=window.pad,  # type: ignore[arg-type]
        dilation=window.dilation,  # type: ignore[arg-type]
        groups=conv.group,
        bias=conv.bias_term,
    )
