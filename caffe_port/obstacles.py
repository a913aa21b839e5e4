"""What stands in the way of a conversion, all of it at once, before any of it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from caffe_port import registry
from caffe_port.artifacts.form import ONNX_TARGETS, Form
from caffe_port.errors import (
    CaffePortError,
    GraphError,
    Problem,
    PrototxtError,
    ShapeError,
    UnsupportedLayer,
    UnsupportedParameter,
    WeightsError,
    WeightValuesError,
)
from caffe_port.layers.unknown import UnknownLayer
from caffe_port.net import Net
from caffe_port.passes.detection_boxes import detection_boxes
from caffe_port.shapes import format_shape

__all__ = ["Obstacle", "obstacles"]

_KINDS: dict[type[CaffePortError], str] = {
    UnsupportedLayer: "missing layer",
    UnsupportedParameter: "ignored parameter",
    WeightValuesError: "weight values",
    WeightsError: "weights",
    ShapeError: "shape",
    GraphError: "net",
    PrototxtError: "prototxt",
}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One thing: its kind, what it is, and whether it stops the conversion or is only to be known."""

    kind: str
    text: str
    stops: bool
    layer: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "stops": self.stops, "layer": self.layer, "text": self.text}


def obstacles(load: Callable[[bool], Net], targets: Sequence[str], form: Form | None = None) -> list[Obstacle]:
    """Everything in the way of converting a net to `targets` in `form`; what stops it first.

    `load` reads the net leniently (`allow_unknown`, `allow_missing_weights`), with its weights or (False) without.
    Missing layers, parameters nobody looks at, weights that are missing or that no layer takes, shapes that do not fit,
    a batch that the net fixes, types that a target lacks.
    """
    form = form or Form()
    found: list[Obstacle] = []
    try:
        form.check(targets)
    except CaffePortError as error:
        found += [Obstacle("form", text, True) for text in _texts(error)]
    try:
        net = load(True)
        found += _of_missing(net)
    except WeightsError as error:
        # The rest can be looked at all the same.
        found += _of_error(error)
        net = load(False)
    except CaffePortError as error:
        return found + _of_error(error)
    found += [_of_problem(problem, True) for problem in net.unknown_problems()]
    found += _of_targets(net, targets)
    found += _of_batch(net, targets, form)
    if form.detection == "boxes":
        try:
            detection_boxes(net)
        except CaffePortError as error:
            found += [Obstacle("form", text, True) for text in _texts(error)]
    found += [_of_problem(note, False) for note in net.notes]
    return sorted(found, key=lambda one: not one.stops)


def _of_missing(net: Net) -> list[Obstacle]:
    missing = net.missing_weights()
    layers = list(dict.fromkeys(weight.layer for weight in missing))
    if missing and len(missing) == sum(1 for _ in net.weights()):
        return [
            Obstacle("missing weights", f"there are none, and {len(layers)} layers need them: give a weight file", True)
        ]
    found = []
    for layer in layers:
        shapes = ", ".join(format_shape(weight.shape) for weight in missing if weight.layer == layer)
        found.append(
            Obstacle("missing weights", f"layer {layer!r}: learned blobs of {shapes} have no values", True, layer)
        )
    return found


def _of_targets(net: Net, targets: Sequence[str]) -> list[Obstacle]:
    found = []
    backends = {"onnx" if target in ONNX_TARGETS else "pytorch" for target in targets if "caffemodel" not in target}
    for backend in sorted(backends):
        known = [layer for layer in net.layers if not isinstance(layer.definition, UnknownLayer)]
        try:
            registry.require_expressible(backend, known)
        except CaffePortError as error:
            found += [Obstacle("target lacks the layer", text, True) for text in _texts(error)]
    if "pytorch-source" in targets and not found and not net.unknown_layers():
        from caffe_port.converters.to_pytorch_source import require_writable

        try:
            require_writable(net)
        except CaffePortError as error:
            found += [Obstacle("target lacks the layer", text, True) for text in _texts(error)]
    return found


def _of_batch(net: Net, targets: Sequence[str], form: Form) -> list[Obstacle]:
    """Whether the net can be run with another batch; where it cannot, that stops only who asks for it."""
    if net.unknown_layers() or isinstance(form.batch, int) or all("caffemodel" in target for target in targets):
        return []
    try:
        net.with_input_shapes({name: (shape[0] + 1, *shape[1:]) for name, shape in net.input_shapes.items() if shape})
    except CaffePortError as error:
        stops = form.batch == "symbolic"
        return [Obstacle("fixed batch", f"the files will have the prototxt's batch: {error}", stops)]
    return []


def _of_problem(problem: Problem, stops: bool) -> Obstacle:
    kind = next((name for known, name in _KINDS.items() if issubclass(problem.kind, known)), "other")
    if kind == "weights" and not stops:
        kind = "unused weights"
    return Obstacle(kind, str(problem), stops, problem.layer)


def _of_error(error: CaffePortError) -> list[Obstacle]:
    if error.problems:
        return [_of_problem(problem, True) for problem in error.problems]
    kind = next((name for known, name in _KINDS.items() if isinstance(error, known)), "other")
    return [Obstacle(kind, str(error), True)]


def _texts(error: CaffePortError) -> list[str]:
    return [str(problem) for problem in error.problems] or [str(error)]
