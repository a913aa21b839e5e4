"""The parts of a graph that have one value going in and one coming out, in which ways part and join again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from caffe_port.converters.to_pytorch_source.graph import Argument, Graph, Module, Op, Value, Written

__all__ = ["Part", "Uses", "extend_backward", "find_parts", "signature"]

MOST_OPS = 200
"""A part larger than this is no block that a reader would want."""


@dataclass(slots=True, eq=False)
class Part:
    """A part of a graph in canonical order: ops, and the chain that may be missing elsewhere."""

    entry: Value
    exit: Value
    ops: list[Op]
    optional: list[Op] = field(default_factory=list)

    @property
    def all_ops(self) -> list[Op]:
        """The chain, and the others."""
        return [*self.optional, *self.ops]

    def values(self) -> list[Value]:
        """What goes in, and what each op makes."""
        return [self.entry, *(value for op in self.all_ops for value in op.outputs)]


class Uses:
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
        """The one op that reads a value, if no other and no caller does."""
        readers = self.readers.get(value, [])
        return readers[0] if len(readers) == 1 and value not in self.outputs else None


def find_parts(graph: Graph, uses: Uses) -> Iterable[Part]:
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


def _part(exit: Value, entry: Value, uses: Uses) -> Part | None:
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
    return Part(entry, exit, ops)


def extend_backward(group: Sequence[Part], uses: Uses, inside: set[Op]) -> None:
    """Takes into parts the calls before them that all have alike (the squeezing convolution of a fire module)."""
    while len(group) > 1:
        before = [uses.makers.get(part.entry) for part in group]
        ops = [op for op in before if op is not None and len(op.inputs) == len(op.outputs) == 1 and op not in inside]
        if len(set(ops)) != len(group) or len({signature([op], op.inputs[0]) for op in ops}) > 1:
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


def _ordered(exit: Value, entry: Value, uses: Uses) -> list[Op] | None:
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


def signature(ops: Sequence[Op], entry: Value, instead: Mapping[Value, Value] | None = None) -> object:
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
