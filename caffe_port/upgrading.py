"""Files of older generations → files of today, as Caffe's own upgrade tools write them; and solvers to look at."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from caffe_port.errors import Problem, PrototxtError, WeightsError
from caffe_port.proto import hdf5, schema, solverstate, text, upgrade, wire
from caffe_port.proto.schema import Message

__all__ = ["FileKind", "SolverFile", "Upgraded", "kind_of", "read_solver", "upgrade_file"]

FileKind = Literal["net", "weights", "hdf5 weights", "solver", "solverstate"]
"""A net as text; a net in binary, with or without learned blobs; an HDF5 file; a solver as text; a solver's state."""

_COMMENT_OR_STRING = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""")
_BRACE_OR_NAME = re.compile(r"[{}<>]|[A-Za-z_]\w*(?=\s*[:{<])")


def kind_of(path: str | os.PathLike[str]) -> FileKind:
    """What a file is, by its content: text is a solver if a field that only a SolverParameter has stands at its top.

    Raises: WeightsError where it cannot be read; MissingDependency for an HDF5 file without h5py.
    """
    if hdf5.is_hdf5(path):
        return "solverstate" if solverstate.is_solverstate(path) else "hdf5 weights"
    if wire.looks_binary(path):
        return "solverstate" if solverstate.is_solverstate(path) else "weights"
    try:
        content = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise WeightsError(f"{os.fspath(path)}: cannot be read: {error.strerror or error}") from None
    own, net = (schema.descriptor(name).fields_by_name for name in ("SolverParameter", "NetParameter"))
    return "solver" if any(name in own and name not in net for name in _top_names(content)) else "net"


def _top_names(content: str) -> Iterator[str]:
    """The names of the fields that stand in no other field."""
    depth = 0
    for match in _BRACE_OR_NAME.finditer(_COMMENT_OR_STRING.sub(" ", content)):
        word = match.group()
        if word in "{<":
            depth += 1
        elif word in "}>":
            depth -= 1
        elif not depth:
            yield word


@dataclass(frozen=True, slots=True)
class SolverFile:
    """A solver as its file says it, upgraded. steps: which upgrades were applied, in words."""

    path: Path
    message: Message
    steps: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The fields that are set, by name; enums by the names of their values."""
        return {"solver": _plain(self.message), "upgrades": list(self.steps)}

    def table(self) -> list[str]:
        """The fields that are set in lines for people; of a net in it, its text."""
        rows: list[tuple[str, str]] = []
        for line in text.dumps(self.message).splitlines():
            name, colon, value = line.partition(": ")
            rows.append((name, value) if colon and not line.startswith(" ") else (line, ""))
        width = max((len(name) for name, value in rows if value), default=0)
        return [f"{name.ljust(width)}  {value}".rstrip() for name, value in rows]


def read_solver(path: str | os.PathLike[str]) -> SolverFile:
    """Reads a solver prototxt and upgrades it: the old enum `solver_type` becomes the string `type`.

    Raises: PrototxtError.
    """
    message, where = text.read(path, "SolverParameter")
    upgraded = upgrade.upgrade_solver(message, where)
    steps = () if upgraded is message else ("solver_type to type",)
    return SolverFile(Path(path), upgraded, steps)


def _plain(message: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for spec, value in message.ListFields():
        many = [_plain_value(spec, one) for one in (value if schema.is_repeated(spec) else (value,))]
        plain[spec.name] = many if schema.is_repeated(spec) else many[0]
    return plain


def _plain_value(spec: Any, value: Any) -> Any:
    if spec.message_type is not None:
        return _plain(value)
    if spec.enum_type is not None:
        known = spec.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    if spec.type == spec.TYPE_FLOAT:
        # Without the digits that a float32 does not have.
        return float(str(np.float32(value)))
    return value


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What `upgrade_file` did: the kind of the file, the steps in words (none for a file of today), and what it
    lost.
    """

    kind: FileKind
    steps: tuple[str, ...]
    warnings: tuple[Problem, ...]


def upgrade_file(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> Upgraded:
    """Writes the net or the solver in `source`, of any generation, to `target` in today's form, text as text and
    binary as binary; a file of today is written too. `target` appears complete or not at all, and may be `source`
    itself.

    Learned blobs keep their form: an old four-number shape stays one, as with Caffe's tool.
    Raises: PrototxtError, GraphError, WeightsError for a file that cannot be read or upgraded; WeightsError for a
    solver's state and for HDF5, which have but one generation; ArtifactError where `target` cannot be written.
    Source: BVLC/caffe @ 9b89154, tools/upgrade_net_proto_text.cpp, upgrade_net_proto_binary.cpp,
    upgrade_solver_proto_text.cpp.
    """
    if not Path(source).exists():
        raise PrototxtError(f"{os.fspath(source)}: no such file")
    kind = kind_of(source)
    if kind == "solver":
        solver = read_solver(source)
        text.write(target, solver.message)
        return Upgraded(kind, solver.steps, ())
    if kind == "net":
        made = upgrade.upgrade_net(*text.read(source))
        text.write(target, made.net)
    elif kind == "weights":
        saved = wire.read(source)
        made = upgrade.upgrade_net(saved.net, None, saved.blobs)
        wire.write(target, made.net, made.blobs)
    else:
        what = "a solver's state" if kind == "solverstate" else "HDF5 weights"
        raise WeightsError(f"{os.fspath(source)}: {what} needs no upgrade: there is one generation of it")
    return Upgraded(kind, tuple(made.steps), tuple(made.warnings))
