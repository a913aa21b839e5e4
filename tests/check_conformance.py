#!/usr/bin/env python3
"""Runs the recorded layer cases through every backend, and holds what disagrees to a list of known exceptions.

usage: check_conformance.py [--backend numpy|torch|onnx]… [--verbose] FOLDER

FOLDER has `score.py`, whose `run_case` does the comparing, and the cases in `layers/` and `fork_layers/`.
conformance_exceptions.txt beside this file says which cases are known to disagree, and why. A case that disagrees and
is not listed is a failure, and so are a listed one that agrees, and a line of the list that fits no case.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType

from caffe_port import CaffePortError

BACKENDS = ("numpy", "torch", "onnx")
CRASH = "CRASH"
EXCEPTIONS = Path(__file__).with_name("conformance_exceptions.txt")


@dataclass(frozen=True)
class KnownException:
    """A line of the list: for these backends, the cases of this pattern disagree for this reason."""

    line: int
    backends: tuple[str, ...]
    pattern: str
    reason: str

    def covers(self, backend: str, case: str) -> bool:
        return backend in self.backends and fnmatchcase(case, self.pattern)


def read_exceptions(path: Path) -> list[KnownException]:
    """The list: one exception a line, `backends pattern reason`; backends are separated by commas, `*` is all."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = line.split(maxsplit=2)
        backends = BACKENDS if words[0] == "*" else tuple(words[0].split(","))
        if len(words) < 3 or not set(backends) <= set(BACKENDS):
            raise SystemExit(f"{path}:{number}: not `backends pattern reason`: {line}")
        found.append(KnownException(number, backends, words[1], words[2]))
    return found


def load_score(path: Path) -> ModuleType:
    """score.py as a module."""
    spec = importlib.util.spec_from_file_location("conformance_score", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(f"{path}: not there")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def disagreement(score: ModuleType, case: Path, backend: str) -> str | None:
    """Why a case disagrees, or None. A crash is a disagreement, also where Caffe rejects the net."""
    info = json.loads((case / "case.json").read_text(encoding="utf-8"))
    rejected = info["status"] == "rejected"
    try:
        why = score.run_case(case, info, backend)
    except CaffePortError as error:
        return None if rejected else f"{type(error).__name__}: {str(error).splitlines()[0]}"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this case's failure, and the others are to run
        return f"{CRASH} {type(error).__name__}: {error}"
    return "Caffe rejects this net, caffe_port takes it" if rejected else why


def check(folder: Path, backends: tuple[str, ...], verbose: bool) -> int:
    """Runs all cases; returns how many failures there are, each of which is printed."""
    score = load_score(folder / "score.py")
    exceptions = read_exceptions(EXCEPTIONS)
    cases = []
    for kind in ("layers", "fork_layers"):
        found = sorted(entry.parent for entry in (folder / kind).glob("*/case.json"))
        if not found:
            raise SystemExit(f"{folder / kind}: no case in it")
        cases += found
    failures = 0
    used: set[int] = set()
    stale: dict[int, list[str]] = {}
    for backend in backends:
        agreed = known = 0
        for case in cases:
            why = disagreement(score, case, backend)
            listed = next((entry for entry in exceptions if entry.covers(backend, case.name)), None)
            if listed:
                used.add(listed.line)
            if why is not None and why.startswith(CRASH):
                listed = None  # nothing excuses a crash
            if why is None and listed is None:
                agreed += 1
            elif why is not None and listed is not None:
                known += 1
                if verbose:
                    print(f"{backend} {case.name}: known ({listed.reason}): {why}")
            elif why is not None:
                failures += 1
                print(f"{backend} {case.name}: {why}")
            elif listed is not None:
                stale.setdefault(listed.line, []).append(f"{backend} {case.name}")
        print(f"{backend}: {agreed} of {len(cases)} cases agree, {known} are known exceptions")
    for entry in exceptions:
        if entry.line in stale:
            failures += 1
            print(f"{EXCEPTIONS.name}:{entry.line}: {entry.pattern}: agrees now: {', '.join(stale[entry.line])}")
        if entry.line not in used and set(entry.backends) & set(backends):
            failures += 1
            print(f"{EXCEPTIONS.name}:{entry.line}: {entry.pattern} fits no case")
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="default: all")
    parser.add_argument("--verbose", action="store_true", help="list the known exceptions too")
    args = parser.parse_args()
    failures = check(args.folder, tuple(args.backend or BACKENDS), args.verbose)
    print(f"{failures} unexpected" if failures else "as expected")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
