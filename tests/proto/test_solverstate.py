"""Solver states: those Caffe saved, and files made here by the rules."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import CONFORMANCE

import caffe_port as cp
from caffe_port.errors import WeightsError
from caffe_port.proto import schema, solverstate, text, upgrade, wire

RUNS = CONFORMANCE / "solver"
NAMES = sorted(path.name for path in RUNS.iterdir()) if RUNS.is_dir() else []
SETS = {"SGD": 1, "Nesterov": 1, "AdaGrad": 1, "RMSProp": 1, "AdaDelta": 2, "Adam": 2}
"""How many history blobs a learned blob has, by solver type."""


@pytest.mark.skipif(not NAMES, reason="no recordings here")
@pytest.mark.parametrize("name", NAMES)
def test_what_caffe_saved(name: str) -> None:
    folder = RUNS / name
    state = solverstate.read(folder / "snap_iter_12.solverstate")
    assert (state.iteration, Path(state.learned_net).name) == (12, "snap_iter_12.caffemodel")
    solver = upgrade.upgrade_solver(text.read(folder / "solver.prototxt", "SolverParameter")[0])
    net = cp.load(folder / "net.prototxt", phase="TRAIN", input_shapes={"data": (6, 2, 7, 8), "label": (6,)})
    shapes = [weight.shape for weight in net.weights()]
    assert [blob.shape for blob in state.history] == shapes * SETS[solver.type]
    assert any(blob.data.any() for blob in state.history)
    assert all(np.isfinite(blob.data).all() for blob in state.history)
    # A step counts once its iteration was reached; the last update is the one at iteration 11, counted from 0.
    if solver.lr_policy == "multistep":
        assert state.current_step == sum(step <= 11 for step in solver.stepvalue)


@pytest.mark.skipif(not NAMES, reason="no recordings here")
def test_the_history_of_sgd_moves_the_weights() -> None:
    """SGD's history is the last update itself: w after 12 iterations is w after 11 less it (frozen blobs excepted)."""
    folder = RUNS / "00_SGD_fixed"
    state = solverstate.read(folder / "snap_iter_12.solverstate")
    net = cp.load(folder / "net.prototxt", phase="TRAIN", input_shapes={"data": (6, 2, 7, 8), "label": (6,)})
    moved = 0
    with np.load(folder / "run.npz") as run:
        for weight, blob in zip(net.weights(), state.history, strict=True):
            if weight.lr_mult and blob.data.any():
                want = run[f"11:{weight.label}"] - blob.data.reshape(weight.shape)
                assert np.array_equal(want, run[f"12:{weight.label}"]), weight.label
                moved += 1
    assert moved >= 4


def made(**fields: Any) -> Any:
    message = schema.message("SolverState")
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def test_a_file_by_hand(tmp_path: Path) -> None:
    # iter: 300 is the varint 0xAC 0x02; history is field 3, its shape field 7 of the blob, the packed data field 5.
    data = struct.pack("<2f", 1.5, -2)
    blob = bytes([5 << 3 | 2, 8]) + data + bytes([7 << 3 | 2, 3, 1 << 3 | 2, 1, 2])
    raw = b"\x08\xac\x02" + b"\x12\x03a.b" + bytes([3 << 3 | 2, len(blob)]) + blob + bytes([4 << 3, 1])
    (tmp_path / "s.solverstate").write_bytes(raw)
    state = solverstate.read(tmp_path / "s.solverstate")
    assert (state.iteration, state.learned_net, state.current_step) == (300, "a.b", 1)
    assert [(blob.shape, blob.data.tolist()) for blob in state.history] == [((2,), [1.5, -2])]
    assert state.as_json() == {
        "iteration": 300,
        "current_step": 1,
        "learned_net": "a.b",
        "history": [{"shape": [2], "largest": 2}],
    }
    assert solverstate.is_solverstate(tmp_path / "s.solverstate")


def test_hdf5(tmp_path: Path) -> None:
    h5py: Any = pytest.importorskip("h5py")
    path = tmp_path / "s.solverstate.h5"
    with h5py.File(path, "w") as file:
        file["iter"] = np.array([300], "<i4")
        file["current_step"] = np.array([2], "<i4")
        file["learned_net"] = np.bytes_(b"snap.caffemodel.h5")
        file["history/0"] = np.array([[1.5, -2]], "<f4")
        file["history/1"] = np.array([3], "<f4")
    assert solverstate.is_solverstate(path)
    state = solverstate.read(path)
    assert (state.iteration, state.current_step, state.learned_net) == (300, 2, "snap.caffemodel.h5")
    assert [(blob.shape, blob.data.tolist()) for blob in state.history] == [((1, 2), [1.5, -2]), ((1,), [3])]
    with h5py.File(path, "a") as file:
        file.move("history/0", "history/5")
    with pytest.raises(WeightsError, match="/history/0: is missing, of 2 blobs"):
        solverstate.read(path)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["data/fc/0"] = np.zeros(2)
    assert not solverstate.is_solverstate(tmp_path / "w.h5")
    with pytest.raises(WeightsError, match="is no solverstate"):
        solverstate.read(tmp_path / "w.h5")


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        solverstate.read(tmp_path / "none")
    net, _ = text.parse('name: "n" layer { name: "a" type: "ReLU" }')
    wire.write(tmp_path / "net.caffemodel", net, [[]])
    assert not solverstate.is_solverstate(tmp_path / "net.caffemodel")
    with pytest.raises(WeightsError):
        solverstate.read(tmp_path / "net.caffemodel")
    (tmp_path / "text").write_text("iter: 3\n")
    with pytest.raises(WeightsError, match="looks like text"):
        solverstate.read(tmp_path / "text")
    (tmp_path / "noiter").write_bytes(made(learned_net="x\x01").SerializeToString())
    with pytest.raises(WeightsError, match="it has no iteration"):
        solverstate.read(tmp_path / "noiter")


def test_damage(tmp_path: Path) -> None:
    message = made(iter=3, learned_net="x")
    blob = message.history.add()
    blob.shape.dim.append(4)
    blob.data.extend([1, 2, 3, 4])
    raw = message.SerializeToString()
    path = tmp_path / "s"
    for length in range(1, len(raw)):
        path.write_bytes(raw[:length])
        try:
            solverstate.read(path)
        except WeightsError:
            continue
    blob.data.append(5)
    path.write_bytes(message.SerializeToString())
    with pytest.raises(WeightsError, match="blob 0 has 5 values, its shape 4 needs 4"):
        solverstate.read(path)
