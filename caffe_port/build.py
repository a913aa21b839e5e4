"""NetParameter → Net, by Caffe's own rules (net.cpp): blobs, their versions and shapes, learned blobs shared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from caffe_port import registry
from caffe_port.errors import (
    CaffePortError,
    GraphError,
    Location,
    Problem,
    Problems,
    ShapeError,
    UnsupportedLayer,
    UnsupportedParameter,
)
from caffe_port.fillers import Filler
from caffe_port.frontend import NetState, PlacedLayer, filter_by_state, insert_splits
from caffe_port.layers.base import LayerDef, LayerSpec, WeightSpec
from caffe_port.layers.unknown import UnknownLayer
from caffe_port.net import Blob, Layer, Net, Weight
from caffe_port.proto import dialects
from caffe_port.shapes import UNKNOWN, Shape, check_shape, count, format_shape

__all__ = ["build", "reshape"]

_COMMON_FIELDS = {
    "name", "type", "bottom", "top", "phase", "loss_weight", "param", "blobs", "propagate_down", "include", "exclude",
}  # fmt: skip
AUTOMATIC_TOP = "(automatic)"

_INERT_IN_FORKS = {"engine": "chooses an implementation (CAFFE, MKL2017, MKLDNN, …), not what is computed"}
"""Fields of a layer that forks added and that change no result, with what they do. Source: intel/caffe,
layer_factory.cpp."""

_REFUSED_OF_FORKS = {
    "quantization_param": "with it the fork computes in 8 bits or other reduced precision, which nothing here does",
}
"""Fields of a layer that forks added, with why they are refused. Source: intel/caffe, mkldnn_convolution_layer.cpp;
Ristretto."""


@dataclass(frozen=True, slots=True)
class _ParamSpec:
    """One `param { ... }` of a layer; None is a field that is not set."""

    name: str = ""
    lr_mult: float | None = None
    decay_mult: float | None = None
    permissive: bool = False


@dataclass(frozen=True, slots=True)
class _Plan:
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
    params: tuple[_ParamSpec, ...] = ()
    has_blobs: bool = False
    """The prototxt brings the learned blobs itself, so that no filler is asked."""
    message: Any = None


_WeightMaker = Callable[[int, _Plan, Sequence[WeightSpec]], tuple[Weight, ...]]


def build(
    layers: Iterable[PlacedLayer],
    *,
    name: str = "",
    state: NetState | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    allow_unknown: bool = False,
) -> tuple[Net, list[int]]:
    """Builds a net from V2 layer messages.

    `state` decides which layers are kept; `input_shapes` replaces (or supplies) the shapes of inputs by blob name.
    `allow_unknown` puts an UnknownLayer where a layer's type or one of its parameters is not supported, or where an
    input has no shape; what is behind has no shapes either.
    Returns the net, without weight values, and of each of its layers the `source_index` of its PlacedLayer (-1: Split).
    Raises: one CaffePortError that lists everything wrong with the net.
    """
    state = state or NetState()
    problems = Problems()
    notes: list[Problem] = []
    placed = filter_by_state(list(layers), state, problems)
    placed = insert_splits(placed, problems)
    plans = [_plan(layer, state.phase, problems, notes, allow_unknown) for layer in placed]
    sharing = _Sharing(problems)
    net = _assemble(plans, input_shapes or {}, sharing.make, problems, allow_unknown)
    if problems:
        # Where there is more that is wrong, what would have been let pass is told with it.
        unknown = [plan.definition for plan in plans if isinstance(plan.definition, UnknownLayer)]
        problems.found[:0] = [problem for definition in unknown for problem in definition.problems]
    problems.raise_if_any()
    assert net is not None
    return replace(net, name=name, phase=state.phase, notes=tuple(notes)), [layer.source_index for layer in placed]


def reshape(net: Net, shapes: Mapping[str, Sequence[int]]) -> Net:
    """`net` for inputs of other shapes: what Caffe's `Net::Reshape` gives. See `Net.with_input_shapes`."""
    unknown = sorted(set(shapes) - set(net.inputs))
    if unknown:
        raise GraphError(
            f"{', '.join(map(repr, unknown))}: no input of net {net.name!r}; it has {', '.join(net.inputs) or 'none'}"
        )
    net.require_known()
    problems = Problems()
    plans = [
        _Plan(
            name=layer.name,
            type=layer.type,
            definition=layer.definition,
            bottoms=tuple(blob.name for blob in layer.bottoms),
            tops=tuple(blob.name for blob in layer.tops),
            phase=layer.phase,
            loss_weights=layer.loss_weights,
            location=layer.location,
            automatic=layer.automatic,
            message=layer.message,
        )
        for layer in net.layers
    ]

    def keep(index: int, plan: _Plan, specs: Sequence[WeightSpec]) -> tuple[Weight, ...]:
        layer = net.layers[index]
        for weight, spec in zip(layer.weights, specs, strict=True):
            if weight.shape != spec.shape:
                raise ShapeError(
                    f"learned blob {weight.index} is {format_shape(weight.shape)}; "
                    f"these inputs need {format_shape(spec.shape)}"
                )
        return layer.weights

    whole = {**net.input_shapes, **shapes}
    renewed = _assemble(plans, whole, keep, problems)
    problems.raise_if_any()
    assert renewed is not None
    return replace(renewed, name=net.name, phase=net.phase, notes=net.notes, sources=net.sources, upgrades=net.upgrades)


def _plan(
    layer: PlacedLayer, net_phase: str, problems: Problems, notes: list[Problem], allow_unknown: bool = False
) -> _Plan:
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
        nearest = registry.nearest_types(message.type)
        hint = (
            f"did you mean {' or '.join(map(repr, nearest))}?"
            if nearest
            else "`caffe-port layers` lists the known ones"
        )
        forks = dialects.forks_of_type(message.type) or " / ".join(dict.fromkeys(dialects.fork_paths(message).values()))
        wrong(UnsupportedLayer, f"unknown layer type {message.type!r}", f"it may be of {forks}" if forks else hint)
    else:
        num_tops = len(message.top)
        if definition_class.auto_top:
            num_tops = max(num_tops, definition_class.tops.least)
        for what, counts, number in (
            ("bottoms", definition_class.bottoms, len(message.bottom)),
            ("tops", definition_class.tops, num_tops),
        ):
            if number not in counts:
                wrong(GraphError, f"{message.type} takes {counts} {what}, {number} are given")
        if definition_class.same_count and len(message.bottom) != num_tops:
            wrong(
                GraphError, f"{message.type} needs as many tops as bottoms ({num_tops} and {len(message.bottom)} given)"
            )
        if message.loss_weight and len(message.loss_weight) != num_tops:
            wrong(
                GraphError,
                f"{len(message.loss_weight)} loss_weight entries for {num_tops} tops",
                "give one a top, or none",
            )
        if message.propagate_down and len(message.propagate_down) != len(message.bottom):
            wrong(GraphError, f"{len(message.propagate_down)} propagate_down entries for {len(message.bottom)} bottoms")
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
    return _Plan(
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
            _ParamSpec(
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


def _declared(message: Any) -> type[LayerDef] | None:
    """The declaration of a layer: a Python layer whose class somebody declared needs no Python (`module.class`)."""
    if message.type == "Python":
        python = message.python_param
        known = registry.find_layer(f"{python.module}.{python.layer}")
        if known is not None:
            return known
    return registry.find_layer(message.type)


def _report_unread(
    spec: LayerSpec, wrong: Callable[[type[CaffePortError], str, str], None], layer: PlacedLayer, notes: list[Problem]
) -> None:
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
    for path, type_name, number in dialects.foreign_fields(spec.message):
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


class _Sharing:
    """Makes learned blobs, shared by `param` name as Net::AppendParam does."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._owners: dict[str, tuple[Weight, _ParamSpec]] = {}

    def make(self, _index: int, plan: _Plan, specs: Sequence[WeightSpec]) -> tuple[Weight, ...]:
        assert plan.definition is not None
        if len(plan.params) > len(specs):
            raise GraphError(f"{len(plan.params)} param entries for {len(specs)} learned blobs")
        frozen = plan.definition.frozen_weights
        weights = []
        for i, spec in enumerate(specs):
            param = plan.params[i] if i < len(plan.params) else _ParamSpec()
            if frozen and param.lr_mult:
                raise UnsupportedParameter(
                    f"lr_mult of learned blob {i} must be 0: {plan.type} computes it, nobody learns it"
                )
            default = 0.0 if frozen else 1.0
            weight = Weight(
                layer=plan.name,
                index=i,
                shape=check_shape(spec.shape),
                name=param.name,
                lr_mult=default if param.lr_mult is None else param.lr_mult,
                decay_mult=1.0 if param.decay_mult is None else param.decay_mult,
                filler=spec.filler,
                default_fill=spec.default_fill,
            )
            if spec.filler is not None and not plan.has_blobs:
                Filler.parse(spec.filler).check(weight.shape)
            if param.name:
                weight = self._share(plan, weight, param)
            weights.append(weight)
        return tuple(weights)

    def _share(self, plan: _Plan, weight: Weight, param: _ParamSpec) -> Weight:
        if param.name not in self._owners:
            self._owners[param.name] = (weight, param)
            return weight
        owner, owner_param = self._owners[param.name]
        if param.permissive:
            if count(owner.shape) != count(weight.shape):
                raise ShapeError(
                    f"shares param {param.name!r} with {owner.label}: {count(weight.shape)} elements here, "
                    f"{count(owner.shape)} there"
                )
        elif owner.shape != weight.shape:
            raise ShapeError(
                f"shares param {param.name!r} with {owner.label}: shape {format_shape(weight.shape)} here, "
                f"{format_shape(owner.shape)} there"
            )
        for what in ("lr_mult", "decay_mult"):
            mine, theirs = getattr(param, what), getattr(owner_param, what)
            if mine is not None and theirs is not None and mine != theirs:
                raise GraphError(
                    f"shares param {param.name!r} with {owner.label}, with another {what}: {mine:g}, not {theirs:g}"
                )
        # An explicit multiplier of the sharer would fill in an unset one of the owner; only training would notice.
        return replace(weight, owner=owner, lr_mult=owner.lr_mult, decay_mult=owner.decay_mult)


class _Blobs:
    """The table of current blobs while layers are laid down in order, with what shares memory with what."""

    def __init__(self) -> None:
        self.current: dict[str, Blob | None] = {}
        self.unconsumed: dict[str, None] = {}
        self._memory: dict[str, int] = {}

    def write(self, name: str, shape: Shape, shares_with: str | None, number: int) -> Blob:
        """A new blob, or a new version of one that a layer overwrites in place."""
        previous = self.current.get(name)
        blob = Blob(name, shape, 0 if previous is None else previous.version + 1)
        if previous is not None:
            for other, memory in self._memory.items():
                other_blob = self.current[other]
                if other != name and memory == self._memory[name] and other_blob is not None:
                    self.current[other] = replace(other_blob, version=other_blob.version + 1, alias_of=blob)
        self._memory[name] = self._memory[shares_with] if shares_with is not None else self._memory.get(name, number)
        self.current[name] = blob
        return blob


def _assemble(
    plans: Sequence[_Plan],
    input_shapes: Mapping[str, Sequence[int]],
    make_weights: _WeightMaker,
    problems: Problems,
    allow_unknown: bool = False,
) -> Net | None:
    """Lays the layers down in order. A layer whose bottoms are unknown because of another's problem is passed over."""
    table = _Blobs()
    layers: list[Layer] = []
    input_blobs: list[Blob] = []
    for index, plan in enumerate(plans):
        definition = plan.definition
        bottoms = [table.current.get(name) for name in plan.bottoms]
        for name in plan.bottoms:
            table.unconsumed.pop(name, None)
        try:
            _check_tops(plan, table)
            top_shapes: list[Shape] = []
            weights: tuple[Weight, ...] = ()
            known = [blob for blob in bottoms if blob is not None]
            if definition is not None and len(known) == len(bottoms):
                bottom_shapes = [blob.shape for blob in known]
                if definition.is_input and not isinstance(definition, UnknownLayer):
                    top_shapes, missing = _input_shapes(plan, definition, input_shapes)
                    if missing and not allow_unknown:
                        raise ShapeError(missing[0].message)
                    if missing:
                        definition = UnknownLayer(plan.type, missing, is_input=True)
                elif any(shape is UNKNOWN for shape in bottom_shapes) and not isinstance(definition, UnknownLayer):
                    definition = UnknownLayer(plan.type)
                if isinstance(definition, UnknownLayer):
                    top_shapes = top_shapes or [UNKNOWN] * len(plan.tops)
                else:
                    if not definition.is_input:
                        top_shapes = [check_shape(shape) for shape in definition.top_shapes(bottom_shapes)]
                    specs = definition.weight_specs(bottom_shapes)
                    weights = make_weights(index, plan, specs) if specs or plan.params else ()
            else:
                definition = None
        except CaffePortError as error:
            problems.add(type(error), str(error), layer=plan.name, location=plan.location)
            definition = None
        tops: list[Blob] = []
        for j, name in enumerate(plan.tops):
            if definition is None:
                table.current[name] = None
            elif name == AUTOMATIC_TOP:
                tops.append(Blob(name, top_shapes[j]))
                continue
            else:
                views = definition.views_bottom(len(plan.bottoms), len(plan.tops))
                shares = plan.bottoms[0] if views and name != plan.bottoms[0] else None
                tops.append(table.write(name, top_shapes[j], shares, index * 1000 + j))
            table.unconsumed[name] = None
        if definition is None:
            continue
        if definition.is_input:
            input_blobs.extend(tops)
        layers.append(
            Layer(
                index=index,
                name=plan.name,
                definition=definition,
                bottoms=tuple(known),
                tops=tuple(tops),
                weights=weights,
                phase=plan.phase,
                loss_weights=plan.loss_weights,
                location=plan.location,
                automatic=plan.automatic,
                message=plan.message,
            )
        )
    unknown = sorted(set(input_shapes) - {blob.name for blob in input_blobs})
    if unknown and not problems:
        problems.add(GraphError, f"a shape is given for {', '.join(map(repr, unknown))}, which is no input of the net")
    if problems:
        return None
    blobs = {name: blob for name, blob in table.current.items() if blob is not None}
    return Net(
        name="",
        phase="",
        layers=tuple(layers),
        input_blobs=tuple(input_blobs),
        output_blobs=tuple(blobs[name] for name in sorted(table.unconsumed, key=_as_cpp_sorts)),
        blobs=MappingProxyType(blobs),
    )


def _as_cpp_sorts(name: str) -> bytes:
    """std::set<string> compares bytes."""
    return name.encode()


def _check_tops(plan: _Plan, table: _Blobs) -> None:
    """Tops must be new names, or a bottom's own at the same position."""
    definition = plan.definition
    seen: set[str] = set()
    for j, name in enumerate(plan.tops):
        if name == AUTOMATIC_TOP:
            continue
        if j < len(plan.bottoms) and plan.bottoms[j] == name:
            if definition is not None and definition.in_place == "refused":
                raise GraphError(f"{plan.type} cannot work in place: top {name!r} is its own bottom")
        elif name in table.current or name in seen:
            hint = ""
            if f"{name}_" in "".join(plan.bottoms):
                hint = ": it is used by other layers too, so Caffe splits it and this layer is not in place any more"
            raise GraphError(f"top {name!r} is already made by an earlier layer{hint}")
        seen.add(name)


def _input_shapes(
    plan: _Plan, definition: LayerDef, given: Mapping[str, Sequence[int]]
) -> tuple[list[Shape], tuple[Problem, ...]]:
    """Shapes of an input layer's tops: the caller's where given, else the prototxt's, else UNKNOWN and a problem."""
    missing = []
    declared: Sequence[Shape | None] = definition.declared_shapes(len(plan.tops))
    shapes: list[Shape] = []
    for name, shape in zip(plan.tops, declared, strict=True):
        chosen = given.get(name, shape)
        if chosen is None:
            text = f"the shape of {name!r} is not in the file: give it (input_shapes=, --input-shape {name}=N,C,H,W)"
            missing.append(Problem(ShapeError, text, plan.name, plan.location))
            shapes.append(UNKNOWN)
            continue
        shapes.append(check_shape([int(dim) for dim in chosen]))
    return shapes, tuple(missing)
