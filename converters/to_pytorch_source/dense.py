"""InnerProduct and Embed as calls."""

from __future__ import annotations

import math

from caffe_port.converters.to_pytorch_source.graph import Argument, Channels, Op, Value, Written
from caffe_port.converters.to_pytorch_source.translation import Translation, writes
from caffe_port.layers import dense
from caffe_port.net import Layer


def _flattened(to: Translation, x: Value, start: int) -> Value:
    """x with one axis for all from `start` on."""
    shape = (*x.shape[:start], math.prod(x.shape[start:]))
    if len(shape) == len(x.shape):
        return x
    value = Value(shape)
    to.ops.append(Op(f"torch.flatten({{0}}, {start})", (x,), (value,), "view"))
    return value


@writes(dense.InnerProduct)
def _inner_product(to: Translation, layer: Layer, d: dense.InnerProduct, inputs: list[Value]) -> None:
    x = _flattened(to, inputs[0], d.start(inputs[0].shape))
    output = to.values[layer.tops[0]] = Value(layer.tops[0].shape, layer.tops[0])
    kinds = ("transposed" if d.transpose else "same", "same")
    blobs = list(zip(("weight", "bias"), layer.weights, kinds, strict=False))
    arguments: list[tuple[str, Argument]] = [("", x.shape[-1]), ("", d.num_output)]
    if len(x.shape) == 2:
        arguments = [("", Channels(x, x.shape[1])), ("", Channels(output, d.num_output))]
    if not d.bias_term:
        arguments.append(("bias", Written("False")))
    module = to.module(layer, "nn.Linear", arguments, "fc", blobs)
    to.add(layer, "{m0}({0})", [x], modules=[module])


@writes(dense.Embed)
def _embed(to: Translation, layer: Layer, d: dense.Embed, inputs: list[Value]) -> None:
    module = to.module(
        layer, "nn.Embedding", [("", d.input_dim), ("", d.num_output)], "embed", [("weight", layer.weights[0], "same")]
    )
    modules, text = [module], "{m0}({0}.long())"
    if d.bias_term:
        modules.append(to.parameter(layer, 1, (d.num_output,), [d.num_output], "bias"))
        text += " + {m1}"
    to.add(layer, text, inputs, modules=modules)
