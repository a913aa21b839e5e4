"""Two-class problems small enough to train in a test: pictures, lists, databases, nets and solvers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from caffe_port.proto import schema

NET = """
name: "toy"
%s
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" dropout_param { dropout_ratio: 0.3 } }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc"
        inner_product_param { num_output: 2 weight_filler { type: "gaussian" std: 0.05 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy" include { phase: TEST } }
"""

IMAGES = """
layer { name: "train" type: "ImageData" top: "data" top: "label" include { phase: TRAIN }
        transform_param { crop_size: 8 mirror: true mean_value: 128 scale: 0.01 }
        image_data_param { source: "train.txt" batch_size: 4 shuffle: true new_height: 10 new_width: 10 } }
layer { name: "test" type: "ImageData" top: "data" top: "label" include { phase: TEST }
        transform_param { crop_size: 8 mean_value: 128 scale: 0.01 }
        image_data_param { source: "test.txt" batch_size: 3 new_height: 10 new_width: 10 } }
"""

SOLVER = """
net: "net.prototxt"
test_iter: 2
test_interval: 4
base_lr: 0.05
momentum: 0.9
weight_decay: 0.001
lr_policy: "inv"
gamma: 0.01
power: 0.75
display: 2
max_iter: 10
snapshot: 5
snapshot_prefix: "snap"
random_seed: 3
solver_mode: CPU
"""


def pixels(number: int) -> NDArray[np.uint8]:
    """Item `number`, (3, 12, 12): of class 1, the odd ones, the upper half is brighter; of class 0 the lower."""
    noise = np.random.default_rng(number).integers(0, 100, (3, 12, 12))
    noise[:, :6] += 120 * (number % 2)
    noise[:, 6:] += 120 * (1 - number % 2)
    return noise.astype(np.uint8)


def image_problem(folder: Path, count: int = 11, solver: str = SOLVER, net: str = NET) -> Path:
    """Pictures, their lists, a net that reads them, and a solver; returns the solver's path."""
    (folder / "im").mkdir(parents=True)
    for number in range(count):
        Image.fromarray(pixels(number).transpose(1, 2, 0)[:, :, ::-1]).save(folder / "im" / f"{number}.png")
    for name, numbers in (("train", range(count)), ("test", range(0, count, 3))):
        write_list(folder / f"{name}.txt", numbers)
    (folder / "net.prototxt").write_text(net % IMAGES if "%s" in net else net)
    path = folder / "solver.prototxt"
    path.write_text(solver)
    return path


def write_list(path: Path, numbers: Iterable[int], label: int | None = None) -> None:
    path.write_text("".join(f"im/{n}.png {n % 2 if label is None else label}\n" for n in numbers))


def database(folder: Path, name: str = "db", count: int = 11) -> None:
    lmdb: Any = pytest.importorskip("lmdb")
    with lmdb.open(str(folder / name), map_size=1 << 20) as opened, opened.begin(write=True) as transaction:
        for number in range(count):
            datum = schema.message("Datum")
            datum.channels, datum.height, datum.width = 3, 12, 12
            datum.data, datum.label = pixels(number).tobytes(), number % 2
            transaction.put(f"{number:05d}".encode(), datum.SerializeToString())
