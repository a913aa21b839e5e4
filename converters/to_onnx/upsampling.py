"""Interp, Upsample and Unpooling in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_port.converters.to_onnx.context import INT64, OnnxContext, Value
from caffe_port.layers import upsampling
from caffe_port.net import Layer
from caffe_port.registry import emitter
from caffe_port.shapes import count


def _shape_of(ctx: OnnxContext, x: Value, rest: Sequence[int]) -> Value:
    """The shape (N, C) of x, as it is when the model runs, and `rest` behind it."""
    return ctx.op("Concat", ctx.op("Shape", x, end=2), ctx.integers(rest, "rest"), axis=0)


@emitter("onnx", "Interp")
def _interp(ctx: OnnxContext, layer: Layer, interp: upsampling.Interp, bottoms: Sequence[Value]) -> None:
    plane, size = layer.bottoms[0].shape[2:], layer.tops[0].shape[2:]
    (x,) = bottoms
    if any(interp.pad):
        starts = ctx.integers([-interp.pad[0]] * 2, "starts")
        ends = ctx.integers([side + interp.pad[1] for side in plane], "ends")
        same = interp.kept(plane) == size
        x = ctx.op("Slice", x, starts, ends, ctx.integers([2, 3], "axes"), output=ctx.tops[0] if same else None)
        if same:
            return
    if interp.kept(plane) == size:
        ctx.op("Identity", x, output=ctx.tops[0])
        return
    ctx.op(
        "Resize",
        x,
        "",
        "",
        _shape_of(ctx, x, size),
        output=ctx.tops[0],
        mode="linear",
        coordinate_transformation_mode="align_corners",
    )


def _scatter(ctx: OnnxContext, layer: Layer, x: Value, index: Value) -> None:
    """The top: zeros, with the values of x (N, C, H * W) at the index (N, C, H * W) of each plane."""
    shape, top = layer.bottoms[0].shape, layer.tops[0].shape
    flat = ctx.reshape(x, shape, (*shape[:2], count(shape, 2)))
    zeros = ctx.op("ConstantOfShape", _shape_of(ctx, x, [count(top, 2)]))
    made = ctx.op("ScatterElements", zeros, index, flat, axis=2)
    ctx.reshape(made, (*top[:2], count(top, 2)), top, output=ctx.tops[0])


def _index(ctx: OnnxContext, layer: Layer, mask: Value) -> Value:
    shape = layer.bottoms[0].shape
    return ctx.op("Cast", ctx.reshape(mask, shape, (*shape[:2], count(shape, 2))), to=INT64)


@emitter("onnx", "Upsample")
def _upsample(ctx: OnnxContext, layer: Layer, upsample: upsampling.Upsample, bottoms: Sequence[Value]) -> None:
    if upsample.masked:
        _scatter(ctx, layer, bottoms[0], _index(ctx, layer, bottoms[1]))
        return
    ctx.op(
        "Resize",
        bottoms[0],
        "",
        ctx.constant((1, 1, *upsample.scale), "scales"),
        output=ctx.tops[0],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


@emitter("onnx", "Unpooling")
def _unpooling(ctx: OnnxContext, layer: Layer, unpooling: upsampling.Unpooling, bottoms: Sequence[Value]) -> None:
    if len(bottoms) == 2:
        index = _index(ctx, layer, bottoms[1])
    else:
        corners = unpooling.corners(layer.bottoms[0].shape[2:]).reshape(1, 1, -1)
        shape = _shape_of(ctx, bottoms[0], [corners.size])
        index = ctx.op("Expand", ctx.constant(corners, "corners", np.int64), shape)
    _scatter(ctx, layer, bottoms[0], index)
