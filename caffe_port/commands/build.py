"""`caffe-port build`: a known architecture at any number of classes, as prototxts to deploy and to train."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caffe_port.commands.common import json_argument, print_json, tell
from caffe_port.errors import GraphError

__all__ = ["add_arguments", "run"]


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", nargs="?", help="the architecture: resnet50_1by2, say; see --list")
    command.add_argument("--list", action="store_true", help="list the architectures")
    command.add_argument("--classes", type=int, metavar="N", help="of the head (default: the architecture's own, 1000)")
    command.add_argument("-o", "--output", type=Path, metavar="DIR", help="default: the architecture's name")
    command.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the architecture's family: blocks=2,2,2,2; repeat",
    )
    training = command.add_argument_group("training")
    training.add_argument(
        "--finetune",
        nargs="?",
        const="new",
        metavar="WORD",
        help="start from weights: the head is called after WORD (default: new) and learns 5 times as fast, images of "
        "a list are resized to 256x256, cropped at random and mirrored",
    )
    training.add_argument("--train", metavar="SOURCE", help="what is trained on: an LMDB database; a list to finetune")
    training.add_argument("--val", metavar="SOURCE", help="what is validated on, likewise")
    training.add_argument("--batch", type=int, metavar="N", help="images of one step and device")
    training.add_argument("--val-batch", type=int, metavar="N", help="images of one step of validation")
    training.add_argument(
        "--mean-file", metavar="FILE", help="the mean that is taken off (default: 104, 117, 123 for blue, green, red)"
    )
    training.add_argument(
        "--solver", action="append", default=[], metavar="FIELD=VALUE", help="of the solver: base_lr=0.01; repeat"
    )
    json_argument(command)


def run(args: argparse.Namespace) -> int:
    from caffe_port.architectures import ARCHITECTURES, IMAGENET_MEAN, defaults
    from caffe_port.architectures.files import write

    if args.list:
        rows = list(ARCHITECTURES.values())
        if args.json:
            print_json([{"name": one.name, "paper": one.paper, "published": one.published} for one in rows])
            return 0
        width = max(len(one.name) for one in rows)
        for one in rows:
            tell(f"{one.name.ljust(width)}  {one.paper}")
        return 0
    if args.name is None:
        raise GraphError("say which architecture to build; --list has their names")
    sources, batches = defaults(args.name, finetune=args.finetune is not None)
    built = write(
        args.output or Path(args.name),
        args.name,
        args.classes,
        finetune=args.finetune,
        sources=(args.train or sources[0], args.val or sources[1]),
        batches=(
            batches[0] if args.batch is None else args.batch,
            batches[1] if args.val_batch is None else args.val_batch,
        ),
        mean=args.mean_file or IMAGENET_MEAN,
        options=_pairs("--option", args.option),
        solver_fields=_pairs("--solver", args.solver),
    )
    from caffe_port.summary import summarize

    summary = summarize(built.net)
    if args.json:
        print_json(
            {
                "files": [str(path) for path in built.files],
                "parameters": summary.parameters,
                "multiply_accumulates": summary.macs,
            }
        )
        return 0
    for path in built.files:
        tell(path)
    tell(f"{summary.parameters:,} parameters, {summary.macs:,} multiply-accumulates")
    return 0


def _pairs(option: str, given: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE each: numbers, true and false, lists by commas, anything else as it stands."""
    pairs = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not name or not equals:
            raise GraphError(f"{option} {one!r}: give it as NAME=VALUE")
        try:
            pairs[name] = (
                {"true": True, "false": False}[value] if value in ("true", "false") else ast.literal_eval(value)
            )
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            pairs[name] = value
    return pairs
