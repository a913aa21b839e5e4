"""42 training runs of real Caffe: every learned blob after every iteration, the losses, the snapshots, resuming.

A convolution's bias in front of a BatchNorm changes nothing: the mean takes it away again, and its gradient is zero in
exact arithmetic. What Caffe recorded of it is its own rounding noise, moved by the update rule; where the rule divides
by the gradient's size, the noise becomes as large as any step. No other program can repeat that. Such a bias is found
by its gradient in float64, and is not compared where the rule is such a one; BatchNorm's running mean, which has the
bias in it, is compared without it then. With the other rules the bias is held to Caffe's as everything is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")
pytest.importorskip("h5py")

import runs
import torch

from caffe_port.proto import solverstate, wire
from caffe_port.training.solver import Solver

FIRST, LATER = 1e-5, 1e-4
BIAS, MEAN = "conv/1", "bn/0"
AMPLIFY = ("AdaGrad", "RMSProp", "Adam")
"""The rules that divide by the gradient's size from the first step on."""
FREE = {f"{number:02d}" for number in (14, 15, 17, 23, 27, 29, 35, 39, 41)}
"""The runs in which the bias is left out."""


def has_free_bias(run: runs.Run) -> bool:
    """Whether a bias is learned whose gradient is zero: in float64 it is less than 1e-12."""
    solver = run.solver()
    layers = solver.train.net.layers
    bias = solver.train.module.get_parameter("conv.bias")
    if layers[2].type != "BatchNorm" or not bias.requires_grad:
        return False
    module = solver.train.module.double()
    batch = [torch.from_numpy(array).double() for array in solver._train.next().values()]
    (loss,) = module.values_of([blob for blob, _ in solver.train.terms], *batch)
    (gradient,) = torch.autograd.grad(loss.sum(), [module.get_parameter("conv.bias")])
    assert float(gradient.abs().max()) < 1e-12
    return True


def without_bias(
    means: dict[int, NDArray[np.float32]], biases: dict[int, NDArray[np.float32]], passes: int
) -> dict[int, NDArray[np.float64]]:
    """BatchNorm's sum of means without the share of the bias: each pass multiplies the sum by 0.999 and adds a mean, in
    which the bias of that time is."""
    share = np.zeros_like(biases[0], np.float64)
    found = {}
    for iteration in range(1, max(means) + 1):
        for _ in range(passes):
            share = 0.999 * share + biases[iteration - 1]
        found[iteration] = means[iteration] - share
    return found


@pytest.mark.parametrize("name", runs.names())
def test_every_blob_after_every_iteration(name: str, tmp_path: Path) -> None:
    run = runs.unpacked(name, tmp_path)
    solver = run.solver()
    free = has_free_bias(run)
    left_out = (BIAS, MEAN) if free and solver.settings.type in AMPLIFY else ()
    assert bool(left_out) == (name[:2] in FREE)
    start = runs.values(solver)
    passes = solver.settings.iter_size
    losses: list[float] = []
    solver.on_gradients.append(lambda made: losses.append(made.last_loss))
    got = {0: start}
    for iteration in range(1, 13):
        solver.step()
        got[iteration] = runs.values(solver)
        want = run.blobs[iteration]
        assert set(got[iteration]) == set(want)
        for label in want:
            if label not in left_out:
                worst = runs.off(got[iteration][label], want[label])
                assert worst <= (FIRST if iteration == 1 else LATER), f"{label} after {iteration}: {worst:.3g}"
    if left_out:
        mine, its = (
            without_bias({i: b[MEAN] for i, b in blobs.items()}, {i: b[BIAS] for i, b in blobs.items()}, passes)
            for blobs in (got, {0: start, **run.blobs})
        )
        assert max(runs.off(mine[i], its[i]) for i in range(1, 13)) <= LATER
    # Caffe's is the loss of each iteration's last pass, before the loss weight.
    ((_, weight),) = solver.train.terms
    relative = np.abs(np.array(losses) / weight / run.losses - 1)
    assert relative[0] <= FIRST and relative.max() <= LATER
    check_snapshot(solver, tmp_path / "caffe", (BIAS, MEAN) if free else ())


def check_snapshot(solver: Solver, caffe: Path, noisy: tuple[str, ...]) -> None:
    """What is saved is what Caffe saved: the same messages, the same history, as many bytes."""
    made = solver.snapshot()
    theirs = caffe / "snap_iter_12.solverstate"
    got, want = solverstate.read(made.state), solverstate.read(theirs)
    assert (got.iteration, got.current_step, got.learned_net) == (12, want.current_step, "snap_iter_12.caffemodel")
    labels = [weight.label for weight in solver.train.net.weights()]
    assert len(got.history) == len(want.history) == len(labels) * solver.optimizer.moments
    for index, (mine, its) in enumerate(zip(got.history, want.history, strict=True)):
        assert mine.shape == its.shape and not mine.legacy
        if labels[index % len(labels)] in noisy:
            assert np.abs(mine.data - its.data).max() < 1e-6
        else:
            assert runs.off(mine.data, its.data) <= LATER
    saved, weights = wire.read(made.weights), wire.read(theirs.with_name("snap_iter_12.caffemodel"))
    assert saved.net == weights.net
    assert [[blob.shape for blob in own] for own in saved.blobs] == [[b.shape for b in own] for own in weights.blobs]
    assert made.state.stat().st_size == theirs.stat().st_size
    assert made.weights.stat().st_size == weights.path.stat().st_size


@pytest.mark.parametrize("name", runs.names()[::5])
@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_stopped_and_resumed_is_as_the_whole(name: str, form: str, tmp_path: Path) -> None:
    run = runs.unpacked(name, tmp_path)
    whole = run.solver({"snapshot": "6", "snapshot_format": form})
    whole.solve()
    ending = ".h5" if form == "HDF5" else ""
    resumed = run.solver({"snapshot_format": form}, snapshot=tmp_path / f"snap_iter_6.solverstate{ending}")
    assert resumed.iteration == 6
    resumed.step(6)
    want = runs.values(whole)
    for label, value in runs.values(resumed).items():
        assert np.array_equal(value, want[label]), label
    for mine, its in zip(resumed.history(), whole.history(), strict=True):
        assert np.array_equal(mine, its)


@pytest.mark.parametrize("name", [*runs.names()[1:6], "30_SGD_fixed"])
def test_resumed_from_caffes_own_snapshot(name: str, tmp_path: Path) -> None:
    """From Caffe's 12th iteration to the 15th as from ours; at a fixed rate, since poly's is 0 from 12 on."""
    run = runs.unpacked(name, tmp_path)
    whole = run.solver()
    whole.solve()
    ends = []
    for state in (tmp_path / "snap_iter_12.solverstate", tmp_path / "caffe" / "snap_iter_12.solverstate"):
        changes = {} if whole.settings.policy.name != "poly" else {"lr_policy": '"fixed"'}
        resumed = run.solver(changes, snapshot=state)
        assert (resumed.iteration, resumed.current_step) == (12, whole.current_step)
        resumed.step(3)
        ends.append(runs.values(resumed))
    ours, caffes = ends
    assert max(runs.off(caffes[label], ours[label]) for label in ours) <= LATER
    assert any(runs.off(ours[label], value) > 1e-3 for label, value in runs.values(whole).items()), "nothing moved"


def test_history_of_another_solver_is_refused(tmp_path: Path) -> None:
    from caffe_port.errors import WeightsError

    run = runs.unpacked("00_SGD_fixed", tmp_path)
    state = tmp_path / "caffe" / "snap_iter_12.solverstate"
    with pytest.raises(WeightsError, match=r"snap_iter_12\.solverstate: the history has 9 blobs; Adam needs 18"):
        run.solver({"type": '"Adam"'}, snapshot=state)
    (tmp_path / "caffe" / "snap_iter_12.caffemodel").unlink()
    with pytest.raises(WeightsError, match="its weights are not at"):
        run.solver(snapshot=state)
