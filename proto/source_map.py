"""Where the fields of a message stand in its text."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from caffe_port.errors import Location

__all__ = ["Fields", "SourceMap"]

Fields = dict[str, "list[tuple[int, Any]]"]
"""The fields of a message as they stand in the text: name → an (offset, fields of that message or None) each time."""


class SourceMap:
    """Where each field of a parsed message stands in its text."""

    __slots__ = ("_newlines", "_root", "file")

    def __init__(self, file: str, newlines: list[int], root: Fields) -> None:
        self.file = file
        self._newlines = newlines
        self._root = root

    def location(self, path: Sequence[str | int]) -> Location:
        """The place of a field, e.g. ("layer", 3, "convolution_param", "pad", 0), or of its nearest known ancestor.

        A repeated field named without an index means its first entry. The empty path is the file alone.
        """
        fields: Any = self._root
        offset = -1
        parts = list(path)
        while parts and fields is not None:
            entries = fields.get(parts.pop(0))
            if not entries:
                break
            index = parts.pop(0) if parts and isinstance(parts[0], int) else 0
            if not 0 <= int(index) < len(entries):
                break
            offset, fields = entries[int(index)]
        return self.at(offset) if offset >= 0 else Location(self.file)

    def at(self, offset: int) -> Location:
        line = bisect_right(self._newlines, offset - 1)
        start = self._newlines[line - 1] + 1 if line else 0
        return Location(self.file, line + 1, offset - start + 1)
