"""Scale and Bias as calls."""

from __future__ import annotations

from caffe_port.converters.to_pytorch_source.graph import Argument, Channels, Value
from caffe_port.converters.to_pytorch_source.translation import Translation, writes
from caffe_port.layers import affine
from caffe_port.net import Layer
from caffe_port.shapes import Shape, canonical_axis


def _column(x: Value, place: affine.Broadcast, operand: Shape) -> tuple[Shape, list[Argument]]:
    """The operand's shape with 1s behind, so that it broadcasts; its dims as arguments."""
    column = place.column(x.shape, operand)
    start = canonical_axis(place.axis, len(x.shape)) if operand else 0
    shape = column[start:] if operand else ()
    dims: list[Argument] = list(shape)
    if start == 1 and len(operand) == 1:
        dims[0] = Channels(x, x.shape[1])
    return shape, dims


def _operand(x: Value, y: Value, place: affine.Broadcast) -> str:
    """The second bottom, {1}, so that it broadcasts."""
    behind = len(x.shape) - canonical_axis(place.axis, len(x.shape)) - len(y.shape) if y.shape else 0
    return f"{{1}}[{', '.join(['...', *['None'] * behind])}]" if behind else "{1}"


@writes(affine.Scale)
def _scale(to: Translation, layer: Layer, d: affine.Scale, inputs: list[Value]) -> None:
    shape, dims = _column(inputs[0], d.broadcast, d.broadcast.operand_shape([value.shape for value in inputs]))
    modules = []
    if len(inputs) == 1:
        modules.append(to.parameter(layer, 0, shape, dims, "weight"))
        text = "{0} * {m0}"
    else:
        text = f"{{0}} * {_operand(inputs[0], inputs[1], d.broadcast)}"
    if d.bias_term:
        text += f" + {{m{len(modules)}}}"
        modules.append(to.parameter(layer, len(layer.weights) - 1, shape, dims, "bias"))
    to.add(layer, text, inputs, modules=modules, keeps_channels=len(inputs) == 1)


@writes(affine.Bias)
def _bias(to: Translation, layer: Layer, d: affine.Bias, inputs: list[Value]) -> None:
    if len(inputs) == 2:
        to.add(layer, f"{{0}} + {_operand(inputs[0], inputs[1], d.broadcast)}", inputs)
        return
    shape, dims = _column(inputs[0], d.broadcast, d.broadcast.operand_shape([inputs[0].shape]))
    module = to.parameter(layer, 0, shape, dims, "bias")
    to.add(layer, "{0} + {m0}", inputs, modules=[module], keeps_channels=True)
