"""Finds what a net repeats, and makes classes of it.

A block is a part of the graph with one value going in and one coming out, in which ways part and join again. Blocks of
equal structure become the uses of one class; numbers of channels and strides may differ, and are its arguments. Where
one way from the input to the joint (a projection) is there in some uses only, it is optional.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from caffe_port.converters.to_pytorch_source import names
from caffe_port.converters.to_pytorch_source.operations import (
    Argument,
    Channels,
    Graph,
    Module,
    Op,
    Stride,
    Value,
    Written,
    literal,
)

__all__ = ["BlockClass", "extract_blocks", "make_stages"]

MOST_OPS = 200
"""A part larger than this is no block that a reader would want."""


@dataclass(slots=True, eq=False)
class BlockClass:
    """A class of the source: its parameters, what its first complete use has in it, and how it is called there."""

    name: str
    parameters: tuple[tuple[str, str], ...]
    """Declarations with their annotations and defaults: ("in_channels", "int"), ("stride", "int = 1")."""
    ops: list[Op]
    optional: list[Op]
    """The projection's, made and called only where the argument `projection` is set."""
    entry: Value
    exit: Value
    attributes: dict[Module, str]
    arguments: dict[Module, tuple[tuple[str, str], ...]]
    """Arguments of the modules' constructors as source text."""
    uses: tuple[str, ...]
    """The names of its uses in Caffe, or none where they have no pattern."""
    example: tuple[str, str]
    """A layer of the first use, and what it is called here."""


@dataclass(slots=True, eq=False)
class _Part:
    """A part of a graph in canonical order: ops, and the chain that may be missing elsewhere."""

    entry: Value
    exit: Value
    ops: list[Op]
    optional: list[Op] = field(default_factory=list)

    @property
    def all_ops(self) -> list[Op]:
        return [*self.optional, *self.ops]

    def values(self) -> list[Value]:
        return [self.entry, *(value for op in self.all_ops for value in op.outputs)]


class _Uses:
    """Who makes and who reads each value of a graph."""

    def __init__(self, graph: Graph) -> None:
        self.makers = {value: op for op in graph.ops for value in op.outputs}
        self.position = {op: i for i, op in enumerate(graph.ops)}
        self.readers: dict[Value, list[Op]] = {}
        for op in graph.ops:
            for value in dict.fromkeys(op.inputs):
                self.readers.setdefault(value, []).append(op)
        self.outputs = {value for _, value in graph.outputs}
        calls: dict[Module, int] = {}
        for op in graph.ops:
            for module in op.modules:
                calls[module] = calls.get(module, 0) + 1
        held = {holder for module in calls for _, holder, _ in module.tied}
        self.shared = {module for module, times in calls.items() if times > 1 or module.tied} | held

    def only_reader(self, value: Value) -> Op | None:
        readers = self.readers.get(value, [])
        return readers[0] if len(readers) == 1 and value not in self.outputs else None


def extract_blocks(graph: Graph, taken: names.Names) -> list[BlockClass]:
    """Replaces the repeated parts of a graph by calls of blocks, in place, and returns their classes.

    `taken`: the names of classes that are given away.
    """
    uses = _Uses(graph)
    groups: dict[object, list[_Part]] = {}
    for part in _parts(graph, uses):
        groups.setdefault(_signature(part.ops, part.entry), []).append(part)
    inside = {op for group in groups.values() if len(group) > 1 for part in group for op in part.ops}
    for group in groups.values():
        _extend_backward(group, uses, inside)
    merged = _with_optional(list(groups.values()), uses)
    classes = []
    used: set[Op] = set()
    for group in sorted(merged, key=lambda group: (-len(group[0].all_ops), uses.position[group[0].ops[0]])):
        free = [part for part in group if not used.intersection(part.all_ops)]
        if len(free) < 2:
            continue
        made = _make_class(free, taken, uses)
        if made is None:
            continue
        block, calls = made
        classes.append(block)
        for part, call in zip(free, calls, strict=True):
            used.update(part.all_ops)
            last = max(part.all_ops, key=uses.position.__getitem__)
            graph.ops[graph.ops.index(last)] = call
        graph.ops[:] = [op for op in graph.ops if op not in used]
    return classes


# Parts


def _parts(graph: Graph, uses: _Uses) -> Iterable[_Part]:
    """Each part between a value and the joint of all ways from it, with the activation behind the joint."""
    depth: dict[Value, int] = {}
    above: dict[Value, Value | None] = {}

    def common(a: Value | None, b: Value | None) -> Value | None:
        while a is not b:
            if a is None or b is None:
                return None
            if depth[a] < depth[b]:
                a, b = b, a
            a = above[a]
        return a

    for value in graph.inputs:
        depth[value], above[value] = 0, None
    for op in graph.ops:
        inputs = list(dict.fromkeys(op.inputs))
        dominator = inputs[0] if inputs else None
        for value in inputs[1:]:
            dominator = common(dominator, value)
        for value in op.outputs:
            above[value] = dominator
            depth[value] = 0 if dominator is None else depth[dominator] + 1
        if len(inputs) < 2 or dominator is None or len(op.outputs) != 1:
            continue
        found = _part(op.outputs[0], dominator, uses)
        if found is not None:
            yield found


def _part(exit: Value, entry: Value, uses: _Uses) -> _Part | None:
    """The part between two values, or None if something else reads what is in it."""
    ops = _ordered(exit, entry, uses)
    if ops is None or not any(op.modules for op in ops):
        return None
    inside = set(ops)
    for op in ops:
        if uses.shared.intersection(op.modules):
            return None
        for value in op.outputs:
            if value is not exit and (value in uses.outputs or not inside.issuperset(uses.readers.get(value, []))):
                return None
    behind = uses.only_reader(exit)
    if behind is not None and behind.role == "light" and len(behind.inputs) == 1 and not behind.modules:
        ops.append(behind)
        exit = behind.outputs[0]
    return _Part(entry, exit, ops)


def _extend_backward(group: Sequence[_Part], uses: _Uses, inside: set[Op]) -> None:
    """Takes into parts the calls before them that all have alike (the squeezing convolution of a fire module)."""
    while len(group) > 1:
        before = [uses.makers.get(part.entry) for part in group]
        ops = [op for op in before if op is not None and len(op.inputs) == len(op.outputs) == 1 and op not in inside]
        if len(set(ops)) != len(group) or len({_signature([op], op.inputs[0]) for op in ops}) > 1:
            return
        for part, op in zip(group, ops, strict=True):
            own = set(part.ops)
            if part.entry in uses.outputs or not own.issuperset(uses.readers[part.entry]):
                return
            if uses.shared.intersection(op.modules):
                return
        for part, op in zip(group, ops, strict=True):
            part.ops.insert(0, op)
            part.entry = op.inputs[0]
            inside.add(op)


def _ordered(exit: Value, entry: Value, uses: _Uses) -> list[Op] | None:
    """The ops between two values, each behind those it reads, the ways in the order in which they are joined."""
    ops: list[Op] = []
    seen: set[Op] = set()
    stack: list[tuple[Op, bool]] = [(uses.makers[exit], False)]
    while stack:
        op, is_left = stack.pop()
        if is_left:
            ops.append(op)
            continue
        if op in seen:
            continue
        seen.add(op)
        if len(seen) > MOST_OPS or not op.inputs:
            return None
        stack.append((op, True))
        for value in reversed(op.inputs):
            if value is not entry:
                stack.append((uses.makers[value], False))
    return ops


def _signature(ops: Sequence[Op], entry: Value, instead: Mapping[Value, Value] | None = None) -> object:
    """What two parts must have in common to be uses of one class. `instead`: values to be taken for others."""
    instead = instead or {}
    index: dict[Value, int] = {entry: 0}
    found = []
    for op in ops:
        inputs = tuple(index[instead.get(value, value)] for value in op.inputs)
        for value in op.outputs:
            index[value] = len(index)
        modules = tuple((m.constructor, tuple((key, _kind(a)) for key, a in m.arguments)) for m in op.modules)
        tensors = tuple((own, t.kind) for m in op.modules for own, t in m.tensors.items() if t.kind != "zeros")
        found.append((op.expression, op.role, modules, tensors, inputs, len(op.outputs), len(op.outputs[0].shape)))
    return tuple(found)


def _kind(argument: Argument) -> object:
    return argument if isinstance(argument, int | Written) else type(argument).__name__


def _with_optional(groups: list[list[_Part]], uses: _Uses) -> list[list[_Part]]:
    """Groups, those that differ only by a chain from the entry to a joint (a projection) made one."""
    by_signature = {_signature(group[0].ops, group[0].entry): group for group in groups}
    result = {id(group): group for group in groups}
    for group in sorted(groups, key=lambda group: -len(group[0].ops)):
        joints = [(i, j) for i, op in enumerate(group[0].ops) for j in range(len(op.inputs)) if len(op.inputs) > 1]
        for place in joints:
            plain = None
            chain = _chain_to(group[0], place, uses)
            if chain:
                rest = [op for op in group[0].ops if op not in chain]
                end = chain[-1].outputs[0]
                plain = by_signature.get(_signature(rest, group[0].entry, {end: group[0].entry}))
            if plain is None or plain is group or id(plain) not in result or id(group) not in result:
                continue
            joined = []
            for part in group:
                chain = _chain_to(part, place, uses)
                rest = [op for op in part.ops if op not in chain]
                joined.append(_Part(part.entry, part.exit, rest, chain))
            joined = sorted([*joined, *plain], key=lambda part: uses.position[part.ops[-1]])
            if _parameters(joined) is not None:
                del result[id(plain)]
                result[id(group)] = joined
                break
    return list(result.values())


def _chain_to(part: _Part, place: tuple[int, int], uses: _Uses) -> list[Op]:
    """The ops from the part's entry to an input of an op (their positions), if they are no more than a chain."""
    position, number = place
    value = part.ops[position].inputs[number]
    chain: list[Op] = []
    while value is not part.entry:
        op = uses.makers[value]
        if len(op.inputs) != 1 or len(op.outputs) != 1 or uses.only_reader(value) is None:
            return []
        chain.insert(0, op)
        value = op.inputs[0]
    return chain if chain and chain[0].modules else []


# Parameters


@dataclass(slots=True)
class _Parameter:
    """What differs between the uses: a number for each, and the places in the constructors that it stands in."""

    kind: type
    numbers: dict[int, int]
    """By use; a use without the projection has none for what stands in the projection alone."""
    source: Value | None = None

    def agrees(self, other: _Parameter) -> bool:
        both = self.numbers.keys() & other.numbers.keys()
        return self.kind is other.kind and bool(both) and all(self.numbers[i] == other.numbers[i] for i in both)


def _parameters(parts: Sequence[_Part]) -> dict[tuple[Module, int], _Parameter] | None:
    """For each argument of a complete use's modules that may differ, its parameter; equal ones are one.

    None if some use has no number for one of them.
    """
    model = next((part for part in parts if part.optional), parts[0])
    heads = _same_channels(model)
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
    channels: dict[Value, _Parameter] = {}
    for value, head in heads.items():
        numbers = {i: found.shape[1] for i, found in places[value].items() if len(found.shape) > 1}
        parameter = channels.setdefault(head, _Parameter(Channels, {}, head))
        parameter.numbers |= numbers
    slots: dict[tuple[Module, int], _Parameter] = {}
    for (module, j), found in arguments.items():
        argument = module.arguments[j][1]
        if isinstance(argument, Channels):
            slots[module, j] = channels[heads[argument.of]]
        elif isinstance(argument, Stride):
            slots[module, j] = _Parameter(Stride, {i: a.number for i, a in found.items() if isinstance(a, Stride)})
    distinct: list[_Parameter] = []
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


def _same_channels(part: _Part) -> dict[Value, Value]:
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


# Classes


def _make_class(parts: Sequence[_Part], taken: names.Names, uses: _Uses) -> tuple[BlockClass, list[Op]] | None:
    slots = _parameters(parts)
    if slots is None:
        return None
    model = next((part for part in parts if part.optional), parts[0])
    has_choice = any(not part.optional for part in parts) and bool(model.optional)
    rows = _rows(parts, model)
    modules = [module for op in model.all_ops for module in op.modules]
    pattern = _pattern(parts, model, [[m.name if m else None for m in rows[module]] for module in modules])
    attributes = _attributes(modules, pattern)
    block_name = taken.add(_class_name(model, pattern), "Block")
    parameter_names = _parameter_names(slots, model, attributes)
    written: dict[Module, tuple[tuple[str, str], ...]] = {}
    for module in modules:
        texts = []
        for j, (key, argument) in enumerate(module.arguments):
            parameter = slots.get((module, j))
            text = (
                literal(argument)
                if parameter is None
                else parameter_names.get(id(parameter)) or str(next(iter(parameter.numbers.values())))
            )
            if not (key == "stride" and text == "1"):
                texts.append((key, text))
        written[module] = tuple(texts)
        module.comment = _comment(module, rows[module], pattern)
    _comment_calls(parts, model, pattern)
    distinct = {id(p): p for p in slots.values() if id(p) in parameter_names}
    ordered = sorted(distinct.values(), key=lambda p: _rank(p, parameter_names[id(p)]))
    declarations = []
    defaults: dict[int, int] = {}
    for parameter in ordered:
        is_stride = parameter.kind is Stride and 1 in parameter.numbers.values()
        if is_stride:
            defaults[id(parameter)] = 1
        declarations.append((parameter_names[id(parameter)], "int = 1" if is_stride else "int"))
    if has_choice:
        declarations.append(("projection", "bool = False"))
    block = BlockClass(
        block_name,
        tuple(declarations),
        model.ops,
        model.optional if has_choice else [],
        model.entry,
        model.exit,
        attributes,
        written,
        pattern.own if pattern else (),
        _example(modules, rows, attributes),
    )
    if not has_choice:
        block.ops = model.all_ops
    calls = []
    for i, part in enumerate(parts):
        arguments: list[tuple[str, Argument]] = []
        for parameter in ordered:
            number = parameter.numbers[i]
            if id(parameter) not in defaults:
                arguments.append(("", number))
            elif number != defaults[id(parameter)]:
                arguments.append((parameter_names[id(parameter)], number))
        if has_choice and part.optional:
            arguments.append(("projection", Written("True")))
        calls.append(_call(block, part, model, i, arguments, rows, pattern))
    return block, calls


def _pattern(parts: Sequence[_Part], model: _Part, own: Sequence[Sequence[str | None]]) -> names.Pattern | None:
    """The pattern of the names of a block's modules (`own`), if it can be of all its layers' names."""
    others = [
        [None if op is None else op.layers[k] for op in row]
        for first, row in _op_rows(parts, model).items()
        for k in range(len(first.layers))
    ]
    return names.pattern([*own, *others]) or names.pattern(own)


def _op_rows(parts: Sequence[_Part], model: _Part) -> dict[Op, list[Op | None]]:
    """For each op of the complete use, its counterpart in each use."""
    rows: dict[Op, list[Op | None]] = {op: [] for op in model.all_ops}
    for part in parts:
        missing = [] if len(part.optional) == len(model.optional) else [None] * len(model.optional)
        for own, other in zip(model.all_ops, [*missing, *part.all_ops], strict=True):
            rows[own].append(other)
    return rows


def _rows(parts: Sequence[_Part], model: _Part) -> dict[Module, list[Module | None]]:
    """For each module of the complete use, its counterpart in each use."""
    return {
        module: [None if other is None else other.modules[j] for other in row]
        for op, row in _op_rows(parts, model).items()
        for j, module in enumerate(op.modules)
    }


def _call(
    block: BlockClass,
    part: _Part,
    model: _Part,
    i: int,
    arguments: Sequence[tuple[str, Argument]],
    rows: Mapping[Module, Sequence[Module | None]],
    pattern: names.Pattern | None,
) -> Op:
    """The call of a block that stands for a part."""
    *_, last = (row[i] for row in rows.values() if row[i] is not None)
    assert last is not None
    joint = next((layer for op in reversed(part.ops) if len(op.inputs) > 1 for layer in op.layers), last.name)
    if pattern is not None:
        own = pattern.own[i]
        if not own[0].isalpha():
            told = next((text for text in (joint, last.name) if own in text), own)
            own = told[: told.index(own) + len(own)]
    else:
        own = joint
    module = Module(block.name, tuple(arguments), own, "block")
    if pattern is None:
        first = next(row[i] for row in rows.values() if row[i] is not None)
        assert first is not None
        module.comment = f"{names.label(first.name)} to {names.label(last.name)}"
    for key, row in rows.items():
        other = row[i]
        if other is None:
            continue
        attribute = block.attributes[key]
        module.tensors |= {f"{attribute}.{own}" if own else attribute: t for own, t in other.tensors.items()}
        module.hooks |= {f"{attribute}.{own}" if own else attribute: blob for own, blob in other.hooks.items()}
    if part.exit.blob is not None:
        module.hooks[""] = part.exit.blob
    return Op("{m0}({0})", (part.entry,), (part.exit,), modules=(module,))


def _attributes(modules: Sequence[Module], pattern: names.Pattern | None) -> dict[Module, str]:
    scope = names.Names()
    if pattern is None:
        counts: dict[str, int] = {}
        for module in modules:
            counts[module.kind] = counts.get(module.kind, 0) + 1
        numbers: dict[str, int] = {}
        found = {}
        for module in modules:
            numbers[module.kind] = numbers.get(module.kind, 0) + 1
            number = numbers[module.kind] if counts[module.kind] > 1 else ""
            found[module] = scope.add(f"{module.kind}{number}", module.kind)
        return found
    return {
        module: scope.add("_".join(filter(None, map(names.cleaned, around))), module.kind)
        for module, around in zip(modules, pattern.around, strict=False)
    }


def _example(
    modules: Sequence[Module], rows: Mapping[Module, Sequence[Module | None]], attributes: Mapping[Module, str]
) -> tuple[str, str]:
    for module in modules:
        first = rows[module][0]
        if first is not None:
            return first.name, attributes[module]
    return "", ""


def _class_name(model: _Part, pattern: names.Pattern | None) -> str:
    """Of a residual block that; else what the names of the uses have in common: Inception, Fire."""
    joint = next((op for op in reversed(model.ops) if len(op.inputs) > 1), None)
    if joint is not None and joint.expression == "{0} + {1}" and (model.optional or model.entry in joint.inputs):
        kernels = [m.arguments[2][1] for op in model.ops for m in op.modules if m.constructor == "nn.Conv2d"]
        return "Bottleneck" if len(kernels) == 3 and kernels[0] == kernels[2] == 1 else "ResidualBlock"
    if pattern is not None:
        first = [token for token in names.tokens(pattern.own[0]) if token.isalpha()]
        if first and len(first[0]) > 2 and all(names.tokens(own)[0] == first[0] for own in pattern.own):
            return names.class_name(first[0], "Block")
    return "Block"


def _parameter_names(
    slots: Mapping[tuple[Module, int], _Parameter], model: _Part, attributes: Mapping[Module, str]
) -> dict[int, str]:
    """A name for each parameter that differs between the uses."""
    heads = _same_channels(model)
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


def _rank(parameter: _Parameter, name: str) -> tuple[int, str]:
    order = {"in_channels": 0, "channels": 0, "out_channels": 2}
    return (3, "") if parameter.kind is Stride else (order.get(name, 1), "")


def _comment(module: Module, row: Sequence[Module | None], pattern: names.Pattern | None) -> str:
    """What Caffe calls the layers that the name of a module does not tell of, * for the use's own part."""
    if pattern is None:
        return ""
    found = [
        pattern.of(None if other is None else other.layers[k] for other in row) for k in range(1, len(module.layers))
    ]
    told = ", ".join(names.label(name) for name in found if name)
    return f"with {told}" if told else ""


def _comment_calls(parts: Sequence[_Part], model: _Part, pattern: names.Pattern | None) -> None:
    if pattern is None:
        return
    for op, others in _op_rows(parts, model).items():
        found = [
            pattern.of(None if other is None else other.layers[k] for other in others) for k in range(len(op.layers))
        ]
        op.comment = ", ".join(names.label(name) for name in found if name)


# Stages


def make_stages(graph: Graph, classes: Sequence[BlockClass]) -> None:
    """Makes a Sequential of blocks of one class that follow each other and are named as stage and block.

    stage0_block0, stage0_block1 become stage0 with block0 and block1; res2a, res2b become res2 with a and b.
    """
    blocks = {block.name for block in classes}
    uses = _Uses(graph)
    runs: list[list[Op]] = []
    for op in graph.ops:
        stage = _stage_of(op, blocks)
        previous = runs[-1][-1] if runs else None
        follows = (
            previous is not None
            and stage is not None
            and uses.only_reader(previous.outputs[0]) is op
            and _stage_of(previous, blocks) == stage
        )
        if follows:
            runs[-1].append(op)
        elif stage is not None:
            runs.append([op])
    stages = [stage for run in runs if (stage := _stage_of(run[0], blocks))]
    for run in runs:
        stage = _stage_of(run[0], blocks)
        if stage is None or len(run) < 2 or stages.count(stage) > 1:
            continue
        scope = names.Names(set(_NOT_IN_SEQUENTIAL))
        children = tuple((scope.add(_split(op.modules[0].name)[1], "block"), op.modules[0]) for op in run)
        whole = Module("nn.Sequential", (), stage[1], "stage", children=children)
        for name, child in children:
            whole.tensors |= {f"{name}.{key}": tensor for key, tensor in child.tensors.items()}
            whole.hooks |= {f"{name}.{key}" if key else name: blob for key, blob in child.hooks.items()}
        last = run[-1].outputs[0]
        if last.blob is not None:
            whole.hooks[""] = last.blob
        graph.ops[graph.ops.index(run[0])] = Op("{m0}({0})", run[0].inputs, (last,), modules=(whole,))
        graph.ops[:] = [op for op in graph.ops if op not in run[1:]]


_NOT_IN_SEQUENTIAL = ("append", "extend", "insert", "pop")


def _stage_of(op: Op, blocks: set[str]) -> tuple[str, str] | None:
    if len(op.modules) != 1 or op.modules[0].constructor not in blocks:
        return None
    stage, block = _split(op.modules[0].name)
    return (op.modules[0].constructor, stage) if stage and block else None


def _split(name: str) -> tuple[str, str]:
    found = re.fullmatch(r"(.*?[A-Za-z].*?)(?:[^A-Za-z0-9]+|(?<=[0-9]))([A-Za-z]+[0-9]*)", name)
    return (found[1], found[2]) if found else ("", "")
