"""Puts faults into modules, one at a time, and runs their tests: python -m mutation.run [MODULE …] --jobs 2

The faults are those of cosmic-ray. A mutant lives in memory only: a child process imports it in the place of the
module, so that no file is touched. It is killed if a test fails or takes far too long. Every mutant that survives must
be explained in equivalent.txt; exit code 1: one is not, or an explanation there has become void.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import os
import re
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType

import cosmic_ray.plugins
import numpy as np  # noqa: F401  Imported once, before the children are made; so is pytest.
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

from mutation import equivalents
from mutation.equivalents import Change

ROOT = Path(__file__).parent.parent

TESTS = {
    "caffe_port.shapes": ["test_shapes.py"],
    "caffe_port.proto.upgrade": ["test_upgrade.py"],
    "caffe_port.compare": ["test_compare.py"],
}
"""The test modules that hold each module, by name, wherever below tests/. They need nothing from elsewhere."""

SKIPPED = re.compile(r"ReplaceComparisonOperator_(Eq_Is|NotEq_IsNot)$")
"""`is` for `==`: whether equal numbers are one object is Python's affair."""

MEMORY = 8 << 30
"""Address space of a child, in bytes: a mutant may ask for a huge array."""

LONG = 10.0
"""A mutant is an endless loop where its tests take so many times as long as the original's, and 10 seconds more."""

_NO_HOOK = 99


@dataclass(frozen=True, slots=True)
class Mutant:
    """A module with one fault."""

    change: Change
    line: int
    source: str


def mutants(module: str, source: str) -> Iterator[Mutant]:
    """The mutants of a module that differ from it, and from each other, in what is executed."""
    seen = {_executed(source)}
    tree = get_ast(source)
    for name in cosmic_ray.plugins.operator_names():
        kind = cosmic_ray.plugins.get_operator(name)
        if kind.arguments() or SKIPPED.search(name):
            continue
        places = [(node, place) for node in ast_nodes(tree) for place in kind().mutation_positions(node)]
        for occurrence in range(len(places)):
            mutated = mutate_code(source, kind(), occurrence)
            executed = _executed(mutated)
            if executed not in seen:
                seen.add(executed)
                yield _described(module, source, mutated)


class _WithoutAnnotations(ast.NodeTransformer):
    """Annotations are strings (`from __future__ import annotations`): nobody computes what stands there."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        self.generic_visit(node)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        node.annotation = ast.Name("annotation", ast.Load())
        self.generic_visit(node)
        return node


def _executed(source: str) -> str | None:
    """What of a source is executed; None for one that is none, which counts once for all."""
    try:
        return ast.dump(_WithoutAnnotations().visit(ast.parse(source)))
    except SyntaxError:
        return None


def _described(module: str, source: str, mutated: str) -> Mutant:
    before, after = source.splitlines(), mutated.splitlines()
    changes = [
        op for op in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes() if op[0] != "equal"
    ]
    first, last = changes[0], changes[-1]

    def joined(lines: Sequence[str]) -> str:
        return " ".join(line.strip() for line in lines)

    change = Change(
        module,
        _function(source, first[1] + 1),
        joined(before[first[1] : last[2]]),
        joined(after[first[3] : last[4]]),
    )
    return Mutant(change, first[1] + 1, mutated)


def _function(source: str, line: int) -> str:
    """The dotted name of the innermost function or class that a line is in; `module` outside of any."""
    name = ""
    body: Sequence[ast.AST] = ast.parse(source).body
    while True:
        for node in body:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                continue
            start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if start <= line <= (node.end_lineno or 0):
                name = f"{name}.{node.name}".lstrip(".")
                body = node.body
                break
        else:
            return name or "module"


class _Mutated(importlib.machinery.SourceFileLoader):
    """Loads a module from another source than its file's."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self.source = source
        self.used = False

    def get_code(self, fullname: str) -> CodeType:
        self.used = True
        return compile(self.source, self.path, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, loader: _Mutated) -> None:
        self.loader = loader

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.loader.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.loader.path, loader=self.loader)


def _run_tests(module: str, path: str, source: str, tests: list[str]) -> None:
    """In a child: ends it with pytest's exit code."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    sys.stdout = sys.stderr = io.StringIO()
    loader = _Mutated(module, path, source)
    sys.meta_path.insert(0, _Finder(loader))
    code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", *tests]))
    os._exit(code if loader.used else _NO_HOOK)


class Bench:
    """A module beside its tests. It must not have been imported yet in this process."""

    def __init__(self, module: str) -> None:
        spec = importlib.util.find_spec(module)
        assert spec is not None and spec.origin is not None and module not in sys.modules
        self.module, self.path = module, spec.origin
        self.source = Path(self.path).read_text(encoding="utf-8")
        self.tests = [str(path) for name in TESTS[module] for path in sorted((ROOT / "tests").rglob(name))]
        if len(self.tests) < len(TESTS[module]):
            raise SystemExit(f"tests of {module} are missing: {', '.join(TESTS[module])}")
        start = time.monotonic()
        process = self.start(self.source)
        process.join()
        self.seconds = time.monotonic() - start
        if process.exitcode != 0:
            raise SystemExit(f"the tests of {module} do not pass as it stands: {process.exitcode}")

    def start(self, source: str) -> multiprocessing.process.BaseProcess:
        arguments = (self.module, self.path, source, self.tests)
        process = multiprocessing.get_context("fork").Process(target=_run_tests, args=arguments)
        process.start()
        return process

    def survivors(self, those: Sequence[Mutant], jobs: int) -> list[Mutant]:
        """The mutants with which all tests pass, by line."""
        waiting, found = list(reversed(those)), []
        running: dict[int, tuple[multiprocessing.process.BaseProcess, Mutant, float]] = {}
        limit = LONG * self.seconds + 10
        while waiting or running:
            while waiting and len(running) < jobs:
                mutant = waiting.pop()
                process = self.start(mutant.source)
                running[process.sentinel] = (process, mutant, time.monotonic() + limit)
            multiprocessing.connection.wait(list(running), 1.0)
            for sentinel, (process, mutant, end) in list(running.items()):
                if process.is_alive() and time.monotonic() < end:
                    continue
                if process.is_alive():
                    process.kill()
                process.join()
                del running[sentinel]
                if process.exitcode == _NO_HOOK:
                    raise SystemExit(f"the tests of {self.module} do not import it")
                if process.exitcode == 0:
                    found.append(mutant)
        return sorted(found, key=lambda mutant: (mutant.line, mutant.change.after))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mutation.run", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"default: {', '.join(TESTS)}")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants at once")
    args = parser.parse_args()
    unknown = [name for name in args.modules if name not in TESTS]
    if unknown:
        print(f"nothing is known of {', '.join(unknown)}; there are {', '.join(TESTS)}", file=sys.stderr)
        return 2
    reasons = equivalents.read()
    # Plug-ins would only take time.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    rows, wrong = [], []
    for module in args.modules or TESTS:
        bench = Bench(module)
        those = list(mutants(module, bench.source))
        print(f"{module}: {len(those)} mutants; the tests take {bench.seconds:.1f} s", file=sys.stderr, flush=True)
        survivors = bench.survivors(those, args.jobs)
        unexplained = [mutant for mutant in survivors if mutant.change not in reasons]
        void = {change for change in reasons if change.module == module} - {mutant.change for mutant in survivors}
        for mutant in unexplained:
            change = mutant.change
            wrong.append(f"{module} {change.function}\n- {change.before}\n+ {change.after}\n= line {mutant.line}")
        wrong += [f"no such survivor: {one.module} {one.function}\n- {one.before}\n+ {one.after}" for one in void]
        explained = len(survivors) - len(unexplained)
        rows.append((module, len(those), len(those) - len(survivors), explained, len(unexplained)))
    print(*wrong, sep="\n\n", end="\n\n" if wrong else "")
    print("| module | mutants | killed | equivalent | survived |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
