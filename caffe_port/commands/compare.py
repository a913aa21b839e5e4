"""`caffe-port compare`: nets side by side, what they cost and how accurate they are published to be."""

from __future__ import annotations

import argparse
from pathlib import Path

from caffe_port.commands.common import json_argument, offline_argument, print_json, say, tell

__all__ = ["add_arguments", "run"]


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "nets",
        nargs="*",
        metavar="NET",
        help="an architecture's name, a released model (open_nsfw), a prototxt or a folder; NAME=NET calls it so "
        "(default: those of the announcement of open_nsfw)",
    )
    command.add_argument(
        "--rule",
        choices=("complete", "pynetbuilder"),
        default="complete",
        help="how to count parameters and multiply-accumulates: all of them (default), or as pynetbuilder does",
    )
    command.add_argument(
        "--accuracy",
        action="append",
        default=[],
        metavar="NAME=TOP1[,TOP5]",
        help="of a net of your own, as shares (0.71); repeat",
    )
    command.add_argument("--time", action="store_true", help="also time a forward pass of each, on the CPU")
    command.add_argument(
        "--backend", choices=("onnxruntime", "numpy"), help="to time with (default: onnxruntime, where it is installed)"
    )
    command.add_argument("--threads", type=int, default=1, metavar="N", help="of onnxruntime (default: 1)")
    command.add_argument("--runs", type=int, default=15, metavar="N", help="timed passes of each net (default: 15)")
    command.add_argument(
        "--figure",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="accuracy against multiply-accumulates, as .png, .svg or .html (a page with the table); repeat",
    )
    offline_argument(command)
    json_argument(command)


def run(args: argparse.Namespace) -> int:
    from caffe_port.models.progress import TerminalProgress
    from caffe_port.tradeoff.comparison import ANNOUNCED, compare, parse_accuracy
    from caffe_port.tradeoff.figure import check_format, write_figure

    for path in args.figure:
        check_format(path)
    compared = compare(
        args.nets or ANNOUNCED,
        rule=args.rule,
        accuracies=dict(map(parse_accuracy, args.accuracy)),
        timed=args.time,
        backend=args.backend,
        threads=args.threads,
        runs=args.runs,
        offline=args.offline,
        progress=TerminalProgress(),
    )
    for path in args.figure:
        write_figure(compared, path)
        say(f"wrote {path}")
    if args.json:
        print_json(compared.as_json())
    else:
        for line in compared.table():
            tell(line)
    return 0
