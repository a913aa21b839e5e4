"""Several workers beside one: real processes, started by torchrun and by hand, over gloo."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")

import runs
import toys

from caffe_port import cli
from caffe_port.datasets import Batch
from caffe_port.loading import load
from caffe_port.training.data import feed, sources_of
from caffe_port.training.distributed import LossShare, loss_shares
from caffe_port.training.errors import TrainingError
from caffe_port.training.log import read_log
from caffe_port.training.settings import read_settings
from caffe_port.training.solver import Solver

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("distributed")]

PLAIN = """
name: "plain"
%s
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc"
        inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" LOSS }
"""
# No bias in front of a BatchNorm, which takes it away again: its gradient is rounding.
NORMED = toys.NET.replace("param { lr_mult: 2 decay_mult: 0 }", "").replace(
    "num_output: 4", "num_output: 4 bias_term: false"
)
GLOBAL = PLAIN.replace(
    'layer { name: "relu"',
    'layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" batch_norm_param { use_global_stats: true } }\n'
    'layer { name: "relu"',
)


def write(case: Path, net: str, loss: str = "", batch: int = 4, **fields: object) -> Path:
    """A toy whose net reads batches of so many, and whose solver has these fields instead; None takes one away."""
    lines = dict(line.split(": ", 1) for line in toys.SOLVER.strip().splitlines())
    lines |= {"test_interval": "0", "snapshot": "0", "display": "0", "base_lr": "0.01"}
    for name in ("test_iter", "test_interval"):
        del lines[name]
    lines |= {name: str(value) for name, value in fields.items()}
    solver = "".join(f"{name}: {value}\n" for name, value in lines.items() if value != "None")
    path = toys.image_problem(case, solver=solver, net=net.replace("LOSS", loss))
    written = case / "net.prototxt"
    written.write_text(written.read_text().replace("batch_size: 4", f"batch_size: {batch}"))
    return path


def alone(solver: Path, **options: Any) -> Solver:
    made = Solver(read_settings(solver, solver.parent), workers=0, **options)
    made.solve()
    return made


IGNORED = "loss_param { ignore_label: 0 }"
SUMMED = "loss_param { normalization: NONE }"
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # What each of two workers does, and one: twice the batch.
    "sgd": ({"net": PLAIN, "clip_gradients": 0.5, "iter_size": 2}, {"batch": 8}),
    "adam": ({"net": PLAIN, "type": '"Adam"', "momentum2": 0.99, "delta": 1e-3}, {"batch": 8}),
    "ignored": ({"net": PLAIN, "loss": IGNORED, "iter_size": 2}, {"batch": 8}),
    "summed": ({"net": PLAIN, "loss": SUMMED, "base_lr": 0.002}, {"batch": 8}),
    "global": ({"net": GLOBAL, "base_lr": 1e-6}, {"batch": 8}),
    "statistics": ({"net": NORMED, "base_lr": 0}, {"batch": 8}),
    # With dropout, and a batch normalized by itself: twice the passes.
    "passes": ({"net": NORMED}, {"iter_size": 2}),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """What two workers made of the cases, and what one is to make of them: two folders."""
    two, one = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    for name, (fields, changes) in CASES.items():
        write(two / name, **fields)
        write(one / name, **(fields | changes))
    # Resumed in the middle: of a run of one process, and by one.
    alone(write(one / "start", NORMED, batch=4, iter_size=2, snapshot=5, max_iter=5))
    write(two / "resumed", NORMED, snapshot=7)
    for ending in ("solverstate", "caffemodel"):
        name = "start" if ending == "solverstate" else "snap_iter_5"
        (two / "resumed" / f"{name}.{ending}").write_bytes((one / "start" / f"snap_iter_5.{ending}").read_bytes())
    write(one / "resumed", NORMED, iter_size=2)
    # In the second batch, which is that of the second worker.
    write(two / "bad", PLAIN)
    for name in ("train.txt", "net.prototxt"):
        path = two / "bad" / name
        path.write_text(path.read_text().replace("im/6.png 0", "im/6.png 9").replace("shuffle: true", ""))
    write(two / "unknown", PLAIN.replace('top: "fc"', 'top: "fc" loss_weight: 0.1'))
    script = Path(__file__).with_name("workers.py")
    for attempt in (1, 2):
        done = torchrun(str(script), str(two))
        said = done.communicate(timeout=120)
        # Seen twice on a busy machine: PyTorch's own threads abort a worker while the workers find each other.
        if attempt == 2 or "terminate called without an active exception" not in said[1]:
            break
    assert done.returncode == 0, said
    yield two, one


def torchrun(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def blobs(case: Path, rank: int) -> dict[str, NDArray[Any]]:
    with np.load(case / f"worker{rank}.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.mark.parametrize("name", CASES)
def test_two_workers_and_one(trained: tuple[Path, Path], name: str) -> None:
    two, one = trained
    got = blobs(two / name, 0)
    # All workers have the same, to the last bit.
    assert all(np.array_equal(value, got[label]) for label, value in blobs(two / name, 1).items())
    single = alone(one / name / "solver.prototxt")
    want = runs.values(single)
    for label, value in want.items():
        # Of twice the passes the averages move twice.
        if name == "passes" and label.startswith("bn"):
            continue
        # Variances are of a worker's own batch.
        if name == "statistics" and label == "bn/1":
            continue
        assert runs.off(got[label], value) < 1e-5, label
    if name != "statistics":
        assert got["loss"] == pytest.approx(single.loss, rel=1e-4)
        begun = Solver(read_settings(one / name / "solver.prototxt", one / name), workers=0)
        assert all(runs.off(want[f"{layer}/0"], runs.values(begun)[f"{layer}/0"]) > 1e-3 for layer in ("conv", "fc"))


def test_snapshots_go_both_ways(trained: tuple[Path, Path]) -> None:
    """A run of one process, resumed by two workers, and one of theirs by one process."""
    two, one = trained
    whole = runs.values(alone(one / "resumed" / "solver.prototxt"))
    got = blobs(two / "resumed", 0)
    names = [label for label in whole if not label.startswith("bn")]
    assert len(names) == 3
    assert all(runs.off(got[label], whole[label]) < 1e-5 for label in names)
    state = two / "resumed" / "snap_iter_7.solverstate"
    back = runs.values(alone(one / "resumed" / "solver.prototxt", snapshot=state))
    assert all(runs.off(back[label], whole[label]) < 1e-5 for label in names)


def test_an_error_of_one_ends_all(trained: tuple[Path, Path]) -> None:
    two, _ = trained
    texts = [(two / "bad" / f"worker{rank}.txt").read_text() for rank in (0, 1)]
    assert texts[0] == texts[1]
    assert texts[0].startswith(
        "worker 1 of 2: iteration 0: net (TRAIN), batch 1: layer 'loss': item 2 of blob 'label' "
    )
    assert texts[0].endswith("; there is no snapshot yet")
    # Where all say the same, nobody's number is in it.
    text = (two / "unknown" / "worker1.txt").read_text()
    assert "layer 'fc'" in text and "the loss of a InnerProduct layer is not known" in text and "of 2" not in text


# The command


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def endless(folder: Path) -> list[str]:
    solver = write(folder, PLAIN, max_iter=1000000, display=1, snapshot=3)
    return ["train", "--root", str(folder), "--solver", str(solver), "--workers", "1", "-o", str(folder / "log")]


def logged(folder: Path, text: str) -> Callable[[], bool]:
    log = folder / "log" / "train.log"
    return lambda: log.exists() and text in log.read_text()


def test_ctrl_c(tmp_path: Path) -> None:
    started = torchrun("-m", "caffe_port.cli", *endless(tmp_path))
    until(logged(tmp_path, "Iteration 6 "))
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert started.returncode != 0
    states = list(tmp_path.glob("snap_iter_*.solverstate"))
    last = max(states, key=lambda state: int(state.stem.rpartition("_")[2]))
    (told,) = [line for line in err.splitlines() if line.startswith("caffe-port:")]
    assert told.startswith("caffe-port: interrupted at iteration ") and told.endswith(f"; snapshot {last}")
    assert logged(tmp_path, "Optimization stopped early.")()
    # One writes the log.
    iterations = [record.iteration for record in read_log(tmp_path / "log" / "train.log")]
    assert iterations == list(range(len(iterations)))
    # One process goes on.
    resumed = Solver(read_settings(tmp_path / "solver.prototxt", tmp_path), snapshot=last, workers=0)
    assert resumed.iteration == int(last.stem.rpartition("_")[2])


def test_a_worker_that_dies(tmp_path: Path) -> None:
    """Started by hand, as a cluster's own launcher may do it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "caffe_port.cli", *endless(tmp_path), "--quiet", "--threads", "1"]
    both = [
        subprocess.Popen(command, text=True, stderr=subprocess.PIPE, env=os.environ | address | {"RANK": rank})
        for rank in ("0", "1")
    ]
    try:
        until(logged(tmp_path, "Iteration 6 "))
        both[1].kill()
        _, err = both[0].communicate(timeout=30)
    finally:
        for process in both:
            process.kill()
            process.wait()
    (line,) = err.splitlines()
    assert both[0].returncode == 2
    assert line.startswith("caffe-port: iteration ") and "worker 0 of 2: another worker has ended" in line
    assert "; the last good snapshot is " in line and ".solverstate" in line


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        (["--processes", "2"], "torchrun --nproc-per-node 2 -m caffe_port.cli train"),
        (["--master", "local[2]"], "are for --engine spark"),
        (["--engine", "spark"], "--engine spark needs --processes N"),
        (["--timeout", "0"], "--timeout must be at least 1, it is 0"),
    ],
)
def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], want: str) -> None:
    solver = write(tmp_path / "case", PLAIN)
    assert cli.main(["train", "--root", str(solver.parent), "--solver", str(solver), *arguments]) == 2
    assert want in capsys.readouterr().err


# The parts


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["images", "hdf5", "lmdb"])
def test_the_shares_of_the_data(tmp_path: Path, kind: str, workers: int) -> None:
    toys.image_problem(tmp_path)
    layer = toys.IMAGES
    if kind == "lmdb":
        toys.database(tmp_path)
        layer = layer.replace("ImageData", "Data", 1).replace(
            'image_data_param { source: "train.txt" batch_size: 4 shuffle: true new_height: 10 new_width: 10 }',
            'data_param { source: "db" backend: LMDB batch_size: 4 }',
        )
    elif kind == "hdf5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "data.h5", "w") as file:
            file["data"], file["label"] = np.random.default_rng(0).random((11, 3, 8, 8)), np.arange(11) % 2
        (tmp_path / "list.txt").write_text("data.h5\n")
        layer = (
            'layer { name: "train" type: "HDF5Data" top: "data" top: "label" '
            'hdf5_data_param { source: "list.txt" batch_size: 4 shuffle: true } }'
        )
    (tmp_path / "net.prototxt").write_text(toys.NET % layer)
    sources = sources_of(read_settings(tmp_path / "solver.prototxt", tmp_path).train, 1)

    def first(count: int, **options: Any) -> list[Batch]:
        return list(itertools.islice(feed(sources, tmp_path, workers=workers, **options), count))

    whole = first(12)
    for rank in range(3):
        for skip in (0, 2):
            for got, want in zip(first(2, part=(rank, 3), skip=skip), whole[rank + 3 * skip :: 3], strict=False):
                assert all(np.array_equal(got[top], want[top]) for top in want)


def net_with(folder: Path, loss: str) -> Any:
    (folder / "net.prototxt").write_text(
        """
        layer { name: "in" type: "Input" top: "data" top: "label"
                input_param { shape { dim: 4 dim: 3 } shape { dim: 4 } } }
        layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 3 } }
        """
        + loss
    )
    return load(folder / "net.prototxt", phase="TRAIN", allow_missing_weights=True)


SOFTMAX = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "%s" top: "loss" loss_param { %s } }'


@pytest.mark.parametrize(
    ("loss", "want"),
    [
        (SOFTMAX % ("label", ""), LossShare()),
        (SOFTMAX % ("label", "ignore_label: 2 normalization: FULL"), LossShare()),
        (SOFTMAX % ("label", "ignore_label: 2"), LossShare(labels="label", ignored=2)),
        (SOFTMAX % ("label", "normalization: NONE"), LossShare(additive=True)),
        ('layer { name: "l" type: "EuclideanLoss" bottom: "fc" bottom: "data" top: "l" }', LossShare()),
        ('layer { name: "l" type: "Reduction" bottom: "fc" top: "l" loss_weight: 1 }', LossShare(additive=True)),
        (
            'layer { name: "l" type: "Reduction" bottom: "fc" top: "l" loss_weight: 1 '
            "reduction_param { operation: MEAN } }",
            LossShare(),
        ),
        # Of no item: all workers have the same, so their mean is right.
        (
            'layer { name: "p" type: "Parameter" top: "p" parameter_param { shape { dim: 3 } } }'
            'layer { name: "l" type: "Reduction" bottom: "p" top: "l" loss_weight: 1 }',
            LossShare(),
        ),
    ],
)
def test_the_share_of_a_loss(tmp_path: Path, loss: str, want: LossShare) -> None:
    assert loss_shares(net_with(tmp_path, loss)) == [want]


def test_losses_that_cannot_be_put_together(tmp_path: Path) -> None:
    made = (
        'layer { name: "best" type: "ArgMax" bottom: "fc" top: "best" argmax_param { axis: 1 } }'
        + SOFTMAX % ("best", "ignore_label: 2")
        + 'layer { name: "power" type: "Power" bottom: "fc" top: "power" loss_weight: 1 }'
    )
    with pytest.raises(TrainingError, match=r"(?s)layer 'loss'.*the labels must come from a data layer.*layer 'power'"):
        loss_shares(net_with(tmp_path, made))


def test_a_share_of_no_label() -> None:
    share = LossShare(labels="label", ignored=0)
    counts = [share.counted({"label": np.array(labels, np.float32)}) for labels in ([0, 0], [0, 5])]
    assert counts == [0, 1]
    # The worker without a label that counts has a loss of 0, the other all of it.
    assert share.factor(1, 1, 2) == 2
    assert share.factor(0, 0, 2) == 2
