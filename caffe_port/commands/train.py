"""`caffe-port train`: a solver prototxt, trained as Caffe does it."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe_port.commands.common import plugin_argument, say
from caffe_port.errors import ArtifactError, GraphError

if TYPE_CHECKING:
    from caffe_port.training.solver import Solver

__all__ = ["add_arguments", "run", "signals"]


_EPILOG = """\
examples:
  caffe-port train --solver solver.prototxt -o log                          from the fillers; log and loss curve in log/
  caffe-port train --solver solver.prototxt --weights a.caffemodel          from trained weights
  caffe-port train --solver solver.prototxt --snapshot x_iter_100.solverstate   where a run stopped, ours or Caffe's

Ctrl-C ends after the current iteration, with a snapshot; a second one at once, without. SIGHUP takes one and goes on.
exit code: 0 trained up to max_iter, 2 a solver, net or data that cannot be used, 130 stopped by Ctrl-C.
docs/training.md has every field of the solver.
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.epilog = _EPILOG
    command.add_argument("--solver", type=Path, required=True, metavar="FILE", help="the solver prototxt")
    begin = command.add_mutually_exclusive_group()
    begin.add_argument("--weights", default="", metavar="A[,B]", help="weight files to start from, one after the other")
    begin.add_argument("--snapshot", type=Path, metavar="FILE", help="a .solverstate or .solverstate.h5 to go on from")
    command.add_argument(
        "--root", type=Path, default=Path(), metavar="DIR", help="what the files' paths are relative to (default: here)"
    )
    command.add_argument("--seed", type=int, metavar="N", help="instead of the solver's random_seed")
    command.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, … (default: as solver_mode says)")
    command.add_argument("--threads", type=int, metavar="N", help="threads that compute (default: the processors)")
    command.add_argument("--workers", type=int, metavar="N", help="processes that prepare data (0: none)")
    command.add_argument(
        "--data-from-start",
        action="store_true",
        help="with --snapshot: begin the data anew, as Caffe does, not where they were",
    )
    command.add_argument("-o", "--output", type=Path, metavar="DIR", help="a folder for train.log and loss.png")
    command.add_argument("--quiet", action="store_true", help="do not print the log")
    plugin_argument(command)


def run(args: argparse.Namespace) -> int:
    from caffe_port.converters.to_pytorch.export import require_torch

    require_torch()
    from caffe_port.training.log import Log, ProgressLine
    from caffe_port.training.settings import read_settings
    from caffe_port.training.solver import Solver

    for name, least in (("threads", 1), ("workers", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise GraphError(f"--{name} must be at least {least}, it is {value}")
    if args.data_from_start and args.snapshot is None:
        raise GraphError("--data-from-start is for --snapshot")
    settings = read_settings(args.solver, args.root)
    with _outputs(args) as streams:
        progress = ProgressLine(sys.stderr)
        log = Log(*streams, progress=progress)
        solver = Solver(
            settings,
            weights=[name.strip() for name in args.weights.split(",") if name.strip()],
            snapshot=args.snapshot,
            seed=args.seed,
            device=_device(args.device, args.threads),
            workers=args.workers,
            data_from_start=args.data_from_start,
            log=log,
            progress=progress,
        )
        try:
            with signals(solver):
                outcome = solver.solve()
        finally:
            progress.clear()
    told = f"iteration {outcome.iteration}, loss {outcome.loss:g}"
    where = "no snapshot" if outcome.snapshot is None else f"snapshot {outcome.snapshot.state}"
    if outcome.stopped:
        say(f"caffe-port: interrupted at {told}; {where}")
        return 130
    print(f"{told}; {where}")
    return 0


@contextlib.contextmanager
def _outputs(args: argparse.Namespace) -> Iterator[list[Any]]:
    """Where the log goes; the curve is drawn when the block ends, however it ends."""
    with contextlib.ExitStack() as stack:
        streams: list[Any] = [] if args.quiet else [sys.stderr]
        if args.output is not None:
            path = args.output / "train.log"
            try:
                args.output.mkdir(parents=True, exist_ok=True)
                # A log grows while it is read, and a resumed run goes on in it.
                streams.append(stack.enter_context(path.open("a", encoding="utf-8")))
            except OSError as error:
                raise ArtifactError(f"{path}: cannot be written: {error.strerror or error}") from None
            stack.callback(_draw, path)
        yield streams


def _draw(log: Path) -> None:
    from caffe_port.errors import MissingDependency
    from caffe_port.training.log import draw_curve, read_log

    try:
        draw_curve(read_log(log), log.with_name("loss.png"))
    except MissingDependency as error:
        say(f"note: {error}")


def _device(name: str | None, threads: int | None) -> Any:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    if name is None:
        return None
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise GraphError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return torch.device(name)


@contextlib.contextmanager
def signals(solver: Solver) -> Iterator[None]:
    """While the block runs, SIGINT lets the solver stop with a snapshot (the second ends at once), and SIGHUP lets it
    take one."""

    def stop(*_: object) -> None:
        solver.request_stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Not print: the signal may have come while something was printed.
        os.write(2, b"\nstopping after this iteration, with a snapshot; Ctrl-C again ends at once, without\n")

    def save(*_: object) -> None:
        solver.request_snapshot()

    wanted: dict[signal.Signals, Any] = {signal.SIGINT: stop}
    if hasattr(signal, "SIGHUP"):
        wanted[signal.SIGHUP] = save
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
