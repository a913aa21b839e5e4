"""Convolution and its relatives in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from caffe_port.errors import UnsupportedLayer
from caffe_port.layers import convolution
from caffe_port.layers.convolution import Window
from caffe_port.net import Layer
from caffe_port.registry import emitter

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "Convolution", "DepthwiseConvolution", "ConvolutionDepthwise")
def _convolution(layer: Layer, conv: convolution.Convolution) -> nn.Module:
    from torch import nn

    shape = layer.bottoms[0].shape
    axis, window = conv.channel_axis(shape), _window(layer, conv)
    even = window.pad_after(shape[axis + 1 :]) == window.pad
    if axis == 1 and len(layer.bottoms) == 1 and window.axes > 0 and even:
        return _of_pytorch((nn.Conv1d, nn.Conv2d, nn.Conv3d)[window.axes - 1], layer, conv, window)
    from caffe_port.converters.to_pytorch.modules.convolution import Convolution

    return Convolution(layer.weights[0].shape, conv.bias_term, window, conv.group, axis)


@emitter("pytorch", "Deconvolution")
def _deconvolution(layer: Layer, deconv: convolution.Deconvolution) -> nn.Module:
    from torch import nn

    axis, window = deconv.channel_axis(layer.bottoms[0].shape), _window(layer, deconv)
    if axis == 1 and len(layer.bottoms) == 1 and window.axes > 0:
        kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[window.axes - 1]
        return _of_pytorch(kind, layer, deconv, window)
    from caffe_port.converters.to_pytorch.modules.convolution import Deconvolution

    return Deconvolution(layer.weights[0].shape, deconv.num_output, deconv.bias_term, window, deconv.group, axis)


def _window(layer: Layer, conv: convolution.Convolution) -> Window:
    window = conv.window(layer.bottoms[0].shape)
    if window.axes > 3:
        raise UnsupportedLayer(f"layer {layer.name!r}: PyTorch convolves over at most 3 axes, this has {window.axes}")
    return window


def _of_pytorch(
    kind: Callable[..., nn.Module],
    layer: Layer,
    conv: convolution.Convolution,
    window: Window,
) -> nn.Module:
    """PyTorch's own module, for a layer over axis 1 whose pads are the same on both sides."""
    return kind(
        layer.bottoms[0].shape[1],
        conv.num_output,
        window.kernel,
        stride=window.stride,
        padding=window.pad,
        dilation=window.dilation,
        groups=conv.group,
        bias=conv.bias_term,
    )


@emitter("pytorch", "Im2col")
def _im2col(layer: Layer, im2col: convolution.Im2col) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.convolution import Im2col

    shape = layer.bottoms[0].shape
    return Im2col(im2col.window(shape), im2col.channel_axis(shape))
