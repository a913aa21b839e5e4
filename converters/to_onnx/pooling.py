"""Pooling in ONNX, with Caffe's rounding and divisors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from caffe_port.converters.to_onnx.context import FLOAT, OnnxContext, Value

from caffe_port.layers import pooling
from caffe_port.net import Layer
from caffe_port.registry import emitter
from caffe_port.shapes import count


@emitter("onnx", "Pooling")
def _pooling(ctx: OnnxContext, layer: Layer, pool: pooling.Pooling, bottoms: Sequence[Value]) -> None:
    window = pool.window(layer.bottoms[0].shape)
    if pool.method == "AVE":
        average_pool(ctx, bottoms[0], window, ctx.tops[0])
        return
    x, pads = bottoms[0], (*window.pad, *window.pad_after)
    if any(after >= kernel for after, kernel in zip(window.pad_after, window.kernel, strict=True)):
        # A window wholly outside the input: no attribute allows it, so the padding becomes a node of its own.
        lowest = ctx.constant(-pooling.FLT_MAX, "lowest")
        x = ctx.op("Pad", x, ctx.integers((0, 0, *pads[:2], 0, 0, *pads[2:]), "pads"), lowest)
        pads = (0, 0, 0, 0)
    indices = [None] if pool.num_tops == 2 else []
    made = ctx.ops(
        "MaxPool",
        x,
        outputs=[ctx.tops[0], *indices],
        kernel_shape=window.kernel,
        strides=window.stride,
        pads=pads,
    )
    if pool.num_tops == 2:
        # ONNX counts through the whole tensor, Caffe within the plane.
        plane = ctx.integers([count(layer.bottoms[0].shape, 2)], "plane")
        within = ctx.op("Mod", made[1], plane)
        ctx.op("Cast", within, to=FLOAT, output=ctx.tops[1])


def average_pool(ctx: OnnxContext, x: Value, window: pooling.PoolWindow, output: Value | None) -> Value:
    """Average pooling with Caffe's divisors."""
    divisors = np.outer(window.divisors(0), window.divisors(1)).astype(np.float32)
    cells = count(window.kernel)
    pads = (*window.pad, *window.pad_after)
    inside = all(after < kernel for after, kernel in zip(window.pad_after, window.kernel, strict=True))
    attributes = {"kernel_shape": window.kernel, "strides": window.stride}
    if inside and (divisors == cells).all():
        return ctx.op("AveragePool", x, output=output, pads=pads, count_include_pad=1, **attributes)
    if inside and not any(window.pad):
        # Without padding Caffe counts real cells only, and so does ONNX.
        return ctx.op("AveragePool", x, output=output, pads=pads, count_include_pad=0, **attributes)
    padded = ctx.op("Pad", x, ctx.integers((0, 0, *pads[:2], 0, 0, *pads[2:]), "pads"))
    mean = ctx.op("AveragePool", padded, **attributes)
    total = ctx.op("Mul", mean, ctx.constant(cells, "cells"))
    return ctx.op("Div", total, ctx.constant(divisors, "divisors"), output=output)
