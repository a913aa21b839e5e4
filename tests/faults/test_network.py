"""A network that is gone or lies, and a cache that is not what it was."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "models"))

from test_fetch import WEIGHTS, Upstream, left, tiny, upstream  # noqa: F401 - fixtures

from caffe_port.errors import FetchError
from caffe_port.models import RELEASED, ReleasedModel, Repository, receiving, web
from caffe_port.models.fetch import fetch

Answer = Callable[[socket.socket], None]


def drip(connection: socket.socket, pieces: Iterator[bytes]) -> None:
    for piece in pieces:
        connection.sendall(piece)
        time.sleep(0.02)


def endless(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


def dripped_body(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n")
    drip(connection, iter([b"n"] * 12))
    time.sleep(3)


def dripped_header(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    drip(connection, endless(b"x"))


def endless_headers(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for _ in range(100_000):
        connection.sendall(b"X: y\r\n")


def endless_line(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(10_000):
        connection.sendall(b"x" * 1000)


def no_http(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n" * 3)


def steering(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 500 \x1b[2J\x1b]0;owned\x07\r\nContent-Length: 0\r\n\r\n")


def silent(connection: socket.socket) -> None:
    time.sleep(3)


def cut(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nname")


def bad_chunks(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nname")


def same_length(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>")


LIES: list[tuple[Answer, str]] = [
    (dripped_body, "too slow|timed out"),
    (dripped_header, "no answer in"),
    (endless_headers, "headers"),
    (endless_line, "line"),
    (no_http, "SSH-2.0"),
    (steering, r"HTTP status 500 \\x1b"),
    (silent, "timed out|no answer in"),
    (cut, "only 4 bytes"),
    (bad_chunks, "zz|IncompleteRead|invalid|only"),
    (same_length, "SHA-256"),
]


@pytest.mark.parametrize(("answer", "reason"), LIES, ids=[answer.__name__ for answer, _ in LIES])
def test_a_server_that_lies(
    answer: Answer,
    reason: str,
    tiny: ReleasedModel,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line a source, in time, and nothing is kept."""
    monkeypatch.setattr(web, "PATIENCE", 1.0)
    monkeypatch.setattr(web, "_TIMEOUT", 0.5)
    monkeypatch.setattr(receiving, "PATIENCE", 0.3)
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            try:
                answer(connection)
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    url = f"http://127.0.0.1:{server.getsockname()[1]}/"
    lying = _from(tiny, Repository(url, "the lying server"))
    monkeypatch.setitem(RELEASED, "tiny", lying)
    started = time.monotonic()
    with pytest.raises(FetchError, match=reason) as caught:
        fetch("tiny", cache_dir=tmp_path)
    assert time.monotonic() - started < 10
    told = [line for line in str(caught.value).splitlines() if "the lying server" in line]
    assert len(told) == 1 and str(caught.value).replace("\n", "").isprintable()
    assert list(tmp_path.iterdir()) == []
    server.close()


def _from(model: ReleasedModel, *sources: Repository) -> ReleasedModel:
    import dataclasses

    return dataclasses.replace(model, sources=sources)


def test_redirects_without_end(tiny: ReleasedModel, upstream: Upstream, tmp_path: Path) -> None:  # noqa: F811
    """To itself, and from one to the next: given up after a few, in one line."""
    upstream.serve("deploy.prototxt", b"", 302, Location=f"{upstream.url}deploy.prototxt")
    with pytest.raises(FetchError, match="HTTP status 302") as caught:
        fetch("tiny", cache_dir=tmp_path)
    assert len([line for line in str(caught.value).splitlines() if "tiny repository" in line]) == 1
    assert len(upstream.requests) < 15
    for i in range(40):
        upstream.serve(f"hop{i}", b"", 302, Location=f"{upstream.url}hop{i + 1}")
    upstream.serve("deploy.prototxt", b"", 302, Location=f"{upstream.url}hop0")
    upstream.requests.clear()
    with pytest.raises(FetchError, match="HTTP status 302"):
        fetch("tiny", cache_dir=tmp_path)
    assert len(upstream.requests) < 15 and left(tmp_path) == []


def test_no_network(tiny: ReleasedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    gone = _from(tiny, Repository("http://no-such-host.invalid/", "nowhere"))
    monkeypatch.setitem(RELEASED, "tiny", gone)
    with pytest.raises(FetchError, match=r"nowhere: http://no-such-host\.invalid/deploy\.prototxt: "):
        fetch("tiny", cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


# The cache


def truncated(path: Path) -> None:
    path.write_bytes(WEIGHTS[:-1])


def flipped(path: Path) -> None:
    content = bytearray(WEIGHTS)
    content[4321] ^= 1
    path.write_bytes(content)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def a_link_elsewhere(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    elsewhere.write_bytes(WEIGHTS[::-1])
    path.unlink()
    path.symlink_to(elsewhere)


def a_link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nothing")


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def unreadable(path: Path) -> None:
    path.write_bytes(WEIGHTS[::-1])  # for root, who may read anything
    path.chmod(0)


@pytest.mark.skipif(os.name != "posix", reason="links and pipes")
@pytest.mark.parametrize(
    "damage", [truncated, flipped, emptied, a_link_elsewhere, a_link_to_nothing, a_pipe, unreadable]
)
def test_a_cache_that_is_damaged_is_fetched_again(
    damage: Callable[[Path], None],
    tiny: ReleasedModel,  # noqa: F811
    upstream: Upstream,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Never used, offline neither; a link's target is not touched."""
    path = fetch("tiny", cache_dir=tmp_path).caffemodel
    damage(path)
    with pytest.raises(FetchError, match="not available offline"):
        fetch("tiny", offline=True, cache_dir=tmp_path)
    upstream.requests.clear()
    assert fetch("tiny", cache_dir=tmp_path).caffemodel.read_bytes() == WEIGHTS
    assert upstream.requests == ["/model/tiny.caffemodel"]
    assert path.is_file() and not path.is_symlink()
    if damage is a_link_elsewhere:
        assert (tmp_path / "elsewhere").read_bytes() == WEIGHTS[::-1]
    if damage is a_link_to_nothing:
        assert not (path.parent / "nothing").exists()


def test_a_folder_in_the_cache_instead_of_a_file(tiny: ReleasedModel, tmp_path: Path) -> None:  # noqa: F811
    """It may hold what somebody keeps: one clear error."""
    path = fetch("tiny", cache_dir=tmp_path).caffemodel
    path.unlink()
    path.mkdir()
    with pytest.raises(FetchError, match=r"the cache cannot be written: .*directory"):
        fetch("tiny", cache_dir=tmp_path)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["deploy.prototxt", "tiny.caffemodel"]
