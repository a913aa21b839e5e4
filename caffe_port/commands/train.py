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

from caffe_port.commands.common import plugin_argument, say, say_error, tell
from caffe_port.errors import ArtifactError, CaffePortError, GraphError
from caffe_port.proto.files import lock_for_run

if TYPE_CHECKING:
    from caffe_port.training.distributed import Group
    from caffe_port.training.solver import Outcome, Solver

__all__ = ["add_arguments", "chosen_device", "outputs", "run", "signals"]


_EPILOG = """\
examples:
  caffe-port train --solver solver.prototxt -o log                          from the fillers; log and loss curve in log/
  caffe-port train --solver solver.prototxt --weights a.caffemodel          from trained weights
  caffe-port train --solver solver.prototxt --snapshot x_iter_100.solverstate   where a run stopped, ours or Caffe's

several processes (docs/training-distributed.md), each with its share of the data and the solver's batch of it:
  torchrun --nproc-per-node 2 -m caffe_port.cli train --solver solver.prototxt     on this machine, or on several
  caffe-port train --engine spark --master yarn --processes 8 --solver …           as tasks of Spark

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
    several = command.add_argument_group("several processes (docs/training-distributed.md)")
    several.add_argument(
        "--engine",
        choices=("local", "spark"),
        default="local",
        help="local: this process, or those that torchrun starts; spark: tasks of Spark",
    )
    several.add_argument("--processes", type=int, metavar="N", help="how many train together, with --engine spark")
    several.add_argument("--master", metavar="URL", help="of Spark: local[2], yarn, … (default: Spark's configuration)")
    several.add_argument("--conf", action="append", default=[], metavar="KEY=VALUE", help="a setting of Spark; repeat")
    several.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="how long one waits for the others, tests of the first included (default: 1800)",
    )
    plugin_argument(command)


def run(args: argparse.Namespace) -> int:
    from caffe_port.optional import require_torch

    require_torch()
    for name, least in (("threads", 1), ("workers", 0), ("processes", 1), ("timeout", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise GraphError(f"--{name} must be at least {least}, it is {value}")
    if args.data_from_start and args.snapshot is None:
        raise GraphError("--data-from-start is for --snapshot")
    if args.engine == "spark":
        return _run_spark(args)
    if args.master or args.conf or args.processes:
        raise GraphError(
            "--master, --conf and --processes are for --engine spark; on this machine several processes are started by "
            f"torchrun --nproc-per-node {args.processes or 'N'} -m caffe_port.cli train …"
        )
    from caffe_port.training.distributed import TIMEOUT, joined, launched

    if not launched():
        return _tell(*_ended(_trained(args, None)))
    with joined(args.timeout or TIMEOUT) as group:
        code, text = _work(args, group)
        if not group.rank:
            _tell(code, text)
        # Where one ends with an error torchrun ends the others: not before all is said.
        group.wait()
        return code


def _work(args: argparse.Namespace, group: Group) -> tuple[int, str]:
    """One of several processes: the exit code, and what worker 0 says for all. Raises: WorkerLost, in each."""
    from caffe_port.training.distributed import WorkerLost

    try:
        with group.agreeing():
            outcome = _trained(args, group)
        return _ended(outcome)
    except WorkerLost:
        raise
    except CaffePortError as error:
        if args.debug:
            raise
        return 2, str(error)


def spark_worker(arguments: list[str]) -> tuple[int, str]:
    """A worker that Spark has started, as `_work`."""
    from caffe_port.cli import make_parser
    from caffe_port.registry import load_plugin
    from caffe_port.training.distributed import TIMEOUT, WorkerLost, joined

    args = make_parser().parse_args(["train", *arguments])
    for path in args.plugin:
        load_plugin(path)
    try:
        with joined(args.timeout or TIMEOUT) as group:
            found = _work(args, group)
            group.wait()
            return found
    except WorkerLost as error:
        # Spark ends the others with it. An exception would be a traceback to read.
        say_error(error)
        raise SystemExit(2) from None


def _trained(args: argparse.Namespace, group: Group | None) -> Outcome:
    """Trains, as one of a group if there is one."""
    from caffe_port.training.log import Log, ProgressLine
    from caffe_port.training.settings import read_settings

    settings = read_settings(args.solver, args.root)
    options: dict[str, Any] = {
        "weights": [name.strip() for name in args.weights.split(",") if name.strip()],
        "snapshot": args.snapshot,
        "seed": args.seed,
        "workers": args.workers,
        "data_from_start": args.data_from_start,
    }
    with contextlib.ExitStack() as stack:
        streams = [] if group is not None and group.rank else stack.enter_context(outputs(args))
        progress = stack.enter_context(contextlib.closing(ProgressLine(sys.stderr)))
        options |= {"log": Log(*streams, progress=progress), "progress": progress}
        # Of several workers each finds its own GPU.
        device = chosen_device(args.device if group is None else None, args.threads)
        if group is None:
            from caffe_port.training.solver import Solver

            solver = Solver(settings, device=device, **options)
        else:
            from caffe_port.training.distributed import DistributedSolver

            solver = DistributedSolver(settings, group, device=args.device, **options)
        with signals(solver, worker=group is not None):
            return solver.solve()


def _ended(outcome: Outcome) -> tuple[int, str]:
    """The exit code, and what is said."""
    told = f"iteration {outcome.iteration}, loss {outcome.loss:g}"
    where = "no snapshot" if outcome.snapshot is None else f"snapshot {outcome.snapshot.state}"
    return (130, f"interrupted at {told}; {where}") if outcome.stopped else (0, f"{told}; {where}")


def _tell(code: int, text: str) -> int:
    if code:
        say_error(text)
    else:
        tell(text)
        sys.stdout.flush()
    return code


def _run_spark(args: argparse.Namespace) -> int:
    from caffe_port.training.settings import read_settings
    from caffe_port.training.spark import distribute

    if args.processes is None:
        raise GraphError("--engine spark needs --processes N")
    # What is wrong with the solver is told before Spark starts.
    gpus = read_settings(args.solver, args.root).gpu is not None
    if args.device is not None:
        gpus = args.device.startswith("cuda")
    try:
        code, text = distribute(
            spark_worker,
            _arguments(args),
            processes=args.processes,
            master=args.master,
            settings=dict(text.partition("=")[::2] for text in args.conf),
            gpus=gpus,
        )
    except KeyboardInterrupt:
        # Spark ends the tasks, whose workers take that as a request to stop.
        return _tell(130, "interrupted; the workers stop with a snapshot after their iteration")
    return _tell(code, text)


def _arguments(args: argparse.Namespace) -> list[str]:
    """The arguments of a worker in another process, perhaps of another machine that sees the same files."""
    given = [("--root", args.root), ("--solver", args.solver), ("--snapshot", args.snapshot), ("-o", args.output)]
    arguments = [text for name, path in given if path is not None for text in (name, str(path.absolute()))]
    if args.weights:
        weights = (str(Path(name.strip()).absolute()) for name in args.weights.split(",") if name.strip())
        arguments += ["--weights", ",".join(weights)]
    for path in args.plugin:
        arguments += ["--plugin", str(path.absolute())]
    for name in ("seed", "device", "threads", "workers", "timeout"):
        if getattr(args, name) is not None:
            arguments += [f"--{name}", str(getattr(args, name))]
    flags = ("data_from_start", "quiet", "debug")
    return arguments + [f"--{name.replace('_', '-')}" for name in flags if getattr(args, name)]


@contextlib.contextmanager
def outputs(args: argparse.Namespace) -> Iterator[list[Any]]:
    """Where the log goes; the curve is drawn when the block ends, however it ends."""
    with contextlib.ExitStack() as stack:
        streams: list[Any] = [] if args.quiet else [sys.stderr]
        if args.output is not None:
            path = args.output / "train.log"
            try:
                args.output.mkdir(parents=True, exist_ok=True)
                # A log grows while it is read, and a resumed run goes on in it.
                stream = stack.enter_context(path.open("a", encoding="utf-8"))
            except OSError as error:
                raise ArtifactError(f"{path}: cannot be written: {error.strerror or error}") from None
            lock_for_run(stream.fileno(), path)
            streams.append(stream)
            stack.callback(_draw, path)
        yield streams


def _draw(log: Path) -> None:
    from caffe_port.errors import MissingDependency
    from caffe_port.training.log import draw_curve, read_log

    try:
        draw_curve(read_log(log), log.with_name("loss.png"))
    except MissingDependency as error:
        say(f"note: {error}")


def chosen_device(name: str | None, threads: int | None) -> Any:
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
def signals(solver: Solver, worker: bool = False) -> Iterator[None]:
    """While the block runs, SIGINT lets the solver stop with a snapshot (the second ends at once), and SIGHUP lets it
    take one. worker: SIGTERM is as SIGINT, which is how torchrun and Spark end one."""

    def stop(*_: object) -> None:
        solver.request_stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if worker:
            return
        # Not print: the signal may have come while something was printed.
        os.write(2, b"\nstopping after this iteration, with a snapshot; Ctrl-C again ends at once, without\n")

    def save(*_: object) -> None:
        solver.request_snapshot()

    wanted: dict[signal.Signals, Any] = {signal.SIGINT: stop}
    if worker:
        wanted[signal.SIGTERM] = stop
    if hasattr(signal, "SIGHUP"):
        wanted[signal.SIGHUP] = save
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
