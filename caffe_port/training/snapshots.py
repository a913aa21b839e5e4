"""Snapshots: the weights and the solver's state, as real Caffe writes and reads them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caffe_port.converters.to_caffemodel import to_caffemodel, write_caffemodel
from caffe_port.errors import GraphError, WeightsError
from caffe_port.layers.base import Array
from caffe_port.net import Net
from caffe_port.proto import solverstate
from caffe_port.proto.blobs import BlobData
from caffe_port.proto.files import move_together, workshop
from caffe_port.proto.solverstate import SolverState
from caffe_port.training.errors import TrainingError
from caffe_port.weights import write_hdf5

__all__ = ["Snapshot", "Snapshots", "read_snapshot"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot on disk: the weights, the solver's state, and after how many iterations."""

    weights: Path
    state: Path
    iteration: int


@dataclass(frozen=True, slots=True)
class Snapshots:
    """Where a solver's snapshots go: `<prefix>_iter_<n>.caffemodel` and `.solverstate`, in HDF5 with `.h5` behind.

    prefix: as it stands in the state, where the weights are named; relative to `root`.
    """

    root: Path
    prefix: str
    as_hdf5: bool = False

    def check(self, net: Net) -> None:
        """Raises now what would keep a snapshot of this net from being written later.

        TrainingError without a folder that can be written to; GraphError for layer names that HDF5 cannot hold;
        WeightsError for what no caffemodel can hold (`to_caffemodel`).
        """
        folder = (self.root / self.prefix).parent
        if not folder.is_dir():
            raise TrainingError(f"snapshot_prefix {self.prefix!r}: there is no folder {folder}")
        if not os.access(folder, os.W_OK):
            raise TrainingError(f"snapshot_prefix {self.prefix!r}: {folder} cannot be written to")
        if not self.as_hdf5:
            to_caffemodel(net)
            return
        names = [layer.name for layer in net.layers]
        bad = [name for name in names if "/" in name or names.count(name) > 1]
        if bad:
            why = "has a '/'" if "/" in bad[0] else "is that of two layers"
            raise GraphError(f"snapshot_format HDF5: the layer name {bad[0]!r} {why}, use BINARYPROTO")

    def write(self, net: Net, iteration: int, current_step: int, history: Sequence[Array]) -> Snapshot:
        """Writes both files or none. At no moment a state is there whose weights are missing, or are others.

        net: with the weights. history: in Caffe's order, each of its learned blob's shape.
        Raises: ArtifactError, WeightsError, MissingDependency.
        """
        made = self.named(iteration)
        learned_net = self._name(iteration, "caffemodel")
        folder = made.weights.parent
        with workshop(folder) as place:
            (write_hdf5 if self.as_hdf5 else write_caffemodel)(net, place / made.weights.name)
            blobs = tuple(BlobData(tuple(array.shape), False, array.reshape(-1)) for array in history)
            state = SolverState(made.state, iteration, current_step, learned_net, blobs)
            solverstate.write(place / made.state.name, state, as_hdf5=self.as_hdf5)
            move_together(place, folder, [made.weights.name], [made.state.name])
        return made

    def named(self, iteration: int) -> Snapshot:
        """What the snapshot after so many iterations is called."""
        weights, state = (self.root / self._name(iteration, what) for what in ("caffemodel", "solverstate"))
        return Snapshot(weights, state, iteration)

    def _name(self, iteration: int, what: str) -> str:
        return f"{self.prefix}_iter_{iteration}.{what}{'.h5' if self.as_hdf5 else ''}"


def read_snapshot(path: str | os.PathLike[str], root: str | os.PathLike[str] = ".") -> tuple[SolverState, Path]:
    """A solver's state, and the weights it names: from `root` as Caffe looks for them, else beside the state.

    Raises: WeightsError for a state that cannot be read or names no weights, and for weights that are in neither place.
    """
    state = solverstate.read(path)
    if not state.learned_net:
        raise WeightsError(f"{os.fspath(path)}: names no weights, so there is nothing to go on from")
    places = (Path(root, state.learned_net), Path(path).parent / Path(state.learned_net).name)
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        looked = " nor at ".join(dict.fromkeys(map(str, places)))
        raise WeightsError(f"{os.fspath(path)}: its weights are not at {looked}")
    return state, found
