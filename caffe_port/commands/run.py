"""`caffe-port run`: a net on arrays."""

from __future__ import annotations

import argparse
from pathlib import Path

from caffe_port.commands.common import loaded, located, model_arguments, tell
from caffe_port.errors import GraphError

__all__ = ["add_arguments", "run"]


def add_arguments(command: argparse.ArgumentParser) -> None:
    model_arguments(command)
    command.add_argument("--input", type=Path, metavar="NPZ", help="an array for each input blob")
    command.add_argument(
        "--read-data", action="store_true", help="let the net's data layers read what they name; one batch"
    )
    command.add_argument(
        "--data-root", type=Path, default=Path(), metavar="DIR", help="what their paths are relative to (default: here)"
    )
    command.add_argument("-o", "--output", type=Path, required=True, metavar="NPZ")
    command.add_argument("--blob", action="append", metavar="NAME", help="which blobs (default: the outputs; 'all')")
    command.add_argument("--dtype", choices=("float32", "float64"), default="float32")


def run(args: argparse.Namespace) -> int:
    from caffe_port import runtime
    from caffe_port.arrays import read_npz, write_npz

    if args.input is None and not args.read_data:
        raise GraphError("give the inputs: --input NPZ, or --read-data where the net has data layers")
    files = located(args)
    inputs = {} if args.input is None else read_npz(args.input)
    if args.read_data:
        from caffe_port.datasets import open_sources

        batch = next(open_sources(files.definition, phase=args.phase, root=args.data_root))
        # What is given counts for more than what is read.
        inputs = {**batch, **inputs}
        args.input_shape += [f"{name}={','.join(map(str, batch[name].shape))}" for name in batch]
    net = loaded(args, files)
    wanted = args.blob or list(net.outputs)
    blobs = runtime.run(net, inputs, dtype=args.dtype, outputs=None if wanted == ["all"] else wanted)
    write_npz(args.output, blobs)
    for name, value in blobs.items():
        tell(f"{name} {'x'.join(map(str, value.shape)) or '()'} {value.dtype}")
    return 0
