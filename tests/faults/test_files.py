"""The way all files are written, and the table of faults."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from caffe_port.errors import ArtifactError
from caffe_port.proto.files import hidden_folder, move_together, replacing

posix = pytest.mark.skipif(os.name != "posix", reason="links, pipes and locks")


@posix
@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_no_file_may_replace(kind: str, tmp_path: Path) -> None:
    path = Path("/dev/null") if kind == "device" else tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    before = path.stat()
    with pytest.raises(ArtifactError, match="cannot be written: it is a"), replacing(path):
        pytest.fail("opened")
    assert os.path.samestat(before, path.stat()) and not list(tmp_path.glob(".caffe_port*"))


@posix
def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"kept")
    for name, target in (("a", "target"), ("b", "nowhere")):
        (tmp_path / name).symlink_to(tmp_path / target)
        with replacing(tmp_path / name) as stream:
            stream.write(b"new")
        assert not (tmp_path / name).is_symlink() and (tmp_path / name).read_bytes() == b"new"
    assert (tmp_path / "target").read_bytes() == b"kept" and not (tmp_path / "nowhere").exists()


@posix
def test_only_what_nobody_holds_is_removed(tmp_path: Path) -> None:
    """A process at work keeps its file and its folder; those of a killed one go; other names are nobody's business."""
    code = (
        "import sys, time; from pathlib import Path; from caffe_port.proto.files import hidden_folder, replacing\n"
        "with hidden_folder(Path(sys.argv[1])), replacing(sys.argv[1] + '/slow') as s:\n"
        "    print('at work', flush=True); sys.stdin.read(); s.write(b'done')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"at work\n"
    held = {entry.name for entry in tmp_path.iterdir()}
    assert len(held) == 2
    (tmp_path / ".caffe_port-000000000000.tmp").write_bytes(b"left")
    (tmp_path / ".caffe_port-111111111111.tmp" / "deep").mkdir(parents=True)
    (tmp_path / ".caffe_port-mine.tmp").write_bytes(b"somebody's")
    with replacing(tmp_path / "quick") as stream:
        stream.write(b"x")
    assert {entry.name for entry in tmp_path.iterdir()} == held | {"quick", ".caffe_port-mine.tmp"}
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert {entry.name for entry in tmp_path.iterdir()} == {"slow", "quick", ".caffe_port-mine.tmp"}


@posix
def test_a_signal_unwinds_blocks_within_blocks(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from caffe_port.proto.files import hidden_folder, replacing\n"
        "with hidden_folder(Path(sys.argv[1], 'new')) as folder, replacing(folder / 'x') as stream:\n"
        "    stream.write(b'half'); os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (-15, b"") and not list(tmp_path.iterdir())


def test_no_certificate_beside_files_it_does_not_describe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen at each move: where the certificate is, all files are of its kind."""
    for name in ("a", "b", "certificate"):
        (tmp_path / name).write_text("old")
    moved = Path.replace

    def seen(self: Path, target: Path) -> Path:
        there = {entry.name: entry.read_text() for entry in tmp_path.iterdir() if entry.is_file()}
        assert "certificate" not in there
        return moved(self, target)

    with hidden_folder(tmp_path) as folder:
        for name in ("a", "b", "certificate"):
            (folder / name).write_text("new")
        monkeypatch.setattr(Path, "replace", seen)
        move_together(folder, tmp_path, ["a", "b"], ["certificate"])
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == dict.fromkeys(
        ("a", "b", "certificate"), "new"
    )


def test_the_longest_name_a_file_can_have(tmp_path: Path) -> None:
    """The temporary file's name does not grow with it."""
    with replacing(tmp_path / ("é" * 127)) as stream:
        stream.write(b"x")
    assert len(list(tmp_path.iterdir())) == 1


def test_each_row_of_the_table_has_its_test() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)` \|$", (ROOT / "docs" / "faults.md").read_text(), re.MULTILINE)
    rows = [line for line in (ROOT / "docs" / "faults.md").read_text().splitlines() if line.startswith("| ")]
    assert len(named) == len(rows) - 1 > 10
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text())
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{test}"
