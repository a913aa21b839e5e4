"""Files are written where the file system has no locks, and not while another run writes them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from caffe_port.errors import ArtifactError
from caffe_port.proto import files

fcntl = pytest.importorskip("fcntl")


def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_locks(monkeypatch)
    with files.replacing(tmp_path / "file") as stream:
        stream.write(b"content")
    with (tmp_path / "log").open("a") as log:
        files.lock_for_run(log.fileno(), tmp_path / "log")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "log"]


def test_a_file_of_another_run(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("a") as first, path.open("a") as second:
        files.lock_for_run(first.fileno(), path)
        with pytest.raises(ArtifactError, match="log: another run is writing it"):
            files.lock_for_run(second.fileno(), path)
    with path.open("a") as later:
        files.lock_for_run(later.fileno(), path)


def test_a_file_taken_for_a_leftover_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process clears up between the making of the file and its lock."""
    flock, asked = fcntl.flock, []

    def busy_once(descriptor: int, operation: int) -> None:
        asked.append(descriptor)
        if len(asked) == 1:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", busy_once)
    with files.replacing(tmp_path / "file") as stream:
        stream.write(b"content")
    assert len(asked) >= 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_bytes() == b"content"


def test_a_folder_that_goes_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others that fail take away what they have made; in the end that is an error and no loop."""
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    with pytest.raises(ArtifactError, match="disappears as soon as it is made"), files.workshop(tmp_path / "new"):
        pass
