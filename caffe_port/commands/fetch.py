"""`caffe-port fetch`: a released model into the cache."""

from __future__ import annotations

import argparse

from caffe_port.commands.common import json_argument, offline_argument, print_json

__all__ = ["add_arguments", "run"]


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help="its name: open_nsfw")
    offline_argument(command)
    json_argument(command)


def run(args: argparse.Namespace) -> int:
    from caffe_port import models
    from caffe_port.models.fetch import TerminalProgress, fetch

    models.get(args.model)
    found = fetch(args.model, offline=args.offline, progress=TerminalProgress())
    if args.json:
        print_json({"prototxt": str(found.prototxt), "caffemodel": str(found.caffemodel), "source": found.source})
    else:
        print(found.prototxt)
        print(found.caffemodel)
    return 0
