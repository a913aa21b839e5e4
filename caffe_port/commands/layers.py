"""`caffe-port layers`: the layer types that are known."""

from __future__ import annotations

import argparse

from caffe_port.commands.common import json_argument, plugin_argument, print_json, tell

__all__ = ["add_arguments", "run"]


def add_arguments(command: argparse.ArgumentParser) -> None:
    plugin_argument(command)
    json_argument(command)


def run(args: argparse.Namespace) -> int:
    from caffe_port import layer_table

    if args.json:
        print_json([row.as_json() for row in layer_table.layer_rows()])
        return 0
    for line in layer_table.as_text():
        tell(line)
    return 0
