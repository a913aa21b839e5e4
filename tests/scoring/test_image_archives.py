"""Images in archives: read as they come, and nothing a stranger's archive says is believed."""

from __future__ import annotations

import bz2
import gzip
import io
import random
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from image_sources import peak_of, read, read_all

from caffe_port.limits import Limits, limits
from caffe_port.scoring.sources import Sources

MEMBERS = ["z.png", "folder/a b.jpg", "folder/notes.txt", "./c.png", ".hidden.png", "__MACOSX/._z.png", "empty.png"]

TAKEN = ["z.png", "folder/a b.jpg", "./c.png", "empty.png"]


def content_of(name: str) -> bytes:
    return b"" if name == "empty.png" else name.encode() * 5000


def tar_bytes(*names: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", **options) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(content_of(name))
            archive.addfile(info, io.BytesIO(content_of(name)))
    return stream.getvalue()


def zip_file(path: Path, *names: str, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.mkdir("a folder") if hasattr(archive, "mkdir") else archive.writestr("a folder/", b"")
        for name in names:
            archive.writestr(name, content_of(name))
    return path


def in_archive(path: Path, *names: str) -> list[tuple[str, bytes | str]]:
    return [(f"{path}!{name}", content_of(name)) for name in names]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".TAR.BZ2", ".tbz2", ".tar.xz", ".txz"])
def test_tar(suffix: str, tmp_path: Path) -> None:
    """Members as they come; nothing appears on the disk."""
    path = tmp_path / f"a{suffix}"
    mode = {"gz": "w:gz", "tgz": "w:gz", "bz2": "w:bz2", "tbz2": "w:bz2", "xz": "w:xz", "txz": "w:xz"}
    with tarfile.open(path, mode.get(suffix.lower().rpartition(".")[2], "w")) as archive:
        for name in MEMBERS:
            info = tarfile.TarInfo(name)
            info.size = len(content_of(name))
            archive.addfile(info, io.BytesIO(content_of(name)))
        folder = tarfile.TarInfo("folder.png")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    assert read(path) == in_archive(path, *TAKEN)
    assert [name for name, _ in read(path, all_files=True)] == [f"{path}!{name}" for name in MEMBERS]
    assert Sources([str(path)]).count() is None
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_zip(compression: int, tmp_path: Path) -> None:
    path = zip_file(tmp_path / "a.zip", *MEMBERS, compression=compression)
    assert read(path) == in_archive(path, *TAKEN)
    assert Sources([str(path)]).count() == 4
    assert Sources([str(path)], all_files=True).count() == len(MEMBERS)


def test_items_can_be_read_later_and_in_any_order(tmp_path: Path) -> None:
    for path in (zip_file(tmp_path / "a.zip", *TAKEN), tmp_path / "a.tar"):
        if path.suffix == ".tar":
            path.write_bytes(tar_bytes(*TAKEN))
        items = list(Sources([str(path)]).items())
        assert [item.read() for item in reversed(items)] == [content_of(name) for name in reversed(TAKEN)]


def test_a_tar_in_several_compressed_streams(tmp_path: Path) -> None:
    """As pbzip2, pigz and bgzip write them."""
    whole = tar_bytes(*TAKEN)
    for suffix, compress in ((".tar.gz", gzip.compress), (".tar.bz2", bz2.compress)):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(b"".join(compress(whole[i : i + 10_000]) for i in range(0, len(whole), 10_000)))
        assert read(path) == in_archive(path, *TAKEN)


def test_archives_in_folders_and_archives_are_no_images(tmp_path: Path) -> None:
    inner = tar_bytes("b.png")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.writestr("inner.tar", inner)
        archive.writestr("a.png", b"a")
    assert read(tmp_path / "outer.zip") == [(f"{tmp_path}/outer.zip!a.png", b"a")]
    assert read(tmp_path) == [(str(tmp_path), "no images in this folder; --recursive looks into its subfolders")]


def test_archives_without_images(tmp_path: Path) -> None:
    zip_file(tmp_path / "a.zip", "notes.txt")
    (tmp_path / "a.tar").write_bytes(tar_bytes("notes.txt"))
    (tmp_path / "b.tar").write_bytes(tar_bytes())
    for name in ("a.zip", "a.tar", "b.tar"):
        assert read(tmp_path / name) == [(f"{tmp_path / name}", "no images in this archive")]


def test_tricks_with_paths_are_names_only(tmp_path: Path) -> None:
    tricks = ["../outside.png", "/absolute.png", "a/../../b.png", "c\nd.png"]
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "a.tar").write_bytes(tar_bytes(*tricks))
    zip_file(folder / "a.zip", *tricks)
    for path in (folder / "a.tar", folder / "a.zip"):
        assert read(path) == in_archive(path, *tricks)
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["a.tar", "a.zip", "here"]


def test_names_in_a_tar_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", encoding="utf-8", errors="surrogateescape", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("caf\udce9.png"))
    assert read(path) == [(f"{path}!caf\udce9.png", b"")]


def test_links_and_devices_in_a_tar(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("s.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE), ("f.png", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("a.png"))
    assert read(path) == [
        (f"{path}!s.png", "a link to '/etc/passwd', not followed inside an archive"),
        (f"{path}!h.png", "a link to '/etc/passwd', not followed inside an archive"),
        (f"{path}!f.png", "not a file"),
        (f"{path}!a.png", b""),
    ]


def test_members_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_current", Limits(file_bytes=30_000))
    (tmp_path / "a.tar").write_bytes(tar_bytes(*TAKEN))
    zip_file(tmp_path / "a.zip", *TAKEN)
    for path in (tmp_path / "a.tar", tmp_path / "a.zip"):
        found = read(path)
        assert [text for _, text in found if isinstance(text, str)] == [
            "70,000 bytes; at most 30,000 are read",
            "35,000 bytes; at most 30,000 are read",
        ]
        assert found[0][1] == content_of("z.png")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_zip_that_lies_about_a_size(compression: int, tmp_path: Path) -> None:
    """110 MB of zeros that the directory says are 100 bytes: far less is unpacked, and the next is read."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        with archive.open("bomb.png", "w") as stream:
            for _ in range(110):
                stream.write(bytes(1_000_000))
        archive.writestr("b.png", b"b")
        archive.getinfo("bomb.png").file_size = 100
    found: list[tuple[str, bytes | str]] = []
    assert peak_of(lambda: found.extend(read(path))) < 90_000_000
    assert "CRC" in str(found[0][1]) and found[1] == (f"{path}!b.png", b"b")


def test_a_method_that_cannot_be_bounded(tmp_path: Path) -> None:
    path = zip_file(tmp_path / "a.zip", "z.png", compression=zipfile.ZIP_BZIP2)
    assert read(path) == [(f"{path}!z.png", "compressed by a method that is not read in a zip (12)")]


def test_encrypted_members(tmp_path: Path) -> None:
    """The bit that says so is set in both headers of the first."""
    path = zip_file(tmp_path / "a.zip", "z.png", "b.png")
    content = bytearray(path.read_bytes())
    for magic, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = content.index(magic)
        while content[place + (26 if magic == b"PK\3\4" else 28)] != len("z.png"):
            place = content.index(magic, place + 1)
        content[place + flags] |= 1
    path.write_bytes(content)
    assert read(path) == [(f"{path}!z.png", "encrypted"), *in_archive(path, "b.png")]


def test_a_damaged_member_of_a_zip(tmp_path: Path) -> None:
    """The others are read."""
    path = zip_file(tmp_path / "a.zip", "z.png", "b.png", "c.png", compression=zipfile.ZIP_STORED)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"b.pngb.png", b"b.pngB.png", 1))
    found = read(path)
    assert [name for name, _ in found] == [f"{path}!{name}" for name in ("z.png", "b.png", "c.png")]
    assert "Bad CRC-32" in str(found[1][1])
    assert [found[0], found[2]] == in_archive(path, "z.png", "c.png")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 none", b"\x1f\x8b none", b"\0" * 100])
def test_what_is_no_archive(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    ((found, reason),) = read(path)
    assert found == str(path)
    assert isinstance(reason, str) and reason.startswith("the archive cannot be read: ")


def row_of_damage(found: list[tuple[str, bytes | str]], path: Path, *, whole: int) -> None:
    """The first members are whole, and the last row says of the archive that more is missing."""
    assert found[:whole] == in_archive(path, *TAKEN[:whole])
    assert all(isinstance(reason, str) for _, reason in found[whole:])
    name, reason = found[-1]
    assert name == str(path) and str(reason).startswith("the archive is damaged, what follows is missing: ")


def test_a_tar_cut_off_anywhere(tmp_path: Path) -> None:
    """After a whole block, or the last member, too, where tarfile would take it for the end."""
    whole = tar_bytes(*TAKEN)
    path = tmp_path / "a.tar"
    starts = [0]
    for name in TAKEN:
        starts.append(starts[-1] + 512 + -(-len(content_of(name)) // 512) * 512)
    generator = random.Random(1)
    cuts = [
        *starts[1:],
        *(start + 100 for start in starts[1:]),
        *(generator.randrange(600, starts[-1]) for _ in range(40)),
    ]
    for cut in cuts:
        path.write_bytes(whole[:cut])
        complete = sum(cut >= end for end in starts[1:])
        # The padding of a member's last block is no part of it.
        complete += complete < 3 and cut >= starts[complete] + 512 + len(content_of(TAKEN[complete]))
        row_of_damage(read(path), path, whole=min(complete, len(TAKEN)))


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar.xz"])
def test_a_compressed_tar_cut_off(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    with tarfile.open(path, f"w:{suffix[5:]}") as archive:
        for i in range(20):
            info = tarfile.TarInfo(f"{i}.png")
            info.size = 20_000
            archive.addfile(info, io.BytesIO(random.Random(i).randbytes(20_000)))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    found = read(path)
    readable = [content for _, content in found if isinstance(content, bytes)]
    assert (suffix != ".tar.bz2") == bool(readable)  # one block of bzip2 is larger than that
    assert readable == [random.Random(i).randbytes(20_000) for i in range(len(readable))]
    assert found[-1][0] == str(path) and "end" in str(found[-1][1])


def test_a_tar_with_a_damaged_header(tmp_path: Path) -> None:
    whole = bytearray(tar_bytes(*TAKEN))
    second = whole.index(b"folder/a b.jpg")
    whole[second] = ord("F")
    (tmp_path / "a.tar").write_bytes(whole)
    row_of_damage(read(tmp_path / "a.tar"), tmp_path / "a.tar", whole=1)


def test_a_tar_whose_header_would_fill_the_memory(tmp_path: Path) -> None:
    """A member before says that the next one's name has 8 GB."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 8 * 2**30
    (tmp_path / "a.tar").write_bytes(tar_bytes("z.png")[:25_600] + info.tobuf(tarfile.GNU_FORMAT))
    found = read(tmp_path / "a.tar")
    assert found[-1][0] == f"{tmp_path}/a.tar" and "a header of 8,589,934,592 bytes" in str(found[-1][1])


def test_a_tar_of_a_long_name(tmp_path: Path) -> None:
    name = "x" * 5000 + ".png"
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / "a.tar"
        path.write_bytes(tar_bytes(name, format=kind))
        assert read(path) == in_archive(path, name)


def test_random_damage_never_escapes(tmp_path: Path) -> None:
    """Whatever is in an archive: rows, and no other error than ImageError."""
    generator = random.Random(3)
    zip_file(tmp_path / "whole.zip", *TAKEN)
    with tarfile.open(tmp_path / "whole.tar.gz", "w:gz") as archive:
        for name in TAKEN:
            info = tarfile.TarInfo(name)
            info.size = len(content_of(name))
            archive.addfile(info, io.BytesIO(content_of(name)))
    (tmp_path / "whole.tar").write_bytes(tar_bytes(*TAKEN))
    for suffix in (".zip", ".tar.gz", ".tar"):
        whole = (tmp_path / f"whole{suffix}").read_bytes()
        path = tmp_path / f"a{suffix}"
        for _ in range(80):
            content = bytearray(whole)
            for _ in range(generator.randint(1, 8)):
                content[generator.randrange(min(len(content), 3000))] = generator.randrange(256)
            path.write_bytes(content)
            assert read(path)


def test_an_unwanted_image_is_not_read(tmp_path: Path) -> None:
    """It is asked for once; nothing of it is unpacked."""
    path = zip_file(tmp_path / "a.zip", "z.png", "b.png")
    asked: list[str] = []

    def wanted(name: str) -> bool:
        asked.append(name)
        return name.endswith("b.png")

    assert read_all(Sources([str(path)]), wanted) == in_archive(path, "b.png")
    assert asked == [f"{path}!z.png", f"{path}!b.png"]
    nothing = Sources([str(path), str(tmp_path), f"{tmp_path}/*.x", str(tmp_path / "no")])
    assert read_all(nothing, lambda name: False) == []


def test_a_member_does_not_stay_in_memory(tmp_path: Path) -> None:
    """40 members of 4 MB, one after the other."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for i in range(40):
            info = tarfile.TarInfo(f"{i}.png")
            info.size = 4_000_000
            archive.addfile(info, io.BytesIO(bytes(4_000_000)))

    def walk() -> None:
        assert sum(len(item.read()) for item in Sources([str(path)]).items()) == 160_000_000

    assert peak_of(walk) < 20_000_000
