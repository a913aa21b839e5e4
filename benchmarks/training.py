"""Time of a training iteration: our Solver beside a plain PyTorch loop over the same module and the same batches.

    python benchmarks/training.py [--rounds 5] [--threads 1] [--batch 4]

Prints Markdown. The plain loop is forward, loss, backward and torch.optim.SGD.step(), with nothing of Caffe's rules: no
multipliers, no checks of labels and loss, no seed for each pass. open_nsfw is the released model with a SoftmaxWithLoss
in place of its Softmax; the released files are fetched. In each round both run, one after the other, in turns.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from caffe_port.models.fetch import fetch
from caffe_port.training.settings import read_settings
from caffe_port.training.solver import Solver

SOLVER = """net: "net.prototxt" type: "%s" base_lr: 1e-4 momentum: 0.9
weight_decay: 5e-4 lr_policy: "fixed" max_iter: 1000
snapshot_after_train: false random_seed: 1"""

SMALL = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 64 dim: 1 dim: 28 dim: 28 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 64 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 20 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
        convolution_param { num_output: 50 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool2" type: "Pooling" bottom: "conv2" top: "pool2" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "ip1" type: "InnerProduct" bottom: "pool2" top: "ip1"
        inner_product_param { num_output: 500 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
        inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""


def open_nsfw(batch: int) -> tuple[str, Path]:
    """The released model as a net to be trained, and its weights."""
    files = fetch("open_nsfw", offline=False)
    text = files.prototxt.read_text()
    label = f'layer {{ name: "label" type: "Input" top: "label" input_param {{ shape {{ dim: {batch} }} }} }}\nlayer {{'
    text = text.replace("dim: 1 dim: 3", f"dim: {batch} dim: 3", 1).replace("layer {", label, 1)
    end = text.rindex("layer {")
    loss = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc_nsfw" bottom: "label" top: "loss" }'
    return text[:end] + loss, files.caffemodel


def contenders(folder: Path, net: str, weights: Path | None, kind: str, classes: int) -> dict[str, Callable[[], None]]:
    """One iteration of each."""
    (folder / "net.prototxt").write_text(net)
    (folder / "solver.prototxt").write_text(SOLVER % kind)

    def made() -> Solver:
        settings = read_settings(folder / "solver.prototxt", folder)
        return Solver(
            settings, weights=[weights] if weights else [], train_batches=itertools.repeat(batch), device="cpu"
        )

    from caffe_port.loading import load

    shapes = load(folder / "net.prototxt", phase="TRAIN").input_shapes
    rng = np.random.default_rng(0)
    batch = {
        "data": (rng.standard_normal(shapes["data"]) * 40).astype(np.float32),
        "label": rng.integers(0, classes, shapes["label"]).astype(np.float32),
    }
    solver, other = made(), made()
    module = other.train.module
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer: torch.optim.Optimizer
    if kind == "Adam":
        optimizer = torch.optim.Adam(parameters, lr=1e-4, weight_decay=5e-4)
    else:
        optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, weight_decay=5e-4)

    def plain() -> None:
        inputs = [torch.from_numpy(batch[name]) for name in other.train.net.inputs]
        optimizer.zero_grad()
        module(*inputs).backward()
        optimizer.step()

    return {"Solver": lambda: solver.step(1), "plain": plain}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4, help="of open_nsfw")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    nsfw, weights = open_nsfw(options.batch)
    print(f"PyTorch {torch.__version__}, {options.threads} threads; medians of {options.rounds} rounds\n")
    print("| net, solver | Solver, an iteration | plain loop | ratio |\n|---|---|---|---|")
    for name, net, start, classes, count in (
        ("LeNet, batch 64", SMALL, None, 10, 20),
        (f"open_nsfw, batch {options.batch}", nsfw, weights, 2, 1),
    ):
        for kind in ("SGD", "Adam"):
            with tempfile.TemporaryDirectory() as folder:
                both = contenders(Path(folder), net, start, kind, classes)
                times: dict[str, list[float]] = {which: [] for which in both}
                for step in both.values():
                    step()
                for turn in range(options.rounds):
                    for which in sorted(both, reverse=bool(turn % 2)):
                        began = time.perf_counter()
                        for _ in range(count):
                            both[which]()
                        times[which].append((time.perf_counter() - began) / count)
            ours, plain = (statistics.median(times[which]) for which in ("Solver", "plain"))
            ratio = statistics.median(a / b for a, b in zip(times["Solver"], times["plain"], strict=True))
            print(f"| {name}, {kind} | {1000 * ours:.1f} ms | {1000 * plain:.1f} ms | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
