"""The loop: tests, display, snapshots, resuming with dropout and shuffled data, and what goes wrong."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import runs
import torch
import toys

from caffe_port.errors import CaffePortError, DataError, GraphError, WeightsError
from caffe_port.loading import load
from caffe_port.training.errors import TrainingError
from caffe_port.training.log import Log, read_log
from caffe_port.training.settings import read_settings
from caffe_port.training.solver import Solver


def solver(folder: Path, extra: str = "", without: str = "", **options: Any) -> Solver:
    """The solver of a toy; `extra` lines are added, lines of the field `without` left out."""
    lines = (folder / "solver.prototxt").read_text().splitlines()
    given = {line.partition(":")[0] for line in extra.splitlines()} | {without}
    kept = [line for line in lines if line.partition(":")[0] not in given]
    changed = folder / "changed.prototxt"
    changed.write_text("\n".join([*kept, extra]))
    options.setdefault("workers", 0)
    return Solver(read_settings(changed, folder), **options)


def test_the_log_of_a_run(tmp_path: Path) -> None:
    toys.image_problem(tmp_path)
    stream = io.StringIO()
    made = solver(tmp_path, log=Log(stream))
    outcome = made.solve()
    (tmp_path / "log").write_text(stream.getvalue())
    records = read_log(tmp_path / "log")
    assert [r.iteration for r in records if r.net is None] == [0, 2, 4, 6, 8, 10]
    assert [r.iteration for r in records if r.net == 0] == [0, 4, 8]
    assert all(set(r.outputs) == {"accuracy", "loss"} and r.losses == {"loss"} for r in records if r.net == 0)
    rates = [r.rate for r in records if r.net is None and r.rate is not None]
    assert rates == pytest.approx([0.05 * (1 + 0.01 * i) ** -0.75 for i in range(0, 10, 2)], rel=1e-5)
    # parse_log.py looks for "Solving", and takes the time of every line behind the first "Iteration".
    lines = stream.getvalue().splitlines()
    began = next(i for i, line in enumerate(lines) if "Solving" in line)
    assert "Iteration" not in "".join(lines[:began])
    assert all(re.match(r"[IW]\d{4} \d\d:\d\d:\d\d\.\d{6} ", line) for line in lines)
    assert "Solving toy" in stream.getvalue() and stream.getvalue().rstrip().endswith("Optimization Done.")
    assert [snapshot.name for snapshot in sorted(tmp_path.glob("*.solverstate"))] == [
        "snap_iter_10.solverstate", "snap_iter_5.solverstate",
    ]  # fmt: skip
    assert (outcome.iteration, outcome.stopped) == (10, False)
    # What is saved is what was trained, and can be loaded for use.
    net = load(tmp_path / "net.prototxt", outcome.snapshot.weights, input_shapes={"data": (3, 3, 8, 8), "label": (3,)})
    got = {weight.label: weight.data for weight in net.weights()}
    # The pass for the last line of the display has moved BatchNorm's averages once more, as in Caffe.
    trained = {label: value for label, value in runs.values(made).items() if not label.startswith("bn")}
    assert len(trained) == 4 and all(np.array_equal(got[label], value) for label, value in trained.items())


def test_it_learns(tmp_path: Path) -> None:
    toys.image_problem(tmp_path)
    made = solver(tmp_path, "max_iter: 40\nsnapshot: 0\ndisplay: 0\nbase_lr: 0.01")
    before = float(made.test()["loss"])
    made.step(40)
    after = made.test()
    assert before > 0.4 and float(after["loss"]) < 0.1 and float(after["accuracy"]) == 1


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_resumed_with_dropout_and_shuffled_data(tmp_path: Path, form: str) -> None:
    toys.image_problem(tmp_path)
    extra = f"snapshot_format: {form}\niter_size: 2"
    whole = solver(tmp_path, extra)
    whole.solve()
    ending = ".h5" if form == "HDF5" else ""
    state = tmp_path / f"snap_iter_5.solverstate{ending}"
    wanted, tested = runs.values(whole), whole.test()
    resumed = solver(tmp_path, extra, snapshot=state, workers=1)
    resumed.solve()
    assert all(np.array_equal(value, wanted[label]) for label, value in runs.values(resumed).items())
    assert all(np.array_equal(value, tested[name]) for name, value in resumed.test().items()), "the test data too"
    anew = solver(tmp_path, extra, snapshot=state, data_from_start=True)
    anew.solve()
    assert any(not np.array_equal(value, wanted[label]) for label, value in runs.values(anew).items())


def test_a_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    toys.image_problem(tmp_path)
    found = []
    for seed, workers in ((7, 0), (7, 1), (8, 0)):
        solver(tmp_path, "test_iter: 1", seed=seed, workers=workers).solve()
        found.append([(tmp_path / f"snap_iter_10.{kind}").read_bytes() for kind in ("caffemodel", "solverstate")])
    assert found[0] == found[1] != found[2]


def test_a_run_without_a_seed_tells_the_one_it_has(tmp_path: Path) -> None:
    toys.image_problem(tmp_path)
    stream = io.StringIO()
    made = solver(tmp_path, without="random_seed", log=Log(stream))
    assert f"Random seed {made.seed}\n" in stream.getvalue()
    with pytest.raises(TrainingError, match="a seed must not be negative"):
        solver(tmp_path, seed=-1)


def test_several_test_nets_with_states(tmp_path: Path) -> None:
    toys.image_problem(tmp_path)
    other = toys.NET % toys.IMAGES.replace('"test.txt" batch_size: 3', '"train.txt" batch_size: 2')
    (tmp_path / "other.prototxt").write_text(other)
    extra = 'test_net: "other.prototxt"\ntest_iter: 1\ntest_iter: 2\ntest_compute_loss: true\n'
    extra += 'test_state { stage: "a" }\ntest_state { stage: "b" }'
    stream = io.StringIO()
    made = solver(tmp_path, extra, log=Log(stream))
    assert [net.net.input_shapes["data"][0] for net in made.tests] == [2, 3]
    made.test_all()
    assert "Testing net (#0)" in stream.getvalue() and "Testing net (#1)" in stream.getvalue()
    assert len(re.findall(r"\] Test loss: [\d.]+\n", stream.getvalue())) == 2


def test_a_test_is_the_mean_over_its_batches(tmp_path: Path) -> None:
    toys.image_problem(tmp_path)
    made = solver(tmp_path)
    batches = [made._tests[0].next() for _ in range(2)]
    with torch.no_grad():
        each = [made.tests[0](batch).outputs for batch in batches]
    fed = solver(tmp_path, test_batches=[iter([batches[0], *batches])])
    # The first batch gives the shapes, and is used.
    fed._tests[0].next()
    means = fed.test()
    for name in ("loss", "accuracy"):
        assert float(means[name]) == pytest.approx(sum(float(outputs[name]) for outputs in each) / 2)


def test_the_average_loss(tmp_path: Path) -> None:
    toys.image_problem(tmp_path)
    made = solver(tmp_path, "average_loss: 3\niter_size: 2")
    losses = []
    for _ in range(5):
        sums: list[float] = []
        inner = made._value
        made._value = lambda result, inner=inner, sums=sums: sums.append(inner(result)) or sums[-1]  # type: ignore[method-assign]
        made.step()
        made._value = inner  # type: ignore[method-assign]
        losses.append(sum(sums[-2:]) / 2)
    assert made.loss == pytest.approx(sum(losses[-3:]) / 3)


def test_batches_of_the_caller(tmp_path: Path) -> None:
    toys.image_problem(tmp_path)
    (tmp_path / "train.txt").unlink()
    rng = np.random.default_rng(0)
    batch = {"data": rng.standard_normal((4, 3, 8, 8)).astype(np.float32), "label": np.array([0, 1, 0, 1], np.float32)}
    made = solver(tmp_path, train_batches=iter([batch] * 20))
    made.step(3)
    assert made.iteration == 3
    with pytest.raises(TrainingError, match="2 test_batches for 1 test nets"):
        solver(tmp_path, train_batches=iter([batch]), test_batches=[iter([]), iter([])])


def test_starting_weights(tmp_path: Path) -> None:
    toys.image_problem(tmp_path)
    first = solver(tmp_path, "display: 3")
    first.solve()
    weights = tmp_path / "snap_iter_10.caffemodel"
    stream = io.StringIO()
    second = solver(tmp_path, weights=[weights], log=Log(stream))
    assert all(np.array_equal(v, runs.values(first)[k]) for k, v in runs.values(second).items())
    assert second.iteration == 0 and "from its fillers" not in stream.getvalue()
    by_field = solver(tmp_path, 'weights: "snap_iter_10.caffemodel"')
    assert all(np.array_equal(v, runs.values(first)[k]) for k, v in runs.values(by_field).items())
    # Another head: what the file has nothing for is told.
    net = tmp_path / "net.prototxt"
    net.write_text(net.read_text().replace('name: "fc"', 'name: "head"'))
    headed = solver(tmp_path, weights=[weights], log=Log(stream))
    assert "layer 'head' has no weights there and starts from its fillers" in stream.getvalue()
    assert np.array_equal(runs.values(headed)["conv/0"], runs.values(first)["conv/0"])
    # A second file may bring what the first has brought; the last counts.
    twice = solver(tmp_path, weights=[weights, tmp_path / "snap_iter_5.caffemodel"])
    assert not np.array_equal(runs.values(twice)["conv/0"], runs.values(first)["conv/0"])
    with pytest.raises(WeightsError, match="layer 'head': learned blob 0 of shape 2x144 has no values"):
        solver(tmp_path, snapshot=tmp_path / "snap_iter_10.solverstate")
    net.write_text(net.read_text().replace('name: "conv"', 'name: "c"').replace('name: "bn"', 'name: "b"'))
    with pytest.raises(WeightsError, match="has weights for no layer of the net 'toy'"):
        solver(tmp_path, weights=[weights])
    with pytest.raises(TrainingError, match="not both"):
        solver(tmp_path, weights=[weights], snapshot=tmp_path / "snap_iter_10.solverstate")


# What goes wrong


def test_labels_that_are_no_class(tmp_path: Path) -> None:
    toys.image_problem(tmp_path)
    with (tmp_path / "train.txt").open("a") as stream:
        stream.write("im/3.png 2\n")
    with pytest.raises(DataError, match=r"net \(TRAIN\), batch \d: layer 'loss': item \d of blob 'label' has label 2; "
                       r"there are 2 classes, 0 to 1; there is no snapshot yet"):  # fmt: skip
        solver(tmp_path, "snapshot: 0").solve()


def test_one_class_only(tmp_path: Path) -> None:
    toys.image_problem(tmp_path)
    toys.write_list(tmp_path / "train.txt", range(6), label=1)
    with pytest.raises(DataError, match="layer 'train': all 6 labels are 1: one class only"):
        solver(tmp_path)
    # In a test it can be.
    toys.write_list(tmp_path / "train.txt", range(6))
    toys.write_list(tmp_path / "test.txt", range(6), label=1)
    solver(tmp_path).test()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_is_no_number(tmp_path: Path) -> None:
    toys.image_problem(tmp_path)
    made = solver(tmp_path)
    made.step(6)
    with torch.no_grad():
        made.train.blobs[0].tensor.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"^iteration 6: the loss is nan: .*; the last good snapshot is "
                       r".*snap_iter_5\.solverstate$"):  # fmt: skip
        made.step()
    with pytest.raises(TrainingError, match=r"no snapshot is taken.*the last good snapshot is"):
        made.snapshot()
    assert not (tmp_path / "snap_iter_6.caffemodel").exists()


def test_data_that_vanish(tmp_path: Path) -> None:
    toys.image_problem(tmp_path)
    made = solver(tmp_path)
    made.step(5)
    for file in (tmp_path / "im").iterdir():
        file.unlink()
    with pytest.raises(CaffePortError, match=r"iteration 5: layer 'train': .*no such file.*; the last good snapshot is "
                       r".*snap_iter_5\.solverstate"):  # fmt: skip
        made.solve()


def test_what_cannot_begin(tmp_path: Path) -> None:
    toys.image_problem(tmp_path)
    with pytest.raises(TrainingError, match="there is no folder"):
        solver(tmp_path, 'snapshot_prefix: "none/snap"')
    net = tmp_path / "net.prototxt"
    original = net.read_text()
    net.write_text(original.replace('name: "conv"', 'name: "a/conv"'))
    with pytest.raises(GraphError, match="HDF5: the layer name 'a/conv' has a '/', use BINARYPROTO"):
        solver(tmp_path, "snapshot_format: HDF5")
    net.write_text(original.replace('name: "relu"', 'name: "conv"'))
    with pytest.raises(GraphError, match="HDF5: the layer name 'conv' is that of two layers"):
        solver(tmp_path, "snapshot_format: HDF5")
    net.write_text(original.replace("SoftmaxWithLoss", "Softmax").replace('bottom: "label" top: "loss"', 'top: "loss"'))
    with pytest.raises(TrainingError, match="the net has no loss"):
        solver(tmp_path)
    net.write_text(original.replace("image_data_param", "# image_data_param").replace("ImageData", "Input"))
    (tmp_path / "net.prototxt").write_text(
        toys.NET % 'layer { name: "in" type: "Input" top: "data" top: "label" '
        "input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } shape { dim: 2 } } }"
    )
    with pytest.raises(DataError, match=r"net \(TRAIN\): nothing gives 'data', 'label': no layer of the net reads it"):
        solver(tmp_path)
    (tmp_path / "net.prototxt").unlink()
    with pytest.raises(CaffePortError, match="no such file"):
        solver(tmp_path)


def test_a_request_to_stop(tmp_path: Path) -> None:
    toys.image_problem(tmp_path)
    made = solver(tmp_path)
    made.on_gradients.append(lambda s: s.request_stop() if s.iteration == 2 else None)
    outcome = made.solve()
    assert outcome.stopped and outcome.iteration == 3
    assert outcome.snapshot.state == tmp_path / "snap_iter_3.solverstate"
    resumed = solver(tmp_path, snapshot=outcome.snapshot.state)
    resumed.solve()
    whole = solver(tmp_path)
    whole.solve()
    assert all(np.array_equal(value, runs.values(whole)[label]) for label, value in runs.values(resumed).items())
