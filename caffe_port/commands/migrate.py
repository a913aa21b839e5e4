"""`caffe-port migrate`: a script that loads Caffe models with OpenCV, for ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_port.commands.common import json_argument, print_json, say, tell

if TYPE_CHECKING:
    from caffe_port.migration.conversion import Conversion
    from caffe_port.migration.plan import Migration

__all__ = ["add_arguments", "run"]


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--from-opencv",
        type=Path,
        required=True,
        metavar="SCRIPT.py",
        help="a Python script that reads a Caffe model with cv2.dnn; it is read, not run",
    )
    command.add_argument(
        "--prototxt",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a definition that the script does not name, or that lies elsewhere; repeat",
    )
    command.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="write each model's preprocessing there, as a manifest"
    )
    command.add_argument(
        "--write",
        nargs="?",
        const=Path(),
        type=Path,
        metavar="FILE",
        help="write the changed script (default: SCRIPT_onnx.py, beside it)",
    )
    command.add_argument("--overwrite", action="store_true", help="let --write replace a file, also the script itself")
    json_argument(command)


def run(args: argparse.Namespace) -> int:
    from caffe_port.migration.plan import plan, target_of, write_manifests, write_script

    target = target_of(args.from_opencv) if args.write in (None, Path()) else args.write
    migration = plan(args.from_opencv, prototxts=args.prototxt, target=target)
    manifests = [] if args.output is None else write_manifests(migration, args.output)
    if args.write is not None:
        write_script(migration, target, overwrite=args.overwrite)
    folder = None if args.output is None else str(args.output)
    if args.json:
        print_json(migration.as_json(folder))
    else:
        _print(migration, folder)
    for path in [*manifests, *([target] if args.write is not None else [])]:
        say(f"written: {path}")
    return 0


def _print(migration: Migration, folder: str | None) -> None:
    script = migration.script.path
    for one in migration.conversions:
        tell(f"{script}:{one.line}: {one.definition} + {one.weights} -> {one.onnx}")
        if one.extra_outputs:
            tell(f"  convert   import caffe_port as cp, onnx; {one.code()}")
        else:
            tell(f"  convert   {one.command(folder)}")
        for line, text in _preprocessing(one):
            tell(f"  line {line:<4} {text}")
        if one.outputs:
            tell(f"  outputs   {', '.join(one.outputs)}")
    if migration.notes:
        tell()
        tell("to know and to settle:")
    for note in migration.notes:
        tell(f"  {script}:{note.line}: {note.text}")
    tell()
    for changed in migration.diff.removesuffix("\n").split("\n"):
        tell(changed.removesuffix("\r"))


def _preprocessing(one: Conversion) -> list[tuple[int, str]]:
    lines = []
    for line, steps in one.preprocessing:
        size = "the picture's own size" if steps.resize is None else f"{steps.resize[1]}x{steps.resize[0]} (WxH)"
        mean = ", ".join(f"{value:g}" for value in steps.mean) if isinstance(steps.mean, tuple) else ""
        lines.append((line, f"{size}, {steps.channel_order}, minus {mean}, times {steps.scale:g}"))
    return lines
