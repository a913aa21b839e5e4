"""What parses in both and means something else in Python 2: the second step of `python2`, on the syntax tree."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from typing import Any

from caffe_port.errors import Location, Problems
from caffe_port.pycaffe.errors import SourceError
from caffe_port.pycaffe.python2_runtime import METHODS, MODULES, OWN_MODULES

__all__ = ["Rewriter", "needs_python2"]

_GONE = {
    "commands": "use subprocess", "popen2": "use subprocess", "md5": "use hashlib", "sha": "use hashlib",
    "sets": "use set", "exceptions": "they are built in", "new": "use types", "compiler": "use ast",
    "dircache": "use os.listdir", "mimetools": "use email", "rfc822": "use email", "multifile": "use email",
    "user": "there is none any more", "htmllib": "use html.parser", "sgmllib": "use html.parser",
}  # fmt: skip
"""Modules that are gone, and what there is instead."""

_NEW_NAMES = (
    "apply",
    "basestring",
    "cmp",
    "intern",
    "long",
    "raw_input",
    "reduce",
    "reload",
    "unichr",
    "unicode",
    "xrange",
)

_NO_NAMES = {
    "input": "input() evaluated what was typed: use raw_input()",
    "execfile": "use exec(open(path).read())",
    "file": "use open",
    "buffer": "use memoryview",
    "coerce": "there is none in Python 3",
}

_NO_METHODS = {
    "__cmp__": "comparing by __cmp__: write __eq__, __lt__ and the rest",
    "__coerce__": "there is none in Python 3",
    "__getslice__": "slices go to __getitem__",
    "__setslice__": "slices go to __setitem__",
    "__delslice__": "slices go to __delitem__",
}

_METHODS_NOW = {
    "next": "__next__",
    "__nonzero__": "__bool__",
    "__div__": "__truediv__",
    "__rdiv__": "__rtruediv__",
    "__idiv__": "__itruediv__",
}


def needs_python2(tree: ast.Module) -> bool:
    """Whether a tree uses what only Python 2 has, where nothing says that it knows about Python 3."""
    bound = _bound(tree)
    for node in _unguarded(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""] if not node.level else []
        elif isinstance(node, ast.Name):
            # `input` and `file` alone say nothing: Python 3 has the one, and anybody may mean the other.
            if node.id not in bound and node.id in _NEW_NAMES:
                return True
            continue
        elif isinstance(node, ast.Expr) and _is_print_statement(node.value):
            return True
        else:
            continue
        if any(name in MODULES or name in OWN_MODULES or name in _GONE for name in names):
            return True
    return False


def _is_print_statement(expression: ast.expr) -> bool:
    """Whether an expression that stands alone is a print statement that parses: `print`, `print >>f`, `print (x), y`.

    In Python 3 none of them prints what it says.
    """
    if isinstance(expression, ast.Call):
        return False
    while not isinstance(expression, ast.Name):
        parts = [part for part in ast.iter_child_nodes(expression) if isinstance(part, ast.expr)]
        if not parts:
            return False
        expression = min(parts, key=lambda part: (part.lineno, part.col_offset))
    return expression.id == "print"


def _unguarded(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        aware = isinstance(child, ast.If) and re.search("version|PY[23]", ast.unparse(child.test))
        if not isinstance(child, ast.Try) and not aware:
            yield from _unguarded(child)


def _bound(tree: ast.AST) -> set[str]:
    """Every name that is given a meaning anywhere in a tree."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
    return found


class Rewriter(ast.NodeTransformer):
    """Gives a tree of Python 3 the meaning it had in Python 2, where the two parse alike."""

    def __init__(self, tree: ast.Module | ast.Expression, file: str, problems: Problems) -> None:
        self.file = file
        self.problems = problems
        self.bound = _bound(tree)
        self.divisions: set[int] = set()
        self.true_division = any(
            isinstance(node, ast.ImportFrom)
            and node.module == "__future__"
            and any(a.name == "division" for a in node.names)
            for node in ast.walk(tree)
        )
        _refuse_leaks(tree, self._refuse)

    def notes(self) -> Iterator[str]:
        if self.divisions:
            lines = ", ".join(map(str, sorted(self.divisions)))
            yield f"{self.file}: / on line {lines} divides as in Python 2: integers give an integer, rounded down"

    def _refuse(self, node: ast.AST, message: str) -> None:
        self.problems.add(SourceError, message, location=Location(self.file, getattr(node, "lineno", 0)))

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        if not self._divides(node.op, node.left, node.right):
            return node
        return _call("__py2_div__", node.left, node.right, at=node)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AugAssign:
        self.generic_visit(node)
        if self._divides(node.op, node.value):
            node.value = _call("__py2_divisor__", node.value, at=node.value)
        return node

    def _divides(self, op: ast.operator, *operands: ast.expr) -> bool:
        """Whether this is a division that depends on what its operands are when it runs."""
        if not isinstance(op, ast.Div) or self.true_division:
            return False
        if any(isinstance(operand, ast.Constant) and isinstance(operand.value, float) for operand in operands):
            return False
        self.divisions.add(op.lineno if hasattr(op, "lineno") else operands[0].lineno)
        return True

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        function, count = node.func, len(node.args)
        if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
            return node
        if isinstance(function, ast.Name) and function.id == "exec" and count == 1:
            self._refuse(node, "exec changes the names around it: write exec(code, globals)")
        if isinstance(function, ast.Name) and function.id == "str" and count == 1 and "str" not in self.bound:
            return _call("__py2_str__", *node.args, at=node)
        if isinstance(function, ast.Attribute):
            if (
                function.attr == "setdefaultencoding"
                and isinstance(function.value, ast.Name)
                and function.value.id == "sys"
            ):
                return ast.copy_location(ast.Constant(None), node)
            if METHODS.get(function.attr) == count:
                name = ast.copy_location(ast.Constant(function.attr), node)
                return _call("__py2_method__", function.value, name, *node.args, at=node)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.Attribute:
        self.generic_visit(node)
        if node.attr == "maxint" and isinstance(node.value, ast.Name) and node.value.id == "sys":
            node.attr = "maxsize"
        return node

    def visit_Name(self, node: ast.Name) -> ast.Name:
        if node.id in _NO_NAMES and node.id not in self.bound:
            self._refuse(node, f"{node.id}: {_NO_NAMES[node.id]}")
        return node

    def visit_Import(self, node: ast.Import) -> ast.Import:
        for alias in node.names:
            if alias.name in _GONE:
                self._refuse(node, f"module {alias.name}: {_GONE[alias.name]}")
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if not node.level and node.module in _GONE:
            self._refuse(node, f"module {node.module}: {_GONE[node.module]}")
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        methods = {child.name: child for child in node.body if isinstance(child, ast.FunctionDef)}
        for name, method in methods.items():
            if name in _NO_METHODS:
                self._refuse(method, f"{name}: {_NO_METHODS[name]}")
            now = _METHODS_NOW.get(name)
            if now and now not in methods:
                value = ast.copy_location(ast.Name(name, ast.Load()), method)
                target = ast.copy_location(ast.Name(now, ast.Store()), method)
                node.body.append(ast.copy_location(ast.Assign([target], value), method))
        for child in node.body:
            if isinstance(child, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == "__metaclass__" for t in child.targets
            ):
                self._refuse(child, "__metaclass__: write class Name(Base, metaclass=…)")
        return node


def _call(name: str, *args: ast.expr, at: ast.expr) -> ast.expr:
    function = ast.copy_location(ast.Name(name, ast.Load()), at)
    return ast.copy_location(ast.Call(function, list(args), []), at)


def _refuse_leaks(tree: ast.AST, refuse: Callable[[ast.AST, str], None]) -> None:
    """Refuses reading the name of a list comprehension after it: Python 2 left its last value there."""
    scopes = [node for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.FunctionDef))]
    for scope in scopes:
        leaked: dict[str, int] = {}
        for node in sorted(_own(scope), key=lambda node: (node.lineno, node.col_offset)):
            if isinstance(node, ast.ListComp):
                names = {n.id for g in node.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)}
                leaked.update(dict.fromkeys(names, node.lineno))
            elif isinstance(node, ast.Name) and node.id in leaked:
                line = leaked.pop(node.id)
                # On one line the order of writing is not that of running: `x = [x for x in y]`.
                if isinstance(node.ctx, ast.Load) and node.lineno > line:
                    refuse(
                        node, f"{node.id} is read after the list comprehension of line {line} has left a value in it"
                    )


def _own(scope: ast.AST) -> Iterator[Any]:
    """The names and list comprehensions of a scope; not those of scopes in it, nor what is inside comprehensions."""
    for child in ast.iter_child_nodes(scope):
        if isinstance(child, (ast.Name, ast.ListComp)):
            yield child
        scopes = (ast.FunctionDef, ast.Lambda, ast.ClassDef, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
        if not isinstance(child, scopes):
            yield from _own(child)
