"""ReLU6, Mish, Axpy and dropout of channels in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_port.converters.to_onnx.context import FLOAT, OnnxContext, Value
from caffe_port.layers import mobile
from caffe_port.net import Layer
from caffe_port.registry import emitter


@emitter("onnx", "ReLU6")
def _relu6(ctx: OnnxContext, layer: Layer, relu6: mobile.ReLU6, bottoms: Sequence[Value]) -> None:
    ctx.op("Clip", bottoms[0], ctx.constant(0, "min"), ctx.constant(6, "max"), output=ctx.tops[0])


@emitter("onnx", "Mish")
def _mish(ctx: OnnxContext, layer: Layer, mish: mobile.Mish, bottoms: Sequence[Value]) -> None:
    (x,) = bottoms
    ctx.op("Mul", x, ctx.op("Tanh", ctx.op("Softplus", x)), output=ctx.tops[0])


@emitter("onnx", "Axpy")
def _axpy(ctx: OnnxContext, layer: Layer, axpy: mobile.Axpy, bottoms: Sequence[Value]) -> None:
    a, x, y = bottoms
    before, axes = layer.bottoms[0].shape, len(layer.bottoms[1].shape)
    if len(before) != axes:
        a = ctx.reshape(a, before, (*before[:2], *[1] * (axes - 2)))
    ctx.op("Add", ctx.op("Mul", a, x), y, output=ctx.tops[0])


@emitter("onnx", "spatial_dropout.SpatialDropoutLayer")
def _spatial_dropout(ctx: OnnxContext, layer: Layer, dropout: mobile.SpatialDropout, bottoms: Sequence[Value]) -> None:
    factor = ctx.constant(dropout.factor, "scale")
    if not dropout.drops:
        ctx.op("Mul", bottoms[0], factor, output=ctx.tops[0])
        return
    shape = layer.bottoms[0].shape
    chance = ctx.op("RandomUniform", shape=(*shape[:2], *[1] * (len(shape) - 2)), low=0.0, high=1.0)
    dropped = ctx.op("Less", chance, ctx.constant(dropout.ratio, "p"))
    kept = ctx.op("Cast", ctx.op("Not", dropped), to=FLOAT)
    ctx.op("Mul", ctx.op("Mul", bottoms[0], factor), kept, output=ctx.tops[0])
