"""What the announcement of open_nsfw promises (under 0.5 s an image on a CPU, about 23 MB), measured.

    python benchmarks/announcement.py [--rounds 7] [--write]

Prints a Markdown table; `--write` puts it into README.md, between its marks. Each row is a process of its own, in each
round in another order: the whole command for one JPEG of about a megapixel (start of Python, reading the model, one
score), and the same image again in a running process. Medians; peak memory is the process's own, and what Python with
NumPy and Pillow alone takes stands below.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import readme

from caffe_port.models.fetch import fetch

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "reference_outputs" / "open_nsfw" / "images"
FORMS = {
    "onnxruntime": ("onnxruntime", "float32"),
    "onnxruntime, `--precision int8`": ("onnxruntime", "int8"),
    "PyTorch": ("torch", "float32"),
    "NumPy": ("numpy", "float32"),
}


def picture(path: Path) -> float:
    """Writes a JPEG of a megapixel; returns its megapixels."""
    from PIL import Image

    with Image.open(IMAGES / "coffee.png") as source:
        image = source.convert("RGB")
    scale = (1e6 / (image.width * image.height)) ** 0.5
    size = (round(image.width * scale), round(image.height * scale))
    image.resize(size, Image.Resampling.BICUBIC).save(path, quality=85)
    return size[0] * size[1] / 1e6


def serve(backend: str, precision: str, image: Path) -> None:
    """Prints the seconds of one more image in this process, the median of some, and its peak memory in MB."""
    from caffe_port.scoring.scorer import Scorer

    with Scorer(offline=True, backend=backend, precision=precision) as scorer:
        scorer.score(image)
        times = []
        for _ in range(9):
            start = time.perf_counter()
            scorer.score(image)
            times.append(time.perf_counter() - start)
    print(statistics.median(times), peak(resource.RUSAGE_SELF))


def peak(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 1000


def measured(rounds: int) -> str:
    model = fetch("open_nsfw", offline=True).caffemodel
    whole: dict[str, list[float]] = {name: [] for name in FORMS}
    again: dict[str, list[float]] = {name: [] for name in FORMS}
    memory: dict[str, list[float]] = {name: [] for name in FORMS}
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "picture.jpg"
        megapixels = picture(image)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            for name in chance.sample(list(FORMS), len(FORMS)):
                backend, precision = FORMS[name]
                command = [sys.executable, "-m", "caffe_port.cli", "score", str(image), "--offline"]
                start = time.perf_counter()
                subprocess.run(
                    [*command, "--backend", backend, "--precision", precision], check=True, stdout=subprocess.DEVNULL
                )
                whole[name].append(time.perf_counter() - start)
                served = [sys.executable, __file__, "--serve", backend, precision, str(image)]
                seconds, size = subprocess.run(served, check=True, capture_output=True, text=True).stdout.split()
                again[name].append(float(seconds))
                memory[name].append(float(size))
    bare = subprocess.run(
        [
            sys.executable,
            "-c",
            "import numpy, PIL.Image, resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    lines = [
        f"| on {len(os.sched_getaffinity(0))} processor cores | the whole command, one image | each further image "
        "| peak memory |",
        "|---|---|---|---|",
    ]
    for name in FORMS:
        middle = statistics.median
        lines.append(
            f"| {name} | {middle(whole[name]):.2f} s | {middle(again[name]):.3f} s | {middle(memory[name]):.0f} MB |"
        )
    lines += [
        "",
        f"{platform.machine()}, Python {platform.python_version()}, a JPEG of {megapixels:.1f} megapixels, medians of "
        f"{rounds} rounds. Python with NumPy and Pillow alone takes {float(bare):.0f} MB. The released caffemodel has "
        f"{model.stat().st_size / 1e6:.1f} MB; the files made of it are in the table above.",
    ]
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    text = measured(args.rounds)
    print(text)
    if args.write:
        readme.put("announcement", text)


if __name__ == "__main__":
    main()
