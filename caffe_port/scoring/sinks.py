"""Rows out: a table for people, CSV, JSON Lines or Parquet for programs; into a stream, or a file that can be resumed.

A run that writes a file keeps its rows in a journal beside it, a line a row, appended as they come. When the last one
is there the file is made of it, appears complete, and the journal goes. So the file is never torn, whatever stops the
run.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Protocol
from urllib.parse import quote_from_bytes

import numpy as np

from caffe_port.errors import ArtifactError, GraphError, MissingDependency
from caffe_port.proto.files import replacing
from caffe_port.scoring.items import Row

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "FORMATS",
    "SYNC_SECONDS",
    "Columns",
    "FileSink",
    "RankedSink",
    "Sink",
    "StreamSink",
    "Value",
    "format_of",
    "written_name",
]

FORMATS = ("table", "csv", "jsonl", "parquet")

SYNC_SECONDS = 5.0
"""A row is handed to the system as soon as it is there, so that no end of the process loses it. The system is made to
write them to the disk this often: if the machine ends, the rows since then may be lost, and are scored again."""

_SUFFIXES = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "table",
}

_FORMAT = "caffe_port scores 1"
_RETRY = "retry"
_DIGEST = 16
_WIDEST_LABEL = 24
_PARQUET_ROWS = 65_536

Value = str | float | bool | None
"""Of a column. None is an empty field in CSV, and null in JSON and Parquet."""


def format_of(path: Path | None, asked: str | None = None) -> str:
    """One of FORMATS: what is asked for, else what the path's suffix says, else (to a terminal or pipe) a table.

    Raises: GraphError for a suffix that says nothing, for an unknown format, and for Parquet without a file.
    """
    if asked is not None and asked not in FORMATS:
        raise GraphError(f"unknown format {asked!r}; known: {', '.join(FORMATS)}")
    if path is None:
        if asked == "parquet":
            raise GraphError("Parquet is written to a file only: name it with --output")
        return asked or "table"
    found = asked or _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise GraphError(f"{path}: which format? Let it end in {', '.join(_SUFFIXES)}, or give --format")
    return found


def written_name(name: str) -> str:
    """A name as outputs have it: itself, unless it is no text.

    Names are bytes on most systems. One that is no valid UTF-8 is written as `bytes:` and its bytes, percent-encoded
    but for letters, digits and `_.-~/!`; so is one that itself begins with `bytes:`. `urllib.parse.unquote_to_bytes` of
    what follows `bytes:` gives the bytes back, so different names stay different.
    """
    if name.isascii() and not name.startswith("bytes:"):
        return name
    raw = name.encode("utf-8", "surrogateescape" if _only_escapes(name) else "surrogatepass")
    try:
        if not name.startswith("bytes:"):
            return raw.decode()
    except UnicodeDecodeError:
        pass
    return "bytes:" + quote_from_bytes(raw, safe="/!")


def _only_escapes(name: str) -> bool:
    """Whether all surrogates are bytes that could not be decoded. Names on Windows can have others."""
    return all("\udc80" <= letter <= "\udcff" for letter in name if "\ud800" <= letter <= "\udfff")


@dataclass(frozen=True, slots=True)
class Columns:
    """What of a row is written.

    - `model`: its name; `labels`: of the probabilities.
    - `score_index`: the label whose probability is the score; None: the score is the highest probability.
    - `top_k`: the so many likeliest labels and their probabilities, as `label_1`, `probability_1`, `label_2`, …
    - `probabilities`: a column `p_LABEL` for each label.
    - `flag`: says of a score whether it is flagged; None: there is no column `flagged`.

    Raises: GraphError if `top_k` is more than there are labels, or two columns would have the same name.
    """

    model: str
    labels: tuple[str, ...]
    score_index: int | None
    top_k: int = 0
    probabilities: bool = False
    flag: Callable[[float], bool] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.top_k <= len(self.labels):
            raise GraphError(f"--top-k {self.top_k}: the model has {len(self.labels)} labels")
        if len(set(self.names)) < len(self.names):
            raise GraphError("two labels of the model have the same name, so --probabilities cannot name columns by it")

    @property
    def names(self) -> tuple[str, ...]:
        """The columns in their order."""
        names = ["image", "score"]
        if self.flag is not None:
            names.append("flagged")
        for k in range(1, self.top_k + 1):
            names += [f"label_{k}", f"probability_{k}"]
        if self.probabilities:
            names += [f"p_{label}" for label in self.labels]
        return (*names, "error", "model")

    def values(self, row: Row) -> list[Value]:
        """A row's value of each column. Raises: GraphError if it has not a probability a label."""
        name = written_name(row.name)
        if not row.ok:
            missing: list[Value] = [None] * (len(self.names) - 3)
            reason = row.error.removeprefix(f"{row.name}: ")
            return [name, *missing, reason.encode(errors="backslashreplace").decode(), self.model]
        if len(row.probabilities) != len(self.labels):
            raise GraphError(f"{len(row.probabilities)} probabilities of {len(self.labels)} labels")
        score = max(row.probabilities) if self.score_index is None else row.probabilities[self.score_index]
        values: list[Value] = [name, score]
        if self.flag is not None:
            values.append(self.flag(score))
        if self.top_k:
            order = sorted(range(len(self.labels)), key=lambda i: (-row.probabilities[i], i))
            for i in order[: self.top_k]:
                values += [self.labels[i], row.probabilities[i]]
        if self.probabilities:
            values += row.probabilities
        return [*values, None, self.model]


# Formats


class _Text:
    """A format of lines."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def header(self) -> bytes:
        return b""

    def line(self, values: Sequence[Value]) -> bytes:
        raise NotImplementedError


class _Csv(_Text):
    def header(self) -> bytes:
        return self.line(self.columns.names)

    def line(self, values: Sequence[Value]) -> bytes:
        text = io.StringIO(newline="")
        # With both characters in the terminator, each is quoted where a field has it, in every version of Python.
        csv.writer(text, lineterminator="\r\n").writerow(
            [str(value).lower() if isinstance(value, bool) else value for value in values]
        )
        return f"{text.getvalue()[:-2]}\n".encode()


class _JsonLines(_Text):
    def line(self, values: Sequence[Value]) -> bytes:
        document = dict(zip(self.columns.names, values, strict=True))
        return f"{json.dumps(document, ensure_ascii=False, allow_nan=False)}\n".encode()


class _Table(_Text):
    """Score, whether it is flagged, likeliest labels, image. What is of fixed width comes first, so it is aligned."""

    def line(self, values: Sequence[Value]) -> bytes:
        row = dict(zip(self.columns.names, values, strict=True))
        failed = row["score"] is None
        cells = ["error   " if failed else f"{row['score']:.6f}"]
        if "flagged" in row:
            cells.append("flagged" if row["flagged"] else "       ")
        width = min(max(map(len, self.columns.labels), default=0), _WIDEST_LABEL)
        for k in range(1, self.columns.top_k + 1):
            label = "" if failed else f"{row[f'probability_{k}']:.6f} {str(row[f'label_{k}'])[:width]}"
            cells.append(label.ljust(width + 9))
        if self.columns.probabilities:
            cells += ["" if failed else f"{label} {row[f'p_{label}']:.6f}" for label in self.columns.labels]
        image = _printable(str(row["image"]))
        cells.append(f"{image}: {_printable(str(row['error']))}" if failed else image)
        return ("  ".join(cells) + "\n").encode()


def _printable(text: str) -> str:
    """Without what would break the line or steer the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_TEXTS: Mapping[str, type[_Text]] = {"table": _Table, "csv": _Csv, "jsonl": _JsonLines}


def _require_pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise MissingDependency(f"writing Parquet needs pyarrow: pip install 'caffe_port[parquet]' ({error})") from None


def _write_parquet(stream: IO[bytes], columns: Columns, rows: Iterable[Sequence[Value]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    def kind(name: str) -> pa.DataType:
        if name == "flagged":
            return pa.bool_()
        number = name == "score" or name.startswith(("probability_", "p_"))
        return pa.float64() if number else pa.string()

    schema = pa.schema([(name, kind(name)) for name in columns.names])
    with parquet.ParquetWriter(stream, schema) as writer:
        for batch in _batched(rows, _PARQUET_ROWS):
            arrays = [
                pa.array(column, field.type) for column, field in zip(zip(*batch, strict=True), schema, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _batched(rows: Iterable[Sequence[Value]], size: int) -> Iterator[list[Sequence[Value]]]:
    batch: list[Sequence[Value]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


# Sinks


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
        self._text = _TEXTS[format](columns)
        self._stream.write(self._text.header())

    def wanted(self, name: str) -> bool:
        """Always."""
        return True

    def write(self, row: Row) -> None:
        """Writes it and flushes."""
        self._stream.write(self._text.line(self._columns.values(row)))
        self._stream.flush()

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
        self._rows = _Rows(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115 (closed on exit)

    def write(self, row: Row) -> None:
        """Keeps it."""
        self._rows.append(self._columns.values(row))

    def finish(self) -> None:
        """Writes all rows."""
        for values in self._rows.ranked():
            self._stream.write(self._text.line(values))
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
            _require_pyarrow()
        if path.exists() and not path.is_file():
            raise ArtifactError(f"{path}: not a file that could be replaced; without --output rows are printed")
        self.path, self.journal = path, self.journal_of(path)
        self.skipped = 0
        self._format, self._columns, self._rank = format, columns, rank
        header = {"format": _FORMAT, "columns": columns.names, "settings": settings or {}}
        line = f"{json.dumps(header)}\n".encode()
        self._rows = _Rows(_opened(self.journal, line, json.loads(line), resume=resume), len(columns.names))
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
            if self._format == "parquet":
                _write_parquet(stream, self._columns, rows)
            else:
                text = _TEXTS[self._format](self._columns)
                stream.write(text.header())
                stream.writelines(map(text.line, rows))
            stream.flush()
            os.fsync(stream.fileno())
        if sys.platform == "win32":  # which removes no open file
            self._rows.close()
        # Before the lock is given up, so that no other run takes it for an interrupted one's.
        self.journal.unlink()
        self._rows.close()

    def close(self) -> None:
        """Leaves the journal as it is, on the disk."""
        self._rows.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _opened(path: Path, header: bytes, expected: Mapping[str, Any], *, resume: bool) -> io.FileIO:
    """The journal, new or to be continued, for this process alone, behind its header."""
    flags = os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0)
    try:
        try:
            file = io.FileIO(os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666), "r+b")
        except FileExistsError:
            file = io.FileIO(os.open(path, flags), "r+b")
        try:
            _lock(file, path)
            _begin(file, path, header, expected, resume=resume)
        except BaseException:
            file.close()
            raise
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written: {error.strerror or error}") from error
    return file


def _lock(file: io.FileIO, path: Path) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ArtifactError(f"{path}: another run is writing it") from None
    if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
        raise ArtifactError(f"{path}: another run has just finished with it")


def _begin(file: io.FileIO, path: Path, header: bytes, expected: Mapping[str, Any], *, resume: bool) -> None:
    with os.fdopen(os.dup(file.fileno()), "rb") as stream:
        first = stream.readline(1 << 24)
    start = len(first)
    # The header is written at once, so only the end of the machine, or a full disk, leaves a part of one.
    if first == header[: len(first)] and len(first) < len(header):
        file.truncate(0)
        _append(file, header)
        start = len(header)
    elif not resume:
        raise ArtifactError(f"{path}: rows of an interrupted run; go on with --resume, or delete it to start over")
    else:
        _check_header(first, path, expected)
    file.seek(start)


def _check_header(line: bytes, path: Path, expected: Mapping[str, Any]) -> None:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("format") != _FORMAT or not isinstance(found.get("settings"), dict):
        raise ArtifactError(f"{path}: not what an interrupted run left")
    if found == expected:
        return
    was, now = ({**header["settings"], "columns": header.get("columns")} for header in (found, expected))
    differing = sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
    told = "; ".join(f"{key} was {json.dumps(was.get(key))}, is {json.dumps(now.get(key))}" for key in differing)
    raise ArtifactError(
        f"{path}: rows of a run with other options cannot be continued: {told}; "
        "give the same options, or delete it to start over"
    )


def _append(file: IO[bytes], line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        rest = rest[file.write(rest) :]


class _Rows:
    """Rows in a file, behind what it holds already at its position."""

    def __init__(self, file: Any, width: int | None = None) -> None:
        self._file, self._width = file, width
        self._start: int = file.tell()
        # Errors before this place are to be forgotten.
        self._retried = self._start
        self._synced = time.monotonic()
        self.count = self.errors = 0

    def append(self, values: Sequence[Value]) -> None:
        _append(self._file, f"{json.dumps(values, allow_nan=False)}\n".encode())
        self.count += 1
        if time.monotonic() - self._synced > SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def recover(self, *, retry_errors: bool, note: Callable[[str], object]) -> _Names:
        """Counts what is there, cuts off what is torn, and gives the names that need no row any more."""
        scored, failed = bytearray(), bytearray()
        end = self._start
        for offset, line in self._lines():
            values = self._parsed(line)
            if values is None:
                break
            end = offset + len(line)
            if values == _RETRY:
                failed.clear()
                self._retried = end
            else:
                (failed if values[1] is None else scored).extend(_digest(str(values[0])))
        torn = os.fstat(self._file.fileno()).st_size - end
        if torn:
            note(f"a torn end of {torn} bytes was cut off")
            self._file.truncate(end)
        if retry_errors and failed:
            _append(self._file, f"{json.dumps(_RETRY)}\n".encode())
            failed.clear()
            self._retried = self._file.seek(0, os.SEEK_END)
        self.errors = len(failed) // _DIGEST
        self.count = len(scored) // _DIGEST + self.errors
        return _Names(bytes(scored + failed))

    def __iter__(self) -> Iterator[list[Value]]:
        return (values for _, values in self._entries())

    def ranked(self) -> Iterator[list[Value]]:
        """The highest score first, equal ones in their order, errors last."""
        offsets, scores = array("q"), array("d")
        for offset, values in self._entries():
            offsets.append(offset)
            scores.append(float("nan") if values[1] is None else float(values[1]))
        # NaN is last, whatever the sign.
        order = np.argsort(-np.frombuffer(scores, np.float64), kind="stable") if scores else ()
        with os.fdopen(os.dup(self._file.fileno()), "rb") as stream:
            for i in order:
                stream.seek(offsets[i])
                yield json.loads(stream.readline())

    def close(self) -> None:
        if not self._file.closed:
            try:
                os.fsync(self._file.fileno())
            finally:
                self._file.close()

    def _entries(self) -> Iterator[tuple[int, list[Value]]]:
        for offset, line in self._lines():
            values = json.loads(line)
            if values != _RETRY and (values[1] is not None or offset >= self._retried):
                yield offset, values

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        offset = self._start
        with os.fdopen(os.dup(self._file.fileno()), "rb") as stream:
            stream.seek(offset)
            for line in stream:
                yield offset, line
                offset += len(line)

    def _parsed(self, line: bytes) -> Any:
        """The values, _RETRY, or None where the line is torn."""
        try:
            values = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            return None
        whole = values == _RETRY or (isinstance(values, list) and len(values) == self._width)
        return values if whole else None


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=_DIGEST).digest()


class _Names:
    """A multiset of names by their digests: 20 bytes each, 400 MB for 20 million; while it is made, thrice that."""

    def __init__(self, digests: bytes) -> None:
        self._keys: Any = np.empty(0, f"S{_DIGEST}")
        self._left: Any = np.empty(0, np.int32)
        if digests:
            self._keys, counts = np.unique(np.frombuffer(digests, f"S{_DIGEST}"), return_counts=True)
            self._left = counts.astype(np.int32)

    def take(self, name: str) -> bool:
        """Whether the name is there (still); it is there once less afterwards."""
        if not len(self._keys):
            return False
        key = np.frombuffer(_digest(name), self._keys.dtype)[0]
        i = int(np.searchsorted(self._keys, key))
        if i == len(self._keys) or self._keys[i] != key or self._left[i] == 0:
            return False
        self._left[i] -= 1
        return True
