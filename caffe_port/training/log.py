"""The log of a training in the form that Caffe's scripts read; reading it, and Caffe's own; the loss curve."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from caffe_port.errors import DataError, MissingDependency
from caffe_port.printing import printable
from caffe_port.proto.files import replacing
from caffe_port.reading import text_of

__all__ = ["Log", "ProgressLine", "Record", "draw_curve", "read_log"]


class Log:
    """Writes lines as glog does, `I0210 13:39:22.381027 25210 solver.py:1] text`, to several streams.

    What Caffe logs in training is written in its words, since tools/extra/parse_log.py and the plots look for them.
    """

    def __init__(self, *streams: TextIO, progress: ProgressLine | None = None) -> None:
        self._streams, self._progress = streams, progress

    def __call__(self, text: str, level: str = "I") -> None:
        if self._progress is not None:
            self._progress.clear()
        now = datetime.datetime.now()
        for stream in self._streams:
            # The scripts expect a time on every line.
            for line in text.splitlines():
                when = f"{level}{now:%m%d %H:%M:%S.%f} {os.getpid():5d}"
                print(f"{when} solver.py:1] {printable(line)}", file=stream, flush=True)


class ProgressLine:
    """One line on a terminal: iteration, loss, rate, accuracy, speed, time left. On no terminal it is silent."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._open, self._drawn_at = stream, False, float("-inf")
        self._tty = stream.isatty()
        self._began: tuple[float, int] | None = None

    def draw(self, iteration: int, max_iter: int, loss: float, rate: float, accuracy: float | None) -> None:
        """Draws the line anew, at most ten times a second."""
        now = time.monotonic()
        if self._began is None:
            self._began = (now, iteration)
        if not self._tty or now - self._drawn_at < 0.1:
            return
        self._drawn_at = now
        since, first = self._began
        speed = (iteration - first) / (now - since) if iteration > first and now > since else 0.0
        parts = [f"iteration {iteration}/{max_iter}", f"loss {loss:.4g}", f"rate {rate:.3g}"]
        if accuracy is not None:
            parts.append(f"accuracy {accuracy:.4g}")
        if speed:
            left = datetime.timedelta(seconds=round((max_iter - iteration) / speed))
            parts += [f"{speed:.3g}/s", f"{left} left"]
        columns = shutil.get_terminal_size().columns
        print(f"\r{'  '.join(parts)[: columns - 1]}\x1b[K", end="", file=self._stream, flush=True)
        self._open = True

    def close(self) -> None:
        """Takes the line away for good."""
        self.clear()

    def clear(self) -> None:
        """Takes the line away, for others to write."""
        if self._open:
            print("\r\x1b[K", end="", file=self._stream, flush=True)
            self._open = False


@dataclass(slots=True)
class Record:
    """What a log says of one iteration: of training (`net` None), or of a test with the net of that number.

    loss: as training logs it, averaged. outputs: by name; of several values the last. losses: the names of the outputs
    that are losses.
    """

    iteration: int
    net: int | None = None
    loss: float | None = None
    rate: float | None = None
    outputs: dict[str, float] = field(default_factory=dict)
    losses: set[str] = field(default_factory=set)


_NUMBER = r"([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+|nan|inf))"
_ITERATION = re.compile(
    r"Iteration (\d{1,18})(?: \([^)]*\))?, "
    r"(?:(Testing net \(#(\d{1,18})\))|loss = " + _NUMBER + r"|lr = " + _NUMBER + r")"
)
_OUTPUT = re.compile(r"(Train|Test) net output #\d+: (\S+) = " + _NUMBER + r"( \(\* )?")


def read_log(path: str | os.PathLike[str]) -> list[Record]:
    """The records of a log, of Caffe's or of one written here, in its order; an iteration told twice is there twice.

    Raises: DataError where it cannot be read.
    """
    try:
        content = text_of(path, errors="replace")
    except OSError as error:
        raise DataError(f"{os.fspath(path)}: cannot be read: {error.strerror or error}") from None
    records: list[Record] = []
    current: dict[bool, Record] = {}

    def opened(iteration: int, net: int | None) -> Record:
        record = Record(iteration, net)
        current[net is not None] = record
        records.append(record)
        return record

    for line in content.splitlines():
        if found := _ITERATION.search(line):
            iteration, testing, net, loss, rate = int(found[1]), found[2], found[3], found[4], found[5]
            if testing:
                opened(iteration, int(net))
            elif loss is not None:
                opened(iteration, None).loss = float(loss)
            elif False in current and current[False].iteration == iteration:
                current[False].rate = float(rate)
        elif (found := _OUTPUT.search(line)) and (found[1] == "Test") in current:
            record = current[found[1] == "Test"]
            record.outputs[found[2]] = float(found[3])
            if found[4]:
                record.losses.add(found[2])
    return records


def draw_curve(records: Sequence[Record], path: str | os.PathLike[str]) -> bool:
    """Draws the losses, and below them what else the tests give (accuracy), over the iterations, as PNG, SVG or PDF.

    Returns whether there was anything to draw. Raises: MissingDependency without matplotlib; ArtifactError.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency(f"a loss curve needs matplotlib: pip install matplotlib ({error})") from None
    above: dict[str, list[tuple[int, float]]] = {}
    below: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        if record.net is None:
            if record.loss is not None:
                above.setdefault("training", []).append((record.iteration, record.loss))
            continue
        for name, value in record.outputs.items():
            part = above if name in record.losses else below
            part.setdefault(f"test net #{record.net}: {name}", []).append((record.iteration, value))
    panels = [(label, lines) for label, lines in (("loss", above), ("measure", below)) if lines]
    if not panels:
        return False
    style = {"svg.hashsalt": "caffe_port", "axes.grid": True, "grid.alpha": 0.3, "backend": "agg"}
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **style}), replacing(path) as stream:
        figure = Figure(figsize=(7, 3.2 * len(panels)), layout="constrained")
        for axes, (label, lines) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
            for name, points in lines.items():
                iterations, values = zip(*sorted(points), strict=True)
                # A test is a few points, training is many.
                axes.plot(iterations, values, label=name, marker="." if len(points) < 50 else None)
            axes.set_ylabel(label)
            axes.legend()
        axes.set_xlabel("iteration")
        form = Path(path).suffix.removeprefix(".") or "png"
        figure.savefig(stream, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None)
    return True
