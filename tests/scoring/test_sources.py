"""Names to images: files, folders, patterns, lists."""

from __future__ import annotations

import io
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from image_sources import filled, peak_of, read, read_all
from PIL import Image

from caffe_port.errors import DataError, ImageError
from caffe_port.limits import Limits, limits
from caffe_port.scoring import sources as module
from caffe_port.scoring.sources import Sources, image_suffixes


def test_a_file_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    filled(tmp_path, "a", ".hidden", "text.txt")
    names = [str(tmp_path / name) for name in ("text.txt", "a", ".hidden")]
    assert read(*names) == [(names[0], b"text.txt"), (names[1], b"a"), (names[2], b".hidden")]


def test_a_folder(tmp_path: Path) -> None:
    """Its images, sorted; not what is hidden, no image by its name, or in a subfolder."""
    filled(tmp_path, "b.JPG", "a.png", "a b.png", "a.txt", "jpg", ".c.png", "sub/d.png", "a.png~")
    expected = [(f"{tmp_path}/{name}", name.encode()) for name in ("a b.png", "a.png", "b.JPG")]
    assert read(tmp_path) == read(f"{tmp_path}/") == expected
    assert Sources([str(tmp_path)]).count() == 3


def test_a_folder_with_its_subfolders(tmp_path: Path) -> None:
    """Depth first, a folder where its name is among the files."""
    filled(tmp_path, "b.png", "a/z.png", "a/y/x.png", "c/.hidden/w.png", "a.b/v.png", "d/notes.txt")
    below = [name.removeprefix(f"{tmp_path}/") for name, _ in read(tmp_path, recursive=True)]
    assert below == ["a/y/x.png", "a/z.png", "a.b/v.png", "b.png"]
    below = [name.removeprefix(f"{tmp_path}/") for name, _ in read(tmp_path, recursive=True, all_files=True)]
    assert below == ["a/y/x.png", "a/z.png", "a.b/v.png", "b.png", "c/.hidden/w.png", "d/notes.txt"]


def test_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(filled(tmp_path, "a.png"))
    assert read(".") == [("./a.png", b"a.png")]


def test_nothing_found_is_said(tmp_path: Path) -> None:
    filled(tmp_path, "empty/sub/a.png", "notes.txt")
    empty, nowhere, pattern = f"{tmp_path}/empty", f"{tmp_path}/nowhere", f"{tmp_path}/*.png"
    assert read(empty, nowhere, pattern, "") == [
        (empty, "no images in this folder; --recursive looks into its subfolders"),
        (nowhere, "no such file"),
        (pattern, "no file matches this pattern"),
        ("", "a name without a character"),
    ]
    shutil.rmtree(tmp_path / "empty" / "sub")
    assert read(empty, recursive=True) == [(empty, "no images in this folder")]


def test_a_large_folder_is_sorted_through_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SORTED_AT_ONCE", 7)
    generator = random.Random(0)
    names = {"".join(generator.choices("ab\n é", k=generator.randint(1, 8))) + ".png" for _ in range(100)}
    names = {name for name in names if not name.startswith(".")}
    filled(tmp_path, *names, *(f"{name}.d/x.png" for name in list(names)[:20]))
    with (Path(os.fsdecode(os.fsencode(tmp_path))) / os.fsdecode(b"a\xff.png")).open("wb") as stream:
        stream.write(b"")
    few = read(tmp_path, recursive=True)
    monkeypatch.setattr(module, "_SORTED_AT_ONCE", 10_000)
    assert few == read(tmp_path, recursive=True)
    flat = [name.removeprefix(f"{tmp_path}/") for name, _ in read(tmp_path)]
    assert flat == sorted({*names, "a\udcff.png"})


def test_memory_does_not_grow_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4,000 names of 200 bytes."""
    (tmp_path / "many").mkdir()
    for i in range(4_000):
        (tmp_path / "many" / f"{i:06d}{'n' * 200}.png").symlink_to("x")

    def walk() -> None:
        assert sum(1 for _ in Sources([str(tmp_path / "many")]).items()) == 4_000

    assert peak_of(walk) > 1_000_000
    monkeypatch.setattr(module, "_SORTED_AT_ONCE", 200)
    assert peak_of(walk) < 700_000


def test_names_of_every_kind(tmp_path: Path) -> None:
    raw = [b"a b.png", b"new\nline.png", b"caf\xe9.png", b"*.png", b"-.png", "é.png".encode(), b"a!b.png"]
    for name in raw:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(name)
    found = read(tmp_path)
    assert sorted(os.fsencode(name).rpartition(b"/")[2] for name, _ in found) == sorted(raw)
    assert all(os.fsencode(name).rpartition(b"/")[2] == content for name, content in found)


def test_links(tmp_path: Path) -> None:
    """To files and folders they are followed; in circles nobody goes."""
    filled(tmp_path, "top/a.png", "top/sub/b.png", "elsewhere/c.png", "elsewhere/deep/d.png")
    top = tmp_path / "top"
    (top / "link.png").symlink_to("a.png")
    (top / "self.png").symlink_to("self.png")
    (top / "broken.png").symlink_to("nothing.png")
    (top / "sub" / "up").symlink_to("..")
    (top / "sub" / "here").symlink_to(".")
    (top / "out").symlink_to(tmp_path / "elsewhere")
    (top / "out2").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(top)
    found = {name.removeprefix(f"{top}/"): content for name, content in read(top, recursive=True)}
    assert found == {
        "a.png": b"top/a.png",
        "link.png": b"top/a.png",
        "self.png": "Too many levels of symbolic links",
        "broken.png": "no such file",
        "sub/b.png": b"top/sub/b.png",
        "out/c.png": b"elsewhere/c.png",
        "out/deep/d.png": b"elsewhere/deep/d.png",
    }
    assert [name for name, _ in read(top)] == [f"{top}/{n}" for n in ("a.png", "broken.png", "link.png", "self.png")]


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    os.mkfifo(tmp_path / "fifo.tar")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
        found = dict(read(tmp_path))
    assert found == {
        f"{tmp_path}/fifo.png": "a FIFO, not a file",
        f"{tmp_path}/socket.png": "a socket, not a file",
    }
    assert read(tmp_path / "fifo.tar") == [(f"{tmp_path}/fifo.tar", "a FIFO, not a file")]
    assert read("/dev/null") == [("/dev/null", "a device, not a file")]


def test_a_file_that_becomes_a_fifo(tmp_path: Path) -> None:
    filled(tmp_path, "a.png")
    (item,) = Sources([str(tmp_path)]).items()
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ImageError, match="a FIFO"):
        item.read()
    (tmp_path / "a.png").unlink()
    with pytest.raises(ImageError, match="no such file"):
        item.read()
    (tmp_path / "a.png").mkdir()
    with pytest.raises(ImageError, match="a folder, not a file"):
        item.read()


def test_permission_denied(tmp_path: Path) -> None:
    """In a process that is not root, where this one is; it cannot reach pytest's own folders then."""
    program = """
import os, sys
from caffe_port.errors import ImageError
from caffe_port.scoring.sources import Sources, image_suffixes
image_suffixes()
if os.getuid() == 0:
    os.setuid(65534)
for item in Sources([sys.argv[1]], recursive=True).items():
    try:
        print(item.name, item.read().decode())
    except ImageError as error:
        print(item.name, error)
"""
    with tempfile.TemporaryDirectory() as made:
        folder = filled(Path(made), "a.png", "closed/b.png", "open/c.png", "z.png")
        folder.chmod(0o755)
        (folder / "a.png").chmod(0)
        (folder / "closed").chmod(0)
        try:
            done = subprocess.run([sys.executable, "-c", program, made], capture_output=True, text=True, timeout=60)
        finally:
            (folder / "closed").chmod(0o755)
    assert done.stdout.splitlines() == [
        f"{made}/a.png Permission denied",
        f"{made}/closed the folder cannot be read: Permission denied",
        f"{made}/open/c.png open/c.png",
        f"{made}/z.png z.png",
    ], done.stderr


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_current", Limits(file_bytes=10))
    (tmp_path / "fits.png").write_bytes(bytes(10))
    (tmp_path / "large.png").write_bytes(bytes(11))
    assert read(tmp_path) == [
        (f"{tmp_path}/fits.png", bytes(10)),
        (f"{tmp_path}/large.png", "11 bytes; at most 10 are read"),
    ]


def test_a_name_that_is_too_long_or_none() -> None:
    assert read("x" * 5000)[0][1] == "File name too long"
    assert "null" in str(read("a\0b")[0][1])


def test_suffixes_are_those_of_formats_that_pillow_decodes(tmp_path: Path) -> None:
    """Each can be opened where Pillow can write it; no document, video or data file is among them."""
    assert {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".jfif", ".ppm"} <= image_suffixes()
    assert not {".pdf", ".eps", ".ps", ".mpg", ".h5", ".grib", ".wmf", ".txt", ".npz"} & image_suffixes()
    assert {Image.registered_extensions()[suffix] for suffix in image_suffixes()} <= set(Image.OPEN)


# Patterns


def test_patterns(tmp_path: Path) -> None:
    """For shells that expand none; what they match is read whatever it is called, and folders are looked into."""
    filled(tmp_path, "a1.png", "a2.png", "b1.png", "c/d/e.png", "c/f.png", "a3.txt", ".a4.png", "a5/g.png")

    def names(pattern: str) -> list[str]:
        return [name.removeprefix(f"{tmp_path}/") for name, _ in read(f"{tmp_path}/{pattern}")]

    assert names("a*") == ["a1.png", "a2.png", "a3.txt", "a5/g.png"]
    assert names("?1.png") == names("[ab]1.*") == ["a1.png", "b1.png"]
    assert names("**/*.png") == ["a1.png", "a2.png", "a5/g.png", "b1.png", "c/d/e.png", "c/f.png"]
    assert Sources([f"{tmp_path}/**/*.png"]).count() == 6


def test_a_file_with_the_name_of_a_pattern(tmp_path: Path) -> None:
    filled(tmp_path, "a[1].png", "a1.png", "*.png")
    assert read(tmp_path / "a[1].png") == [(f"{tmp_path}/a[1].png", b"a[1].png")]
    assert read(tmp_path / "*.png") == [(f"{tmp_path}/*.png", b"*.png")]


# Lists


def test_a_list_by_lines(tmp_path: Path) -> None:
    """Of files, folders and archives; patterns mean nothing in it, and it may be empty."""
    filled(tmp_path, "a b.png", "*.png", "f/c.png", "f/d.png")
    listed = f"{tmp_path}/*.png\n\n{tmp_path}/a b.png\n{tmp_path}/f\n{tmp_path}/nothing*".encode()
    sources = Sources(["-"], stdin=io.BytesIO(listed))
    assert sources.count() is None
    assert read_all(sources) == [
        (f"{tmp_path}/*.png", b"*.png"),
        (f"{tmp_path}/a b.png", b"a b.png"),
        (f"{tmp_path}/f/c.png", b"f/c.png"),
        (f"{tmp_path}/f/d.png", b"f/d.png"),
        (f"{tmp_path}/nothing*", "no such file"),
    ]
    assert read("-", stdin=io.BytesIO()) == []


def test_a_list_by_nul(tmp_path: Path) -> None:
    names = [os.fsencode(tmp_path) + b"/" + name for name in (b"new\nline", b"caf\xe9", b" ")]
    for name in names:
        Path(os.fsdecode(name)).write_bytes(name)
    listed = b"".join(name + b"\0" for name in names)
    assert read("-", null=True, stdin=io.BytesIO(listed)) == [(os.fsdecode(name), name) for name in names]


def test_a_list_is_read_as_it_comes(tmp_path: Path) -> None:
    """The first image is there before the list is complete."""
    filled(tmp_path, "a.png", "b.png")
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stdin, os.fdopen(writing, "wb") as stdout:
        items = Sources(["-"], stdin=stdin).items()
        stdout.write(os.fsencode(tmp_path / "a.png") + b"\n" + os.fsencode(tmp_path / "b"))
        stdout.flush()
        assert next(items).read() == b"a.png"
        stdout.write(b".png")
        stdout.close()
        assert [item.read() for item in items] == [b"b.png"]


def test_long_lists_in_pieces(tmp_path: Path) -> None:
    names = [f"{tmp_path}/{i}{'x' * (i % 150)}" for i in range(2000)]
    listed = "\n".join(names).encode()
    assert [name for name, _ in read("-", stdin=io.BytesIO(listed))] == names


def test_what_is_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="--null"):
        read("-", stdin=io.BytesIO(b"a\0b\0"))
    monkeypatch.setattr(module, "_MAX_NAME_BYTES", 100_000)
    with pytest.raises(DataError, match="no list of names"):
        read("-", stdin=io.BytesIO(b"x" * 200_000))
