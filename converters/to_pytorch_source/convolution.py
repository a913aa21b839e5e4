"""Convolution and its relatives as calls."""

from __future__ import annotations

from caffe_port.converters.to_pytorch_source.expressions import size
from caffe_port.converters.to_pytorch_source.graph import Argument, Channels, Op, Stride, Value, Written
from caffe_port.converters.to_pytorch_source.translation import Translation, writes
from caffe_port.errors import UnsupportedLayer
from caffe_port.layers import convolution, mobile
from caffe_port.net import Layer


def _window(window: convolution.Window, pad: bool = True) -> list[tuple[str, Argument]]:
    stride = Stride(window.stride[0]) if len(set(window.stride)) == 1 else size(window.stride)
    arguments: list[tuple[str, Argument]] = [("", size(window.kernel)), ("stride", stride)]
    if pad and any(window.pad):
        arguments.append(("padding", size(window.pad)))
    if any(dilation != 1 for dilation in window.dilation):
        arguments.append(("dilation", size(window.dilation)))
    return arguments


def _convolved(
    to: Translation, layer: Layer, d: convolution.Convolution, inputs: list[Value], name: str, kind: str, pad: bool
) -> None:
    window, channels = d.window(inputs[0].shape), inputs[0].shape[1]
    blobs = [(own, weight, "same") for own, weight in zip(("weight", "bias"), layer.weights, strict=False)]
    output = to.values[layer.tops[0]] = Value(layer.tops[0].shape, layer.tops[0])
    arguments: list[tuple[str, Argument]] = [
        ("", Channels(inputs[0], channels)),
        ("", Channels(output, d.num_output)),
        *_window(window, pad),
    ]
    if d.group == channels > 1:
        arguments.append(("groups", Channels(inputs[0], channels)))
    elif d.group > 1:
        arguments.append(("groups", d.group))
    if not d.bias_term:
        arguments.append(("bias", Written("False")))
    module = to.module(layer, f"nn.{name}{window.axes}d", arguments, kind, blobs)
    # Of several bottoms each goes through the same module.
    for x, top in zip(inputs, layer.tops, strict=True):
        to.add(layer, "{m0}({0})", [x], modules=[module], tops=[top])


def _check_convolution(layer: Layer, d: convolution.Convolution) -> convolution.Window:
    shape = layer.bottoms[0].shape
    window = d.window(shape)
    if d.channel_axis(shape) != 1 or not 1 <= window.axes <= 3:
        raise UnsupportedLayer(f"channels on axis {d.channel_axis(shape)} and {window.axes} spatial axes")
    return window


@writes(convolution.Convolution, mobile.ConvolutionDepthwise, mobile.DepthwiseConvolution)
def _convolution(to: Translation, layer: Layer, d: convolution.Convolution, inputs: list[Value]) -> None:
    window = _check_convolution(layer, d)
    after = window.pad_after(inputs[0].shape[2:])
    if after == window.pad:
        _convolved(to, layer, d, inputs, "Conv", "conv", pad=True)
        return
    padded = []
    for x in inputs:
        sides = [side for pair in zip(reversed(window.pad), reversed(after), strict=True) for side in pair]
        sizes = zip(x.shape[2:], window.pad, after, strict=True)
        value = Value((*x.shape[:2], *(size + one + other for size, one, other in sizes)))
        text = f"F.pad({{0}}, ({', '.join(map(str, sides))}))"
        to.ops.append(Op(text, (x,), (value,), layers=(layer.name,), keeps_channels=True))
        padded.append(value)
    _convolved(to, layer, d, padded, "Conv", "conv", pad=False)


@writes(convolution.Deconvolution)
def _deconvolution(to: Translation, layer: Layer, d: convolution.Deconvolution, inputs: list[Value]) -> None:
    _check_convolution(layer, d)
    _convolved(to, layer, d, inputs, "ConvTranspose", "deconv", pad=True)
