"""Times what a user waits for: importing, `--help`, and converting open_nsfw to ONNX, each as a whole process.

    python benchmarks/startup.py [--runs 7]

Prints a Markdown table with minimum, median and maximum in seconds, and each median as a multiple of starting Python
alone (measured in the same round, since machines are noisy). The released model must be in the cache
(`caffe-port fetch`).
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from caffe_port.models.fetch import fetch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    found = fetch("open_nsfw")
    with tempfile.TemporaryDirectory() as folder:
        cli = [sys.executable, "-m", "caffe_port.cli"]
        model = [str(found.prototxt), str(found.caffemodel)]
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "import caffe_port": [sys.executable, "-c", "import caffe_port"],
            "caffe-port --help": [*cli, "--help"],
            "caffe-port convert to ONNX, not verified": [
                *cli, "convert", *model, "--to", "onnx", "--no-verify", "-o", str(Path(folder) / "out"),
            ],
        }  # fmt: skip
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(runs):
            for name, command in commands.items():
                start = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                times[name].append(time.perf_counter() - start)
    base = statistics.median(times["python -c pass"])
    print(f"Python {platform.python_version()}, {platform.machine()}, {runs} rounds\n")
    print("| command | min | median | max | x python |")
    print("|---|---|---|---|---|")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"| `{name}` | {min(values):.3f} | {median:.3f} | {max(values):.3f} | {median / base:.1f} |")


if __name__ == "__main__":
    main()
