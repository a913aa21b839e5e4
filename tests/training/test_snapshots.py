"""Snapshots as files: byte for byte Caffe's, in HDF5 laid out as Caffe's, found again when moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import runs

from caffe_port.errors import WeightsError
from caffe_port.proto import solverstate
from caffe_port.training.snapshots import read_snapshot

NAMES = ("00_SGD_fixed", "01_Nesterov_step", "04_AdaDelta_multistep", "05_Adam_poly")


@pytest.mark.parametrize("name", runs.names())
def test_what_caffe_saved_is_saved_again_byte_for_byte(name: str, tmp_path: Path) -> None:
    run = runs.unpacked(name, tmp_path)
    caffe = tmp_path / "caffe"
    made = run.solver(snapshot=caffe / "snap_iter_12.solverstate").snapshot()
    assert made.weights == tmp_path / "snap_iter_12.caffemodel"
    assert made.weights.read_bytes() == (caffe / made.weights.name).read_bytes()
    assert made.state.read_bytes() == (caffe / made.state.name).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_in_hdf5(name: str, tmp_path: Path) -> None:
    h5py: Any = pytest.importorskip("h5py")
    run = runs.unpacked(name, tmp_path)
    caffe = tmp_path / "caffe" / "snap_iter_12.solverstate"
    solver = run.solver({"snapshot_format": "HDF5"}, snapshot=caffe)
    made = solver.snapshot()
    assert (made.weights.name, made.state.name) == ("snap_iter_12.caffemodel.h5", "snap_iter_12.solverstate.h5")
    want = solverstate.read(caffe)
    with h5py.File(made.state) as file:
        for key, value in (("iter", 12), ("current_step", want.current_step)):
            assert (file[key].dtype, file[key].shape, int(file[key][0])) == (np.int32, (1,), value)
        # A C string: its length counts the NUL.
        assert file["learned_net"].dtype == f"S{len('snap_iter_12.caffemodel.h5') + 1}"
        assert file["learned_net"][()] == b"snap_iter_12.caffemodel.h5"
        assert sorted(file["history"], key=int) == [str(i) for i in range(len(want.history))]
        for index, blob in enumerate(want.history):
            dataset = file["history"][str(index)]
            assert dataset.dtype == np.float32 and dataset.shape == blob.shape
            assert np.array_equal(dataset[()].reshape(-1), blob.data)
    with h5py.File(made.weights) as file:
        assert set(file["data"]) == {layer.name for layer in solver.train.net.layers}
    again = run.solver({"snapshot_format": "HDF5"}, snapshot=made.state)
    want_blobs = runs.values(solver)
    assert all(np.array_equal(value, want_blobs[label]) for label, value in runs.values(again).items())
    assert all(np.array_equal(a, b) for a, b in zip(again.history(), solver.history(), strict=True))


def test_the_weights_are_found_beside_a_state_that_was_moved(tmp_path: Path) -> None:
    run = runs.unpacked("00_SGD_fixed", tmp_path)
    state, weights = read_snapshot(tmp_path / "caffe" / "snap_iter_12.solverstate", tmp_path)
    assert weights == tmp_path / "caffe" / "snap_iter_12.caffemodel" and state.iteration == 12
    # What the state names goes first.
    run.solver().solve()
    assert read_snapshot(tmp_path / "caffe" / "snap_iter_12.solverstate", tmp_path)[1] == tmp_path / weights.name
    for file in (weights, tmp_path / weights.name):
        file.unlink()
    with pytest.raises(WeightsError, match="its weights are not at"):
        read_snapshot(tmp_path / "caffe" / "snap_iter_12.solverstate", tmp_path)


def test_a_folder_that_is_no_folder_is_told_before_the_first_iteration(tmp_path: Path) -> None:
    from caffe_port.training.errors import TrainingError

    run = runs.unpacked("00_SGD_fixed", tmp_path)
    with pytest.raises(TrainingError, match="snapshot_prefix 'none/snap': there is no folder"):
        run.solver({"snapshot_prefix": '"none/snap"'})
    # Where none will be taken it does not matter.
    run.solver({"snapshot_prefix": '"none/snap"', "snapshot_after_train": "false"}).step(1)


def test_what_no_caffemodel_can_hold_is_told_before_the_first_iteration(tmp_path: Path) -> None:
    from small import CONV_NET, filled

    from caffe_port.training.snapshots import Snapshots

    Snapshots(tmp_path, "snap").check(filled(CONV_NET))
    fork = filled(CONV_NET.replace("pool: MAX", "pool: MAX ceil_mode: true"))
    with pytest.raises(WeightsError, match=r"pool1.*pooling_param\.ceil_mode .*: what only forks of Caffe have"):
        Snapshots(tmp_path, "snap").check(fork)
