"""Writing files so that they appear complete or not at all, and nothing is left where they do not.

What is not complete yet lies beside its place, in a file or a folder called `.caffe_port-<12 hex digits>.tmp`, which is
locked while its process lives. However a block ends, by an error, Ctrl-C, SIGTERM or SIGHUP, it is removed; what a
process that was killed left behind is removed by the next that writes into the same folder. Where a file system has no
locks (and on Windows) such a leftover stays: nothing tells it from the file of a process at work. It is harmless, as
nothing ever reads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import signal
import stat
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from caffe_port.errors import ArtifactError, CaffePortError

__all__ = [
    "hidden_folder",
    "lock_for_run",
    "move_together",
    "remove_leftovers",
    "replacing",
    "sha256_of",
    "uninterrupted",
    "workshop",
]

_TEMPORARY = re.compile(r"\.caffe_port-[0-9a-f]{12}\.tmp")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write into, which takes the place of `path` when the block ends, and vanishes when it raises.

    Its bytes are on the disk before it has the name, so that the end of the machine leaves no part of it either. A link
    is replaced, not followed. Raises: ArtifactError where the system refuses to write, and for a `path` that is a
    folder, a pipe or a device.
    """
    target = Path(path)
    try:
        _check_replaceable(target)
        remove_leftovers(target.parent)
        with _unwinding(), _temporary_file(target.parent) as (temporary, stream):
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            if sys.platform == "win32":  # which renames no open file
                stream.close()
            # Before the lock is given up with the file, so that nobody takes it for a leftover.
            temporary.replace(target)
    except OSError as error:
        raise ArtifactError(f"{os.fspath(path)}: cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def hidden_folder(folder: Path) -> Iterator[Path]:
    """A folder of another name in `folder`, gone with all in it when the block ends, however it ends.

    `folder` is made where it is missing, parents too; those made go again if the block raises, unless they hold
    anything by then. Raises: OSError where the system refuses.
    """
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    finished = False
    with _unwinding():
        hidden, lock = None, None
        try:
            with uninterrupted():
                hidden, lock = _made_in(folder)
            yield hidden
            finished = True
        finally:
            with uninterrupted():
                if hidden is not None:
                    shutil.rmtree(hidden, ignore_errors=True)
                if lock is not None:
                    os.close(lock)
                if not finished:
                    with contextlib.suppress(OSError):
                        for parent in made:
                            parent.rmdir()


@contextlib.contextmanager
def workshop(folder: Path) -> Iterator[Path]:
    """A `hidden_folder` in `folder`, to make files in before `move_together` gives them their places.

    What errors say of a file in it, they say of its place, which is what the user knows.
    Raises: ArtifactError where the system refuses.
    """
    hidden = None
    try:
        with hidden_folder(folder) as hidden:
            yield hidden
    except CaffePortError as error:
        error.args = tuple(one.replace(str(hidden), str(folder)) if isinstance(one, str) else one for one in error.args)
        raise
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot be written into: {error.strerror or error}") from error


def move_together(made: Path, folder: Path, files: Sequence[str], witnesses: Sequence[str] = ()) -> None:
    """Moves files, then their witnesses (which say what the files are), from the folder `made` into `folder`.

    Those of the same names are replaced. The old witnesses go first, so that at no moment one stands beside files that
    it does not describe, not even if the process is killed between two files. Two processes move one after the other.
    Ctrl-C waits until the end.
    Raises: ArtifactError where the system refuses; before anything is moved if a name is a folder's, a pipe's or a
    device's.
    """
    names = [*files, *witnesses]
    for name in names:
        _check_replaceable(folder / name)
    with uninterrupted(), _alone_in(folder):
        for name in witnesses:
            with _told_of(folder / name):
                (folder / name).unlink(missing_ok=True)
        for name in names:
            with _told_of(folder / name):
                (made / name).replace(folder / name)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP wait until the block ends; for blocks that take moments.

    Only the main thread is ever interrupted, so elsewhere there is nothing to do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {}
    # Not pthread_sigmask: a process has other threads, which would take the signal.
    for number in (signal.SIGINT, *_endings()):
        if (handler := signal.getsignal(number)) is not None:
            signal.signal(number, lambda number, _: came.append(number))
            before[number] = handler
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for arrived in came:
        signal.raise_signal(arrived)


def lock_for_run(descriptor: int, path: Path) -> None:
    """Locks a file that a run appends to, until it closes it, where the system can do that.

    Raises: ArtifactError if another run has it.
    """
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ArtifactError(f"{path}: another run is writing it") from None
    except OSError:  # no locks here
        return


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _check_replaceable(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError:  # nothing there, or what opening a file beside it will say
        return
    if stat.S_ISDIR(mode):
        raise ArtifactError(f"{path}: cannot be written: it is a folder")
    # /dev/stdout is a link, and may lead to a file.
    if not stat.S_ISREG(mode) or path.absolute().parent == Path("/dev"):
        raise ArtifactError(f"{path}: cannot be written: it is a pipe or a device, which a file would replace")


@contextlib.contextmanager
def _told_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Waits for other processes that move files into `folder`, where the system can do that."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with _told_of(folder):
        lock = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


# What is not complete yet


def _name() -> str:
    return f".caffe_port-{secrets.token_hex(6)}.tmp"


@contextlib.contextmanager
def _temporary_file(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    while True:
        # Not tempfile: its files are private to the user, and a model is to get the mode any new file gets.
        temporary = folder / _name()
        try:
            with temporary.open("xb") as stream:
                if not _locked(stream.fileno(), temporary):
                    continue
                yield temporary, stream
                return
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _made_in(folder: Path) -> tuple[Path, int | None]:
    """A new folder in `folder`, and the descriptor that holds its lock."""
    for _ in range(10):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        hidden = folder / _name()
        try:
            hidden.mkdir()
            if sys.platform == "win32":
                return hidden, None
            lock = os.open(hidden, os.O_RDONLY)
        except FileNotFoundError:  # another process failed, and took away what it had made
            continue
        if _locked(lock, hidden):
            return hidden, lock
        os.close(lock)
    raise FileNotFoundError(f"{folder} disappears as soon as it is made")


def _locked(descriptor: int, path: Path) -> bool:
    """Locks what was just made, as far as the file system can. False if another process has taken it for a leftover."""
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # no locks here
            return True
    return path.exists()


def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes left in `folder`: what nobody holds the lock of. Whatever writes there does it."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        with os.scandir(folder) as entries:
            leftovers = [Path(entry.path) for entry in entries if _TEMPORARY.fullmatch(entry.name)]
    except OSError:  # which writing will meet, and say
        return
    for path in leftovers:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
            finally:
                os.close(descriptor)


# Signals that end the process


class _Ending(BaseException):
    """A signal that ends the process has come."""

    def __init__(self, number: int) -> None:
        self.number = number


def _endings() -> tuple[signal.Signals, ...]:
    """The signals that end a process which does nothing about them, and that come from people and from the system."""
    return (signal.SIGTERM, signal.SIGHUP) if hasattr(signal, "SIGHUP") else (signal.SIGTERM,)


@contextlib.contextmanager
def _unwinding() -> Iterator[None]:
    """Within the block a signal that would end the process unwinds the stack first, and then ends it all the same.

    A signal somebody handles or ignores stays theirs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in _endings() if signal.getsignal(number) is signal.SIG_DFL]
    process = os.getpid()

    def unwind(number: int, _: object) -> None:
        if os.getpid() != process:  # a child has nothing of ours to remove
            _end(number)
        raise _Ending(number)

    for number in ours:
        signal.signal(number, unwind)
    try:
        yield
    except _Ending as ending:
        if ending.number not in ours:  # an outer block has to end yet
            raise
        _end(ending.number)
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
