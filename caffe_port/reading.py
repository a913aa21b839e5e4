"""Reading files that may be anything: regular files only, no more of them than is meant, and JSON as data alone.

What a stranger's list or manifest names may be a device without an end, a FIFO that nobody writes to, or a folder.
What goes wrong is an OSError here, which each reader makes into an error of its own kind.
"""

from __future__ import annotations

import errno
import io
import json
import os
import reprlib
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO, TextIO

from caffe_port.limits import hint, limits

__all__ = [
    "contents",
    "lines_of",
    "open_regular",
    "parse_json",
    "reason",
    "require_unpackable",
    "shown",
    "text_of",
    "unpackable",
]

_AT_ONCE = 1 << 20

_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, open to be read; nothing else is opened, and nothing is waited for. Raises: OSError."""
    name = os.fspath(path)
    try:
        _require_regular(os.stat(name), name)  # noqa: PTH116 - a name may have a NUL, which Path takes and stat refuses
        # If it has become a FIFO by now, opening it so does not wait for a writer.
        descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:
        raise OSError(errno.EINVAL, f"no path ({error})", name) from None
    try:
        _require_regular(os.fstat(descriptor), name)
        return io.BufferedReader(io.FileIO(descriptor, "rb"))
    except BaseException:
        os.close(descriptor)
        raise


def _require_regular(status: os.stat_result, name: str) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file", name)
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, f"{_KINDS.get(kind, 'something')}, not a file", name)


def contents(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """All bytes of a regular file, of `most` bytes at most (default: limits.text_bytes). Raises: OSError."""
    most = limits.text_bytes if most is None else most
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        pieces = [stream.read(size + 1)] if size <= most else []
        # Some files say nothing of their size, or grow.
        while size <= most and (piece := stream.read(_AT_ONCE)):
            pieces.append(piece)
            size = sum(map(len, pieces))
    if size > most:
        raise OSError(errno.EFBIG, f"{size:,} bytes; at most {most:,} are read", os.fspath(path))
    return b"".join(pieces)


def text_of(path: str | os.PathLike[str], most: int | None = None, *, errors: str = "strict") -> str:
    """The text of a regular file in UTF-8, a mark of its byte order left out, lines as they end there.

    Raises: OSError; UnicodeDecodeError.
    """
    return contents(path, most).decode("utf-8-sig", errors)


def lines_of(stream: TextIO) -> Iterator[str]:
    """The lines of a text one by one, each with its end. Raises: ValueError for one beyond the limit line_bytes."""
    most = limits.line_bytes
    while line := stream.readline(most):
        if len(line) == most and not line.endswith(("\n", "\r")):
            raise ValueError(f"a line of more than {most:,} characters ({hint('line_bytes')})")
        yield line


def reason(error: BaseException) -> str:
    """What went wrong, in words, without the file's name."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


# JSON


def parse_json(content: str | bytes) -> Any:
    """What a JSON text says.

    Raises: ValueError for what is none, and for what JSON lets pass and no reader means: a key twice in an object, NaN
    and infinity, a number of very many digits, values nested deeper than the limit json_depth.
    """
    try:
        found = json.loads(content, object_pairs_hook=_object, parse_constant=_refuse_constant, parse_int=_whole)
    except RecursionError:
        found = None
        deep = True
    else:
        deep = _is_deeper(found, limits.json_depth)
    if deep:
        raise ValueError(f"values are nested deeper than {limits.json_depth}")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key[:100]!r} is there twice")
        found[key] = value
    return found


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _whole(text: str) -> int:
    # Python takes the square of the digits in time, and since 3.11 refuses a few more than these, with advice for
    # programmers.
    if len(text) > 4000:
        raise ValueError(f"a whole number of {len(text):,} digits")
    return int(text)


def _is_deeper(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [value for values in inner for value in values]
        if not level:
            return False
    return any(isinstance(one, dict | list) for one in level)


def shown(value: object) -> str:
    """A value as an error tells it: its beginning, where it is long."""
    text = reprlib.repr(value) if isinstance(value, dict | list | tuple) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# What unpacks


def unpackable(packed: int) -> int:
    """How many bytes a packed file of so many may be unpacked to."""
    return max(limits.unpacked_free, packed * limits.unpacked_ratio)


def require_unpackable(packed: int, unpacked: int) -> None:
    """Raises ValueError where a packed file claims to hold, or gave, more than it may be unpacked to."""
    if unpacked > unpackable(packed):
        most = f"at most {unpackable(packed):,} are unpacked (limits unpacked_free and unpacked_ratio)"
        raise ValueError(f"{packed:,} bytes would unpack to {unpacked:,}; {most}")
