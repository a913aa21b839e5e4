"""Reads and writes what Caffe's solver saves besides the weights: .solverstate (a SolverState) and .solverstate.h5.

Source: BVLC/caffe @ 9b89154, solvers/sgd_solver.cpp
(SnapshotSolverStateToBinaryProto, SnapshotSolverStateToHDF5).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caffe_port.errors import WeightsError
from caffe_port.limits import hint, limits
from caffe_port.proto import hdf5, schema, wire
from caffe_port.proto.blobs import BlobData, blob_chunks
from caffe_port.proto.files import replacing
from caffe_port.proto.wire_format import tagged
from caffe_port.reading import open_regular

__all__ = ["SolverState", "is_solverstate", "read", "write"]

_ITERATION_TAG = b"\x08"
"""A SolverState begins with its iteration, a varint; a NetParameter's field 1 is its name, a string."""

_HISTORY = 3


@dataclass(frozen=True, slots=True, eq=False)
class SolverState:
    """A solver's state.

    iteration: how many updates were made. current_step: which of the multistep policy's steps was reached.
    learned_net: the path of the weights saved with it, as the solver wrote it; "" for none.
    history: one blob for each learned blob, in the net's order, shared ones once; AdaDelta and Adam add a second full
    set behind it (the second moment).
    """

    path: Path
    iteration: int
    current_step: int
    learned_net: str
    history: tuple[BlobData, ...]

    def as_json(self) -> dict[str, Any]:
        """The state for programs: shapes and magnitudes of the history, not its values."""
        return {
            "iteration": self.iteration,
            "current_step": self.current_step,
            "learned_net": self.learned_net,
            "history": [
                {"shape": list(blob.shape), "largest": _largest(blob.data)} for blob in self.history
            ],
        }  # fmt: skip

    def table(self) -> Sequence[str]:
        """The state in lines for people."""
        lines = [
            f"iteration     {self.iteration}",
            f"current step  {self.current_step}",
            f"weights       {self.learned_net or '(none)'}",
            f"history       {len(self.history)} blobs",
        ]
        shapes = ["x".join(map(str, blob.shape)) or "()" for blob in self.history]
        width = max((len(shape) for shape in shapes), default=0)
        for index, (shape, blob) in enumerate(zip(shapes, self.history, strict=True)):
            largest = _largest(blob.data)
            told = "not finite" if largest is None else f"{largest:.6g}"
            lines.append(f"  {index:3d}  {shape.ljust(width)}  largest magnitude {told}")
        return lines


def _largest(values: Any) -> float | None:
    """The largest magnitude; None where a value is not finite (JSON has no word for it)."""
    largest = float(np.abs(values).max(initial=0))
    return largest if np.isfinite(largest) else None


def is_solverstate(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a solver's state, by its content: its first field, or /iter and /history in HDF5.

    Raises: MissingDependency for an HDF5 file without h5py; WeightsError for a damaged one.
    """
    if hdf5.is_hdf5(path):
        with hdf5.opened(path) as file:
            return "iter" in file and "data" not in file
    try:
        with open_regular(path) as stream:
            head = stream.read(2)
    except OSError:
        return False
    return len(head) == 2 and head[:1] == _ITERATION_TAG


def read(path: str | os.PathLike[str]) -> SolverState:
    """Reads a .solverstate or a .solverstate.h5; which one it is, its content says (Caffe goes by the suffix).

    Raises: WeightsError for a file that is missing, of another format, truncated or damaged; MissingDependency for HDF5
    without h5py.
    """
    if hdf5.is_hdf5(path):
        return _read_hdf5(path)
    message, history = wire.read_with_blobs(path, "SolverState", _HISTORY, "a solverstate")
    if not message.HasField("iter"):
        raise WeightsError(f"{os.fspath(path)}: is no solverstate: it has no iteration")
    return SolverState(Path(path), int(message.iter), int(message.current_step), message.learned_net, tuple(history))


def _read_hdf5(path: str | os.PathLike[str]) -> SolverState:
    name = os.fspath(path)
    h5py = hdf5.import_h5py()
    with hdf5.opened(path) as file:
        if not isinstance(file.get("iter"), h5py.Dataset):
            raise WeightsError(f"{name}: is no solverstate: it has no dataset /iter")
        numbers = {key: _integer(file[key], f"{name}: /{key}") for key in ("iter", "current_step") if key in file}
        learned: Any = _single(file["learned_net"], f"{name}: /learned_net") if "learned_net" in file else ""
        learned = learned.decode("utf-8", "replace") if isinstance(learned, bytes) else str(learned)
        group = file.get("history", {})
        count = len(group)
        if count > limits.history_blobs:
            raise WeightsError(f"{name}: has more than {limits.history_blobs} blobs; {hint('history_blobs')}")
        datasets: list[Any] = []
        for index in range(count):
            found = group.get(str(index))
            if not isinstance(found, h5py.Dataset):
                raise WeightsError(f"{name}: /history/{index}: is missing, of {count} blobs")
            datasets.append(found)
        hdf5.require_stored([dataset for dataset in datasets if dataset.chunks], f"{name}: /history")
        history: list[BlobData] = []
        for index, found in enumerate(datasets):
            values = hdf5.numbers_of(found, f"{name}: /history/{index}")
            history.append(BlobData(tuple(map(int, found.shape or ())), False, values))
    return SolverState(Path(path), numbers["iter"], numbers.get("current_step", 0), learned, tuple(history))


def _single(dataset: Any, where: str) -> Any:
    """The one value of a dataset."""
    if not isinstance(dataset, hdf5.import_h5py().Dataset) or dataset.size != 1:
        raise WeightsError(f"{where}: is no single value")
    hdf5.require_stored([dataset], where)
    return np.asarray(dataset[()]).reshape(-1)[0]


def _integer(dataset: Any, where: str) -> int:
    value = _single(dataset, where)
    if not isinstance(value, np.integer):
        raise WeightsError(f"{where}: is no single integer")
    return int(value)


def write(path: str | os.PathLike[str], state: SolverState, *, as_hdf5: bool = False) -> None:
    """Writes a solver's state as Caffe does, binary or HDF5; it appears complete or not at all.

    Caffe tells them apart by the suffix `.h5` when it reads them. The state's own `path` is not looked at.
    Raises: WeightsError for blobs that do not fit their shape; ArtifactError where it cannot be written;
    MissingDependency for HDF5 without h5py.
    """
    if as_hdf5:
        _write_hdf5(path, state)
        return
    head, tail = schema.message("SolverState"), schema.message("SolverState")
    head.iter, head.learned_net, tail.current_step = state.iteration, state.learned_net, state.current_step
    pieces: list[Any] = [head.SerializeToString()]
    for index, blob in enumerate(state.history):
        chunks = blob_chunks(blob, f"{os.fspath(path)}: history blob {index}")
        pieces += [tagged(_HISTORY, sum(map(len, chunks))), *chunks]
    wire.write_pieces(path, [*pieces, tail.SerializeToString()])


def _write_hdf5(path: str | os.PathLike[str], state: SolverState) -> None:
    h5py = hdf5.import_h5py()
    with replacing(path) as stream, h5py.File(stream, "w") as file:
        file.create_dataset("iter", data=np.array([state.iteration], np.int32))
        # A string of fixed length, as HDF5's own lite interface writes it.
        file.create_dataset("learned_net", data=np.bytes_(state.learned_net.encode() + b"\0"))
        file.create_dataset("current_step", data=np.array([state.current_step], np.int32))
        group = file.create_group("history")
        for index, blob in enumerate(state.history):
            group.create_dataset(str(index), data=np.ascontiguousarray(blob.data).reshape(blob.shape))
