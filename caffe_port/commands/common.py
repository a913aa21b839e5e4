"""What several verbs share: arguments, loading what they name, and speaking."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe_port.errors import GraphError
from caffe_port.printing import printable, printable_json

if TYPE_CHECKING:
    from caffe_port.net import Net
    from caffe_port.sources import ModelFiles

__all__ = [
    "MODEL_HELP",
    "input_shapes",
    "json_argument",
    "loaded",
    "located",
    "model_arguments",
    "offline_argument",
    "plugin_argument",
    "print_json",
    "read",
    "say",
    "say_error",
    "tell",
]

MODEL_HELP = "a released model (open_nsfw), a folder, a prototxt, or a caffemodel alone"


def offline_argument(command: argparse._ActionsContainer) -> None:
    command.add_argument("--offline", action="store_true", help="never use the network")


def plugin_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--plugin",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="Python code with layer types; it is run",
    )


def json_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON for programs")


def model_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help=MODEL_HELP)
    command.add_argument("weights", nargs="*", help="caffemodel files, loaded one after the other")
    command.add_argument("--phase", choices=("TEST", "TRAIN"), default="TEST", help="default: TEST")
    command.add_argument("--level", type=int, default=0, help="the level that include and exclude rules ask for")
    command.add_argument("--stage", action="append", default=[], help="a stage that rules ask for; repeat")
    command.add_argument(
        "--input-shape", action="append", default=[], metavar="BLOB=N,C,H,W", help="the shape of an input; repeat"
    )
    command.add_argument(
        "--refuse-unused-weights", action="store_true", help="make weights that no layer takes an error, not a note"
    )
    command.add_argument(
        "--allow-python-layers",
        action="store_true",
        help="run Python classes that the net names; only if trusted",
    )
    command.add_argument(
        "--dialect", metavar="REPOSITORY", help="the fork of Caffe it was written for, where the net does not tell"
    )
    command.add_argument("--allow-missing-weights", action="store_true", help="let layers have no weights")
    command.add_argument(
        "--allow-non-finite", action="store_true", help="make weights that are NaN or infinite a note, not an error"
    )
    plugin_argument(command)
    offline_argument(command)


def tell(line: object = "") -> None:
    """Prints a line of what was asked for. Whatever is in a name, it stays that line and steers no terminal."""
    print(printable(line, keep="\t"))


def say(line: object) -> None:
    """Prints a line beside what was asked for (a note, progress, an error) on standard error, as `tell`."""
    print(printable(line, keep="\t"), file=sys.stderr, flush=True)


def say_error(error: object) -> None:
    """Prints an error on standard error, a line a problem."""
    for line in f"caffe-port: {error}".split("\n"):
        say(line)


def located(args: argparse.Namespace) -> ModelFiles:
    from caffe_port.models.progress import TerminalProgress
    from caffe_port.sources import locate

    return locate(args.model, args.weights, offline=args.offline, progress=TerminalProgress())


def read(args: argparse.Namespace, files: ModelFiles, *, allow_unknown: bool = False) -> Net:
    return files.load(
        phase=args.phase,
        level=args.level,
        stages=args.stage,
        input_shapes=input_shapes(args.input_shape),
        allow_missing_weights=args.allow_missing_weights,
        allow_python_layers=args.allow_python_layers,
        refuse_unused_weights=args.refuse_unused_weights,
        allow_non_finite=args.allow_non_finite,
        allow_unknown=allow_unknown,
        dialect=args.dialect,
    )


def loaded(args: argparse.Namespace, files: ModelFiles, *, allow_unknown: bool = False) -> Net:
    net = read(args, files, allow_unknown=allow_unknown)
    for dialect in net.dialects:
        say(f"note: in the dialect of {dialect}")
    for note in net.notes:
        say(f"note: {note}")
    return net


def input_shapes(given: Sequence[str]) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for text in given:
        name, equals, dims = text.partition("=")
        try:
            shapes[name] = tuple(int(dim) for dim in dims.replace("x", ",").split(","))
        except ValueError:
            equals = ""
        if not equals or not name:
            raise GraphError(f"--input-shape {text!r}: give it as BLOB=N,C,H,W")
    return shapes


def print_json(value: Any) -> None:
    """Prints a JSON document."""
    print(printable_json(value, indent=1))
