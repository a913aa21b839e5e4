"""What a net costs: learned values, multiply-accumulates, memory, the size of its caffemodel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from caffe_port.errors import GraphError, ShapeError, WeightsError
from caffe_port.net import Layer, Net
from caffe_port.shapes import count, format_shape
from caffe_port.summary import BYTES, peak_activation_bytes, summarize

__all__ = ["RULES", "Cost", "cost_of", "of_one_picture", "pynetbuilder_complexity"]

RULES = {
    "complete": "every learned value, biases and statistics too; multiply-accumulates of the products with weights",
    "pynetbuilder": "as pynetbuilder's complexity.py counts: the first learned blob of each layer, so no biases; times "
    "the output's height and width where the layer is a Convolution, else once",
}
"""The rules that parameters and multiply-accumulates can be counted by, with what each counts."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one forward pass of a net costs, at the shapes the net has.

    - `parameters`: learned values; `macs`: multiply-accumulates; both by `rule`.
    - `activation_bytes`: all blobs, each once, as Caffe keeps them; `peak_activation_bytes`: those needed at once.
    - `model_bytes`: of the caffemodel that `to_caffemodel` writes; where it cannot write one (layers of a fork, more
      than 2 GiB) 4 bytes a learned value, and `model_measured` is False.
    """

    rule: str
    parameters: int
    macs: int
    activation_bytes: int
    peak_activation_bytes: int
    model_bytes: int
    model_measured: bool

    def as_json(self) -> dict[str, Any]:
        return {
            "parameters": self.parameters,
            "multiply_accumulates": self.macs,
            "activation_bytes": self.activation_bytes,
            "peak_activation_bytes": self.peak_activation_bytes,
            "model_bytes": self.model_bytes,
            "model_bytes_measured": self.model_measured,
        }


def cost_of(net: Net, rule: str = "complete") -> Cost:
    """Counts a net as it stands; see `of_one_picture`. Values of learned blobs are not needed.

    Raises: GraphError for an unknown rule, and where the pynetbuilder rule has no answer; what `Net.require_known` says
    of layers that nobody here understands.
    """
    if rule not in RULES:
        raise GraphError(f"unknown counting rule {rule!r}; known: {', '.join(RULES)}")
    net.require_known()
    summary = summarize(net)
    parameters, macs = summary.parameters, summary.macs
    if rule == "pynetbuilder":
        parameters, macs = pynetbuilder_complexity(net)
    model_bytes = _model_bytes(net)
    return Cost(
        rule,
        parameters,
        macs,
        summary.activation_bytes,
        peak_activation_bytes(net),
        summary.parameters * BYTES if model_bytes is None else model_bytes,
        model_bytes is not None,
    )


def of_one_picture(net: Net) -> Net:
    """The net for a batch of 1: every input's first axis, which must be the same for all, becomes 1.

    Raises: ShapeError where the inputs' first axes differ, or the net does not take a batch of 1.
    """
    shapes = net.input_shapes
    batches = {shape[0] for shape in shapes.values() if shape}
    if len(batches) > 1 or not all(shapes.values()):
        told = ", ".join(f"{name} {format_shape(shape)}" for name, shape in shapes.items())
        raise ShapeError(f"the inputs ({told}) have no common first axis, so there is no cost of one picture")
    if batches in (set(), {1}):
        return net
    return net.with_input_shapes({name: (1, *shape[1:]) for name, shape in shapes.items()})


def pynetbuilder_complexity(net: Net) -> tuple[int, int]:
    """Parameters and "flops" as pynetbuilder counts them, of a net built in phase TEST with a batch of 1.

    Of every layer that has learned blobs the first is taken, and no other: weights without biases, a BatchNorm's means,
    a Scale's factors. Its size is added to the parameters; to the flops its size times the output's height and width if
    the layer is a Convolution, else its size once, a Deconvolution's too. Shared blobs are counted with each layer.
    Raises: GraphError for a Convolution whose output is not (N, C, H, W), for which the rule has no answer.
    Source: jay-mahadeokar/pynetbuilder @ 4202d3c, netbuilder/tools/complexity.py.
    """
    learning = [layer for layer in net.layers if layer.weights]
    sizes = [count(layer.weights[0].shape) for layer in learning]
    return sum(sizes), sum(size * _pixels(layer) for layer, size in zip(learning, sizes, strict=True))


def _pixels(layer: Layer) -> int:
    if layer.type != "Convolution":
        return 1
    shape = layer.tops[0].shape
    if len(shape) != 4:
        raise GraphError(f"layer {layer.name!r}: pynetbuilder counts no convolution to {format_shape(shape)}")
    return shape[2] * shape[3]


def _model_bytes(net: Net) -> int | None:
    """The size of the net's caffemodel; None where there can be none."""
    from caffe_port.converters.to_caffemodel import to_caffemodel

    zeros = {id(weight): np.zeros(weight.shape, np.float32) for weight in net.missing_weights()}
    try:
        return len(to_caffemodel(net.with_values(zeros)))
    except WeightsError:
        return None
