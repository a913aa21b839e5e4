"""Speed and memory of two workers beside one: open_nsfw trained on the same items, by torchrun over gloo.

    python benchmarks/training_distributed.py [--batch 8] [--iterations 4] [--rounds 3] [--workers 2]

Prints Markdown. One worker has batches of --batch, with one thread, and with as many as there are workers otherwise; N
workers have a thread and an N-th of the batch each. The data are random and in memory. Time is the median of the
iterations after the first; memory the largest resident size of a process; averaging is that of the gradients alone.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import training

from caffe_port.training.distributed import DistributedSolver, joined, launched
from caffe_port.training.settings import read_settings
from caffe_port.training.solver import Solver


def measure(folder: Path, weights: Path, batch: int, iterations: int, threads: int) -> None:
    """One worker, or the only one: leaves its figures in the folder."""
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    items = {
        "data": (rng.standard_normal((batch, 3, 224, 224)) * 40).astype(np.float32),
        "label": rng.integers(0, 2, batch).astype(np.float32),
    }
    settings = read_settings(folder / "solver.prototxt", folder)
    options: dict[str, Any] = {"weights": [weights], "train_batches": itertools.repeat(items), "device": "cpu"}
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(joined()) if launched() else None
        solver = Solver(settings, **options) if group is None else DistributedSolver(settings, group, **options)
        times, averaging = [], []
        if group is not None:
            average = group.average

            def timed(tensors: Any) -> None:
                # What one waits for the others is not the averaging.
                group.wait()
                began = time.perf_counter()
                average(tensors)
                averaging.append(time.perf_counter() - began)

            group.average = timed  # type: ignore[method-assign]
        for _ in range(iterations + 1):
            began = time.perf_counter()
            solver.step()
            times.append(time.perf_counter() - began)
        rank = 0 if group is None else group.rank
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    count = sum(blob.tensor.numel() for blob in solver.train.blobs)
    found = {"times": times[1:], "averaging": averaging[1:], "memory": memory, "values": count}
    (folder / f"{rank}.json").write_text(json.dumps(found))


def figures(workers: int, threads: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What each worker has measured."""
    batch = options.batch // workers
    net, weights = training.open_nsfw(batch)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "net.prototxt").write_text(net)
        (folder / "solver.prototxt").write_text(training.SOLVER % "SGD")
        start = [sys.executable]
        if workers > 1:
            start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
        arguments = [str(folder), str(weights), str(batch), str(options.iterations), str(threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        subprocess.run([*start, __file__, "--measure", *arguments], check=True, env=environment)
        return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(workers)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=8, help="of all workers together")
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        folder, weights, batch, iterations, threads = options.measure
        measure(Path(folder), Path(weights), int(batch), int(iterations), int(threads))
        return
    found: dict[tuple[int, int], list[list[dict[str, Any]]]] = {
        (1, 1): [],
        (1, options.workers): [],
        (options.workers, 1): [],
    }
    for turn in range(options.rounds):
        for workers, threads in sorted(found, reverse=bool(turn % 2)):
            found[workers, threads].append(figures(workers, threads, options))
    print(f"PyTorch {torch.__version__}; open_nsfw, {options.batch} images an iteration\n")
    print("| workers | threads of each | an iteration | images a second | averaging | memory of a process |")
    print("|---|---|---|---|---|---|")
    for (workers, threads), rounds in found.items():
        seconds = statistics.median(value for every in rounds for value in every[0]["times"])
        averaging = [value for every in rounds for value in every[0]["averaging"]]
        part = f"{1000 * statistics.median(averaging):.0f} ms" if averaging else "-"
        memory = max(one["memory"] for every in rounds for one in every)
        speed = options.batch / seconds
        print(f"| {workers} | {threads} | {1000 * seconds:.0f} ms | {speed:.1f} | {part} | {memory:.0f} MB |")


if __name__ == "__main__":
    main()
