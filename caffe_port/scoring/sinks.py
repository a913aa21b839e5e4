"""Where rows go: into a stream as they come, into a stream by rank, or into a file that can be resumed.

A run that writes a file keeps its rows in a journal beside it, a line a row, appended as they come. When the last one
is there the file is made of it, appears complete, and the journal goes. So the file is never torn, whatever stops the
run.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Protocol

from caffe_port.errors import ArtifactError
from caffe_port.printing import printable
from caffe_port.proto.files import replacing
from caffe_port.scoring.columns import Columns, written_name
from caffe_port.scoring.formats import TEXTS, require_pyarrow, write_rows
from caffe_port.scoring.items import Row
from caffe_port.scoring.journal import Rows, open_journal

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FileSink", "RankedSink", "Sink", "StreamSink"]


class Sink(Protocol):
    """Where rows go. `wanted` says whether an image has no row yet, and is asked once an image; `skipped` counts those
    that have, and `failed_before` their errors."""

    @property
    def skipped(self) -> int: ...
    @property
    def failed_before(self) -> int: ...
    def wanted(self, name: str) -> bool: ...
    def write(self, row: Row) -> None: ...
    def finish(self) -> None: ...


class StreamSink:
    """Writes each row into a binary stream as it comes: table, csv or jsonl, in UTF-8."""

    skipped = failed_before = 0

    def __init__(self, stream: IO[bytes], format: str, columns: Columns) -> None:
        self._stream, self._columns = stream, columns
        self._text = TEXTS[format](columns)
        self._is_seen = stream.isatty()
        self._put(self._text.header())

    def wanted(self, name: str) -> bool:
        """Always."""
        return True

    def write(self, row: Row) -> None:
        """Writes it and flushes."""
        self._put(self._text.line(self._columns.values(row)))
        self._stream.flush()

    def _put(self, line: bytes) -> None:
        # CSV has names as they are, which is not for terminals.
        self._stream.write(printable(line.decode(), keep="\n").encode() if self._is_seen else line)

    def finish(self) -> None:
        """Flushes; the stream stays open."""
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class RankedSink(StreamSink):
    """Writes all rows when the last one is there, the highest score first and errors last.

    Until then they are in a temporary file; in memory there are 16 bytes a row.
    """

    def __init__(self, stream: IO[bytes], format: str, columns: Columns) -> None:
        super().__init__(stream, format, columns)
        self._rows = Rows(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115 (closed on exit)

    def write(self, row: Row) -> None:
        """Keeps it."""
        self._rows.append(self._columns.values(row))

    def finish(self) -> None:
        """Writes all rows."""
        for values in self._rows.ranked():
            self._put(self._text.line(values))
        super().finish()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows.close()


class FileSink:
    """Writes a file of any of FORMATS, which appears when the last row is there; until then the rows are in `journal`.

    - `settings`: whatever else decides what the rows say, such as the model and the backend, as JSON values.
    - `resume`: keep the rows of an interrupted run, if there are any, which must be of the same columns and settings; a
      torn last line is cut off. `retry_errors`: but for rows with an error.
    - `rank`: the highest score first, errors last.
    - `note` is called with what a user should know.

    Raises: ArtifactError if an interrupted run's rows are there and `resume` is not given, or cannot be continued, and
    where the system refuses to write; MissingDependency for Parquet without pyarrow.
    """

    def __init__(
        self,
        path: Path,
        format: str,
        columns: Columns,
        *,
        settings: Mapping[str, Any] | None = None,
        rank: bool = False,
        resume: bool = False,
        retry_errors: bool = False,
        note: Callable[[str], object] = lambda text: None,
    ) -> None:
        if format == "parquet":
            require_pyarrow()
        if path.exists() and not path.is_file():
            raise ArtifactError(f"{path}: not a file that could be replaced; without --output rows are printed")
        self.path, self.journal = path, self.journal_of(path)
        self.skipped = 0
        self._format, self._columns, self._rank = format, columns, rank
        self._rows = open_journal(self.journal, columns.names, settings or {}, resume=resume)
        try:
            self._done = self._rows.recover(
                retry_errors=retry_errors, note=lambda text: note(f"{self.journal}: {text}")
            )
        except BaseException:
            self._rows.close()
            raise
        self.failed_before = self._rows.errors

    @staticmethod
    def journal_of(path: Path) -> Path:
        """Where the rows of a run are until its file is written."""
        return path.with_name(f"{path.name}.unfinished")

    @classmethod
    def is_complete(cls, path: Path) -> bool:
        """Whether the file is there and no run that would write it was interrupted."""
        return path.exists() and not cls.journal_of(path).exists()

    @property
    def kept(self) -> int:
        """The rows in the journal."""
        return self._rows.count

    def wanted(self, name: str) -> bool:
        """Whether the image has no row yet. An image named twice has two."""
        if self._done.take(written_name(name)):
            self.skipped += 1
            return False
        return True

    def write(self, row: Row) -> None:
        """Appends it to the journal."""
        try:
            self._rows.append(self._columns.values(row))
        except OSError as error:
            raise ArtifactError(f"{self.journal}: cannot be written: {error.strerror or error}") from error

    def finish(self) -> None:
        """Makes the file of all rows and removes the journal."""
        rows = self._rows.ranked() if self._rank else self._rows
        with replacing(self.path) as stream:
            write_rows(stream, self._format, self._columns, rows)
        if sys.platform == "win32":  # which removes no open file
            self._rows.close()
        # Before the lock is given up, so that no other run takes it for an interrupted one's.
        self.journal.unlink()
        self._rows.close()

    def close(self) -> None:
        """Leaves the journal as it is, on the disk."""
        self._rows.close(sync=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
