"""Scale and Bias in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_port.converters.to_onnx.context import OnnxContext, Value
from caffe_port.layers import affine
from caffe_port.net import Layer
from caffe_port.registry import emitter
from caffe_port.shapes import Shape, canonical_axis


def _operand(ctx: OnnxContext, layer: Layer, place: affine.Broadcast, bottoms: Sequence[Value], what: str) -> Value:
    """The second operand of Scale or Bias, shaped to broadcast (leading 1s are ONNX's default)."""
    x = layer.bottoms[0].shape
    if len(bottoms) == 1:
        return ctx.weight(0, what, _trailing(place, x, layer.weights[0].shape))
    shape = layer.bottoms[1].shape
    wanted = _trailing(place, x, shape)
    return bottoms[1] if wanted == shape else ctx.reshape(bottoms[1], shape, wanted)


def _trailing(place: affine.Broadcast, x: Shape, operand: Shape) -> Shape:
    if not operand:
        return ()
    return operand + (1,) * (len(x) - canonical_axis(place.axis, len(x)) - len(operand))


@emitter("onnx", "Scale")
def _scale(ctx: OnnxContext, layer: Layer, scale: affine.Scale, bottoms: Sequence[Value]) -> None:
    gamma = _operand(ctx, layer, scale.broadcast, bottoms, "gamma")
    if not scale.bias_term:
        ctx.op("Mul", bottoms[0], gamma, output=ctx.tops[0])
        return
    beta_shape = _trailing(scale.broadcast, layer.bottoms[0].shape, layer.weights[-1].shape)
    beta = ctx.weight(len(layer.weights) - 1, "beta", beta_shape)
    ctx.op("Add", ctx.op("Mul", bottoms[0], gamma), beta, output=ctx.tops[0])


@emitter("onnx", "Bias")
def _bias(ctx: OnnxContext, layer: Layer, bias: affine.Bias, bottoms: Sequence[Value]) -> None:
    beta = _operand(ctx, layer, bias.broadcast, bottoms, "beta")
    ctx.op("Add", bottoms[0], beta, output=ctx.tops[0])
