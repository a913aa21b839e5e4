"""The recorded training runs of real Caffe that the project ships, unpacked where a test wants one."""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from places import REFERENCE

pytest.importorskip("torch")
pytest.importorskip("h5py")

from caffe_port.training.settings import Settings, read_settings
from caffe_port.training.solver import Solver

ARCHIVE = REFERENCE / "solver.zip"


@functools.cache
def names() -> tuple[str, ...]:
    """The runs, `00_SGD_fixed` to `41_Adam_poly`."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        return tuple(sorted({name.partition("/")[0] for name in archive.namelist()}))


@dataclass(frozen=True, slots=True)
class Run:
    """A run in a folder of its own. blobs: iteration (from 1 on) → label → learned blob. losses: of each iteration's
    last pass, before its loss_weight."""

    folder: Path
    blobs: Mapping[int, Mapping[str, NDArray[Any]]]
    losses: NDArray[Any]

    def settings(self, **changes: str) -> Settings:
        """The solver's settings; a change replaces a field's line, or adds one."""
        path = self.folder / "solver.prototxt"
        lines = path.read_text().splitlines()
        for name, value in changes.items():
            lines = [line for line in lines if not line.startswith(f"{name}:")] + [f"{name}: {value}"]
        changed = self.folder / "changed.prototxt"
        changed.write_text("\n".join(lines))
        return read_settings(changed, self.folder)

    def solver(self, changes: Mapping[str, str] | None = None, **options: Any) -> Solver:
        if "snapshot" not in options:
            options.setdefault("weights", [self.folder / "initial.caffemodel"])
        return Solver(self.settings(**(changes or {})), **options)


def unpacked(name: str, folder: Path) -> Run:
    """A run's files in `folder`; Caffe's snapshot goes to `caffe/`."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        for member in archive.namelist():
            if member.startswith(f"{name}/"):
                file = member.removeprefix(f"{name}/")
                target = folder / ("caffe" if file.startswith("snap_iter") else "") / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(member))
    blobs: dict[int, dict[str, NDArray[Any]]] = {}
    with np.load(folder / "run.npz") as arrays:
        for key in arrays.files:
            iteration, colon, label = key.partition(":")
            if colon:
                blobs.setdefault(int(iteration), {})[label] = arrays[key]
        return Run(folder, blobs, arrays["loss_last_pass"].reshape(-1))


def values(solver: Solver) -> dict[str, NDArray[Any]]:
    """Copies of the learned blobs, by label, in Caffe's shapes."""
    return {
        blob.weight.label: blob.tensor.detach().numpy().reshape(blob.weight.shape).copy() for blob in solver.train.blobs
    }


def off(got: NDArray[Any], want: NDArray[Any]) -> float:
    """The largest distance, as a share of the largest magnitude of `want`."""
    assert got.shape == want.shape
    scale = float(np.abs(want).max())
    return float(np.abs(got.astype(np.float64) - want).max()) / (scale or 1.0)
