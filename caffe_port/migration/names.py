"""What the names of a Python script certainly stand for, read from its syntax tree; nothing is run.

`Names(tree)` knows the imports, the assignments of each scope and the options of argparse. A name that is assigned
once, or always to the same, has a value; a parameter, a loop's variable or a name assigned differently has none, and
`Value.unknown` says why.
"""

from __future__ import annotations

import ast
import math
import operator
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["Names", "Scope", "Value"]

_OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: lambda left, right: _product(left, right),
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_SIGNS: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.Not: operator.not_,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_CHANGING = {"append", "clear", "extend", "insert", "pop", "remove", "reverse", "setdefault", "sort", "update"}
_CONVERTERS: dict[str, Callable[[Any], Any]] = {"bool": bool, "float": float, "int": int, "str": str}
_DEPTH = 50
"""How far a name is followed through others."""

_LARGEST = 1_000_000
"""Characters, entries and bits that a value that is worked out may have."""


@dataclass(frozen=True, slots=True)
class Value:
    """What an expression certainly is: `value`, unless `unknown` says why that is not certain.

    - `literals`: the strings of the script that it is made of.
    - `options`: the command line's options that it comes from; their defaults are taken.
    """

    value: Any = None
    unknown: str = ""
    literals: tuple[ast.Constant, ...] = ()
    options: tuple[Option, ...] = ()

    @property
    def known(self) -> bool:
        return not self.unknown

    @property
    def option(self) -> Option | None:
        return self.options[0] if self.options else None


@dataclass(frozen=True, slots=True)
class Option:
    """An option that the script gives argparse."""

    name: str
    line: int
    default: ast.expr | None
    required: bool
    type: str | None


@dataclass(slots=True, eq=False)
class Scope:
    """A module, function or class: the expressions its names are assigned, None for what no expression gives."""

    node: ast.AST
    outer: Scope | None
    bound: dict[str, list[tuple[ast.expr | None, int]]] = field(default_factory=dict)

    @property
    def is_class(self) -> bool:
        return isinstance(self.node, ast.ClassDef)

    def outwards(self) -> Iterator[Scope]:
        """This scope and those around it that Python looks a name up in."""
        yield self
        outer = self.outer
        while outer is not None:
            if not outer.is_class:
                yield outer
            outer = outer.outer


_ARGUMENTS = object()
"""What parse_args gives, or vars of it."""


class Names(ast.NodeVisitor):
    """The names of a script."""

    def __init__(self, tree: ast.Module) -> None:
        self.module = Scope(tree, None)
        self.imports: dict[str, str] = {}
        self.functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = {}
        self.calls: dict[str, list[ast.Call]] = {}
        self.options: dict[str, Option] = {}
        self.augmented: dict[int, ast.AugAssign] = {}
        self.statement_of: dict[ast.AST, ast.stmt] = {}
        self._scope_of: dict[ast.AST, Scope] = {}
        self._values: dict[ast.expr, Value | None] = {}
        self._scope = self.module
        self._statement: ast.stmt | None = None
        self.visit(tree)

    def scope_of(self, node: ast.AST) -> Scope:
        return self._scope_of[node]

    # What is bound where.

    def visit(self, node: ast.AST) -> None:
        self._scope_of[node] = self._scope
        around = self._statement
        if isinstance(node, ast.stmt):
            self._statement = node
        if self._statement is not None:
            self.statement_of[node] = self._statement
        super().visit(node)
        self._statement = around

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.imports[alias.asname or alias.name.split(".")[0]] = (
                alias.name if alias.asname else alias.name.split(".")[0]
            )

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self.imports[alias.asname or alias.name] = f"{node.module or ''}.{alias.name}"

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.functions[node.name] = node
        self._bind(node.name, None, node.lineno)
        self._inside(node)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._inside(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._bind(node.name, None, node.lineno)
        self._inside(node)

    def _inside(self, node: ast.AST) -> None:
        outer, self._scope = self._scope, Scope(node, self._scope)
        self.generic_visit(node)
        self._scope = outer

    def visit_arg(self, node: ast.arg) -> None:
        self._bind(node.arg, None, node.lineno)
        self.generic_visit(node)

    def visit_Global(self, node: ast.Global | ast.Nonlocal) -> None:
        # Whoever sets it then sets it for others too; no order is known.
        for name in node.names:
            for scope in self._scope.outwards():
                scope.bound.setdefault(name, []).append((None, node.lineno))

    visit_Nonlocal = visit_Global  # noqa: N815

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for one in ast.walk(node.target):
            if isinstance(one, ast.Name):
                self._bind(one.id, None, one.lineno)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._assign(target, node.value)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._assign(node.target, node.value)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.augmented[node.lineno] = node
        if not isinstance(node.target, ast.Name) and (key := _key(node.target)):
            self._bind(key, None, node.lineno)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        # Every way to bind a name that is no plain assignment: loops, with, except, :=, +=, del.
        if not isinstance(node.ctx, ast.Load) and not isinstance(self._statement, (ast.Assign, ast.AnnAssign)):
            self._bind(node.id, None, node.lineno)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self._bind(node.target.id, node.value, node.lineno)
        self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func
        if isinstance(called, ast.Name):
            self.calls.setdefault(called.id, []).append(node)
        if isinstance(called, ast.Attribute):
            if called.attr == "add_argument":
                self._add_option(node)
            elif called.attr in _CHANGING and (key := _key(called.value)):
                self._bind(key, None, node.lineno)
        self.generic_visit(node)

    def _assign(self, target: ast.expr, value: ast.expr | None) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            same = isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(target.elts)
            parts = value.elts if same and isinstance(value, (ast.Tuple, ast.List)) else [None] * len(target.elts)
            for one, part in zip(target.elts, parts, strict=True):
                self._assign(one, part)
        elif isinstance(target, ast.Subscript):
            if key := _key(target.value):
                self._bind(key, None, target.lineno)
        elif isinstance(target, ast.Starred):
            self._assign(target.value, None)
        elif key := _key(target):
            self._bind(key, value, target.lineno)

    def _bind(self, key: str, value: ast.expr | None, line: int) -> None:
        scope: Scope | None = self._scope
        if "." in key:
            # self.x belongs to the class, whichever method sets it.
            while scope is not None and not scope.is_class:
                scope = scope.outer
        (scope or self.module).bound.setdefault(key, []).append((value, line))

    def _add_option(self, call: ast.Call) -> None:
        flags = [one.value for one in call.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        if not flags:
            return
        name = next((flag for flag in flags if flag.startswith("--")), flags[0])
        destination = given.get("dest")
        key = destination.value if isinstance(destination, ast.Constant) else name.lstrip("-").replace("-", "_")
        default, action, kind = given.get("default"), given.get("action"), given.get("type")
        if default is None and isinstance(action, ast.Constant) and action.value in ("store_true", "store_false"):
            default = ast.Constant(action.value == "store_false")
        required = given.get("required")
        self.options[str(key)] = Option(
            name=name,
            line=call.lineno,
            default=default,
            required=not name.startswith("-") or (isinstance(required, ast.Constant) and bool(required.value)),
            type=kind.id if isinstance(kind, ast.Name) else None,
        )

    # What is asked.

    def qualified(self, node: ast.expr) -> str | None:
        """The dotted name of what is imported: cv2.dnn.readNet for cv.dnn.readNet; None for anything else."""
        if isinstance(node, ast.Attribute):
            base = self.qualified(node.value)
            return None if base is None else f"{base}.{node.attr}"
        if not isinstance(node, ast.Name):
            return None
        if node.id in self.imports:
            return self.imports[node.id]
        for scope in self.scope_of(node).outwards():
            if node.id in scope.bound:
                values = [value for value, _ in scope.bound[node.id]]
                alias = values[0] if len(values) == 1 else None
                return self.qualified(alias) if isinstance(alias, (ast.Name, ast.Attribute)) else None
        return None

    def bindings(self, node: ast.expr) -> list[tuple[ast.expr | None, int]]:
        """What a name, or an attribute of self, is assigned, with the lines."""
        key = _key(node)
        if key is None:
            return []
        scope: Scope | None = self.scope_of(node)
        if "." in key:
            while scope is not None and not scope.is_class:
                scope = scope.outer
            if scope is None:
                return []
            # What the body of the class assigns is an attribute too.
            return [*scope.bound.get(key, []), *scope.bound.get(key.partition(".")[2], [])]
        assert scope is not None
        for one in scope.outwards():
            if key in one.bound:
                return [(value or self._argument(one, key), line) for value, line in one.bound[key]]
        return []

    def _argument(self, scope: Scope, name: str) -> ast.expr | None:
        """What a function of the script that is called in one place gets as this parameter."""
        function = scope.node
        if not isinstance(function, ast.FunctionDef) or function.args.vararg or function.args.kwarg:
            return None
        calls = self.calls.get(function.name, [])
        names = [one.arg for one in function.args.args]
        if name not in names or len(calls) != 1 or self.functions.get(function.name) is not function:
            return None
        (call,), place = calls, names.index(name)
        if any(isinstance(one, ast.Starred) for one in call.args) or any(not one.arg for one in call.keywords):
            return None
        if place < len(call.args):
            return call.args[place]
        return next((one.value for one in call.keywords if one.arg == name), None)

    def returned(self, call: ast.expr) -> ast.expr | None:
        """The one expression that a function of the script returns."""
        if not isinstance(call, ast.Call):
            return None
        name = _key(call.func) or ""
        function = self.functions.get(name.rpartition(".")[2])
        if function is None or name in self.imports:
            return None
        inside = [one for one in ast.walk(function) if isinstance(one, ast.Return) and one.value is not None]
        return inside[0].value if len(inside) == 1 else None

    def value(self, node: ast.expr | None, default: Any = None) -> Value:
        """What an expression is; `default` where there is none."""
        if node is None:
            return Value(default)
        self._values.clear()
        return self._value(node, 0)

    def _value(self, node: ast.expr, depth: int) -> Value:
        # Each expression is worked out once: names may stand for each other many times over, or for themselves.
        if depth > _DEPTH or self._values.get(node, _unknown) is None:
            return _unknown(node)
        if (value := self._values.get(node)) is None:
            self._values[node] = None
            value = self._values[node] = self._worked_out(node, depth)
        return value

    def _worked_out(self, node: ast.expr, depth: int) -> Value:
        if isinstance(node, ast.Constant):
            return Value(node.value, literals=(node,) if isinstance(node.value, str) else ())
        if isinstance(node, (ast.Tuple, ast.List)):
            return self._joined([self._value(one, depth + 1) for one in node.elts], tuple)
        if isinstance(node, ast.Dict):
            keys = [self._value(key, depth + 1) if key is not None else _unknown(node) for key in node.keys]
            if bad := next((key for key in keys if not key.known), None):
                return bad
            # Each entry is worth knowing on its own, so the values stay expressions.
            return Value({key.value: value for key, value in zip(keys, node.values, strict=True)})
        if isinstance(node, ast.UnaryOp) and type(node.op) in _SIGNS:
            sign = _SIGNS[type(node.op)]
            return self._joined([self._value(node.operand, depth + 1)], lambda found: sign(found[0]))
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            operation = _OPERATIONS[type(node.op)]
            parts = [self._value(node.left, depth + 1), self._value(node.right, depth + 1)]
            return self._joined(parts, lambda found: operation(*found), node)
        if isinstance(node, (ast.Subscript, ast.Attribute)):
            value = self._member(node, depth)
            if value is not None:
                return value
        if isinstance(node, ast.Call):
            return self._called(node, depth)
        if isinstance(node, (ast.Name, ast.Attribute)):
            return self._named(node, depth)
        return _unknown(node)

    def _named(self, node: ast.Name | ast.Attribute, depth: int) -> Value:
        text, bound = ast.unparse(node), self.bindings(node)
        if not bound:
            if (imported := self.qualified(node)) is not None:
                # A constant of OpenCV is known by its name.
                return Value(imported) if imported.startswith("cv2.") else Value(unknown=f"{text} is imported")
            return _unknown(node)
        values = []
        for value, line in bound:
            if value is None:
                return Value(unknown=f"{text} is set at line {line} to what only a run shows")
            values.append(self._value(value, depth + 1))
        if bad := next((value for value in values if not value.known), None):
            return bad
        if any(type(value.value) is not type(values[0].value) or value.value != values[0].value for value in values):
            return Value(unknown=f"{text} is set differently at lines {', '.join(str(line) for _, line in bound)}")
        return values[0]

    def _member(self, node: ast.Subscript | ast.Attribute, depth: int) -> Value | None:
        """An entry of a dict or sequence, or an option of the command line; None for any other attribute."""
        if isinstance(node, ast.Attribute) and self.bindings(node):
            return None
        if isinstance(node, ast.Attribute) and not isinstance(node.value, (ast.Name, ast.Call)):
            return None
        holder = self._value(node.value, depth + 1)
        key = Value(node.attr) if isinstance(node, ast.Attribute) else self._value(node.slice, depth + 1)
        if holder.known and holder.value is _ARGUMENTS:
            return self._option(key.value, depth)
        if isinstance(node, ast.Attribute):
            return None
        if not holder.known or not key.known:
            return key if holder.known else holder
        try:
            found = holder.value[key.value]
        except (LookupError, TypeError):
            return _unknown(node)
        return self._value(found, depth + 1) if isinstance(found, ast.expr) else Value(found)

    def _option(self, key: Any, depth: int) -> Value:
        option = self.options.get(key) if isinstance(key, str) else None
        if option is None:
            return Value(unknown=f"{key} is an option that this script does not define")
        if option.default is None:
            return Value(unknown=f"{option.name} (line {option.line}) is given on the command line", options=(option,))
        default = self._value(option.default, depth + 1)
        if default.known and isinstance(default.value, str) and option.type in ("float", "int"):
            try:
                default = replace(default, value=_CONVERTERS[option.type](default.value))
            except ValueError:
                return Value(unknown=f"{option.name} (line {option.line}) has a default of another type")
        return replace(default, options=(option, *default.options))

    def _called(self, node: ast.Call, depth: int) -> Value:
        name = self.qualified(node.func) or (node.func.id if isinstance(node.func, ast.Name) else "")
        attribute = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if attribute in ("parse_args", "parse_known_args"):
            return Value(_ARGUMENTS)
        arguments = [self._value(one, depth + 1) for one in node.args]
        if name == "vars" and arguments:
            return arguments[0]
        if name in ("os.path.join", "posixpath.join"):
            return self._joined(arguments, lambda found: posixpath.join(*found), node)
        if attribute == "join" and isinstance(node.func, ast.Attribute) and len(arguments) == 1:
            # os.path.sep.join([…]), or "/".join([…]).
            text = ast.unparse(node.func.value)
            separator = Value("/") if text in ("os.sep", "os.path.sep") else self._value(node.func.value, depth + 1)
            return self._joined([separator, *arguments], lambda found: _joined_by(*found), node)
        if name in ("cv2.samples.findFile", "cv2.samples.findFileOrKeep", "str", "pathlib.Path") and arguments:
            return arguments[0]
        if name in ("numpy.array", "numpy.asarray", "tuple", "list", "numpy.float32") and arguments:
            return arguments[0]
        if name in ("int", "float", "bool") and len(arguments) == 1:
            return self._joined(arguments, lambda found: _CONVERTERS[name](found[0]), node)
        if (result := self.returned(node)) is not None:
            return self._value(result, depth + 1)
        return _unknown(node)

    def _joined(self, parts: list[Value], make: Callable[[Any], Any], node: ast.AST | None = None) -> Value:
        if bad := next((part for part in parts if not part.known), None):
            return bad
        if sum(_size(part.value) for part in parts) > _LARGEST:
            return _unknown(node)
        try:
            value = make([part.value for part in parts])
        except (ArithmeticError, TypeError, ValueError, AttributeError):
            return _unknown(node)
        if isinstance(value, float) and not math.isfinite(value):
            return _unknown(node)
        options = dict.fromkeys(one for part in parts for one in part.options)
        return Value(value, literals=tuple(one for part in parts for one in part.literals), options=tuple(options))


def _product(left: Any, right: Any) -> Any:
    """left * right, of a size that can be foreseen. Raises: ValueError, or TypeError as Python does."""
    for many, times in ((left, right), (right, left)):
        if isinstance(many, (str, bytes, tuple)) and isinstance(times, int) and times * _size(many) > _LARGEST:
            raise ValueError("too long")
    return left * right


def _joined_by(separator: Any, parts: Any) -> Any:
    """separator.join(parts), likewise."""
    if _size(separator) * len(parts) > _LARGEST:
        raise ValueError("too long")
    return separator.join(parts)


def _size(value: Any) -> int:
    """About how many characters, entries and bits it has; it stops counting beyond _LARGEST."""
    size, left = 0, [value]
    while left and size <= _LARGEST:
        one = left.pop()
        size += len(one) + 1 if isinstance(one, (str, bytes)) else one.bit_length() if isinstance(one, int) else 1
        if isinstance(one, tuple):
            left.extend(one)
    return size


def _unknown(node: ast.AST | None) -> Value:
    text = " ".join(ast.unparse(node).split()) if node is not None else "it"
    return Value(unknown=f"{text if len(text) <= 60 else text[:57] + '...'} is known only when the script runs")


def _key(node: ast.expr) -> str | None:
    """What a name, or an attribute of self, is kept under."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
        return f"self.{node.attr}"
    return None
