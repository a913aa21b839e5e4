"""Reads layer cases: nets of a single layer with everything that went in and came out of real Caffe.

Many of them make one zip file (format: docs/recordings.md).
"""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe_port.errors import RecordingError
from caffe_port.reading import contents, open_regular, parse_json, reason, require_unpackable
from caffe_port.recording import arrays_of, described

__all__ = ["LayerCase", "layer_cases", "read_layer_cases"]

# What zipfile raises on damaged files.
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    LookupError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, slots=True, eq=False)
class LayerCase:
    """A net of one layer, what went in, and what Caffe made of it.

    `info` is the case's case.json: phase, status ("ok", or "rejected" with Caffe's reason), outputs, shapes. `weights`
    is a caffemodel's bytes, None where the layer learns nothing. `outputs` has every blob after the forward pass.
    `grads` has `seed:<top>`, `bottom:<blob>` and `param:<layer>/<index>`, None where Caffe cannot go backward.
    `params_after` has the learned blobs after a forward pass in the TRAIN phase, None where that was not recorded.
    """

    name: str
    info: dict[str, Any]
    prototxt: str
    weights: bytes | None
    inputs: dict[str, NDArray[np.float32]]
    outputs: dict[str, NDArray[np.float32]]
    grads: dict[str, NDArray[np.float32]] | None
    params_after: dict[str, NDArray[np.float32]] | None

    @property
    def phase(self) -> str:
        """TRAIN or TEST."""
        return str(self.info["phase"])

    @property
    def rejected(self) -> bool:
        """Whether Caffe refused to build the net."""
        return bool(self.info["status"] == "rejected")


def layer_cases(name: str = "layers") -> Path | None:
    """A zip file of layer cases beside the shipped recordings, `layers` or `fork_layers`; None in an installation that
    leaves it out.
    """
    entry = importlib.resources.files("caffe_port.reference_outputs").joinpath(f"{name}.zip")
    return Path(str(entry)) if entry.is_file() else None


def read_layer_cases(path: str | os.PathLike[str]) -> Iterator[LayerCase]:
    """The layer cases in a zip file, or in a folder with a folder for each case, sorted by name and read one by one.

    Raises: RecordingError for a file that cannot be read, holds no case, or whose case is incomplete or damaged.
    """
    root = Path(path)
    found = False
    if root.is_dir():
        for folder in sorted(entry.parent for entry in root.glob("*/case.json")):
            found = True
            try:
                members = {entry.name: contents(entry) for entry in folder.iterdir() if entry.is_file()}
            except OSError as err:
                raise RecordingError(f"{folder}: {err.strerror or err}") from err
            yield _layer_case(folder.name, members, str(root))
    else:
        for name, members in _zipped_cases(root):
            found = True
            yield _layer_case(name, members, str(root))
    if not found:
        raise RecordingError(f"{root}: no layer case in it")


def _zipped_cases(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(open_regular(path))
            archive = stack.enter_context(zipfile.ZipFile(stream))
            require_unpackable(stream.seek(0, os.SEEK_END), sum(member.file_size for member in archive.infolist()))
        except _UNREADABLE as err:
            raise RecordingError(f"{path}: {reason(err)}") from err
        cases: dict[str, list[zipfile.ZipInfo]] = {}
        for member in archive.infolist():
            case, _, _ = member.filename.partition("/")
            cases.setdefault(case, []).append(member)
        for case in sorted(cases):
            try:
                members = {member.filename.partition("/")[2]: _read_member(archive, member) for member in cases[case]}
            except _UNREADABLE as err:
                raise RecordingError(f"{path}: case {case}: damaged: {reason(err)}") from err
            yield case, members


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # Of other methods zipfile unpacks whatever comes, before it looks at how much that is.
        raise ValueError(f"{member.filename!r} is compressed by a method that is not read here")
    return archive.read(member)


def _layer_case(name: str, members: Mapping[str, bytes], where: str) -> LayerCase:
    here = f"{where}: case {name}"
    try:
        info = parse_json(members["case.json"])
        prototxt = members["net.prototxt"].decode("utf-8")
        rejected = info["status"] == "rejected"
        stated = info["name"], info["phase"]
        outputs = [] if rejected else list(info["outputs"])
        if not all(isinstance(blob, str) for blob in outputs):
            raise TypeError("outputs must be a list of names")
    except KeyError as err:
        raise RecordingError(f"{here}: {err} missing") from err
    except (ValueError, TypeError) as err:
        raise RecordingError(f"{here}: damaged: {err}") from err
    if stated[0] != name or stated[1] not in ("TRAIN", "TEST"):
        raise RecordingError(f"{here}: case.json is of case {stated[0]}, phase {stated[1]}")

    def arrays(member: str) -> dict[str, NDArray[np.float32]] | None:
        content = members.get(member)
        if content is None:
            return None
        found = arrays_of(content, f"{here}: {member}")
        for key, array in found.items():
            if array.dtype != np.float32:
                raise RecordingError(f"{here}: {member}: {key!r} is {described(array)}, not float32")
        return found

    inputs, made = arrays("inputs.npz"), arrays("outputs.npz")
    if not rejected:
        absent = [member for member, got in (("inputs.npz", inputs), ("outputs.npz", made)) if got is None]
        absent += [f"output {blob!r}" for blob in outputs if made is not None and blob not in made]
        if absent:
            raise RecordingError(f"{here}: {', '.join(absent)} missing")
    return LayerCase(
        name=name,
        info=info,
        prototxt=prototxt,
        weights=members.get("weights.caffemodel"),
        inputs=inputs or {},
        outputs=made or {},
        grads=arrays("grads.npz"),
        params_after=arrays("params_after.npz"),
    )
