"""Permute, Transpose, Reverse, ShuffleChannel and Padding in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_port.converters.to_onnx.context import OnnxContext, Value
from caffe_port.layers import arrangement
from caffe_port.net import Layer
from caffe_port.registry import emitter


@emitter("onnx", "Permute", "Transpose")
def _permute(ctx: OnnxContext, layer: Layer, permute: arrangement.Permute, bottoms: Sequence[Value]) -> None:
    ctx.op("Transpose", bottoms[0], output=ctx.tops[0], perm=permute.axes(len(layer.bottoms[0].shape)))


@emitter("onnx", "Reverse")
def _reverse(ctx: OnnxContext, layer: Layer, reverse: arrangement.Reverse, bottoms: Sequence[Value]) -> None:
    # From the last cell down to before the first, which only the smallest integer says.
    start, end = ctx.integers([-1], "start"), ctx.integers([np.iinfo(np.int64).min], "end")
    axis, step = ctx.integers([reverse.axis], "axis"), ctx.integers([-1], "step")
    ctx.op("Slice", bottoms[0], start, end, axis, step, output=ctx.tops[0])


@emitter("onnx", "ShuffleChannel")
def _shuffle(ctx: OnnxContext, layer: Layer, shuffle: arrangement.ShuffleChannel, bottoms: Sequence[Value]) -> None:
    shape = layer.bottoms[0].shape
    each = shape[1] // shuffle.group
    rows = ctx.reshape(bottoms[0], shape, (shape[0], shuffle.group, each, *shape[2:]))
    turned = ctx.op("Transpose", rows, perm=(0, 2, 1, *range(3, len(shape) + 1)))
    ctx.reshape(turned, (shape[0], each, shuffle.group, *shape[2:]), shape, output=ctx.tops[0])


@emitter("onnx", "Padding")
def _padding(ctx: OnnxContext, layer: Layer, padding: arrangement.Padding, bottoms: Sequence[Value]) -> None:
    pads = (0, 0, padding.before, padding.before, 0, 0, padding.after, padding.after)
    ctx.op("Pad", bottoms[0], ctx.integers(pads, "pads"), output=ctx.tops[0])
