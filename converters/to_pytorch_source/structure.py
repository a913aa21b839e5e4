"""Split, Silence, Concat, Eltwise, Flatten and Reshape as calls."""

from __future__ import annotations

from caffe_port.converters.to_pytorch_source.expressions import finite
from caffe_port.converters.to_pytorch_source.graph import Value
from caffe_port.converters.to_pytorch_source.translation import Translation, writes
from caffe_port.errors import UnsupportedLayer
from caffe_port.layers import structure
from caffe_port.net import Layer
from caffe_port.shapes import canonical_axis


@writes(structure.Split)
def _split(to: Translation, layer: Layer, d: structure.Split, inputs: list[Value]) -> None:
    to.values.update(dict.fromkeys(layer.tops, inputs[0]))


@writes(structure.Silence)
def _silence(to: Translation, layer: Layer, d: structure.Silence, inputs: list[Value]) -> None:
    """Nothing: it only takes a value."""


@writes(structure.Concat)
def _concat(to: Translation, layer: Layer, d: structure.Concat, inputs: list[Value]) -> None:
    if len(inputs) == 1:
        to.values[layer.tops[0]] = inputs[0]
        return
    listed = ", ".join(f"{{{i}}}" for i in range(len(inputs)))
    to.add(layer, f"torch.cat([{listed}], dim={canonical_axis(d.axis, len(inputs[0].shape))})", inputs)


@writes(structure.Eltwise)
def _eltwise(to: Translation, layer: Layer, d: structure.Eltwise, inputs: list[Value]) -> None:
    if layer.is_in_place and d.operation != "PROD":
        raise UnsupportedLayer(f"Eltwise {d.operation} in place, by which Caffe loses the first bottom")
    slots = [f"{{{i}}}" for i in range(len(inputs))]
    if d.operation == "PROD":
        text = " * ".join(slots)
    elif d.operation == "MAX":
        text = slots[0]
        for slot in slots[1:]:
            text = f"torch.maximum({text}, {slot})"
    else:
        text = ""
        for factor, slot in zip(d.coefficients(len(inputs)), slots, strict=True):
            term = slot if abs(factor) == 1 else f"{finite(abs(factor))} * {slot}"
            if not text:
                text = f"-{term}" if factor < 0 else term
            else:
                text = f"{text} {'-' if factor < 0 else '+'} {term}"
    to.add(layer, text, inputs, keeps_channels=True)


@writes(structure.Flatten)
def _flatten(to: Translation, layer: Layer, d: structure.Flatten, inputs: list[Value]) -> None:
    (x,), axes = inputs, len(inputs[0].shape)
    start, end = canonical_axis(d.axis, axes), canonical_axis(d.end_axis, axes)
    behind = "" if end == axes - 1 else f", {end}"
    to.add(layer, f"torch.flatten({{0}}, {start}{behind})", [x], role="view")


@writes(structure.Reshape)
def _reshape(to: Translation, layer: Layer, d: structure.Reshape, inputs: list[Value]) -> None:
    (x,) = inputs
    top = layer.tops[0].shape
    start, end = d.replaced(x.shape)
    dims = [x.shape[start + i] if dim == 0 else dim for i, dim in enumerate(d.dims)]
    copied = start > 0 or (bool(d.dims) and d.dims[0] == 0)
    if copied and 0 not in top[1:]:
        # Axis 0 stays, whatever it is; the others are known.
        if len(top) == 2 and len(x.shape) > 2:
            text = "torch.flatten({0}, 1)"
        else:
            text = f"{{0}}.reshape({', '.join(map(str, (-1, *top[1:])))})"
    else:
        whole = [*x.shape[:start], *dims, *x.shape[end:]]
        text = f"{{0}}.reshape({', '.join(map(str, whole)) or '()'})"
    to.add(layer, text, inputs, role="view")
