"""A layer's message → what `build` lays down: its declaration, parameters read, all it says held to the rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from caffe_port import registry
from caffe_port.errors import (
    CaffePortError,
    GraphError,
    Location,
    Problem,
    Problems,
    UnsupportedLayer,
    UnsupportedParameter,
)
from caffe_port.frontend import PlacedLayer
from caffe_port.layers.base import LayerDef, LayerSpec
from caffe_port.layers.unknown import UnknownLayer
from caffe_port.limits import limits
from caffe_port.proto import dialects

__all__ = ["AUTOMATIC_TOP", "LayerPlan", "ParamSpec", "plan_layer"]

_COMMON_FIELDS = {
    "name", "type", "bottom", "top", "phase", "loss_weight", "param", "blobs", "propagate_down", "include", "exclude",
}  # fmt: skip
AUTOMATIC_TOP = "(automatic)"
"""The name of a top that the prototxt leaves out, as that of a loss; Caffe calls it so too."""

_INERT_IN_FORKS = {"engine": "chooses an implementation (CAFFE, MKL2017, MKLDNN, …), not what is computed"}
"""Fields of a layer that forks added and that change no result, with what they do. Source: intel/caffe,
layer_factory.cpp."""

_REFUSED_OF_FORKS = {
    "quantization_param": "with it the fork computes in 8 bits or other reduced precision, which nothing here does",
}
"""Fields of a layer that forks added, with why they are refused. Source: intel/caffe, mkldnn_convolution_layer.cpp;
Ristretto."""


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """One `param { ... }` of a layer; None is a field that is not set."""

    name: str = ""
    lr_mult: float | None = None
    decay_mult: float | None = None
    permissive: bool = False


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """A layer before its blobs exist. `definition` is None where the layer has a problem of its own."""

    name: str
    type: str
    definition: LayerDef | None
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    phase: str = "TEST"
    loss_weights: tuple[float, ...] = ()
    location: Location | None = None
    automatic: bool = False
    params: tuple[ParamSpec, ...] = ()
    has_blobs: bool = False
    """The prototxt brings the learned blobs itself, so that no filler is asked."""
    message: Any = None


class _Wrong(Protocol):
    """Adds a problem of the layer."""

    def __call__(self, kind: type[CaffePortError], text: str, hint: str = "") -> None: ...


def plan_layer(
    layer: PlacedLayer, net_phase: str, problems: Problems, notes: list[Problem], allow_unknown: bool = False
) -> LayerPlan:
    """Reads one layer message. Whatever is wrong goes to `problems`; what Caffe ignores goes to `notes`."""
    message = layer.message
    before = len(problems.found)

    def wrong(kind: type[CaffePortError], text: str, hint: str = "") -> None:
        problems.add(kind, text, layer=layer.name, location=layer.location, hint=hint)

    phase = "TRAIN" if message.HasField("phase") and message.phase == 0 else "TEST"
    if not message.HasField("phase"):
        phase = net_phase
    definition_class = _declared(message)
    definition: LayerDef | None = None
    if definition_class is None:
        # Looking for what is like it takes long, and after so many problems nobody reads on.
        nearest = registry.nearest_types(message.type) if before < limits.problems else []
        hint = (
            f"did you mean {' or '.join(map(repr, nearest))}?"
            if nearest
            else "`caffe-port layers` lists the known ones"
        )
        forks = dialects.forks_of_type(message.type) or " / ".join(dict.fromkeys(dialects.fork_paths(message).values()))
        wrong(UnsupportedLayer, f"unknown layer type {message.type!r}", f"it may be of {forks}" if forks else hint)
    else:
        _check_counts(message, definition_class, wrong)
        spec = LayerSpec(message, phase, layer.location)
        try:
            definition = definition_class.parse(spec)
        except CaffePortError as error:
            wrong(type(error), str(error))
        else:
            _report_unread(spec, wrong, layer, notes)
    if len(problems.found) > before:
        definition = None
        found = problems.found[before:]
        if allow_unknown and all(problem.kind in (UnsupportedLayer, UnsupportedParameter) for problem in found):
            del problems.found[before:]
            is_input = definition_class is not None and definition_class.is_input
            definition = UnknownLayer(message.type, tuple(found), is_input)

    tops = tuple(message.top)
    if definition_class is not None and definition_class.auto_top and not tops:
        tops = (AUTOMATIC_TOP,) * definition_class.tops.least
    return LayerPlan(
        name=layer.name,
        type=message.type,
        definition=definition,
        bottoms=tuple(message.bottom),
        tops=tops,
        phase=phase,
        loss_weights=tuple(message.loss_weight),
        location=layer.location,
        automatic=layer.automatic,
        params=tuple(
            ParamSpec(
                name=param.name,
                lr_mult=param.lr_mult if param.HasField("lr_mult") else None,
                decay_mult=param.decay_mult if param.HasField("decay_mult") else None,
                permissive=param.share_mode == 1,
            )
            for param in message.param
        ),
        has_blobs=bool(message.blobs),
        message=message,
    )


def _check_counts(message: Any, definition: type[LayerDef], wrong: _Wrong) -> None:
    """Whether there are as many bottoms and tops as the type takes, and as many of what is given for each."""
    num_tops = len(message.top)
    if definition.auto_top:
        num_tops = max(num_tops, definition.tops.least)
    for what, counts, number in (
        ("bottoms", definition.bottoms, len(message.bottom)),
        ("tops", definition.tops, num_tops),
    ):
        if number not in counts:
            wrong(GraphError, f"{message.type} takes {counts} {what}, {number} are given")
    if definition.same_count and len(message.bottom) != num_tops:
        wrong(GraphError, f"{message.type} needs as many tops as bottoms ({num_tops} and {len(message.bottom)} given)")
    if message.loss_weight and len(message.loss_weight) != num_tops:
        wrong(
            GraphError,
            f"{len(message.loss_weight)} loss_weight entries for {num_tops} tops",
            "give one a top, or none",
        )
    if message.propagate_down and len(message.propagate_down) != len(message.bottom):
        wrong(GraphError, f"{len(message.propagate_down)} propagate_down entries for {len(message.bottom)} bottoms")


def _declared(message: Any) -> type[LayerDef] | None:
    """The declaration of a layer: a Python layer whose class somebody declared needs no Python (`module.class`)."""
    if message.type == "Python":
        python = message.python_param
        known = registry.find_layer(f"{python.module}.{python.layer}")
        if known is not None:
            return known
    return registry.find_layer(message.type)


def _report_unread(spec: LayerSpec, wrong: _Wrong, layer: PlacedLayer, notes: list[Problem]) -> None:
    """A set field that the layer's own code never looked at is an error; a foreign message is one Caffe ignores too."""
    of_forks = dialects.fork_paths(spec.message)
    for path, forks in of_forks.items():
        if path in _INERT_IN_FORKS:
            text = f"{path} is set, which is not upstream's but of {forks}: it {_INERT_IN_FORKS[path]}"
            notes.append(Problem(UnsupportedParameter, text, layer.name, layer.location))
        elif not spec.has_read(path.partition(":")[0]):
            why = _REFUSED_OF_FORKS.get(path, "and nothing here looks at it")
            hint = "remove it to have the layer in float32" if path in _REFUSED_OF_FORKS else "remove it, or report it"
            wrong(UnsupportedParameter, f"{path} is set, which is not upstream's but of {forks}, {why}", hint)
    # Text has no fields without a name.
    from_text = layer.location is not None and layer.location.line > 0
    for path, type_name, number in () if from_text else dialects.foreign_fields(spec.message):
        known = dialects.forks_of_number(type_name, number)
        wrong(
            UnsupportedParameter,
            f"field {number} of {path or 'the layer'} is none of upstream's"
            + (f": of forks' it is {', or '.join(known)}" if known else ""),
            "give the prototxt too: names do not clash as numbers do",
        )
    from_binary = layer.location is not None and not layer.location.line
    for descriptor, _ in spec.message.ListFields():
        told = descriptor.number >= dialects.FIRST_NUMBER and descriptor.name not in spec.read
        if told or descriptor.name in _COMMON_FIELDS:
            continue
        if descriptor.name not in spec.read:
            known = dialects.forks_of_number(spec.message.DESCRIPTOR.name, descriptor.number) if from_binary else []
            if known:
                wrong(
                    UnsupportedParameter,
                    f"field {descriptor.number} is {descriptor.name}, which means nothing to a {spec.type} layer; "
                    f"of forks' it is {', or '.join(known)}",
                    "give the prototxt too: names do not clash as numbers do",
                )
                continue
            notes.append(
                Problem(
                    UnsupportedParameter,
                    f"{descriptor.name} means nothing to a {spec.type} layer; Caffe ignores it, and so is it here",
                    layer.name,
                    layer.location,
                )
            )
            continue
        for name in spec.read[descriptor.name].unread():
            if f"{descriptor.name}.{name}" in of_forks:
                continue
            wrong(
                UnsupportedParameter,
                f"{descriptor.name}.{name} is set, and nothing here looks at it",
                "remove it, or report it",
            )
