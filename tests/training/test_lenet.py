"""Caffe's LeNet example in one file: net, solver, two test nets by their stages, data in LMDB."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import SHARED

pytest.importorskip("torch")

from caffe_port.proto import schema
from caffe_port.training.settings import read_settings
from caffe_port.training.solver import Solver

SOURCE = SHARED / "conformance" / "prototxt" / "BVLC__caffe__examples_mnist_lenet_consolidated_solver.prototxt"


def digits(folder: Path, count: int, seed: int) -> None:
    """Squares of a place of its own for each of 10 classes, in noise."""
    lmdb: Any = pytest.importorskip("lmdb")
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 22) as opened, opened.begin(write=True) as transaction:
        for number in range(count):
            label = int(rng.integers(10))
            pixels = rng.integers(0, 60, (1, 28, 28), dtype=np.uint8)
            row, column = divmod(label, 4)
            pixels[0, 9 * row : 9 * row + 8, 7 * column : 7 * column + 6] += 150
            datum = schema.message("Datum")
            datum.channels, datum.height, datum.width, datum.label = 1, 28, 28, label
            datum.data = pixels.tobytes()
            transaction.put(f"{number:05d}".encode(), datum.SerializeToString())


@pytest.mark.skipif(not SOURCE.exists(), reason="needs ../shared")
def test_lenet(tmp_path: Path) -> None:
    text = SOURCE.read_text()
    text = re.sub(r"test_iter: \d+", "test_iter: 2", text)
    for name, value in (("max_iter", 20), ("display", 5), ("test_interval", 10), ("snapshot", 10)):
        text, count = re.subn(rf"(?m)^{name}: \d+", f"{name}: {value}", text)
        assert count == 1, name
    (tmp_path / "solver.prototxt").write_text(text)
    digits(tmp_path / "examples" / "mnist" / "mnist_train_lmdb", 200, 0)
    digits(tmp_path / "examples" / "mnist" / "mnist_test_lmdb", 120, 1)
    settings = read_settings(tmp_path / "solver.prototxt", tmp_path)
    assert settings.notes == () and [test.net.stages for test in settings.tests] == [
        ("test-on-test-set",),
        ("test-on-train-set",),
    ]
    solver = Solver(settings, workers=0)
    assert {blob.weight.label: blob.lr_mult for blob in solver.train.blobs} == {
        f"{layer}/{i}": i + 1 for layer in ("conv1", "conv2", "ip1", "ip2") for i in (0, 1)
    }
    before = [float(outputs["accuracy"]) for outputs in solver.test_all()]
    outcome = solver.solve()
    assert outcome.snapshot is not None and outcome.iteration == 20
    assert sorted(path.name for path in (tmp_path / "examples" / "mnist").glob("lenet_iter_*")) == [
        f"lenet_iter_{n}.{kind}" for n in (10, 20) for kind in ("caffemodel", "solverstate")
    ]
    after = [float(outputs["accuracy"]) for outputs in solver.test_all()]
    assert max(before) < 0.5 and min(after) > 0.8
