"""The blobs of a net that is being built: their versions, and what shares memory with what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from caffe_port.net import Blob
from caffe_port.shapes import Shape

__all__ = ["BlobTable"]


class BlobTable:
    """The table of current blobs while layers are laid down in order, with what shares memory with what."""

    def __init__(self) -> None:
        self.unconsumed: dict[str, None] = {}
        self._current: dict[str, Blob | None] = {}
        self._memory: dict[str, int] = {}
        self._overwritten: dict[int, tuple[int, Blob]] = {}
        """Of each memory that was overwritten in place, how often, and by which blob last."""
        self._seen: dict[str, int] = {}
        """By name, how many of these times its current version knows of."""

    def __contains__(self, name: str) -> bool:
        return name in self._current

    def __iter__(self) -> Iterator[str]:
        """The names in the order of their first writing."""
        return iter(self._current)

    def get(self, name: str) -> Blob | None:
        """The current version; None where there is none, or it is unknown because of a problem."""
        blob = self._current.get(name)
        if blob is None:
            return None
        times, last = self._overwritten.get(self._memory[name], (0, None))
        unseen = times - self._seen[name]
        if unseen:
            blob = replace(blob, version=blob.version + unseen, alias_of=last)
            self._current[name], self._seen[name] = blob, times
        return blob

    def set_unknown(self, name: str) -> None:
        self._current[name] = None

    def write(self, name: str, shape: Shape, shares_with: str | None) -> Blob:
        """A new blob, or a new version of one that a layer overwrites in place."""
        previous = self.get(name)
        blob = Blob(name, shape, 0 if previous is None else previous.version + 1)
        if previous is not None:
            times, _ = self._overwritten.get(self._memory[name], (0, None))
            self._overwritten[self._memory[name]] = times + 1, blob
        memory = self._memory[shares_with] if shares_with is not None else self._memory.get(name, len(self._memory))
        self._memory[name] = memory
        self._current[name], self._seen[name] = blob, self._overwritten.get(memory, (0, None))[0]
        return blob
