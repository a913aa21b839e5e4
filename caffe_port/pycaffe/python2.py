"""Python 2 sources, run under Python 3 with the meaning they had, where that can be told from the source.

Two steps. The text is made to parse: print, exec, `except E, e`, `raise E, v`, backticks, `<>`, literals, tabs. Then
what parses in both and means something else is changed in the syntax tree: `/`, `dict.keys()`, `str(bytes)`; such code
runs with Python 2's built-in functions (`map` gives a list) and finds modules under their old names. Lines stay where
they are, so tracebacks fit the original. What would silently mean something else is refused, all of it at once, with
its lines.

What Python 2 did and Python 3 reports loudly (bytes mixed with text, numbers compared with None) is left to fail there.
"""

from __future__ import annotations

import ast
import builtins
import importlib.machinery
import io
import os
import re
import sys
import tokenize
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caffe_port.errors import CaffePortError, Location, Problems
from caffe_port.pycaffe.python2_runtime import BUILTINS, METHODS, MODULES, OWN_MODULES

__all__ = ["SourceError", "Translation", "namespace", "translate", "translated_expression", "translating_imports"]


class SourceError(CaffePortError, SyntaxError):
    """A source that is no Python 3 and cannot be safely translated from Python 2. `str()` has file and line of each
    place."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class Translation:
    """A script that can be run: its code, whether it is Python 2, and what a user should know about it."""

    code: types.CodeType
    python2: bool
    notes: tuple[str, ...] = ()


def translate(source: bytes, file: str, *, python2: bool = False) -> Translation:
    """Compiles a script or module: Python 3 as it stands, Python 2 translated.

    A source is taken for Python 2 if it does not compile, or uses a built-in function or a module that only Python 2
    has, outside `try` and tests of the version; or because `python2` says so. `file` is what tracebacks name.
    Raises: SourceError with everything that is not valid in Python 3 and cannot be translated safely.
    """
    text = _decoded(source, file)
    try:
        tree = ast.parse(text, file)
        code = compile(text, file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        refused: SyntaxError | ValueError | None = error
    else:
        if not python2 and not _needs_python2(tree):
            return Translation(code, False)
        refused = None
    problems = Problems()
    tree, notes = _python3_tree(text, file, problems, "exec", refused)
    try:
        code = compile(tree, file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise SourceError(f"{file}:{getattr(error, 'lineno', 0)}: {getattr(error, 'msg', error)}") from None
    return Translation(code, True, notes)


def translated_expression(source: str) -> types.CodeType:
    """What `eval` runs for a Python 2 expression. Raises: SourceError."""
    tree, _ = _python3_tree(source.strip(), "<string>", Problems(), "eval", None)
    return compile(tree, "<string>", "eval", dont_inherit=True)


def _python3_tree(
    text: str, file: str, problems: Problems, mode: str, refused: Exception | None
) -> tuple[Any, tuple[str, ...]]:
    """The tree that means in Python 3 what the text meant in Python 2, and notes; `refused`: Python 3's own error."""
    changed = _retyped(text, file, problems)
    try:
        tree: Any = ast.parse(changed, file, mode)
    except (SyntaxError, ValueError) as error:
        first = refused if refused is not None and changed == text else error
        line = getattr(first, "lineno", None) or 0
        if not any(problem.location and problem.location.line == line for problem in problems):
            message = f"{getattr(first, 'msg', first)}: neither Python 3, nor Python 2 that can be translated"
            problems.add(SourceError, message, location=Location(file, line))
        _raise_sorted(problems)
        raise
    rewriter = _Rewriter(tree, file, problems)
    tree = ast.fix_missing_locations(rewriter.visit(tree))
    _raise_sorted(problems)
    return tree, tuple(rewriter.notes())


def _raise_sorted(problems: Problems) -> None:
    problems.found.sort(key=lambda problem: problem.location.line if problem.location else 0)
    problems.raise_if_any()


def _decoded(source: bytes, file: str) -> str:
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
        text = source.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise SourceError(f"{file}: {error}; save it as UTF-8") from None
    # As Python reads lines; form feeds and the like are no line ends to it.
    return text.replace("\r\n", "\n").replace("\r", "\n")


# --- what is Python 2 ---

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


def _needs_python2(tree: ast.Module) -> bool:
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


# --- the text ---

_TOKEN = re.compile(
    r"""
    (?P<comment>\#[^\n]*)
  | (?P<string>[uUbB]?[rR]?(?:\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''
                          |"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
  | (?P<number>0[xXoObB][0-9a-fA-F]+[lL]?|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[jJlL]?)
  | (?P<name>[^\W\d]\w*)
  | (?P<space>(?:[ \t\f]|\\\n)+)
  | (?P<newline>\n)
  | (?P<op><>|[<>*/]{2}=?|[-+*/%&|^=<>!]=|.)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(slots=True)
class _Token:
    kind: str
    text: str
    line: int
    depth: int
    new: str = field(default="")


def _retyped(text: str, file: str, problems: Problems) -> str:
    """The text with Python 2's syntax written in Python 3's, token by token, each on its line."""
    tokens = list(_tokens(text))
    future, literals = _imports_future(text, "print_function"), _imports_future(text, "unicode_literals")
    open_tick = False
    for token in tokens:
        if token.kind == "string":
            token.new = _string(token, literals, file, problems)
        elif token.kind == "number":
            token.new = _number(token.text)
        elif token.text == "<>":
            token.new = "!="
        elif token.text == "`":
            open_tick = not open_tick
            token.new = "(repr(" if open_tick else "))"
    for before, token in zip([None, *tokens], tokens, strict=False):
        if (
            token.kind == "space"
            and "\t" in token.text
            and token.depth == 0
            and (before is None or before.kind == "newline")
        ):
            token.new = token.text.expandtabs(8)
    for statement in _statements(tokens):
        _restate(statement, future, file, problems)
    return "".join(token.new for token in tokens)


def _imports_future(text: str, name: str) -> bool:
    return re.search(rf"^from\s+__future__\s+import\s*(\([^)]*|.*)\b{name}\b", text, re.MULTILINE) is not None


def _tokens(text: str) -> Iterator[_Token]:
    line, depth = 1, 0
    for match in _TOKEN.finditer(text):
        kind, found = str(match.lastgroup), match.group()
        depth -= found in (")", "]", "}")
        yield _Token(kind, found, line, depth, found)
        depth += found in ("(", "[", "{")
        line += found.count("\n")


def _statements(tokens: Iterable[_Token]) -> Iterator[list[_Token]]:
    """The tokens that mean something, statement by statement; what a colon ends is one."""
    statement: list[_Token] = []
    for token in tokens:
        if token.depth == 0 and (token.kind == "newline" or token.text in (";", ":")):
            if statement:
                yield statement
            statement = []
        elif token.kind not in ("space", "comment", "newline"):
            statement.append(token)
    if statement:
        yield statement


def _restate(statement: list[_Token], print_function: bool, file: str, problems: Problems) -> None:
    first, rest, last = statement[0], statement[1:], statement[-1]
    commas = [i for i, token in enumerate(rest) if token.text == "," and token.depth == first.depth]
    if first.text == "print" and not print_function:
        newline = last.text != "," or not rest
        if rest and rest[0].text == ">>":
            rest[0].new = ""
            first.new = f"__py2_print__({newline}, "
        else:
            first.new = f"__py2_print__({newline}, None" + (", " if rest else "")
        last.new += ")"
    elif first.text == "exec" and rest and not _is_call(rest):
        for token in rest:
            if token.text == "in" and token.depth == first.depth:
                token.new = ","
        first.new = "exec("
        last.new += ")"
    elif first.text == "except" and commas:
        name = rest[commas[-1] + 1 :]
        if len(commas) > 1 or len(name) != 1 or name[0].kind != "name":
            message = "`except` into something else than a name"
            problems.add(SourceError, message, location=Location(file, first.line))
            return
        rest[commas[0]].new = " as "
    elif first.text == "raise" and commas:
        first.new = "raise __py2_raise__("
        last.new += ")"


def _is_call(tokens: list[_Token]) -> bool:
    """Whether these are one pair of brackets and what is in it."""
    closing = [i for i, token in enumerate(tokens) if token.text == ")" and token.depth == tokens[0].depth]
    return tokens[0].text == "(" and closing[:1] == [len(tokens) - 1]


def _number(text: str) -> str:
    text = text.rstrip("lL")
    return f"0o{text}" if re.fullmatch("0[0-7]+", text) and text.strip("0") else text


def _string(token: _Token, unicode_literals: bool, file: str, problems: Problems) -> str:
    quote = re.search("['\"]", token.text)
    assert quote is not None
    prefix, body = token.text[: quote.start()].lower(), token.text[quote.start() :]
    escapes = re.findall(r"\\(.)", body, re.DOTALL)
    if prefix == "ur":
        if {"u", "U"} & set(escapes):
            problems.add(
                SourceError,
                "ur'' with \\u in it: write u'' with the backslashes doubled",
                location=Location(file, token.line),
            )
        return f"r{body}"
    if prefix or unicode_literals:
        return token.text
    if any(int(code, 16) > 127 for code in re.findall(r"(?:^|[^\\])(?:\\\\)*\\x([0-9a-fA-F]{2})", body)) or any(
        int(code, 8) > 127 for code in re.findall(r"(?:^|[^\\])(?:\\\\)*\\([0-7]{3})", body)
    ):
        message = "a string with bytes above 127: write b'' for bytes or u'' for text"
        problems.add(SourceError, message, location=Location(file, token.line))
    # In a byte string these are no escapes.
    return re.sub(r"\\(.)", lambda m: f"\\\\{m[1]}" if m[1] in "uUN" else m[0], body, flags=re.DOTALL)


# --- the tree ---


class _Rewriter(ast.NodeTransformer):
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


# --- how it runs ---


def namespace(translation: Translation) -> dict[str, Any]:
    """What the globals of a module must have before its code runs."""
    return {"__builtins__": BUILTINS if translation.python2 else builtins}


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module as `translate` has it, and writes no compiled file, which Python itself would take for its own."""

    python2 = False

    def get_code(self, fullname: str) -> types.CodeType:
        return self._translation().code

    def exec_module(self, module: types.ModuleType) -> None:
        translation = self._translation()
        vars(module).update(namespace(translation))
        for note in translation.notes:
            print(note, file=sys.stderr)
        exec(translation.code, vars(module))

    def _translation(self) -> Translation:
        return translate(self.get_data(self.path), self.path, python2=self.python2)


class _Python2Loader(_Loader):
    python2 = True


def translating_imports(folder: str | os.PathLike[str], *, python2: bool = False) -> None:
    """From now on, modules in `folder`, and in folders that are put on `sys.path` later, may be Python 2;
    with `python2` they are, whatever they look like, because a Python 2 script imports them.

    The rest of the process is left as it is: what `sys.path` has now, and this package.
    """
    beside = Path(folder).resolve()
    known = {Path(path).resolve() for path in sys.path} | {Path(__file__).resolve().parents[2]}
    finder = importlib.machinery.FileFinder.path_hook(
        (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
        (_Python2Loader if python2 else _Loader, importlib.machinery.SOURCE_SUFFIXES),
    )

    def hook(path: str) -> Any:
        real = Path(path).resolve()
        nearest = next((one for one in (real, *real.parents) if one == beside or one in known), beside)
        if nearest != beside:
            raise ImportError(path)
        return finder(path)

    sys.path_hooks.insert(0, hook)
    sys.path_importer_cache.pop(str(beside), None)
