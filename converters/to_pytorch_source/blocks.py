"""Finds what a net repeats, and makes classes of it.

A block is a part of the graph with one value going in and one coming out, in which ways part and join again. Blocks of
equal structure become the uses of one class; numbers of channels and strides may differ, and are its arguments. Where
one way from the input to the joint (a projection) is there in some uses only, it is optional.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from caffe_port.converters.to_pytorch_source import names
from caffe_port.converters.to_pytorch_source.graph import Argument, Graph, Module, Op, Stride, Value, Written, literal
from caffe_port.converters.to_pytorch_source.parameters import find_parameters, name_parameters, rank
from caffe_port.converters.to_pytorch_source.parts import Part, Uses, extend_backward, find_parts, signature

__all__ = ["BlockClass", "extract_blocks"]


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


def extract_blocks(graph: Graph, taken: names.Names) -> list[BlockClass]:
    """Replaces the repeated parts of a graph by calls of blocks, in place, and returns their classes.

    `taken`: the names of classes that are given away.
    """
    uses = Uses(graph)
    groups: dict[object, list[Part]] = {}
    for part in find_parts(graph, uses):
        groups.setdefault(signature(part.ops, part.entry), []).append(part)
    inside = {op for group in groups.values() if len(group) > 1 for part in group for op in part.ops}
    for group in groups.values():
        extend_backward(group, uses, inside)
    merged = _with_optional(list(groups.values()), uses)
    classes = []
    used: set[Op] = set()
    for group in sorted(merged, key=lambda group: (-len(group[0].all_ops), uses.position[group[0].ops[0]])):
        free = [part for part in group if not used.intersection(part.all_ops)]
        if len(free) < 2:
            continue
        made = _make_class(free, taken)
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


def _with_optional(groups: list[list[Part]], uses: Uses) -> list[list[Part]]:
    """Groups, those that differ only by a chain from the entry to a joint (a projection) made one."""
    by_signature = {signature(group[0].ops, group[0].entry): group for group in groups}
    result = {id(group): group for group in groups}
    for group in sorted(groups, key=lambda group: -len(group[0].ops)):
        joints = [(i, j) for i, op in enumerate(group[0].ops) for j in range(len(op.inputs)) if len(op.inputs) > 1]
        for place in joints:
            plain = None
            chain = _chain_to(group[0], place, uses)
            if chain:
                rest = [op for op in group[0].ops if op not in chain]
                end = chain[-1].outputs[0]
                plain = by_signature.get(signature(rest, group[0].entry, {end: group[0].entry}))
            if plain is None or plain is group or id(plain) not in result or id(group) not in result:
                continue
            joined = []
            for part in group:
                chain = _chain_to(part, place, uses)
                rest = [op for op in part.ops if op not in chain]
                joined.append(Part(part.entry, part.exit, rest, chain))
            joined = sorted([*joined, *plain], key=lambda part: uses.position[part.ops[-1]])
            if find_parameters(joined) is not None:
                del result[id(plain)]
                result[id(group)] = joined
                break
    return list(result.values())


def _chain_to(part: Part, place: tuple[int, int], uses: Uses) -> list[Op]:
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


def _make_class(parts: Sequence[Part], taken: names.Names) -> tuple[BlockClass, list[Op]] | None:
    slots = find_parameters(parts)
    if slots is None:
        return None
    model = next((part for part in parts if part.optional), parts[0])
    has_choice = any(not part.optional for part in parts) and bool(model.optional)
    rows = _rows(parts, model)
    modules = [module for op in model.all_ops for module in op.modules]
    pattern = _pattern(parts, model, [[m.name if m else None for m in rows[module]] for module in modules])
    attributes = _attributes(modules, pattern)
    block_name = taken.add(_class_name(model, pattern), "Block")
    parameter_names = name_parameters(slots, model, attributes)
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
    ordered = sorted(distinct.values(), key=lambda p: rank(p, parameter_names[id(p)]))
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


def _pattern(parts: Sequence[Part], model: Part, own: Sequence[Sequence[str | None]]) -> names.Pattern | None:
    """The pattern of the names of a block's modules (`own`), if it can be of all its layers' names."""
    others = [
        [None if op is None else op.layers[k] for op in row]
        for first, row in _op_rows(parts, model).items()
        for k in range(len(first.layers))
    ]
    return names.pattern([*own, *others]) or names.pattern(own)


def _op_rows(parts: Sequence[Part], model: Part) -> dict[Op, list[Op | None]]:
    """For each op of the complete use, its counterpart in each use."""
    rows: dict[Op, list[Op | None]] = {op: [] for op in model.all_ops}
    for part in parts:
        missing = [] if len(part.optional) == len(model.optional) else [None] * len(model.optional)
        for own, other in zip(model.all_ops, [*missing, *part.all_ops], strict=True):
            rows[own].append(other)
    return rows


def _rows(parts: Sequence[Part], model: Part) -> dict[Module, list[Module | None]]:
    """For each module of the complete use, its counterpart in each use."""
    return {
        module: [None if other is None else other.modules[j] for other in row]
        for op, row in _op_rows(parts, model).items()
        for j, module in enumerate(op.modules)
    }


def _call(
    block: BlockClass,
    part: Part,
    model: Part,
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


def _class_name(model: Part, pattern: names.Pattern | None) -> str:
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


def _comment(module: Module, row: Sequence[Module | None], pattern: names.Pattern | None) -> str:
    """What Caffe calls the layers that the name of a module does not tell of, * for the use's own part."""
    if pattern is None:
        return ""
    found = [
        pattern.of(None if other is None else other.layers[k] for other in row) for k in range(1, len(module.layers))
    ]
    told = ", ".join(names.label(name) for name in found if name)
    return f"with {told}" if told else ""


def _comment_calls(parts: Sequence[Part], model: Part, pattern: names.Pattern | None) -> None:
    if pattern is None:
        return
    for op, others in _op_rows(parts, model).items():
        found = [
            pattern.of(None if other is None else other.layers[k] for other in others) for k in range(len(op.layers))
        ]
        op.comment = ", ".join(names.label(name) for name in found if name)
