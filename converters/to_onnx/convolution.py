"""Convolution in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_port.converters.to_onnx.context import OnnxContext, Value

from caffe_port.layers import convolution
from caffe_port.net import Layer
from caffe_port.registry import emitter
from caffe_port.shapes import count


@emitter("onnx", "Convolution")
def _convolution(ctx: OnnxContext, layer: Layer, conv: convolution.Convolution, bottoms: Sequence[Value]) -> None:
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
        y = ctx.op(
            "Conv",
            x,
            weight,
            *bias,
            output=top if flat_top == top_blob.shape else None,
            kernel_shape=kernel,
            strides=window.stride or (1,),
            pads=(*window.pad, *window.pad_after(spatial)) or (0, 0),
            dilations=window.dilation or (1,),
            group=conv.group,
        )
        if flat_top != top_blob.shape:
            ctx.reshape(y, flat_top, top_blob.shape, output=top)
