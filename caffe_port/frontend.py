"""Which layers a net really has: Caffe's state rules and the Split layers it inserts (net.cpp, insert_splits.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from caffe_port.errors import GraphError, Location, Problems

__all__ = ["NetState", "PlacedLayer", "filter_by_state", "insert_splits"]


@dataclass(frozen=True, slots=True)
class NetState:
    """What include and exclude rules are held against."""

    phase: str = "TEST"
    level: int = 0
    stages: tuple[str, ...] = ()


@dataclass(slots=True)
class PlacedLayer:
    """A LayerParameter message and the place in the file it came from."""

    message: Any
    location: Location | None
    source_index: int
    automatic: bool = False

    @property
    def name(self) -> str:
        return str(self.message.name)


def _phase_name(message: Any) -> str:
    """The name of the value of a message's `phase` field."""
    return str(message.DESCRIPTOR.fields_by_name["phase"].enum_type.values_by_number[message.phase].name)


def _rule_matches(rule: Any, state: NetState) -> bool:
    """Whether a NetStateRule matches: all its set fields must hold, so an empty one always does."""
    if rule.HasField("phase") and _phase_name(rule) != state.phase:
        return False
    if rule.HasField("min_level") and state.level < rule.min_level:
        return False
    if rule.HasField("max_level") and state.level > rule.max_level:
        return False
    if any(stage not in state.stages for stage in rule.stage):
        return False
    return not any(stage in state.stages for stage in rule.not_stage)


def filter_by_state(layers: Sequence[PlacedLayer], state: NetState, problems: Problems) -> list[PlacedLayer]:
    """The layers whose include and exclude rules keep them in `state`."""
    kept = []
    for layer in layers:
        message = layer.message
        if message.include and message.exclude:
            problems.add(
                GraphError,
                "has both include and exclude rules",
                layer=layer.name,
                location=layer.location,
                hint="give one kind or the other",
            )
            continue
        if message.include:
            keep = any(_rule_matches(rule, state) for rule in message.include)
        else:
            keep = not any(_rule_matches(rule, state) for rule in message.exclude)
        if keep:
            kept.append(layer)
    return kept


def insert_splits(layers: Sequence[PlacedLayer], problems: Problems) -> list[PlacedLayer]:
    """Puts a Split layer behind each top that more than one bottom (or a loss weight) uses, named as Caffe names it."""
    last_top: dict[str, tuple[int, int]] = {}
    source_of: dict[tuple[int, int], tuple[int, int]] = {}
    uses: dict[tuple[int, int], int] = {}
    loss_weight_of: dict[tuple[int, int], float] = {}
    last_maker = {top: i for i, layer in enumerate(layers) for top in layer.message.top}
    for i, layer in enumerate(layers):
        message = layer.message
        for j, bottom in enumerate(message.bottom):
            if bottom not in last_top:
                hint = "tops must be made by an earlier layer of the file"
                if last_maker.get(bottom, -1) >= i:
                    hint = "it is made by a later layer; Caffe does not sort layers"
                problems.add(
                    GraphError, f"unknown bottom {bottom!r}", layer=layer.name, location=layer.location, hint=hint
                )
                continue
            source_of[i, j] = last_top[bottom]
            uses[last_top[bottom]] = uses.get(last_top[bottom], 0) + 1
        for j, top in enumerate(message.top):
            last_top[top] = (i, j)
        for j, weight in enumerate(message.loss_weight[: len(message.top)]):
            if weight:
                key = last_top[message.top[j]]
                loss_weight_of[key] = weight
                uses[key] = uses.get(key, 0) + 1

    result: list[PlacedLayer] = []
    next_split: dict[tuple[int, int], int] = {}
    for i, layer in enumerate(layers):
        message = layer.message
        original_bottoms = list(message.bottom)
        needs_change = any(uses[source_of[i, j]] > 1 for j in range(len(original_bottoms)) if (i, j) in source_of)
        split_tops = [j for j in range(len(message.top)) if uses.get((i, j), 0) > 1]
        if needs_change or split_tops:
            copy = type(message)()
            copy.CopyFrom(message)
            message = copy
        for j, bottom in enumerate(original_bottoms):
            source = source_of.get((i, j))
            if source is not None and uses[source] > 1:
                k = next_split.get(source, 0)
                next_split[source] = k + 1
                message.bottom[j] = _split_top(layers[source[0]].name, bottom, source[1], k)
        result.append(PlacedLayer(message, layer.location, layer.source_index, layer.automatic))
        for j in split_tops:
            top = message.top[j]
            split = type(message)()
            split.name = _split_name(layer.name, top, j)
            split.type = "Split"
            split.bottom.append(top)
            for k in range(uses[i, j]):
                split.top.append(_split_top(layer.name, top, j, k))
                if k == 0 and loss_weight_of.get((i, j)):
                    split.loss_weight.append(loss_weight_of[i, j])
                elif loss_weight_of.get((i, j)):
                    split.loss_weight.append(0.0)
            if loss_weight_of.get((i, j)):
                del message.loss_weight[:]
                next_split[i, j] = next_split.get((i, j), 0) + 1
            result.append(PlacedLayer(split, layer.location, -1, automatic=True))
    return result


def _split_name(layer: str, blob: str, top_index: int) -> str:
    return f"{blob}_{layer}_{top_index}_split"


def _split_top(layer: str, blob: str, top_index: int, k: int) -> str:
    return f"{_split_name(layer, blob, top_index)}_{k}"
