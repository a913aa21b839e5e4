"""Telling somebody how far a fetch is."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Protocol, TextIO

from caffe_port.printing import printable

__all__ = ["Progress", "Silent", "TerminalProgress"]


class Progress(Protocol):
    """Who is told what happens during a fetch."""

    def say(self, text: str) -> None:
        """One line of text: what is done next, or what was found."""

    def bar(self, label: str, done: int, total: int) -> None:
        """`done` of `total` bytes of the thing called `label`; called often, the last time with done == total."""


class Silent:
    """Tells nobody."""

    def say(self, text: str) -> None:
        pass

    def bar(self, label: str, done: int, total: int) -> None:
        pass


class TerminalProgress:
    """Lines and a bar on `stream` (default: stderr). No bar is drawn where the stream is no terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._tty = self._stream.isatty()
        self._drawn_at = float("-inf")
        self._open = False

    def say(self, text: str) -> None:
        """Writes `text` as a line of its own, below a bar that is not complete."""
        self._end_bar()
        print(printable(text), file=self._stream, flush=True)

    def bar(self, label: str, done: int, total: int) -> None:
        """Draws the bar, at most ten times a second and once at its end; without a terminal only a last line."""
        complete = done >= total
        if not self._tty:
            if complete:
                print(f"{label}: {_megabytes(total)}", file=self._stream, flush=True)
            return
        now = time.monotonic()
        if not complete and now - self._drawn_at < 0.1:
            return
        self._drawn_at = now
        columns = shutil.get_terminal_size().columns
        figures = f"{100 * done // max(total, 1):3d}% {_megabytes(done)} of {_megabytes(total)}"
        label = label[: max(columns - len(figures) - 4, 0)]
        width = min(30, columns - len(label) - len(figures) - 5)
        filled = width * done // max(total, 1)
        drawing = f" [{'#' * filled}{'.' * (width - filled)}]" if width >= 5 else ""
        print(f"\r{label}{drawing} {figures}\x1b[K", end="\n" if complete else "", file=self._stream, flush=True)
        self._open = not complete

    def _end_bar(self) -> None:
        if self._open:
            print(file=self._stream)
            self._open = False


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
