"""`caffe.SGDSolver` and the others: Caffe's own runs, and what scripts do between steps."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("h5py")

sys.path.append(str(Path(__file__).parents[1] / "training"))

import runs
import toys

import caffe_port.pycaffe as caffe
from caffe_port.errors import CaffePortError, PrototxtError, WeightsError
from caffe_port.training.errors import TrainingError

BY_TYPE = {
    "SGD": caffe.SGDSolver,
    "Nesterov": caffe.NesterovSolver,
    "AdaGrad": caffe.AdaGradSolver,
    "RMSProp": caffe.RMSPropSolver,
    "AdaDelta": caffe.AdaDeltaSolver,
    "Adam": caffe.AdamSolver,
}
TYPES = [next(name for name in runs.names() if name.split("_")[1] == kind and "bn" not in name) for kind in BY_TYPE]


def learned(net: caffe.Net) -> dict[str, caffe.Blob]:
    return {f"{name}/{i}": blob for name, blobs in net.params.items() for i, blob in enumerate(blobs)}


@pytest.mark.parametrize("name", TYPES)
def test_every_blob_of_a_run_of_caffe(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run of each rule, 12 iterations; of a convolution's bias before a BatchNorm see test_recorded_runs."""
    run = runs.unpacked(name, tmp_path)
    monkeypatch.chdir(tmp_path)
    solver = caffe.get_solver("solver.prototxt")
    assert type(solver) is BY_TYPE[name.split("_")[1]] and solver.iter == 0
    solver.net.copy_from("initial.caffemodel")
    left_out = {"conv/1", "bn/0"} if name[:2] in ("14", "15", "17", "23", "27", "29", "35", "39", "41") else set()
    for iteration in range(1, 13):
        solver.step(1)
        assert solver.iter == iteration
        loss = float(solver.net.blobs["loss"].data)
        assert np.isclose(loss, run.losses[iteration - 1], rtol=1e-4)
        got = learned(solver.net)
        assert set(got) == set(run.blobs[iteration])
        for label, want in run.blobs[iteration].items():
            if label not in left_out:
                tolerance = 1e-5 if iteration == 1 else 1e-4
                assert np.abs(got[label].data - want).max() <= tolerance * max(1, np.abs(want).max()), (
                    label,
                    iteration,
                )


def toy(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: str) -> str:
    path = toys.image_problem(folder)
    lines = path.read_text().splitlines()
    for name, value in changes.items():
        lines = [line for line in lines if not line.startswith(f"{name}:")] + [f"{name}: {value}"]
    path.write_text("\n".join(lines))
    monkeypatch.chdir(folder)
    return str(path)


def test_between_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solver = caffe.SGDSolver(toy(tmp_path, monkeypatch))
    (test_net,) = solver.test_nets
    assert solver.net.blobs["data"].data.shape == (4, 3, 8, 8) and test_net.blobs["data"].data.shape == (3, 3, 8, 8)
    before = {label: blob.data.copy() for label, blob in learned(solver.net).items()}
    called: list[str] = []
    solver.add_callback(lambda: called.append("start"), lambda: called.append("gradients"))
    solver.step(1)
    assert called == ["start", "gradients"]
    for label, blob in learned(solver.net).items():
        if not label.startswith("bn"):
            # As in Caffe, diff has what was taken off.
            assert np.abs(blob.diff).max() > 0
            assert np.array_equal(before[label] - blob.data, blob.diff), label
    # The test net has the same learned blobs, and not copies of them.
    solver.net.params["fc"][0].data[...] = 0.25
    assert (test_net.params["fc"][0].data == 0.25).all()
    before_step = solver.net.params["fc"][0].data.copy()
    solver.step(1)
    moved = solver.net.params["fc"][0].data
    assert 0 < np.abs(moved - before_step).max() < 0.2
    assert test_net.forward()["accuracy"].shape == ()
    other = caffe.Net("net.prototxt", caffe.TRAIN)
    solver.share_weights(other)
    assert np.shares_memory(other.params["conv"][0].data, solver.net.params["conv"][0].data)


def test_gradients_changed_by_a_callback_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solver = caffe.SGDSolver(toy(tmp_path, monkeypatch, weight_decay="0"))

    def no_gradient() -> None:
        for blob in learned(solver.net).values():
            blob.diff[...] = 0

    solver.add_callback(lambda: None, no_gradient)
    before = solver.net.params["conv"][0].data.copy()
    solver.step(2)
    assert np.array_equal(solver.net.params["conv"][0].data, before)


def test_an_update_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """apply_update takes the gradients that stand there; param.base_lr counts at once."""
    solver = caffe.SGDSolver(toy(tmp_path, monkeypatch, weight_decay="0", lr_policy='"fixed"'))
    fc = solver.net.params["fc"][0]
    before = fc.data.copy()
    solver.net.clear_param_diffs()
    fc.diff[...] = 2
    solver.param.base_lr = 0.5
    solver.apply_update()
    assert solver.iter == 1
    assert np.allclose(before - fc.data, 1, atol=1e-6)
    # Nothing new, and the momentum of the last one.
    solver.net.clear_param_diffs()
    solver.apply_update()
    assert np.allclose(before - fc.data, 1.9, atol=1e-6)


def test_snapshots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """solve() leaves snapshots; one that is restored goes on as the whole run: the one batch is the same always."""
    data = """layer { name: "data" type: "ImageData" top: "data" top: "label"
                      transform_param { mean_value: 128 scale: 0.01 }
                      image_data_param { source: "train.txt" batch_size: 11 } }"""
    path = toy(tmp_path, monkeypatch, max_iter="4", snapshot="2", test_interval="100")
    (tmp_path / "net.prototxt").write_text(toys.NET.replace("dropout_ratio: 0.3", "dropout_ratio: 0") % data)
    whole = caffe.get_solver(path)
    whole.solve()
    assert whole.iter == 4
    assert sorted(file.name for file in tmp_path.glob("snap_iter_*")) == [
        "snap_iter_2.caffemodel", "snap_iter_2.solverstate", "snap_iter_4.caffemodel", "snap_iter_4.solverstate",
    ]  # fmt: skip
    resumed = caffe.get_solver(path)
    resumed.solve("snap_iter_2.solverstate")
    assert resumed.iter == 4
    for label, blob in learned(whole.net).items():
        assert np.allclose(blob.data, learned(resumed.net)[label].data, atol=1e-6), label
    again = caffe.get_solver(path)
    again.restore("snap_iter_4.solverstate")
    assert again.iter == 4 and again.max_iter == 4
    again.solve()
    assert again.iter == 4


def test_a_snapshot_of_caffe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(name for name in runs.names() if "Adam_" in name)
    run = runs.unpacked(name, tmp_path)
    (state,) = (tmp_path / "caffe").glob("*.solverstate*")
    monkeypatch.chdir(tmp_path)
    solver = caffe.get_solver("solver.prototxt")
    solver.restore(state)
    for label, blob in learned(solver.net).items():
        assert np.allclose(blob.data, run.blobs[solver.iter][label], atol=1e-7)


def test_a_python_layer_feeds_and_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What most old training scripts have: a data layer and a loss in Python."""
    (tmp_path / "own_layers.py").write_text(
        """
import caffe
import numpy as np

class Data(caffe.Layer):
    def setup(self, bottom, top):
        self.rng = np.random.RandomState(0)
    def reshape(self, bottom, top):
        top[0].reshape(8, 3)
        top[1].reshape(8, 1)
    def forward(self, bottom, top):
        top[0].data[...] = self.rng.normal(size=(8, 3))
        top[1].data[...] = top[0].data @ [[1], [-2], [3]]
    def backward(self, top, propagate_down, bottom):
        pass

class Loss(caffe.Layer):
    def setup(self, bottom, top):
        pass
    def reshape(self, bottom, top):
        top[0].reshape(1)
    def forward(self, bottom, top):
        self.difference = bottom[0].data - bottom[1].data
        top[0].data[...] = (self.difference ** 2).sum() / 16
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = self.difference / 8
"""
    )
    (tmp_path / "net.prototxt").write_text(
        """
layer { name: "data" type: "Python" top: "x" top: "y" python_param { module: "own_layers" layer: "Data" } }
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "fc" inner_product_param { num_output: 1 } }
layer { name: "loss" type: "Python" bottom: "fc" bottom: "y" top: "loss" loss_weight: 1
        python_param { module: "own_layers" layer: "Loss" } }
"""
    )
    (tmp_path / "solver.prototxt").write_text(
        'train_net: "net.prototxt" base_lr: 0.2 lr_policy: "fixed" max_iter: 100 snapshot_prefix: "s"'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    solver = caffe.SGDSolver("solver.prototxt")
    assert solver.test_nets == []
    solver.step(100)
    assert np.allclose(solver.net.params["fc"][0].data, [[1, -2, 3]], atol=1e-3)
    assert solver.net.blobs["loss"].data.item() < 1e-5


def test_the_class_decides_the_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = toy(tmp_path, monkeypatch, type='"SGD"')
    assert caffe.NesterovSolver(path)._loop.settings.type == "Nesterov"
    # AdaGrad refuses a momentum, as in Caffe.
    with pytest.raises(TrainingError, match="momentum cannot be used with AdaGrad"):
        caffe.AdaGradSolver(path)
    Path(path).write_text(Path(path).read_text().replace('type: "SGD"', 'type: "Newton"'))
    with pytest.raises(CaffePortError, match="Newton"):
        caffe.get_solver(path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for make in (caffe.SGDSolver, caffe.get_solver):
        with pytest.raises(RuntimeError, match=r"Could not open file none\.prototxt"):
            make("none.prototxt")
    path = toy(tmp_path, monkeypatch, net='"none.prototxt"')
    with pytest.raises(PrototxtError, match="no such file"):
        caffe.SGDSolver(path)
    other = tmp_path / "other"
    other.mkdir()
    solver = caffe.SGDSolver(toy(other, monkeypatch, base_lr="1e30", max_iter="20"))
    with pytest.raises(RuntimeError, match=r"Could not open file none\.solverstate"):
        solver.restore("none.solverstate")
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf).*there is no snapshot yet"):
        solver.step(20)
    run = runs.unpacked(next(name for name in runs.names() if "Adam_" in name), tmp_path / "adam")
    (state,) = (run.folder / "caffe").glob("*.solverstate")
    with pytest.raises(WeightsError, match="the history has"):
        solver.restore(state)


def test_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    solver = caffe.SGDSolver(toy(tmp_path, monkeypatch))
    with caplog.at_level(logging.INFO, "caffe"):
        solver.step(3)
    assert any(line.startswith("Iteration 2 ") and "loss = " in line for line in caplog.messages)
    assert any(line.startswith("Iteration 0, Testing net (#0)") for line in caplog.messages)
