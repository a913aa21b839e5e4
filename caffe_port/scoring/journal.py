"""Rows in a file until all of them are there: the journal of a run that can be resumed, a line a row."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from caffe_port.errors import ArtifactError
from caffe_port.proto.files import lock_for_run
from caffe_port.scoring.columns import Value

__all__ = ["SYNC_SECONDS", "Names", "Rows", "digest", "open_journal"]

SYNC_SECONDS = 5.0
"""A row is handed to the system as soon as it is there, so that no end of the process loses it. The system is made to
write them to the disk this often: if the machine ends, the rows since then may be lost, and are scored again."""

_FORMAT = "caffe_port scores 1"
_RETRY = "retry"
_DIGEST = 16


def open_journal(path: Path, columns: Sequence[str], settings: Mapping[str, Any], *, resume: bool) -> Rows:
    """The journal, new or to be continued, for this process alone. A line before its rows says what they are rows of.

    - `columns`: their names; `settings`: whatever else decides what the rows say, as JSON values.
    - `resume`: continue one that is there, which must be of the same columns and settings.

    Raises: ArtifactError if one is there and `resume` is not given, or it cannot be continued; if another run writes
    it; and where the system refuses.
    """
    header = f"{json.dumps({'format': _FORMAT, 'columns': columns, 'settings': settings})}\n".encode()
    flags = os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0)
    try:
        try:
            file = io.FileIO(os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666), "r+b")
        except FileExistsError:
            file = io.FileIO(os.open(path, flags), "r+b")
        try:
            lock_for_run(file.fileno(), path)
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise ArtifactError(f"{path}: another run has just finished with it")
            _begin(file, path, header, resume=resume)
        except BaseException:
            file.close()
            raise
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written: {error.strerror or error}") from error
    return Rows(file, len(columns))


def _begin(file: io.FileIO, path: Path, header: bytes, *, resume: bool) -> None:
    """Puts the file's position behind its header, which is written where it is missing."""
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
        _check_header(first, path, json.loads(header))
    file.seek(start)


def _check_header(line: bytes, path: Path, expected: Mapping[str, Any]) -> None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
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


class Rows:
    """Rows in a file, behind what it holds already at its position. `width`: the values of a row, to tell torn ones.

    `count` and `errors`: the rows that are there, and those of them with an error.
    """

    def __init__(self, file: Any, width: int | None = None) -> None:
        self._file, self._width = file, width
        self._start: int = file.tell()
        # Errors before this place are to be forgotten.
        self._retried = self._start
        self._synced = time.monotonic()
        self.count = self.errors = 0

    def append(self, values: Sequence[Value]) -> None:
        """Hands a row to the system."""
        _append(self._file, f"{json.dumps(values, allow_nan=False)}\n".encode())
        self.count += 1
        if time.monotonic() - self._synced > SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def recover(self, *, retry_errors: bool, note: Callable[[str], object]) -> Names:
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
                (failed if values[1] is None else scored).extend(digest(str(values[0])))
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
        return Names(bytes(scored + failed))

    def __iter__(self) -> Iterator[list[Value]]:
        """In the order of their coming."""
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

    def close(self, *, sync: bool = False) -> None:
        """Closes the file; `sync`: what is there is on the disk then."""
        if not self._file.closed:
            try:
                if sync:
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
        except (ValueError, RecursionError):
            return None
        whole = values == _RETRY or (isinstance(values, list) and len(values) == self._width and _is_row(values))
        return values if whole else None


def _is_row(values: list[Any]) -> bool:
    """Whether values are of the kinds that a row has: a name, a score or None, and further ones."""
    name, score, *rest = values
    if not isinstance(name, str) or not isinstance(score, (float, type(None))):
        return False
    return all(value is None or isinstance(value, (str, float, int)) for value in rest) and all(
        value.isascii() or value.encode(errors="replace").decode() == value
        for value in values
        if isinstance(value, str)
    )


def digest(name: str) -> bytes:
    """What `Names` knows a name by."""
    return hashlib.blake2b(name.encode(), digest_size=_DIGEST).digest()


class Names:
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
        key = np.frombuffer(digest(name), self._keys.dtype)[0]
        i = int(np.searchsorted(self._keys, key))
        if i == len(self._keys) or self._keys[i] != key or self._left[i] == 0:
            return False
        self._left[i] -= 1
        return True
