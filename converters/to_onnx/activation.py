"""Elementwise layers of one bottom in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from caffe_port.converters.to_onnx.context import OnnxContext, Value

from caffe_port.layers import activation
from caffe_port.net import Layer
from caffe_port.registry import emitter


@emitter("onnx", "ReLU")
def _relu(ctx: OnnxContext, layer: Layer, relu: activation.ReLU, bottoms: Sequence[Value]) -> None:
    if relu.negative_slope:
        ctx.op("LeakyRelu", bottoms[0], output=ctx.tops[0], alpha=relu.negative_slope)
    else:
        ctx.op("Relu", bottoms[0], output=ctx.tops[0])


@emitter("onnx", "Dropout")
def _dropout(ctx: OnnxContext, layer: Layer, dropout: activation.Dropout, bottoms: Sequence[Value]) -> None:
    if layer.phase == "TEST":
        ctx.op("Identity", bottoms[0], output=ctx.tops[0])
        return
    ratio = ctx.constant(dropout.ratio, "ratio")
    training = ctx.constant(np.array(True), "training", np.bool_)
    ctx.op("Dropout", bottoms[0], ratio, training, output=ctx.tops[0])


@emitter("onnx", "Power")
def _power(ctx: OnnxContext, layer: Layer, power: activation.Power, bottoms: Sequence[Value]) -> None:
    (x,) = bottoms
    if power.constant is not None:
        # Shape of the bottom, whatever its batch; 0 * x would let its NaN and infinities through.
        ctx.op("Expand", ctx.constant(power.constant, "constant"), ctx.op("Shape", x), output=ctx.tops[0])
        return
    steps = []
    if power.scale != 1:
        steps.append(("Mul", power.scale, "scale"))
    if power.shift != 0:
        steps.append(("Add", power.shift, "shift"))
    if power.power != 1 or not steps:
        steps.append(("Pow", power.power, "power"))
    for i, (op, value, what) in enumerate(steps):
        x = ctx.op(op, x, ctx.constant(value, what), output=ctx.tops[0] if i == len(steps) - 1 else None)
