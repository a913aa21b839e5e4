"""Convolution and its relatives in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_port.converters.to_onnx.context import OnnxContext, Value
from caffe_port.layers import convolution
from caffe_port.net import Layer
from caffe_port.registry import emitter
from caffe_port.shapes import count


@emitter("onnx", "Convolution", "DepthwiseConvolution", "ConvolutionDepthwise")
def _convolution(ctx: OnnxContext, layer: Layer, conv: convolution.Convolution, bottoms: Sequence[Value]) -> None:
    _convolve(ctx, "Conv", layer, conv, bottoms)


@emitter("onnx", "Deconvolution")
def _deconvolution(ctx: OnnxContext, layer: Layer, deconv: convolution.Deconvolution, bottoms: Sequence[Value]) -> None:
    _convolve(ctx, "ConvTranspose", layer, deconv, bottoms)


def _convolve(ctx: OnnxContext, op: str, layer: Layer, conv: convolution.Convolution, bottoms: Sequence[Value]) -> None:
    weight_shape = layer.weights[0].shape
    kernel = weight_shape[2:] or (1,)
    weight = ctx.weight(0, "weight", (*weight_shape[:2], *kernel))
    bias = [ctx.weight(1, "bias")] if conv.bias_term else []
    for bottom, blob, top, top_blob in zip(bottoms, layer.bottoms, ctx.tops, layer.tops, strict=True):
        axis = conv.channel_axis(blob.shape)
        window = conv.window(blob.shape)
        spatial = blob.shape[axis + 1 :]
        flat = (count(blob.shape, 0, axis), blob.shape[axis], *(spatial or (1,)))
        x = bottom if flat == blob.shape else ctx.reshape(bottom, blob.shape, flat)
        flat_top = (flat[0], conv.num_output, *(top_blob.shape[axis + 1 :] or (1,)))
        pad_after = window.pad_after(spatial) if op == "Conv" else window.pad
        y = ctx.op(
            op,
            x,
            weight,
            *bias,
            output=top if flat_top == top_blob.shape else None,
            kernel_shape=kernel,
            strides=window.stride or (1,),
            pads=(*window.pad, *pad_after) or (0, 0),
            dilations=window.dilation or (1,),
            group=conv.group,
        )
        if flat_top != top_blob.shape:
            ctx.reshape(y, flat_top, top_blob.shape, output=top)


@emitter("onnx", "Im2col")
def _im2col(ctx: OnnxContext, layer: Layer, im2col: convolution.Im2col, bottoms: Sequence[Value]) -> None:
    shape, top_shape = layer.bottoms[0].shape, layer.tops[0].shape
    axis, window = im2col.channel_axis(shape), im2col.window(shape)
    first = axis + 1
    before, after = (0,) * first + window.pad, (0,) * first + window.pad_after(shape[first:])
    x = bottoms[0]
    if any(before) or any(after):
        x = ctx.op("Pad", x, ctx.integers((*before, *after), "pads"))
    axes, steps = ctx.integers(range(first, len(shape)), "axes"), ctx.integers(window.stride, "steps")
    behind = ctx.integers([first], "cell_axis")
    cells = []
    for offset in window.offsets():
        cut = window.cells(offset, top_shape[first:])
        starts = ctx.integers([part.start for part in cut], "starts")
        ends = ctx.integers([part.stop for part in cut], "ends")
        cells.append(ctx.op("Unsqueeze", ctx.op("Slice", x, starts, ends, axes, steps), behind))
    joined = (*shape[:first], len(cells), *top_shape[first:])
    ctx.reshape(ctx.op("Concat", *cells, axis=first), joined, top_shape, output=ctx.tops[0])
