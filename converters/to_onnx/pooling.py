"""Pooling in ONNX, with Caffe's rounding and divisors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    made = max_pool(ctx, bottoms[0], window, [ctx.tops[0], None][: pool.num_tops])
    if pool.num_tops == 2:
        # ONNX counts through the whole tensor, Caffe within the plane.
        plane = ctx.integers([count(layer.bottoms[0].shape, 2)], "plane")
        within = ctx.op("Mod", made[1], plane)
        ctx.op("Cast", within, to=FLOAT, output=ctx.tops[1])


def max_pool(ctx: OnnxContext, x: Value, window: pooling.PoolWindow, outputs: Sequence[Value | None]) -> list[Value]:
    """Largest cells, and their indices if there are two outputs."""
    pads = (*window.pad, *window.pad_after)
    if any(after >= kernel for after, kernel in zip(window.pad_after, window.kernel, strict=True)):
        # A window wholly outside the input: no attribute allows it, so the padding becomes a node of its own.
        lowest = ctx.constant(-pooling.FLT_MAX, "lowest")
        x = ctx.op("Pad", x, ctx.integers((0, 0, *pads[:2], 0, 0, *pads[2:]), "pads"), lowest)
        pads = (0, 0, 0, 0)
    return ctx.ops(
        "MaxPool",
        x,
        outputs=outputs,
        kernel_shape=window.kernel,
        strides=window.stride,
        pads=pads,
    )


def average_pool(ctx: OnnxContext, x: Value, window: pooling.PoolWindow, output: Value | None) -> Value:
    """Average pooling with Caffe's divisors."""
    divisors = np.outer(window.divisors(0), window.divisors(1)).astype(np.float32)
    cells = count(window.kernel)
    pads = (*window.pad, *window.pad_after)
    inside = all(after < kernel for after, kernel in zip(window.pad_after, window.kernel, strict=True))
    attributes: dict[str, Any] = {"kernel_shape": window.kernel, "strides": window.stride}
    if inside and (divisors == cells).all():
        return ctx.op("AveragePool", x, output=output, pads=pads, count_include_pad=1, **attributes)
    if inside and not any(window.pad):
        # Without padding Caffe counts real cells only, and so does ONNX.
        return ctx.op("AveragePool", x, output=output, pads=pads, count_include_pad=0, **attributes)
    padded = ctx.op("Pad", x, ctx.integers((0, 0, *pads[:2], 0, 0, *pads[2:]), "pads"))
    mean = ctx.op("AveragePool", padded, **attributes)
    total = ctx.op("Mul", mean, ctx.constant(cells, "cells"))
    return ctx.op("Div", total, ctx.constant(divisors, "divisors"), output=output)


@emitter("onnx", "SPP")
def _spp(ctx: OnnxContext, layer: Layer, spp: pooling.SPP, bottoms: Sequence[Value]) -> None:
    windows = spp.windows(layer.bottoms[0].shape)

    def pooled(window: pooling.PoolWindow, output: Value | None) -> Value:
        if spp.method == "AVE":
            return average_pool(ctx, bottoms[0], window, output)
        return max_pool(ctx, bottoms[0], window, [output])[0]

    if len(windows) == 1:
        pooled(windows[0], ctx.tops[0])
        return
    levels = [ctx.op("Flatten", pooled(window, None), axis=1) for window in windows]
    ctx.op("Concat", *levels, output=ctx.tops[0], axis=1)
