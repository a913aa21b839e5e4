"""`caffe-port fetch`: a released model into the cache."""

from __future__ import annotations

import argparse

from caffe_port.commands.common import json_argument, offline_argument, print_json, tell

__all__ = ["add_arguments", "run"]


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help="its name: open_nsfw")
    offline_argument(command)
    json_argument(command)


def run(args: argparse.Namespace) -> int:
    from caffe_port import models
    from caffe_port.models.fetch import fetch
    from caffe_port.models.progress import TerminalProgress

    models.get(args.model)
    found = fetch(args.model, offline=args.offline, progress=TerminalProgress())
    if args.json:
        print_json({"prototxt": str(found.prototxt), "caffemodel": str(found.caffemodel), "source": found.source})
    else:
        tell(found.prototxt)
        tell(found.caffemodel)
    return 0
