"""Convolution and its relatives in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.errors import UnsupportedLayer
from caffe_port.layers import convolution
from caffe_port.net import Layer
from caffe_port.registry import emitter

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "Convolution", "DepthwiseConvolution", "ConvolutionDepthwise")
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


@emitter("pytorch", "Deconvolution")
def _deconvolution(layer: Layer, deconv: convolution.Deconvolution) -> nn.Module:
    from torch import nn

    shape = layer.bottoms[0].shape
    axis, window = deconv.channel_axis(shape), deconv.window(shape)
    if window.axes > 3:
        raise UnsupportedLayer(f"layer {layer.name!r}: PyTorch convolves over at most 3 axes, this has {window.axes}")
    if axis != 1 or len(layer.bottoms) > 1 or window.axes == 0:
        from caffe_port.converters.to_pytorch.modules.convolution import Deconvolution

        return Deconvolution(layer.weights[0].shape, deconv.num_output, deconv.bias_term, window, deconv.group, axis)
    kind = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[window.axes]
    return kind(
        shape[1],
        deconv.num_output,
        window.kernel,  # type: ignore[arg-type]
        stride=window.stride,  # type: ignore[arg-type]
        padding=window.pad,  # type: ignore[arg-type]
        dilation=window.dilation,  # type: ignore[arg-type]
        groups=deconv.group,
        bias=deconv.bias_term,
    )


@emitter("pytorch", "Im2col")
def _im2col(layer: Layer, im2col: convolution.Im2col) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.convolution import Im2col

    shape = layer.bottoms[0].shape
    return Im2col(im2col.window(shape), im2col.channel_axis(shape))
