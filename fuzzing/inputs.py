"""Input bytes as a file, for readers that want one, and where such files are kept: in memory where the system can."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from caffe_port.errors import CaffePortError

__all__ = ["as_file", "folder", "memory_folder", "refused"]

refused: contextlib.AbstractContextManager[None] = contextlib.suppress(CaffePortError)
"""`with refused:` lets the errors pass that are raised on purpose, and no others."""


def memory_folder() -> str | None:
    """A folder on memory-backed storage to make temporary folders in; None where there is none."""
    shared = "/dev/shm"
    return shared if os.access(shared, os.W_OK) else None


@functools.cache
def _holder() -> Callable[[], Path]:
    given = os.environ.get("CAFFE_PORT_FUZZING_FOLDER")
    if given:
        return lambda: Path(given)
    held = tempfile.TemporaryDirectory(prefix="caffe_port_fuzzing_", dir=memory_folder())
    return lambda: Path(held.name)


def folder() -> Path:
    """The folder of this process's inputs; it goes away with the process, or with the one that started it."""
    return _holder()()


def as_file(data: bytes, name: str = "input") -> Path:
    """A file of these bytes. It is a new one each time: what still maps the last one keeps seeing that."""
    path = folder() / name
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return path
