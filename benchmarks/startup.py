"""Times what a user waits for before anything happens: importing and `--help`, each as a whole process.

    python benchmarks/startup.py [--rounds 9]

Each median stands beside that of starting Python alone, measured in the same rounds, since machines are noisy.
"""

from __future__ import annotations

import argparse
import sys

from processes import TOOL, in_turns, megabytes, ratio, row, seconds

COMMANDS = {
    "import caffe_port": [sys.executable, "-c", "import caffe_port"],
    "caffe-port --help": [*TOOL, "--help"],
    "caffe-port convert --help": [*TOOL, "convert", "--help"],
}


def rows(rounds: int) -> list[str]:
    took = in_turns({**COMMANDS, "python": [sys.executable, "-c", "pass"]}, rounds)
    base = [one.seconds for one in took.pop("python")]
    lines = []
    for name, runs in took.items():
        times = [one.seconds for one in runs]
        ours = f"{seconds(times)}, {megabytes(one.peak for one in runs)}"
        lines.append(row(f"`{name}`", ours, f"Python alone: {seconds(base)}", f"{ratio(times, base):.1f}", ""))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    print("\n".join(rows(parser.parse_args().rounds)))


if __name__ == "__main__":
    main()
