"""Elementwise layers of one bottom in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_port.converters.to_onnx.context import FLOAT, OnnxContext, Value
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
def _dropout(
    ctx: OnnxContext, layer: Layer, dropout: activation.Dropout | activation.ForkDropout, bottoms: Sequence[Value]
) -> None:
    (x,) = bottoms
    forked = isinstance(dropout, activation.ForkDropout)
    drops = dropout.drops if isinstance(dropout, activation.ForkDropout) else layer.phase != "TEST"
    if forked and not drops:
        ctx.op("Mul", x, ctx.constant(1 - dropout.ratio, "scale"), output=ctx.tops[0])
        return
    if not drops:
        ctx.op("Identity", x, output=ctx.tops[0])
        return
    ratio = ctx.constant(dropout.ratio, "ratio")
    training = ctx.constant(np.array(True), "training", np.bool_)
    if isinstance(dropout, activation.ForkDropout) and not dropout.scales:
        # ONNX's scales what it keeps.
        kept = ctx.op("Dropout", x, ratio, training)
        ctx.op("Mul", kept, ctx.constant(1 - dropout.ratio, "scale"), output=ctx.tops[0])
    else:
        ctx.op("Dropout", x, ratio, training, output=ctx.tops[0])


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


@emitter("onnx", "Sigmoid")
def _sigmoid(ctx: OnnxContext, layer: Layer, sigmoid: activation.Sigmoid, bottoms: Sequence[Value]) -> None:
    ctx.op("Sigmoid", bottoms[0], output=ctx.tops[0])


@emitter("onnx", "TanH")
def _tanh(ctx: OnnxContext, layer: Layer, tanh: activation.TanH, bottoms: Sequence[Value]) -> None:
    ctx.op("Tanh", bottoms[0], output=ctx.tops[0])


@emitter("onnx", "AbsVal")
def _abs(ctx: OnnxContext, layer: Layer, absval: activation.AbsVal, bottoms: Sequence[Value]) -> None:
    ctx.op("Abs", bottoms[0], output=ctx.tops[0])


@emitter("onnx", "BNLL")
def _bnll(ctx: OnnxContext, layer: Layer, bnll: activation.BNLL, bottoms: Sequence[Value]) -> None:
    ctx.op("Softplus", bottoms[0], output=ctx.tops[0])


@emitter("onnx", "ELU")
def _elu(ctx: OnnxContext, layer: Layer, elu: activation.ELU, bottoms: Sequence[Value]) -> None:
    ctx.op("Elu", bottoms[0], output=ctx.tops[0], alpha=elu.alpha)


@emitter("onnx", "Swish")
def _swish(ctx: OnnxContext, layer: Layer, swish: activation.Swish, bottoms: Sequence[Value]) -> None:
    (x,) = bottoms
    scaled = x if swish.beta == 1 else ctx.op("Mul", x, ctx.constant(swish.beta, "beta"))
    ctx.op("Mul", x, ctx.op("Sigmoid", scaled), output=ctx.tops[0])


@emitter("onnx", "Clip")
def _clip(ctx: OnnxContext, layer: Layer, clip: activation.Clip, bottoms: Sequence[Value]) -> None:
    low, high = ctx.constant(clip.low, "min"), ctx.constant(clip.high, "max")
    if clip.low <= clip.high:
        ctx.op("Clip", bottoms[0], low, high, output=ctx.tops[0])
    else:
        # Caffe applies max first, then min; ONNX's Clip does not say what crossed bounds give.
        ctx.op("Max", ctx.op("Min", bottoms[0], high), low, output=ctx.tops[0])


@emitter("onnx", "Threshold")
def _threshold(ctx: OnnxContext, layer: Layer, threshold: activation.Threshold, bottoms: Sequence[Value]) -> None:
    above = ctx.op("Greater", bottoms[0], ctx.constant(threshold.threshold, "threshold"))
    ctx.op("Cast", above, output=ctx.tops[0], to=FLOAT)


@emitter("onnx", "Exp")
def _exp(ctx: OnnxContext, layer: Layer, exp: activation.Exp, bottoms: Sequence[Value]) -> None:
    (x,) = bottoms
    if exp.inner_scale != 1:
        x = ctx.op("Mul", x, ctx.constant(exp.inner_scale, "scale"))
    if exp.outer_scale == 1:
        ctx.op("Exp", x, output=ctx.tops[0])
    else:
        ctx.op("Mul", ctx.op("Exp", x), ctx.constant(exp.outer_scale, "factor"), output=ctx.tops[0])


@emitter("onnx", "Log")
def _log(ctx: OnnxContext, layer: Layer, log: activation.Log, bottoms: Sequence[Value]) -> None:
    (x,) = bottoms
    if log.scale != 1:
        x = ctx.op("Mul", x, ctx.constant(log.scale, "scale"))
    if log.shift != 0:
        x = ctx.op("Add", x, ctx.constant(log.shift, "shift"))
    if log.outer_scale == 1:
        ctx.op("Log", x, output=ctx.tops[0])
    else:
        ctx.op("Mul", ctx.op("Log", x), ctx.constant(log.outer_scale, "factor"), output=ctx.tops[0])


@emitter("onnx", "PReLU")
def _prelu(ctx: OnnxContext, layer: Layer, prelu: activation.PReLU, bottoms: Sequence[Value]) -> None:
    slope = ctx.weight(0, "slope", prelu.slope_shape(layer.bottoms[0].shape))
    ctx.op("PRelu", bottoms[0], slope, output=ctx.tops[0])
