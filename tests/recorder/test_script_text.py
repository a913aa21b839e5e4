"""record.py as text: it parses and runs in Python 2, and agrees with the package."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from caffe_port import recording, registry
from caffe_port.limits import Limits
from caffe_port.recorder import record, script


def test_it_is_printed_as_it_is_run() -> None:
    assert script() == Path(record.__file__).read_text(encoding="ascii")
    assert script().startswith('"""Records what Caffe computes')


def test_it_parses_as_python_2() -> None:
    ast27 = pytest.importorskip("typed_ast.ast27")
    ast27.parse(script())
    with pytest.raises(SyntaxError):
        ast27.parse(script() + "\nx: int = 1\n")


NOT_IN_PYTHON_2 = (
    ast.AnnAssign, ast.AsyncFor, ast.AsyncFunctionDef, ast.AsyncWith, ast.Await, ast.FormattedValue, ast.JoinedStr,
    ast.MatMult, ast.Match, ast.NamedExpr, ast.Nonlocal, ast.YieldFrom,
)  # fmt: skip


def beyond_python_2(source: str) -> set[str]:
    """What of a source Python 2.7 has no syntax for; the places where its grammar is narrower."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, NOT_IN_PYTHON_2):
            found.add(type(node).__name__)
        elif isinstance(node, ast.arguments) and (node.kwonlyargs or node.posonlyargs):
            found.add("keyword-only")
        elif (isinstance(node, ast.arg) and node.annotation) or (isinstance(node, ast.FunctionDef) and node.returns):
            found.add("annotation")
        elif isinstance(node, ast.Raise) and node.cause:
            found.add("raise from")
        elif isinstance(node, ast.ClassDef) and node.keywords:
            found.add("metaclass")
        elif isinstance(node, (ast.List, ast.Tuple, ast.Set, ast.Dict)):
            elements = node.keys if isinstance(node, ast.Dict) else node.elts
            if any(element is None or isinstance(element, ast.Starred) for element in elements):
                found.add("unpacking")
        elif isinstance(node, ast.Call):
            stars = [isinstance(argument, ast.Starred) for argument in node.args]
            if sum(stars) > 1 or (any(stars) and not stars[-1]) or sum(k.arg is None for k in node.keywords) > 1:
                found.add("unpacking")
            if (any(stars) or any(k.arg is None for k in node.keywords)) and re.search(
                r",\s*\)$", ast.get_source_segment(source, node) or ""
            ):
                found.add("comma after *arguments")
    return found


def test_it_keeps_to_python_2() -> None:
    source = script()
    source.encode("ascii")  # Python 2 wants a declaration for more.
    assert beyond_python_2(source) == set()
    tree = ast.parse(source)
    futures = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    assert {"print_function", "division", "absolute_import"} <= {alias.name for node in futures for alias in node.names}
    imported = {alias.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    imported |= {str(n.module).partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert imported - {"__future__", "caffe", "numpy"} <= {
        "argparse", "hashlib", "io", "json", "os", "platform", "re", "sys", "tempfile", "zipfile"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("f'{1}'", "JoinedStr"),
        ("x: int = 1", "AnnAssign"),
        ("def f(*, a): pass", "keyword-only"),
        ("def f(a: int): pass", "annotation"),
        ("def f() -> int: pass", "annotation"),
        ("def f():\n def g():\n  nonlocal x", "Nonlocal"),
        ("def f(): yield from x", "YieldFrom"),
        ("a @ b", "MatMult"),
        ("raise a from b", "raise from"),
        ("[*a]", "unpacking"),
        ("{**a}", "unpacking"),
        ("f(*a, b)", "unpacking"),
        ("f(\n *a,\n)", "comma after *arguments"),
        ("(a := 1)", "NamedExpr"),
    ],
)
def test_the_check_for_python_2_finds(code: str, what: str) -> None:
    assert what in beyond_python_2(code)


def test_it_agrees_with_the_package_on_the_format() -> None:
    types = {definition.type for definition in registry.layer_types() if definition.is_input}
    assert set(record.INPUT_TYPES + record.DATA_TYPES + record.UNFED_TYPES) == types
    assert Limits().unpacked_bytes == record.MAX_BYTES
    for size in (0, 1, 2, 255, 256, 257, 1023, 1025, 4097, 802816, 1 << 20):
        for limit in (1, 2, 256, 1024):
            want = recording.sample_indices(size, limit)
            assert np.array_equal(record.sample(np.arange(size), limit), want)
        assert record.sample(np.arange(size), None).size == size
