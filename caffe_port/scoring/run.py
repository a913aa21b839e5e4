"""A run of scoring: from the images that sources name, through a scorer, into a sink; and how far it is."""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TextIO

from caffe_port.errors import DataError, GraphError
from caffe_port.scoring.items import Item, Row
from caffe_port.scoring.sinks import Sink
from caffe_port.scoring.sources import Sources

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Progress", "Scores", "Summary", "Verdict", "score_all", "verdict"]


class Scores(Protocol):
    """What scores: `caffe_port.scoring.scorer.Scorer`. A row for each item, in the order of the items."""

    def stream(
        self, items: Iterable[Item], *, batch_size: int | None = None, workers: int | None = None
    ) -> Iterator[Row]: ...


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did: images scored and images with an error; skipped as they had a row already, and how many of those
    rows are errors; seconds."""

    scored: int
    failed: int
    skipped: int
    seconds: float
    failed_before: int = 0

    @property
    def ok(self) -> bool:
        """Whether no row is an error."""
        return not self.failed and not self.failed_before

    def __str__(self) -> str:
        done = self.scored + self.failed
        text = f"{self.scored:,} of {done:,} images scored in {_duration(self.seconds)}"
        if self.seconds > 0 and done:
            text += f", {done / self.seconds:.3g} a second"
        if self.skipped:
            text += f"; {self.skipped:,} rows were there already"
            if self.failed_before:
                text += f", {self.failed_before:,} of them with an error"
        return text


def score_all(
    sources: Sources,
    scorer: Scores,
    sink: Sink,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], object] = lambda done, skipped: None,
) -> Summary:
    """Scores every image of the sources that the sink has no row of, and writes its row; then finishes the sink.

    A row that holds anything but finite numbers is written as an error. `progress` is called after each row, with the
    rows done and the images skipped so far.
    Raises: DataError if standard input is no list of names; what the scorer and the sink raise. The sink stays as it is
    then.
    """
    started = time.monotonic()
    scored = failed = 0
    with contextlib.ExitStack() as stack:
        rows = scorer.stream(sources.items(sink.wanted), batch_size=batch_size, workers=workers)
        if (close := getattr(rows, "close", None)) is not None:
            stack.callback(close)  # ends its threads
        for row in rows:
            if row.ok and not all(map(math.isfinite, row.probabilities)):
                row = replace(row, probabilities=(), error="the model computed no finite number for it")
            sink.write(row)
            scored += row.ok
            failed += not row.ok
            progress(scored + failed, sink.skipped)
    sink.finish()
    return Summary(scored, failed, sink.skipped, time.monotonic() - started, sink.failed_before)


# Thresholds


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which scores are flagged: those of at least `value`."""

    value: float

    def __call__(self, score: float) -> bool:
        return score >= self.value


def verdict(threshold: float | None, file: Path | None, model: str) -> Verdict | None:
    """From a number, or from a threshold's file, as `caffe-port calibrate` writes it for `model`; None from neither.

    Raises: GraphError for a number that is none, or both; DataError if the file cannot be read or is another model's.
    """
    if file is None:
        if threshold is not None and not math.isfinite(threshold):
            raise GraphError(f"--threshold {threshold}: a finite number is needed")
        return None if threshold is None else Verdict(threshold)
    if threshold is not None:
        raise GraphError("give --threshold or --threshold-file, not both")
    from caffe_port.calibration.threshold import read

    chosen = read(file)
    if chosen.model != model:
        raise DataError(
            f"{file}: chosen for the model {chosen.model!r}, these are scores of {model!r}; "
            "--threshold takes a number for any model"
        )
    return Verdict(chosen.value)


# Progress


class Progress:
    """A line on a terminal: images done, their rate in the last half minute, and the time left.

    The total is counted meanwhile, in a thread of its own; until it is known, and where that would mean reading a tar
    or standard input, the line does without. On anything but a terminal there is no line. To be used in a `with`.
    """

    _EVERY = 0.2
    _WINDOW = 30.0

    def __init__(self, sources: Sources, *, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._shown = not quiet and self._stream.isatty()
        self._sources = sources
        self._total: int | None = None
        self._drawn = 0.0
        self._marks: deque[tuple[float, int]] = deque()

    def __call__(self, done: int, skipped: int) -> None:
        now = time.monotonic()
        if not self._shown or now - self._drawn < self._EVERY:
            return
        self._drawn = now
        # One mark a second is enough for a rate.
        if not self._marks or now - self._marks[-1][0] >= 1:
            self._marks.append((now, done))
        while len(self._marks) > 1 and now - self._marks[0][0] > self._WINDOW:
            self._marks.popleft()
        since, before = self._marks[0]
        rate = (done - before) / (now - since) if now > since else 0.0
        line = self.line(done + skipped, rate)[: shutil.get_terminal_size().columns - 1]
        print(f"\r{line}\x1b[K", end="", file=self._stream, flush=True)

    def line(self, done: int, rate: float) -> str:
        """The text, without the control of the terminal. `rate`: images a second."""
        known = self._total is not None and self._total >= done
        text = f"{done:,} of {self._total:,} images" if known else f"{done:,} images"
        if rate > 0:
            text += f", {rate:.3g} a second"
            if known:
                text += f", {_duration(((self._total or 0) - done) / rate)} left"
        if known and self._total:
            filled = 20 * done // self._total
            text = f"[{'#' * filled}{'.' * (20 - filled)}] {100 * done // self._total:3d}% {text}"
        return text

    def __enter__(self) -> Self:
        if self._shown:
            # Not waited for: at the end of the run nobody needs the total.
            threading.Thread(target=self._count, name="count images", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown and self._drawn:
            print("\r\x1b[K", end="", file=self._stream, flush=True)
        self._shown = False

    def _count(self) -> None:
        self._total = self._sources.count()


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
