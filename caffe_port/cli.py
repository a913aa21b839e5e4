"""The command `caffe-port`: what holds for every verb. The verbs themselves are in `caffe_port.commands`.

Exit codes: 0 well, 1 a verification failed or an image has no score, 2 bad input, 70 a fault of caffe_port itself, 130
interrupted. Errors go to standard error, one line a problem.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from caffe_port._version import __version__
from caffe_port.commands import VERBS
from caffe_port.commands.common import say_error
from caffe_port.errors import CaffePortError, ParityError
from caffe_port.limits import limits
from caffe_port.printing import printable

__all__ = ["main", "make_parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    debug = False
    if sys.stdout is None:  # closed by who started us
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that has not every character gets its code.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        parser = make_parser()
        try:
            args = parser.parse_args(argv)
        except SystemExit:
            sys.stdout.flush()  # of --help and --version
            raise
        if not hasattr(args, "run"):
            parser.print_help()
            return 2
        debug = args.debug
        limits.adjust_from(args.limit)
        for path in getattr(args, "plugin", ()):
            from caffe_port.registry import load_plugin

            load_plugin(path)
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader of our output has gone (`| head`).
        _forget_output()
        return 0
    except (CaffePortError, KeyboardInterrupt, MemoryError, OSError) as error:
        if debug:
            raise
        message, code = _told(error)
        say_error(message)
        try:
            sys.stdout.flush()
        except OSError:
            _forget_output()
        return code
    except Exception as error:
        if debug:
            raise
        say_error(f"internal error, please report it with what --debug prints: {type(error).__name__}: {error}")
        return 70


def _forget_output() -> None:
    """What standard output still holds can go nowhere; Python would complain once more when it closes it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _told(error: BaseException) -> tuple[str, int]:
    """An error in words for people, and the exit code for it."""
    if isinstance(error, CaffePortError):
        return str(error), 1 if isinstance(error, ParityError) else 2
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; nothing half-done was left behind", 130
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}", 2
    return "not enough memory", 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """As ever; a shell's `*` may have put any name among the arguments."""
        super().error(printable(message))


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(
        prog="caffe-port",
        description="Reads Caffe models without Caffe, proves that every layer computes the same, "
        "and exports them to PyTorch and ONNX.",
    )
    parser.add_argument("--version", action="version", version=f"caffe-port {__version__}")
    verbs = parser.add_subparsers(metavar="COMMAND", title="commands")
    for name, text in VERBS.items():
        module = import_module(f"caffe_port.commands.{name}")
        command = verbs.add_parser(name, help=text, description=text)
        command.set_defaults(run=module.run)
        command.add_argument(
            "--limit",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="allow more than a file may; docs/limits.md",
        )
        command.add_argument("--debug", action="store_true", help="give the traceback of an error")
        module.add_arguments(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
