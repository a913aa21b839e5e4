"""Runs the benchmarks of speed and memory and makes one table of them.

    python benchmarks/all.py [--write] [--rounds 5]

or `make benchmarks`. `--write` puts the table where it is read, between its marks. Takes about ten minutes on two
cores, the first time a minute more: what the peers need is made once, below build/benchmarks. Ratios are of what ran in
the same round, so they say more than the times; the machine should have nothing else to do.

Each benchmark is a script of its own: startup, loading, conversion, forward, scoring.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import conversion
import forward
import loading
import readme
import scoring
import startup
from models import architecture, open_nsfw
from processes import machine, row

PACKAGES = ("numpy", "protobuf", "onnx", "onnxruntime", "opencv-python-headless")


def benchmarks(rounds: int, peer_python: str) -> list[tuple[str, Callable[[], list[str]]]]:
    return [
        ("startup", lambda: startup.rows(rounds)),
        ("loading open_nsfw", lambda: loading.rows(rounds, open_nsfw())),
        ("loading VGG-16", lambda: loading.rows(rounds, architecture("vgg16", "VGG-16"))),
        ("conversion", lambda: conversion.rows(rounds, peer_python)),
        ("forward", lambda: forward.rows(6 * rounds)),
        ("scoring", lambda: scoring.rows(40 * rounds, 3)),
    ]


def table(rounds: int, peer_python: str) -> str:
    lines = [row("", "caffe_port", "beside it", "times it: time, memory", "aim"), "|---|---|---|---|---|"]
    for name, measure in benchmarks(rounds, peer_python):
        print(f"measuring {name}", file=sys.stderr, flush=True)
        lines += measure()
    return "\n".join(
        [
            *lines,
            "",
            f"{machine(*PACKAGES)}. Whole processes, but for loading (the call, and what it adds to peak memory), "
            f"the forward pass and scoring (in a running process); medians of {rounds} rounds, in turns. An error is "
            "the largest of the output as a share of its magnitude, in onnxruntime against the float64 run.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-python", metavar="PYTHON", help="to run caffe-onnx with (default: the best there is)")
    parser.add_argument("--write", action="store_true", help="put the table where it is read")
    args = parser.parse_args()
    text = table(args.rounds, args.peer_python or conversion.peer_python())
    print(text)
    if args.write:
        readme.put("benchmarks", text)


if __name__ == "__main__":
    main()
