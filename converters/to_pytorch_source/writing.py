"""Calls as text, laid out as black lays it out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from caffe_port.converters.to_pytorch_source import names
from caffe_port.converters.to_pytorch_source.graph import Module, Op, Value, literal

__all__ = ["Call", "constructor", "forward_body", "laid_out"]

WIDTH = 88
"""black's."""

DEEPEST = 3
"""Calls within each other in a statement."""

INDENT = 8
"""Of what stands in a method."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call, or other brackets, whose parts may go on lines of their own; `is_open`: they always do."""

    head: str
    parts: tuple[str | Call, ...]
    tail: str = ")"
    is_open: bool = False

    def __str__(self) -> str:
        return f"{self.head}{', '.join(map(str, self.parts))}{self.tail}"

    @property
    def holds_open(self) -> bool:
        return self.is_open or any(isinstance(part, Call) and part.holds_open for part in self.parts)


def laid_out(text: str | Call, indent: int, comment: str = "") -> list[str]:
    """The lines of a statement; a comment behind it, or before it where the line has no room."""
    lines = _lines(text, indent)
    if not comment:
        return lines
    if len(lines) == 1 and len(lines[0]) + len(comment) + 4 <= WIDTH:
        return [f"{lines[0]}  # {comment}"]
    return [f"{' ' * indent}# {comment}", *lines]


def _lines(text: str | Call, indent: int, behind: str = "") -> list[str]:
    one = f"{' ' * indent}{text}{behind}"
    if isinstance(text, str) or (len(one) <= WIDTH and not text.holds_open):
        return [one]
    head, tail = f"{' ' * indent}{text.head}", f"{' ' * indent}{text.tail}{behind}"
    inner = f"{' ' * (indent + 4)}{', '.join(map(str, text.parts))}"
    is_alone = len(text.parts) == 1 and isinstance(text.parts[0], str)
    if not text.holds_open and (len(inner) <= WIDTH or is_alone):
        return [head, inner, tail]
    # A single call within a call gets no comma, nor does anything behind an operator.
    comma = "" if len(text.parts) == 1 and not text.is_open else ","
    return [head, *(line for part in text.parts for line in _lines(part, indent + 4, comma)), tail]


def _statement(before: str, text: str) -> str | Call:
    """`before` and an expression, as what can be laid out."""
    parsed = _parsed(text)
    if isinstance(parsed, Call):
        return Call(before + parsed.head, parsed.parts, parsed.tail)
    whole = f"{before}{text}"
    return whole if len(whole) + INDENT <= WIDTH else Call(f"{before}(", (text,))


def _parsed(text: str) -> str | Call:
    """A text as a call, if it is one as a whole. There are no strings in it."""
    found = re.match(r"[\w.]*[(\[]", text)
    if not found or text[-1] not in ")]":
        return text
    depth, start, parts = 0, found.end(), []
    for i, char in enumerate(text[start:-1], start):
        if char in "([":
            depth += 1
        elif char in ")]":
            depth -= 1
            if depth < 0:
                return text
        elif char == "," and depth == 0:
            parts.append(_parsed(text[start:i].strip()))
            start = i + 1
    parts.append(_parsed(text[start:-1].strip()))
    return Call(found[0], tuple(parts), text[-1])


# Constructors


def constructor(
    attribute: str, module: Module, arguments: Sequence[tuple[str, str]] | None = None, indent: int = INDENT
) -> list[str]:
    """The lines that make a module. `arguments`: as text, where a block has them from its own parameters."""
    made = _constructed(module, arguments)
    return laid_out(
        Call(f"self.{attribute} = {made.head}", made.parts, made.tail, made.is_open), indent, module.comment
    )


def _constructed(module: Module, arguments: Sequence[tuple[str, str]] | None = None) -> Call:
    if module.children:
        parts = []
        for name, child in module.children:
            call = _constructed(child)
            parts.append(Call(f"{name}={call.head}", call.parts, call.tail))
        return Call("nn.Sequential(", (Call("OrderedDict(", tuple(parts), is_open=True),))
    if arguments is None:
        arguments = literal_arguments(module)
    call = Call(f"{module.constructor}(", tuple(f"{key}={text}" if key else text for key, text in arguments))
    if module.constructor in ("torch.ones", "torch.zeros"):
        return Call("nn.Parameter(", (call if call.parts else Call(call.head, ("()",)),))
    return call


def literal_arguments(module: Module) -> list[tuple[str, str]]:
    """The arguments of a constructor as text; a stride of 1 need not be said."""
    pairs = [(key, literal(argument)) for key, argument in module.arguments]
    return [(key, text) for key, text in pairs if (key, text) != ("stride", "1")]


# forward


@dataclass(slots=True, eq=False)
class _Statement:
    """Calls within each other, the innermost first."""

    ops: list[Op]

    @property
    def reads(self) -> list[Value]:
        made = {value for op in self.ops for value in op.outputs}
        return list(dict.fromkeys(value for op in self.ops for value in op.inputs if value not in made))

    @property
    def outputs(self) -> tuple[Value, ...]:
        return self.ops[-1].outputs

    @property
    def comment(self) -> str:
        return ", ".join(op.comment for op in self.ops if op.comment)


def forward_body(
    ops: Sequence[Op],
    arguments: Mapping[Value, str],
    outputs: Sequence[tuple[str, Value]],
    attributes: Mapping[Module, str],
) -> list[str]:
    """The lines of `forward`. `arguments`: their names; `outputs`: by key, a single one as it is."""
    kept = [value for _, value in outputs]
    apart: set[Op] = set()
    while True:
        statements = _statements(ops, kept, apart)
        variables = _variables(statements, arguments, kept, attributes)
        texts = list(_texts(statements, variables, attributes, kept))
        long = [s.ops[-1] for s, text in zip(statements, texts, strict=True) if len(s.ops) > 1 and _is_long(text)]
        if not long:
            break
        # Calls within each other that have no room on a line are taken apart, and all is laid out anew.
        apart.update(long)
    lines = [
        line
        for statement, (before, text) in zip(statements, texts, strict=True)
        for line in laid_out(_statement(before, text), INDENT, statement.comment)
    ]
    if len(outputs) != 1:
        items = tuple(f"{names.string(key)}: {variables[value]}" for key, value in outputs)
        return [*lines, *laid_out(Call("return {", items, "}"), INDENT)]
    if not statements or statements[-1].outputs != (kept[0],):
        lines.append(f"{' ' * INDENT}return {variables[kept[0]]}")
    return lines


def _is_long(text: tuple[str, str]) -> bool:
    return INDENT + sum(map(len, text)) > WIDTH


def _statements(ops: Sequence[Op], kept: Sequence[Value], apart: set[Op]) -> list[_Statement]:
    """Calls put into each other where that reads well: an activation around its input, a view where it is used."""
    times: dict[Value, int] = {}
    for op in ops:
        for i, value in enumerate(op.inputs):
            times[value] = times.get(value, 0) + op.expression.count(f"{{{i}}}")
    for value in kept:
        times[value] = times.get(value, 0) + 2
    statements: list[_Statement] = []
    maker: dict[Value, _Statement] = {}
    for op in ops:
        statement = _Statement([op])
        for value in op.inputs if op not in apart else ():
            inner = maker.get(value)
            if inner is None or times[value] != 1 or len(inner.outputs) != 1:
                continue
            is_view = all(one.role == "view" for one in inner.ops)
            calls = sum(one.role != "view" for one in inner.ops)
            if (op.role == "light" and calls < DEEPEST) or (op.role == "heavy" and is_view and len(op.inputs) == 1):
                statement.ops = [*inner.ops, op]
                statements.remove(inner)
                break
        statements.append(statement)
        maker.update(dict.fromkeys(op.outputs, statement))
    return statements


def _variables(
    statements: Sequence[_Statement],
    arguments: Mapping[Value, str],
    kept: Sequence[Value],
    attributes: Mapping[Module, str],
) -> dict[Value, str]:
    """A name for each value. One that is made from a value nobody else needs takes that one's place."""
    readers: dict[Value, list[int]] = {}
    for i, statement in enumerate(statements):
        for value in statement.reads:
            readers.setdefault(value, []).append(i)
    for value in kept:
        readers.setdefault(value, []).append(len(statements))
    chains: list[list[Value]] = [[value] for value in arguments]
    chain_of = {value: chain for chain in chains for value in chain}
    texts: dict[Value, str] = {}

    def is_free(chain: list[Value], i: int) -> bool:
        return all(max(readers.get(value, [0])) <= i for value in chain)

    for i, statement in enumerate(statements):
        reads = statement.reads
        own = _told(statement, attributes)
        for value in statement.outputs:
            texts[value] = own
            chain: list[Value] | None = None
            if len(statement.outputs) == 1 and len(reads) == 1 and readers[reads[0]] == [i]:
                chain = chain_of[reads[0]]
            elif len(statement.outputs) == 1 and len(reads) > 1:
                candidates = [chains[0], *(chain_of[read] for read in reads)] if chains else []
                chain = next((one for one in candidates if is_free(one, i)), None)
            if chain is None:
                chain = []
                chains.append(chain)
            chain.append(value)
            chain_of[value] = chain
    scope = names.Names(set(arguments.values()))
    found = dict(arguments)
    for chain in chains:
        first = arguments.get(chain[0]) or scope.add(_common([texts[value] for value in chain]), "out")
        found.update(dict.fromkeys(chain, first))
    return found


def _told(statement: _Statement, attributes: Mapping[Module, str]) -> str:
    """What to call the value of a statement: as the first module or layer in it that is no view."""
    for op in sorted(statement.ops, key=lambda op: op.role == "view"):
        if op.modules:
            return attributes[op.modules[0]]
        if op.layers:
            return op.layers[0]
    return "out"


def _common(texts: Sequence[str]) -> str:
    """What all names begin with, else the last."""
    parts = [names.tokens(text) for text in texts]
    shared = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    text = names.cleaned("".join(shared)) or names.cleaned(texts[-1])
    return re.sub(r"^conv_(?=[A-Za-z])", "", text)[:24].rstrip("_")


def _texts(
    statements: Sequence[_Statement],
    variables: Mapping[Value, str],
    attributes: Mapping[Module, str],
    kept: Sequence[Value],
) -> Iterator[tuple[str, str]]:
    """For each statement what stands before the expression, and the expression."""
    for i, statement in enumerate(statements):
        told = dict(variables)
        text = ""
        for op in statement.ops:
            text = _expression(op, told, attributes)
            for value in op.outputs:
                told[value] = f"({text})" if op.is_operator else text
        if len(kept) == 1 and i == len(statements) - 1 and statement.outputs == (kept[0],):
            yield "return ", text
        else:
            targets = ", ".join(variables[value] for value in statement.outputs)
            yield f"{targets} = ", text


def _expression(op: Op, told: Mapping[Value, str], attributes: Mapping[Module, str]) -> str:
    texts = {f"{{{i}}}": told[value] for i, value in enumerate(op.inputs)}
    texts |= {f"{{m{i}}}": f"self.{attributes[module]}" for i, module in enumerate(op.modules)}
    text = re.sub(r"\{m?\d+\}", lambda found: texts[found[0]], op.expression)
    # Brackets that are alone between others' are not needed.
    return re.sub(r"(?<=\()\((.*)\)(?=[,)])", _without_brackets, text)


def _without_brackets(found: re.Match[str]) -> str:
    inner = found[1]
    depth = 0
    for char in inner:
        depth += (char == "(") - (char == ")")
        if depth < 0:
            return found[0]
    return inner
