"""`caffe-port upgrade`: old files in today's form."""

from __future__ import annotations

import argparse
from pathlib import Path

from caffe_port.commands.common import json_argument, print_json, say, tell

__all__ = ["add_arguments", "run"]


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", type=Path, metavar="IN", help="prototxt, caffemodel or solver prototxt")
    command.add_argument("target", type=Path, metavar="OUT", help="text for text, binary for binary; may be IN itself")
    json_argument(command)


def run(args: argparse.Namespace) -> int:
    from caffe_port.upgrading import upgrade_file

    done = upgrade_file(args.source, args.target)
    for warning in done.warnings:
        say(f"note: {warning}")
    if args.json:
        print_json({"kind": done.kind, "steps": list(done.steps), "warnings": [str(w) for w in done.warnings]})
    else:
        tell(f"{args.target}: {'; '.join(done.steps) or 'a file of today, nothing to upgrade'}")
    return 0
