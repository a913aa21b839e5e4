"""Zip and tar archives that ask for more than they are."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from caffe_port.errors import ImageError
from caffe_port.limits import limits
from caffe_port.scoring.sources import Sources
from tests.fuzzing.hostile import MEBIBYTE


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (2, 2), (1, 2, 3)).save(stream, "PNG")
    return stream.getvalue()


def contents(path: Path, most: int = 8 * MEBIBYTE) -> list[tuple[str, str]]:
    """The name of each item, and what went wrong with it; no more than `most` bytes are held meanwhile."""
    found = []
    tracemalloc.start()
    try:
        for item in Sources([str(path)]).items():
            try:
                found.append((item.name.removeprefix(str(path)), f"{len(item.read())} bytes"))
            except ImageError as error:
                found.append((item.name.removeprefix(str(path)), str(error)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= most, f"{peak:,} bytes were held"
    return found


def tar(path: Path, *headers: tarfile.TarInfo | bytes, ended: bool = True) -> Path:
    made = [header if isinstance(header, bytes) else header.tobuf(tarfile.GNU_FORMAT) for header in headers]
    path.write_bytes(b"".join(made) + bytes(1024 if ended else 0))
    return path


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


def test_links_devices_and_paths_in_a_tar(tmp_path: Path) -> None:
    content = picture()
    padded = content + bytes(-len(content) % 512)
    path = tar(
        tmp_path / "a.tar",
        *(header("../../outside.png", len(content)), padded),
        *(header("/etc/absolute.png", len(content)), padded),
        header("soft.png", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        header("hard.png", kind=tarfile.LNKTYPE, link="/etc/passwd"),
        header("device.png", kind=tarfile.CHRTYPE),
        header("fifo.png", kind=tarfile.FIFOTYPE),
    )
    before = set(tmp_path.parent.rglob("*"))
    assert contents(path) == [
        ("!../../outside.png", f"{len(content)} bytes"),
        ("!/etc/absolute.png", f"{len(content)} bytes"),
        ("!soft.png", "a link to '/etc/passwd', not followed inside an archive"),
        ("!hard.png", "a link to '/etc/passwd', not followed inside an archive"),
        ("!device.png", "not a file"),
        ("!fifo.png", "not a file"),
    ]
    assert set(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize("size", [2**33, 2**62, 2**80])
def test_a_tar_member_that_is_not_there(tmp_path: Path, size: int) -> None:
    """tarfile alone passes over it block by block, be they there or not: 2**80 bytes take it for ever."""
    first, second = contents(tar(tmp_path / "a.tar", header("a.png", size)))
    assert first[0] == "!a.png" and "at most 268,435,456 are read" in first[1]
    assert second == ("", "the archive is damaged, what follows is missing: unexpected end of data")


def test_negative_sizes_in_a_tar(tmp_path: Path) -> None:
    ((name, problem),) = contents(tar(tmp_path / "a.tar", header("a.png", -512)))
    assert name == "" and "a size below 0" in problem
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = header("a.png")
        info.pax_headers = {"size": "-1536"}
        archive.addfile(info)
    (tmp_path / "b.tar").write_bytes(stream.getvalue())
    ((name, problem),) = contents(tmp_path / "b.tar")
    assert name == "" and "the archive cannot be read: a size below 0" in problem


def test_a_sparse_member(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = header("a.png")
        info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": "200000000"}
        archive.addfile(info)
    (tmp_path / "a.tar").write_bytes(stream.getvalue())
    assert contents(tmp_path / "a.tar") == [("!a.png", "a sparse file, which is not read")]


def test_headers_about_headers(tmp_path: Path) -> None:
    names = [header("././@LongLink", 512, tarfile.GNUTYPE_LONGNAME), b"a" * 512] * 200
    ((name, problem),) = contents(tar(tmp_path / "a.tar", *names))
    assert name == "" and "more than 16 headers for one member" in problem
    ((name, problem),) = contents(tar(tmp_path / "b.tar", header("x", 2**40, tarfile.XHDTYPE)))
    assert name == "" and "a header of 1,099,511,627,776 bytes" in problem


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_packed_tar_that_unpacks_to_far_more(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    content = header("a.txt", 40 * 2**20).tobuf() + bytes(40 * 2**20)
    path = tmp_path / "a.tar"
    path.write_bytes(pack(content))
    with limits.adjusted(unpacked_free=2**20, unpacked_ratio=100):
        ((name, problem),) = contents(path, 24 * MEBIBYTE)
    assert name == "" and "limits unpacked_free and unpacked_ratio" in problem


def test_zip_members_that_share_bytes(tmp_path: Path) -> None:
    """As in the bombs that unpack to a terabyte out of a megabyte: every entry leads to the same packed bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(2**20))
        (info,) = archive.infolist()
        for number in range(50):
            copy = zipfile.ZipInfo(f"{number}.png")
            for field in ("compress_type", "CRC", "compress_size", "file_size", "header_offset", "flag_bits"):
                setattr(copy, field, getattr(info, field))
            archive.filelist.append(copy)
    path = tmp_path / "a.zip"
    path.write_bytes(stream.getvalue())
    ((name, problem),) = contents(path)
    assert name == "" and "its members share bytes" in problem


def test_a_zip_member_that_says_it_is_large(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(3 * 2**20))
    with limits.adjusted(file_bytes=2**20):
        assert contents(path) == [("!a.png", "3,145,728 bytes; at most 1,048,576 are read")]


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.xz"])
@pytest.mark.parametrize(
    "content", [b"", b"PK\x05\x06" + bytes(18), b"\x1f\x8b\x08", b"\xfd7zXZ\x00", b"BZh9", bytes(512), b"\xff" * 2000]
)
def test_what_is_no_archive(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    ((name, problem),) = contents(path)
    assert name == "" and problem


def test_hostile_names(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    names = ["\x1b[2J.png", "a\nb.png", "x" * 60_000 + ".png", "\N{RIGHT-TO-LEFT OVERRIDE}gnp.png"]
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, picture())
    assert [name for name, _ in contents(path)] == [f"!{name}" for name in names]
