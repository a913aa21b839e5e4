"""NetParameter → Net, by Caffe's own rules (net.cpp): layers are laid down in order, with blobs and their shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from caffe_port.blob_table import BlobTable
from caffe_port.errors import CaffePortError, GraphError, Problem, Problems, ShapeError
from caffe_port.frontend import NetState, PlacedLayer, filter_by_state, insert_splits
from caffe_port.layer_plans import AUTOMATIC_TOP, LayerPlan, plan_layer
from caffe_port.layers.base import LayerDef, WeightSpec
from caffe_port.layers.unknown import UnknownLayer
from caffe_port.net import Blob, Layer, Net, Weight
from caffe_port.shapes import UNKNOWN, Shape, check_shape, format_shape
from caffe_port.weight_sharing import WeightSharing

__all__ = ["build", "reshape"]

_WeightMaker = Callable[[int, LayerPlan, Sequence[WeightSpec]], tuple[Weight, ...]]


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
    plans = [plan_layer(layer, state.phase, problems, notes, allow_unknown) for layer in placed]
    net = _assemble(plans, input_shapes or {}, WeightSharing().make, problems, allow_unknown)
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
        LayerPlan(
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

    def keep(index: int, plan: LayerPlan, specs: Sequence[WeightSpec]) -> tuple[Weight, ...]:
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


def _assemble(
    plans: Sequence[LayerPlan],
    input_shapes: Mapping[str, Sequence[int]],
    make_weights: _WeightMaker,
    problems: Problems,
    allow_unknown: bool = False,
) -> Net | None:
    """Lays the layers down in order. A layer whose bottoms are unknown because of another's problem is passed over."""
    table = BlobTable()
    layers: list[Layer] = []
    input_blobs: list[Blob] = []
    for index, plan in enumerate(plans):
        definition = plan.definition
        bottoms = [table.get(name) for name in plan.bottoms]
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
                table.set_unknown(name)
            elif name == AUTOMATIC_TOP:
                tops.append(Blob(name, top_shapes[j]))
                continue
            else:
                views = definition.views_bottom(len(plan.bottoms), len(plan.tops))
                shares = plan.bottoms[0] if views and name != plan.bottoms[0] else None
                tops.append(table.write(name, top_shapes[j], shares))
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
    blobs = {name: blob for name in table if (blob := table.get(name)) is not None}
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


def _check_tops(plan: LayerPlan, table: BlobTable) -> None:
    """Tops must be new names, or a bottom's own at the same position."""
    definition = plan.definition
    seen: set[str] = set()
    for j, name in enumerate(plan.tops):
        if name == AUTOMATIC_TOP:
            continue
        if j < len(plan.bottoms) and plan.bottoms[j] == name:
            if definition is not None and definition.in_place == "refused":
                raise GraphError(f"{plan.type} cannot work in place: top {name!r} is its own bottom")
        elif name in table or name in seen:
            hint = ""
            if f"{name}_" in "".join(plan.bottoms):
                hint = ": it is used by other layers too, so Caffe splits it and this layer is not in place any more"
            raise GraphError(f"top {name!r} is already made by an earlier layer{hint}")
        seen.add(name)


def _input_shapes(
    plan: LayerPlan, definition: LayerDef, given: Mapping[str, Sequence[int]]
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
