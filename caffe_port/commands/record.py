"""`caffe-port record`: what another machine's Caffe computes."""

from __future__ import annotations

import argparse
from pathlib import Path

from caffe_port.commands.common import json_argument, print_json, tell
from caffe_port.errors import GraphError

__all__ = ["add_arguments", "run"]


def add_arguments(command: argparse.ArgumentParser) -> None:
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--script", action="store_true", help="print the script; it needs pycaffe and NumPy alone")
    what.add_argument("--check", type=Path, metavar="NPZ", help="say whether a recording is whole")
    command.add_argument("--net", metavar="PROTOTXT", help="with --check: the net it must be of")
    json_argument(command)


def run(args: argparse.Namespace) -> int:
    from caffe_port import recorder

    if args.script:
        if args.net or args.json:
            raise GraphError("--net and --json go with --check")
        for line in recorder.script().splitlines():
            tell(line)
        return 0
    checked = recorder.check(args.check, args.net)
    if args.json:
        print_json(checked.as_json())
    else:
        for line in checked.lines():
            tell(line)
    return 0 if checked.ok else 1
