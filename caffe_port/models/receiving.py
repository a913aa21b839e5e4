"""Bytes from somewhere else, held against those of a release before anything else is done with them."""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import zipfile
import zlib
from pathlib import Path
from typing import Protocol

from caffe_port.models import ReleasedFile
from caffe_port.models.progress import Progress
from caffe_port.printing import printable
from caffe_port.reading import open_regular

__all__ = ["PATIENCE", "SLOWEST", "SourceError", "difference", "keep", "reason_of"]

PATIENCE = 30.0
"""Seconds that a source may take before `SLOWEST` counts."""

SLOWEST = 10_000.0
"""Bytes a second: a source that is slower in the mean is given up."""

_CHUNK = 1 << 18


class SourceError(Exception):
    """Why one source did not give the files; the next one is tried."""


class Reader(Protocol):
    """What gives bytes: at most `size`, as soon as there are any, and none at its end."""

    def read1(self, size: int, /) -> bytes: ...


def keep(stream: Reader, file: ReleasedFile, room: Path, origin: str, progress: Progress) -> None:
    """Copies the stream to its name in the folder `room` if it is the released file; reads at most one byte too many.

    `origin`: what it is called. Raises: SourceError if it is not, or comes slower than `SLOWEST`; OSError where the
    system refuses to write.
    """
    digest = hashlib.sha256()
    done = 0
    started = time.monotonic()
    with (room / file.name).open("wb") as out:
        while done <= file.size:
            chunk = _received(stream, min(_CHUNK, file.size + 1 - done), origin)
            if not chunk:
                break
            digest.update(chunk)
            out.write(chunk)
            done += len(chunk)
            seconds = time.monotonic() - started
            if (seconds - PATIENCE) * SLOWEST > done:
                raise SourceError(f"{origin}: too slow: {done} of {file.size} bytes in {seconds:.0f} s")
            if done < file.size:
                progress.bar(file.name, done, file.size)
    if done != file.size:
        amount = f"only {done}" if done < file.size else f"more than {file.size}"
        raise SourceError(f"{origin}: {amount} bytes, {file.size} expected")
    if digest.hexdigest() != file.sha256:
        raise SourceError(f"{origin}: SHA-256 {digest.hexdigest()}, {file.sha256} expected")
    progress.bar(file.name, done, file.size)


def _received(stream: Reader, size: int, origin: str) -> bytes:
    try:
        return stream.read1(size)
    except (OSError, http.client.HTTPException, zipfile.BadZipFile, zlib.error, EOFError, ValueError) as err:
        raise SourceError(f"{origin}: {reason_of(err)}") from err


def difference(path: Path, file: ReleasedFile) -> str | None:
    """How the file at `path` differs from the released one, or None. Raises: OSError if it cannot be read."""
    with open_regular(path) as opened:
        size = os.fstat(opened.fileno()).st_size
        if size != file.size:
            return f"{size} bytes, {file.size} expected"
        digest = hashlib.sha256()
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != file.sha256:
        return f"SHA-256 {digest.hexdigest()}, {file.sha256} expected"
    return None


def reason_of(error: BaseException) -> str:
    """What went wrong in one line, which may be a stranger's words."""
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        return reason_of(error.reason)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return printable(" ".join(str(error).split())) or type(error).__name__
