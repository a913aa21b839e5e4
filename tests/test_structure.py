"""What may import what: no circles, and dependencies that go one way, as docs/architecture.md says."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from places import ROOT

INSTALLED = {
    "caffe_port": "caffe_port",
    "proto": "caffe_port.proto",
    "converters": "caffe_port.converters",
    "reference_outputs": "caffe_port.reference_outputs",
}
"""Folders, and the packages they are installed as."""

GROUND = {f"caffe_port.{name}" for name in ("_version", "errors", "limits", "printing", "reading")}
"""What everything may import, `proto` too: it knows nothing of Caffe."""

WITH_PYTORCH = {"caffe_port.training", "caffe_port.finetuning"}
"""Packages that are of no use without PyTorch, and import the converter at once."""

CLOSING = {("caffe_port.net", "caffe_port.build")}
"""Imports inside functions that close a circle, on purpose: a method of Net builds another Net."""


@cache
def modules() -> Mapping[str, Path]:
    """Every module by its installed name."""
    found = {}
    for folder, package in INSTALLED.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(tree: ast.AST, *, in_functions: bool) -> Iterator[str]:
    """The modules of this project that a tree imports when it runs: not those that only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and not node.level, "imports are absolute"
            for alias in node.names:
                names = (f"{node.module}.{alias.name}", node.module)
                yield from [name for name in names if name in modules()][:1]
        elif in_functions or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from imported(node, in_functions=in_functions)


@cache
def graph(in_functions: bool) -> Mapping[str, frozenset[str]]:
    """What each module imports; of a package, what its `__init__` does."""
    found = {}
    for name, path in modules().items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found[name] = frozenset(imported(tree, in_functions=in_functions)) - {name}
    return found


def floor(module: str) -> int:
    """How far up a module is: ground, proto, core, converters, commands."""
    if module in GROUND:
        return 0
    for number, packages in enumerate((("proto",), (), ("converters",), ("commands", "cli", "__main__")), 1):
        if any(module == f"caffe_port.{one}" or module.startswith(f"caffe_port.{one}.") for one in packages):
            return number
    return 2


def circle(imports: Mapping[str, frozenset[str]]) -> list[str]:
    """A circle of imports, the first module last again; [] if there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_how_imports_are_found() -> None:
    source = """
from typing import TYPE_CHECKING
import numpy
import caffe_port.net
from caffe_port import registry, __version__
from caffe_port.errors import GraphError
if TYPE_CHECKING:
    from caffe_port.build import build
try:
    from caffe_port.proto import wire
except ImportError:
    pass
class Reader:
    def read(self):
        from caffe_port.loading import load
"""
    at_once = {f"caffe_port{name}" for name in ("", ".net", ".registry", ".errors", ".proto.wire")}
    assert set(imported(ast.parse(source), in_functions=False)) == at_once
    assert set(imported(ast.parse(source), in_functions=True)) == at_once | {"caffe_port.loading"}
    assert circle({"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("a")}) != []


def test_no_circle_of_imports() -> None:
    assert circle(graph(in_functions=False)) == []
    imports = graph(in_functions=True)
    assert circle(imports) != [], "CLOSING closes no circle any more"
    assert circle({name: them - {to for by, to in CLOSING if by == name} for name, them in imports.items()}) == []


def test_dependencies_go_one_way() -> None:
    """Modules import at once what is on their own floor or below; in a function, the core may reach a converter."""
    at_once, ever = graph(in_functions=False), graph(in_functions=True)
    assert len(at_once) > 200
    for name, imports in at_once.items():
        highest = 3 if any(name.startswith(f"{package}.") for package in WITH_PYTORCH) else floor(name)
        assert [one for one in imports if floor(one) > max(highest, floor(name))] == [], name
    for name, imports in ever.items():
        highest = 3 if floor(name) == 2 else floor(name)
        assert [one for one in imports if floor(one) > highest] == [], name


def test_floors() -> None:
    names = ("errors", "proto.wire", "net", "converters.to_onnx.export", "commands.convert")
    assert [floor(f"caffe_port.{name}") for name in names] == [0, 1, 2, 3, 4]
    assert modules().keys() >= GROUND | WITH_PYTORCH
