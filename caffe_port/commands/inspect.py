"""`caffe-port inspect`: what a net, a solver or a solver's state says."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_port.commands.common import json_argument, loaded, located, model_arguments, print_json, say, tell

if TYPE_CHECKING:
    from caffe_port.proto.solverstate import SolverState
    from caffe_port.upgrading import SolverFile

__all__ = ["add_arguments", "run"]


def add_arguments(command: argparse.ArgumentParser) -> None:
    model_arguments(command)
    command.add_argument("--splits", action="store_true", help="also the Split layers that Caffe inserts")
    command.add_argument("--dot", action="store_true", help="print the graph for Graphviz")
    command.add_argument("--svg", type=Path, metavar="FILE", help="draw the graph (needs Graphviz)")
    json_argument(command)


def run(args: argparse.Namespace) -> int:
    from caffe_port.drawing import draw_svg, to_dot
    from caffe_port.shapes import format_shape
    from caffe_port.summary import summarize

    if not args.weights and (told := _inspected_file(args.model)) is not None:
        if args.json:
            print_json(told.as_json())
        else:
            for line in told.table():
                tell(line)
        return 0
    net = loaded(args, located(args), allow_unknown=True)
    for problem in net.unknown_problems():
        say(f"note: not understood: {problem}")
    summary = summarize(net)
    if args.svg:
        draw_svg(net, args.svg)
        say(f"wrote {args.svg}")
    if args.json:
        print_json(summary.as_json())
    elif args.dot:
        for line in to_dot(net).splitlines():
            tell(line)
    elif not args.svg:
        for line in summary.table(splits=args.splits):
            tell(line)
        for what, blobs in (("inputs", summary.inputs), ("outputs", summary.outputs)):
            tell(f"{what}: " + ", ".join(f"{name} {format_shape(shape)}" for name, shape in blobs.items()))
    return 0


def _inspected_file(model: str) -> SolverFile | SolverState | None:
    """A solver or a solver's state, which are no nets; None for anything else."""
    from caffe_port.proto import solverstate
    from caffe_port.upgrading import kind_of, read_solver

    if not Path(model).is_file():
        return None
    kind = kind_of(model)
    if kind == "solver":
        solver = read_solver(model)
        for step in solver.steps:
            say(f"note: upgraded: {step}")
        return solver
    return solverstate.read(model) if kind == "solverstate" else None
