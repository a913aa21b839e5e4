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
import io
import sys
import tokenize
import types
from dataclasses import dataclass
from typing import Any

from caffe_port.errors import Location, Problems
from caffe_port.pycaffe.errors import SourceError
from caffe_port.pycaffe.python2_runtime import BUILTINS
from caffe_port.pycaffe.python2_text import retyped
from caffe_port.pycaffe.python2_tree import Rewriter, needs_python2

__all__ = ["Translation", "namespace", "translate", "translated_expression"]


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
    try:
        return _translated(_decoded(source, file), file, python2)
    except (RecursionError, MemoryError):
        raise SourceError(f"{file}: its expressions are nested too deeply to be compiled") from None


def _translated(text: str, file: str, python2: bool) -> Translation:
    try:
        tree = ast.parse(text, file)
        code = compile(text, file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        refused: SyntaxError | ValueError | None = error
    else:
        if not python2 and not needs_python2(tree):
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
    try:
        tree, _ = _python3_tree(source.strip(), "<string>", Problems(), "eval", None)
        return compile(tree, "<string>", "eval", dont_inherit=True)
    except (RecursionError, MemoryError):
        raise SourceError("<string>: the expression is nested too deeply to be compiled") from None


def _python3_tree(
    text: str, file: str, problems: Problems, mode: str, refused: Exception | None
) -> tuple[Any, tuple[str, ...]]:
    """The tree that means in Python 3 what the text meant in Python 2, and notes; `refused`: Python 3's own error."""
    changed = retyped(text, file, problems)
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
    rewriter = Rewriter(tree, file, problems)
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
    except (SyntaxError, ValueError, LookupError) as error:
        raise SourceError(f"{file}: {error}; save it as UTF-8") from None
    # As Python reads lines; form feeds and the like are no line ends to it.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def namespace(translation: Translation) -> dict[str, Any]:
    """What the globals of a module must have before its code runs."""
    return {"__builtins__": _BUILTINS if translation.python2 else builtins}


def _exec(code: Any, globals: dict[str, Any], locals: Any = None) -> None:
    if isinstance(code, (str, bytes)):
        source = code.encode() if isinstance(code, str) else code
        code = translate(source, "<string>", python2=True).code
    globals.setdefault("__builtins__", _BUILTINS)
    exec(code, globals, locals)


def _eval(source: Any, globals: dict[str, Any] | None = None, locals: Any = None) -> Any:
    frame = sys._getframe(1)
    if globals is None:
        globals, locals = frame.f_globals, frame.f_locals
    globals.setdefault("__builtins__", _BUILTINS)
    return eval(translated_expression(source) if isinstance(source, str) else source, globals, locals)


_BUILTINS = {**BUILTINS, "eval": _eval, "exec": _exec}
"""Of translated code, which translates what it runs itself."""
