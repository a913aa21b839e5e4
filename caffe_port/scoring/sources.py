"""What a user names → the images in it: files, folders, patterns, lists, and archives, never unpacked to disk.

Items come one at a time. The names of a large folder's files are sorted without all of them being in memory.
"""

from __future__ import annotations

import bz2
import contextlib
import functools
import glob
import gzip
import heapq
import lzma
import os
import stat
import struct
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from caffe_port.errors import DataError, ImageError
from caffe_port.limits import limits
from caffe_port.reading import contents, open_regular, reason, require_unpackable
from caffe_port.scoring.items import Item

__all__ = ["ARCHIVE_SUFFIXES", "Sources", "image_suffixes", "read_file", "too_large"]

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")

# So many names of one folder are sorted at once; of more, sorted runs are spilled to a temporary file and merged.
_SORTED_AT_ONCE = 100_000

# Of a name on standard input, and of what a tar header says about the member after it. PATH_MAX is 4 KiB on Linux.
_MAX_NAME_BYTES = 2**20

# Headers before that of a member, which say its long name or its attributes. There are two at most, and global ones.
_MAX_HEADERS = 16

_COMPRESSED: tuple[tuple[bytes, Callable[[BinaryIO], object]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
)

# Not bzip2: zipfile unpacks whatever comes of the first 4 KiB, which can be 4 GB.
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)

# What zipfile, tarfile and the decompressors raise on damaged archives.
_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
)


@functools.cache
def image_suffixes() -> frozenset[str]:
    """The suffixes, in lower case and with their dot, of the formats that the installed Pillow decodes."""
    from PIL import Image

    from caffe_port.image_files import NOT_DECODED

    known = Image.registered_extensions()
    return frozenset(suffix for suffix, name in known.items() if name in Image.OPEN and name not in NOT_DECODED)


@dataclass(frozen=True, slots=True)
class Sources:
    """The images that `names` mean, always in the same order.

    A name is a file, a folder, an archive (by ARCHIVE_SUFFIXES), a pattern where there is no such file (`*`, `?`,
    `[…]`, `**`), or `-` for a list of names on `stdin`, by default standard input: one a line or, with `null`, each
    ended by a NUL byte. In a list there are no patterns. The matches of a pattern are in memory all together.

    A file named is read whatever it is called. Of folders and archives, files that end as an image (`image_suffixes`)
    and are not hidden are taken; with `all_files` all. `recursive` enters subfolders; links to folders too, each folder
    once. An archive inside a folder or an archive is a file that is no image.
    """

    names: Sequence[str]
    recursive: bool = False
    all_files: bool = False
    null: bool = False
    stdin: BinaryIO | None = None

    def items(self, wanted: Callable[[str], bool] | None = None) -> Iterator[Item]:
        """The images, lazily; those whose name is not `wanted`, asked once an image, are passed over unread.

        A file is read by `Item.read`, in the thread that calls it; a member of an archive has been read when its item
        comes. What cannot be read, or holds no image, is an item whose `read` raises ImageError with the reason; its
        name is that of the file, folder, archive or pattern.
        Raises: DataError if standard input is no list of names.
        """
        wanted = wanted or (lambda _: True)
        for found in self._found():
            if found.archive:
                yield from self._members(found.name, wanted)
            elif wanted(found.name):
                yield _refused(found.name, found.error) if found.error else Item(found.name, _reader(found.name))

    def count(self) -> int | None:
        """How many items there are; None where that takes reading a tar, or the list on standard input.

        It walks the folders, which for millions of files takes minutes.
        """
        if "-" in self.names:
            return None
        total = 0
        for found in self._found():
            if found.archive and not _is_zip(found.name):
                return None
            total += max(1, self._members_of_zip(found.name)) if found.archive else 1
        return total

    def _members_of_zip(self, name: str) -> int:
        try:
            with open_regular(name) as file, zipfile.ZipFile(file) as archive:
                return sum(self._takes(info.filename) and not info.is_dir() for info in archive.infolist())
        except _BROKEN:
            return 0

    def _found(self) -> Iterator[_Found]:
        for name in self.names:
            if name == "-":
                stream = cast(BinaryIO, sys.stdin.buffer) if self.stdin is None else self.stdin
                for listed in _listed(stream, null=self.null):
                    yield from self._named(listed)
            elif glob.has_magic(name) and not os.path.lexists(name):
                matches = sorted(glob.iglob(name, recursive=True))  # noqa: PTH207 (Path has no absolute patterns)
                if not matches:
                    yield _Found(name, error="no file matches this pattern")
                for match in matches:
                    yield from self._named(match)
            else:
                yield from self._named(name)

    def _named(self, name: str) -> Iterator[_Found]:
        try:
            mode = Path(name).stat().st_mode if name else 0
        except (OSError, ValueError) as error:
            yield _Found(name, error=reason(error))
            return
        if stat.S_ISDIR(mode):
            yield from self._folder(name)
        elif name:
            yield _Found(name, archive=stat.S_ISREG(mode) and name.lower().endswith(ARCHIVE_SUFFIXES))
        else:
            yield _Found(name, error="a name without a character")

    def _folder(self, top: str) -> Iterator[_Found]:
        """The images below a folder, depth first, each folder's sorted by name."""
        found = False
        # The folders being walked, and all that links led to: no link leads into these again, so no walk is endless.
        linked = {_identity(top)}
        stack = [(top, _identity(top), self._entries(top))]
        while stack:
            folder, _, entries = stack[-1]
            try:
                entry = next(entries, None)
            except OSError as error:
                found = True
                yield _Found(folder, error=f"the folder cannot be read: {reason(error)}")
                entry = None
            if entry is None:
                stack.pop()
                continue
            path, is_folder, is_link = entry
            if not is_folder:
                found = True
                yield _Found(path)
                continue
            identity = _identity(path)
            if is_link and identity is not None:
                if identity in linked or any(identity == walked for _, walked, _ in stack):
                    continue
                linked.add(identity)
            stack.append((path, identity, self._entries(path)))
        if not found:
            hint = "" if self.recursive else "; --recursive looks into its subfolders"
            yield _Found(top, error=f"no images in this folder{hint}")

    def _entries(self, folder: str) -> Iterator[tuple[str, bool, bool]]:
        """Path, is a folder, is a link; sorted by name. Raises: OSError."""
        with contextlib.ExitStack() as spilled:
            runs: list[Iterator[str]] = []
            names: list[str] = []
            with os.scandir(folder) as entries:
                for entry in entries:
                    kind = _kind(entry)
                    if kind == "file":
                        taken = self._takes(entry.name)
                    else:
                        taken = self.recursive and (self.all_files or not entry.name.startswith("."))
                    if not taken:
                        continue
                    # NUL sorts before whatever goes on, so these sort as the names do.
                    names.append(f"{entry.name}\0{kind}")
                    if len(names) >= _SORTED_AT_ONCE:
                        names.sort()
                        runs.append(_spilled(names, spilled.enter_context(tempfile.TemporaryFile())))
                        names = []
            names.sort()
            prefix = folder if folder.endswith(os.sep) else folder + os.sep
            for record in heapq.merge(names, *runs) if runs else names:
                name, _, kind = record.partition("\0")
                yield prefix + name, kind != "file", kind == "link"

    def _takes(self, name: str) -> bool:
        """Of a file in a folder, or a member of an archive: whether it is looked at."""
        if self.all_files:
            return True
        _, dot, suffix = name.rpartition(".")
        if not dot or f".{suffix.lower()}" not in image_suffixes():
            return False
        return not any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))

    def _members(self, archive: str, wanted: Callable[[str], bool]) -> Iterator[Item]:
        found = False
        try:
            with contextlib.closing(_in_zip(archive) if _is_zip(archive) else _in_tar(archive)) as members:
                for member in members:
                    if not self._takes(member.name):
                        continue
                    found = True
                    name = f"{archive}!{member.name}"
                    if not wanted(name):
                        continue
                    if member.obstacle:
                        yield _refused(name, member.obstacle)
                        continue
                    try:
                        content = member.read()
                    except _BROKEN as error:
                        yield _refused(name, reason(error))
                        if member.sequential:
                            raise
                    else:
                        yield Item(name, functools.partial(_given, content))
                        del content
        except _BROKEN as error:
            if wanted(archive):
                what = "the archive is damaged, what follows is missing" if found else "the archive cannot be read"
                yield _refused(archive, f"{what}: {reason(error)}")
            return
        if not found and wanted(archive):
            yield _refused(archive, "no images in this archive")


@dataclass(frozen=True, slots=True)
class _Found:
    name: str
    archive: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Member:
    """`sequential`: if it cannot be read, neither can what follows."""

    name: str
    obstacle: str
    read: Callable[[], bytes]
    sequential: bool = False


def _in_zip(path: str) -> Generator[_Member, None, None]:
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        if sum(info.compress_size for info in archive.infolist()) > os.fstat(file.fileno()).st_size:
            raise zipfile.BadZipFile("its members share bytes, and would unpack to far more than they are")
        for info in archive.infolist():
            if info.is_dir():
                continue
            obstacle = too_large(info.file_size)
            if info.flag_bits & 1:
                obstacle = "encrypted"
            elif info.compress_type not in _ZIP_METHODS:
                obstacle = f"compressed by a method that is not read in a zip ({info.compress_type})"
            yield _Member(info.filename, obstacle, functools.partial(_unzipped, archive, info))


def _in_tar(path: str) -> Generator[_Member, None, None]:
    with open_regular(path) as file, contextlib.ExitStack() as stack:
        stream: IO[bytes] = file
        start = file.read(8)
        file.seek(0)
        for magic, opener in _COMPRESSED:
            if start.startswith(magic):
                # Not tarfile's own decompression: it stops after the first of several streams (pbzip2, pigz).
                stream = stack.enter_context(cast("IO[bytes]", opener(file)))
        bounded = cast("IO[bytes]", _Bounded(file, stream))
        archive = stack.enter_context(
            tarfile.open(fileobj=bounded, mode="r|", tarinfo=_Header, encoding="utf-8", errors="surrogateescape")
        )
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep all it has met
            if info.isdir():
                continue
            # Those of global headers, which would come together.
            archive.pax_headers.clear()  # type: ignore[attr-defined]
            if info.size < 0:
                raise tarfile.ReadError("a size below 0")
            obstacle = ""
            if info.islnk() or info.issym():
                obstacle = f"a link to {info.linkname!r}, not followed inside an archive"
            elif not info.isreg():
                obstacle = "not a file"
            elif info.issparse():
                obstacle = "a sparse file, which is not read"
            yield _Member(
                info.name, obstacle or too_large(info.size), functools.partial(_extracted, archive, info), True
            )


class _Bounded:
    """What a tar is read from: no more than it may be unpacked to, and no further than its end.

    tarfile passes over a member by reading as many blocks as it claims to have, be they there or not.
    """

    def __init__(self, packed: BinaryIO, stream: IO[bytes]) -> None:
        self._packed, self._stream = packed, stream
        self._given, self._ended = 0, False

    def read(self, size: int) -> bytes:
        piece = self._stream.read(size)
        if not piece and self._ended:
            raise EOFError("unexpected end of data")
        self._ended = not piece
        self._given += len(piece)
        if self._stream is not self._packed:
            require_unpackable(self._packed.tell(), self._given)
        return piece


class _Header(tarfile.TarInfo):
    """A header that is damaged, or missing at the end, is an error; tarfile takes it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: Any) -> _Header:
        # A header about another reads that one, and so on.
        depth = vars(archive).setdefault("depth_of_headers", 0)
        if depth == _MAX_HEADERS:
            raise tarfile.ReadError(f"more than {_MAX_HEADERS} headers for one member")
        archive.depth_of_headers = depth + 1
        try:
            return super().fromtarfile(archive)
        finally:
            archive.depth_of_headers = depth

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        if not buf:
            raise tarfile.ReadError("the mark of its end is missing")
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the mark of the end
            raise tarfile.ReadError(f"bad header: {error}") from None
        # tarfile reads these into memory, however large they say they are.
        about_another = (*tarfile.GNU_TYPES, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        if header.type in about_another and header.type != tarfile.GNUTYPE_SPARSE and header.size > _MAX_NAME_BYTES:
            raise tarfile.ReadError(f"a header of {header.size:,} bytes")
        if header.size < 0:
            raise tarfile.ReadError("a size below 0")
        return header


def _unzipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    # zipfile looks at the size only after it has unpacked what it read. Deflate it bounds by what is asked for, LZMA by
    # nothing but how much it reads, 4 KiB at least, which make 30 MB at most.
    at_once = 4096 if info.compress_type == zipfile.ZIP_LZMA else max(info.file_size, 1)
    with archive.open(info) as stream:
        content = b"".join(iter(lambda: stream.read(at_once), b""))
    if len(content) != info.file_size:
        raise zipfile.BadZipFile("unexpected end of data")
    return content


def _extracted(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(info)
    content = b"" if stream is None else stream.read()
    if len(content) != info.size:
        raise tarfile.ReadError("unexpected end of data")
    return content


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


def too_large(size: int) -> str:
    """Why a file of so many bytes is not read; "" where it is."""
    most = limits.file_bytes
    return f"{size:,} bytes; at most {most:,} are read" if size > most else ""


def _listed(stream: BinaryIO, *, null: bool) -> Iterator[str]:
    for name in _split(stream, b"\0" if null else b"\n"):
        if b"\0" in name:
            raise DataError("standard input: a NUL byte in a name; is the list separated by NUL bytes (--null)?")
        if name:
            yield os.fsdecode(name)


def _split(stream: BinaryIO, separator: bytes) -> Iterator[bytes]:
    rest = b""
    read = getattr(stream, "read1", stream.read)
    while piece := read(1 << 13):
        *whole, rest = (rest + piece).split(separator)
        if len(rest) > _MAX_NAME_BYTES:
            raise DataError(f"standard input: a name of more than {_MAX_NAME_BYTES:,} bytes; this is no list of names")
        yield from whole
    if rest:
        yield rest


def _spilled(names: Sequence[str], file: IO[bytes]) -> Iterator[str]:
    """The same names, from a file. No name has a slash in it."""
    file.writelines(os.fsencode(name) + b"/" for name in names)
    file.seek(0)
    return map(os.fsdecode, _split(cast(BinaryIO, file), b"/"))


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_dir(follow_symlinks=False):
            return "folder"
        return "link" if entry.is_dir() else "file"
    except OSError:
        return "file"  # a link to itself, say; reading it will tell


def _identity(folder: str) -> tuple[int, int] | None:
    try:
        status = Path(folder).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _reader(name: str) -> Callable[[], bytes]:
    return functools.partial(read_file, name)


def read_file(name: str) -> bytes:
    """The bytes of a regular file; nothing else is opened. Raises: ImageError."""
    try:
        return contents(name, limits.file_bytes)
    except OSError as error:
        raise ImageError(reason(error)) from None


def _refused(name: str, reason: str) -> Item:
    return Item(name, functools.partial(_raise, reason))


def _raise(reason: str) -> bytes:
    raise ImageError(reason)


def _given(content: bytes) -> bytes:
    return content
