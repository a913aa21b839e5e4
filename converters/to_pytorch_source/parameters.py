"""What differs between the uses of a block: numbers of channels and strides, as the parameters of its class."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from caffe_port.converters.to_pytorch_source import names
from caffe_port.converters.to_pytorch_source.graph import Argument, Channels, Module, Stride, Value
from caffe_port.converters.to_pytorch_source.parts import Part

__all__ = ["Parameter", "find_parameters", "name_parameters", "rank", "same_channels"]


@dataclass(slots=True)
class Parameter:
    """What differs between the uses: a number for each, and the places in the constructors that it stands in."""

    kind: type
    numbers: dict[int, int]
    """By use; a use without the projection has none for what stands in the projection alone."""

    def agrees(self, other: Parameter) -> bool:
        """Whether both have the same number in every use that has both."""
        both = self.numbers.keys() & other.numbers.keys()
        return self.kind is other.kind and bool(both) and all(self.numbers[i] == other.numbers[i] for i in both)


def find_parameters(parts: Sequence[Part]) -> dict[tuple[Module, int], Parameter] | None:
    """For each argument of a complete use's modules that may differ, its parameter; equal ones are one.

    None if some use has no number for one of them.
    """
    model = next((part for part in parts if part.optional), parts[0])
    heads = same_channels(model)
    # The value at one place in each use; the projection's are missing in some.
    places: dict[Value, dict[int, Value]] = {}
    arguments: dict[tuple[Module, int], dict[int, Argument]] = {}
    for i, part in enumerate(parts):
        complete = len(part.optional) == len(model.optional)
        ours = model.all_ops if complete else model.ops
        theirs = part.all_ops if complete else part.ops
        places.setdefault(model.entry, {})[i] = part.entry
        for own, other in zip(ours, theirs, strict=True):
            for a, b in zip(own.outputs, other.outputs, strict=True):
                places.setdefault(a, {})[i] = b
            for module, counterpart in zip(own.modules, other.modules, strict=True):
                for j, (_, argument) in enumerate(counterpart.arguments):
                    arguments.setdefault((module, j), {})[i] = argument
    channels: dict[Value, Parameter] = {}
    for value, head in heads.items():
        numbers = {i: found.shape[1] for i, found in places[value].items() if len(found.shape) > 1}
        parameter = channels.setdefault(head, Parameter(Channels, {}))
        parameter.numbers |= numbers
    slots: dict[tuple[Module, int], Parameter] = {}
    for (module, j), found in arguments.items():
        argument = module.arguments[j][1]
        if isinstance(argument, Channels):
            slots[module, j] = channels[heads[argument.of]]
        elif isinstance(argument, Stride):
            slots[module, j] = Parameter(Stride, {i: a.number for i, a in found.items() if isinstance(a, Stride)})
    distinct: list[Parameter] = []
    for key, parameter in sorted(slots.items(), key=lambda item: -len(item[1].numbers)):
        if len(set(parameter.numbers.values())) > 1:
            same = next((other for other in distinct if other.agrees(parameter)), None)
            if same is None:
                distinct.append(parameter)
            slots[key] = same or parameter
    if any(len(parameter.numbers) != len(parts) for parameter in distinct):
        return None
    order = list(arguments)
    return {key: slots[key] for key in order if key in slots}


def same_channels(part: Part) -> dict[Value, Value]:
    """For each value of a part the one it must have as many channels as."""
    heads = {value: value for value in part.values()}

    def head(value: Value) -> Value:
        while heads[value] is not value:
            value = heads[value]
        return value

    for op in part.all_ops:
        if op.keeps_channels:
            for value in (*op.inputs, *op.outputs):
                # The earliest stands for all: that is the entry, if it is among them.
                one, other = sorted((head(op.inputs[0]), head(value)), key=part.values().index)
                heads[other] = one
    return {value: head(value) for value in heads}


def name_parameters(
    slots: Mapping[tuple[Module, int], Parameter], model: Part, attributes: Mapping[Module, str]
) -> dict[int, str]:
    """A name for each parameter that differs between the uses."""
    heads = same_channels(model)
    outputs = {value: module for op in model.all_ops for module in op.modules for value in op.outputs}
    scope = names.Names(set())
    makers: dict[int, list[str]] = {}
    found: dict[int, str] = {}
    varying = {id(p): p for p in slots.values() if len(set(p.numbers.values())) > 1}
    for (module, j), parameter in slots.items():
        argument = module.arguments[j][1]
        if isinstance(argument, Channels) and outputs.get(argument.of) is module and j == 1:
            makers.setdefault(id(parameter), []).append(attributes[module])
    ends: dict[int, set[Value]] = {}
    for (module, j), slot in slots.items():
        argument = module.arguments[j][1]
        if isinstance(argument, Channels):
            ends.setdefault(id(slot), set()).add(heads[argument.of])
    is_in = {key for key, values in ends.items() if heads[model.entry] in values}
    is_out = {key for key, values in ends.items() if heads.get(model.exit) in values}
    inner = [key for key, p in varying.items() if p.kind is Channels and key not in is_in | is_out]
    for key, parameter in varying.items():
        if parameter.kind is Stride:
            wanted = "stride"
        elif key in is_in:
            wanted = "channels" if key in is_out and not inner else "in_channels"
        elif key in is_out:
            wanted = "out_channels"
        elif len(inner) == 1:
            wanted = "mid_channels"
        else:
            wanted = _channels_name(makers.get(key, []))
        found[key] = scope.add(wanted, "channels")
    return found


def _channels_name(makers: Sequence[str]) -> str:
    """channels_3x3 for conv_3x3; of several makers what their names begin with: channels_expand."""
    short = [re.sub(r"^conv_", "", maker) for maker in makers]
    common = short[0] if short else ""
    for name in short[1:]:
        while not name.startswith(common):
            common = common[:-1]
    if len(short) > 1:
        common = re.sub(r"[\d_]+$", "", common)
    return f"channels_{common}" if common else "mid_channels"


def rank(parameter: Parameter, name: str) -> int:
    """Where a parameter stands among those of a class: what goes in, what is between, what comes out, the stride."""
    order = {"in_channels": 0, "channels": 0, "out_channels": 2}
    return 3 if parameter.kind is Stride else order.get(name, 1)
