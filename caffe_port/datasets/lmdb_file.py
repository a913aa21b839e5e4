"""Reads LMDB databases, here and not by liblmdb: that maps a file and believes it, and a damaged one ends the process.

Of a database it reads the main one, of 64-bit little-endian machines, as Caffe's tools write it. Nothing is locked: a
database that somebody writes to meanwhile is read as it was at the last commit, or found damaged.
Source: LMDB 0.9 (openldap, libraries/liblmdb/mdb.c): MDB_meta, MDB_page, MDB_node.
"""

from __future__ import annotations

import bisect
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from caffe_port.errors import DataError
from caffe_port.reading import open_regular, reason

__all__ = ["LMDBFile"]

_MAGIC = 0xBEEFC0DE
_VERSION = 1
_PAGE = struct.Struct("<QHHHH")  # number, (unused), flags, lower, upper
_OVERFLOW = struct.Struct("<QHHI")  # number, (unused), flags, pages
_META = struct.Struct("<IIQQ")  # magic, version, address, size of the map
_DATABASE = struct.Struct("<IHHQQQQQ")  # (page size,) flags, depth, branch, leaf and overflow pages, entries, root
_NODE = struct.Struct("<HHHH")  # two parts of a size or a page number, flags or its third part, size of the key

_BRANCH, _LEAF, _IS_OVERFLOW = 0x01, 0x02, 0x04
_BIG_VALUE, _SUB_DATABASE, _DUPLICATES = 0x01, 0x02, 0x04
_NO_PAGE = 2**64 - 1
_MOST_LEVELS = 32
"""liblmdb's CURSOR_STACK."""


class LMDBFile:
    """A database file, mapped. Raises: DataError, here and where it is read, for what cannot be read as one."""

    def __init__(self, path: Path) -> None:
        self._path = path / "data.mdb" if path.is_dir() else path
        try:
            with open_regular(self._path) as stream:
                size = os.fstat(stream.fileno()).st_size
                self._bytes = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
        except OSError as error:
            what = "no such database" if isinstance(error, FileNotFoundError) else f"cannot be read: {reason(error)}"
            raise DataError(f"{path}: {what}") from None
        # Each commit writes the other one of the first two pages; the later is the one to read.
        first = self._meta(0)
        metas = [first, self._meta(first[1])]
        _, self._page_size, self.entries, self._root = max(metas)
        if len(self._bytes) < 2 * self._page_size:
            raise self._damaged("it ends early")

    def keys(self, start: int = 0) -> Iterator[bytes]:
        """The keys in their order, from the one of that number on."""
        if self._root == _NO_PAGE:
            return
        # The numbers of the pages that are still to be looked at, the next one last, and their depths.
        pending = [(self._root, 1)]
        seen = 0
        passed = 0
        while pending:
            number, depth = pending.pop()
            # In a tree each page is reached once; a file that leads in circles has more on its way than it has pages.
            seen += 1
            if depth > _MOST_LEVELS or seen * self._page_size > len(self._bytes):
                raise self._damaged("its pages lead in circles")
            flags, nodes = self._page(number)
            if flags & _BRANCH:
                pending += [(self._child(node), depth + 1) for node in reversed(nodes)]
                continue
            if passed + len(nodes) <= start:
                passed += len(nodes)
                continue
            for node in nodes[max(0, start - passed) :]:
                yield bytes(self._key(node))
            passed += len(nodes)

    def get(self, key: bytes) -> memoryview | None:
        """The value of a key, as a view of the file; None for a key that is not there."""
        number = self._root
        if number == _NO_PAGE:
            return None
        for _ in range(_MOST_LEVELS):
            flags, nodes = self._page(number)
            if flags & _LEAF:
                at = bisect.bisect_left(nodes, key, key=lambda node: bytes(self._key(node)))
                if at == len(nodes) or self._key(nodes[at]) != key:
                    return None
                return self._value(nodes[at])
            # The first key of a branch stands for all that sort before the second.
            at = bisect.bisect_right(nodes, key, lo=1, key=lambda node: bytes(self._key(node)))
            number = self._child(nodes[at - 1])
        raise self._damaged("its pages lead in circles")

    def _damaged(self, what: str) -> DataError:
        return DataError(f"{self._path}: cannot be read: no LMDB database: {what}")

    def _meta(self, offset: int) -> tuple[int, int, int, int]:
        """Of a meta page: the number of the commit, the page size, the number of entries, the root."""
        at = offset + 16
        end = at + _META.size + 2 * _DATABASE.size + 16
        if end > len(self._bytes):
            raise self._damaged("it ends early")
        magic, version, _, _ = _META.unpack_from(self._bytes, at)
        if magic != _MAGIC:
            raise self._damaged("its mark is missing, or of a machine with another order of bytes or of 32 bits")
        if version != _VERSION:
            raise self._damaged(f"it is of version {version}, {_VERSION} is known")
        page_size, *_ = _DATABASE.unpack_from(self._bytes, at + _META.size)
        _, flags, _, _, _, _, entries, root = _DATABASE.unpack_from(self._bytes, at + _META.size + _DATABASE.size)
        (commit,) = struct.unpack_from("<Q", self._bytes, end - 8)
        if page_size not in (1 << power for power in range(8, 17)):
            raise self._damaged(f"pages of {page_size} bytes")
        if flags & _DUPLICATES:
            raise self._damaged("its keys have several values each")
        return commit, page_size, entries, root

    def _page(self, number: int) -> tuple[int, Sequence[int]]:
        """The flags of a page, and where its nodes are in the file."""
        start = number * self._page_size
        if number < 2 or start + self._page_size > len(self._bytes):
            raise self._damaged(f"page {number} is not in it")
        stated, _, flags, lower, _ = _PAGE.unpack_from(self._bytes, start)
        kind = flags & (_BRANCH | _LEAF | _IS_OVERFLOW)
        count = (lower - _PAGE.size) // 2
        if stated != number or kind not in (_BRANCH, _LEAF) or not _PAGE.size <= lower <= self._page_size:
            raise self._damaged(f"page {number} is no page of keys")
        if kind == _BRANCH and not count:
            raise self._damaged(f"page {number} is empty")
        offsets = struct.unpack_from(f"<{count}H", self._bytes, start + _PAGE.size)
        # What lies beyond the page but in the file is damage too, and does no harm.
        if max(offsets, default=0) + _NODE.size > self._page_size:
            raise self._damaged(f"page {number} has a key outside of it")
        return flags, [start + offset for offset in offsets]

    def _key(self, node: int) -> memoryview:
        size = _NODE.unpack_from(self._bytes, node)[3]
        return self._piece(node + _NODE.size, size)

    def _child(self, node: int) -> int:
        low, high, highest, _ = _NODE.unpack_from(self._bytes, node)
        return int(low | high << 16 | highest << 32)

    def _value(self, node: int) -> memoryview:
        low, high, flags, key_size = _NODE.unpack_from(self._bytes, node)
        size, start = low | high << 16, node + _NODE.size + key_size
        if flags & (_SUB_DATABASE | _DUPLICATES):
            raise self._damaged("a key has another database, or several values")
        if not flags & _BIG_VALUE:
            return self._piece(start, size)
        (number,) = struct.unpack("<Q", self._piece(start, 8))
        begin = number * self._page_size
        stated, _, page_flags, pages = _OVERFLOW.unpack(self._piece(begin, _OVERFLOW.size))
        if stated != number or not page_flags & _IS_OVERFLOW or size > pages * self._page_size - _OVERFLOW.size:
            raise self._damaged(f"page {number} is not the value that a key says it is")
        return self._piece(begin + _OVERFLOW.size, size)

    def _piece(self, start: int, size: int) -> memoryview:
        piece = self._bytes[start : start + size]
        if len(piece) != size:
            raise self._damaged("it ends early")
        return piece
