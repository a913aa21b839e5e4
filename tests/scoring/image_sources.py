"""Reading what sources name."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from caffe_port.errors import ImageError
from caffe_port.scoring.sources import Sources, image_suffixes

__all__ = ["filled", "peak_of", "read", "read_all"]


def read_all(sources: Sources, wanted: Callable[[str], bool] | None = None) -> list[tuple[str, bytes | str]]:
    """Name and bytes, or the reason."""
    found: list[tuple[str, bytes | str]] = []
    for item in sources.items(wanted):
        try:
            found.append((item.name, item.read()))
        except ImageError as error:
            found.append((item.name, str(error)))
    return found


def read(*names: object, **options: Any) -> list[tuple[str, bytes | str]]:
    return read_all(Sources([str(name) for name in names], **options))


def filled(folder: Path, *names: str) -> Path:
    """A folder with files whose content is their name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))
    return folder


def peak_of(work: Callable[[], object]) -> int:
    """The most bytes of Python objects that were there at once."""
    image_suffixes()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
