"""Runs a writing verb again and again, each time with a fault at another of its steps; prints what came of it as JSON.

    python injector.py VERB FOLDER FAULT,FAULT MOST SEED

A step is a call that changes a file or folder below FOLDER/place: opening to write, syncing what was written,
renaming, removing, making or removing a folder. FAULT is what happens before it: `kill` (SIGKILL), `int`, `term` or
`hup`, or the name of an errno, which the call then gives, and all that write after it. `two` is two processes at once,
`limit` files limited to a part of the largest (RLIMIT_FSIZE). There is nothing in the place, or an old file: each step
with each is a moment. Of more than MOST moments a fault gets MOST, drawn by SEED.

A process a moment, forked, so that nothing is imported again. After SIGKILL the verb is run once more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from writing_verbs import BY_NAME, Verb

OLD = b"what was there before"
SIGNALS = {"int": signal.SIGINT, "term": signal.SIGTERM, "hup": signal.SIGHUP}
CHANGING = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
# What needs room on the disk, or permission to make something.
REFUSED = {"open", "fsync", "os.mkdir", "os.rename"}
FSYNC = os.fsync
SAID: dict[int, int] = {}
"""The pipe that a child says things into, by its process id."""


class Injector:
    """Counts the steps below `place`, and makes the fault happen at number `at` (from 1; 0: never)."""

    def __init__(self, place: Path, fault: str, at: int) -> None:
        self.place, self.fault, self.at = str(place), fault, at
        self.steps: list[str] = []
        self.failing = False

    def install(self) -> None:
        sys.addaudithook(self.audit)
        os.fsync = self.synced  # type: ignore[assignment]

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            writes = isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and self.is_below(args[0]):
                self.step("open")
        elif event in CHANGING and (self.is_below(args[0]) or args[-1] not in (-1, args[0])):
            self.step(event)

    def synced(self, descriptor: int) -> None:
        self.step("fsync")
        FSYNC(descriptor)

    def is_below(self, path: Any) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        return os.path.abspath(os.fsdecode(path)).startswith(self.place)  # noqa: PTH100 - links stay links

    def step(self, name: str) -> None:
        self.steps.append(name)
        if self.fault in SIGNALS or self.fault == "kill":
            if len(self.steps) == self.at:
                os.kill(os.getpid(), SIGNALS.get(self.fault, signal.SIGKILL))
        elif self.at and name in REFUSED and (self.failing or len(self.steps) >= self.at):
            self.failing = True
            number = getattr(errno, self.fault)
            raise OSError(number, os.strerror(number))


def listing(place: Path) -> dict[str, str]:
    """What is below `place`: for a file its SHA-256, for anything else what it is."""
    found = {}
    for parent, folders, files in os.walk(place):
        for name in folders + files:
            path = Path(parent, name)
            relative = path.relative_to(place).as_posix()
            if path.is_symlink():
                found[relative] = f"link to {path.readlink()}"
            elif path.is_file():
                found[relative] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[relative] = "folder" if path.is_dir() else "special"
    return found


def forked(verb: Verb, folder: Path, fault: str = "none", at: int = 0, limit: int = 0) -> int:
    """Starts the verb in a child; its process id. It leaves its steps in FOLDER/steps.PID."""
    from caffe_port import cli

    place = folder / "place"
    sys.stdout.flush()
    # A pipe, as a limit for files is one for what is said into a file too.
    reading, saying = os.pipe()
    child = os.fork()
    if child:
        os.close(saying)
        SAID[child] = reading
        return child
    code = 99
    try:
        os.dup2(saying, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        injector = Injector(place, fault, at)
        arguments = verb.arguments(folder / "inputs", place)
        injector.install()
        code = cli.main(arguments)
        sys.stdout.flush()
        if not limit:
            (folder / f"steps.{os.getpid()}").write_text("\n".join(injector.steps))
    except BaseException:  # noqa: BLE001 - the child ends here, whatever it is
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
    return child


def ended(child: int, folder: Path) -> dict[str, Any]:
    """Waits for a child: its exit code (of a signal, minus its number), what it said, and its steps."""
    with os.fdopen(SAID.pop(child), "rb") as stream:
        said = stream.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    steps = folder / f"steps.{child}"
    outcome = {
        "code": os.waitstatus_to_exitcode(status),
        "said": said,
        "steps": steps.read_text().split() if steps.exists() else [],
    }
    steps.unlink(missing_ok=True)
    return outcome


def fresh(verb: Verb, folder: Path, old: bool) -> None:
    """The place as it is before a run."""
    place = folder / "place"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for file in verb.files if old else ():
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_bytes(OLD)


@contextlib.contextmanager
def surroundings(verb: Verb, folder: Path) -> Iterator[None]:
    """What a verb needs beside files: for fetch a server, a model that comes from there, and its cache in the place."""
    # The int8 models of scoring, and what onnxruntime itself keeps, are no matter of the verb.
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    if verb.name != "fetch":
        yield
        return
    os.environ["XDG_CACHE_HOME"] = str(folder / "place")
    import test_fetch

    from caffe_port.models import RELEASED, Repository, web

    for key in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        os.environ.pop(key, None)
    upstream = test_fetch.Upstream()
    for name, content in test_fetch.NAMES.items():
        upstream.serve(name, content)
    files = [test_fetch.released(name, content) for name, content in test_fetch.NAMES.items()]
    RELEASED["tiny"] = dataclasses.replace(
        RELEASED["open_nsfw"],
        name="tiny",
        prototxt=files[0],
        caffemodel=files[1],
        sources=(Repository(upstream.url, "the tiny repository"),),
    )
    web._SCHEMES = frozenset({"https", "http"})
    yield
    upstream.server.shutdown()


def main(name: str, folder: Path, faults: list[str], most: int, seed: int) -> dict[str, Any]:
    verb = BY_NAME[name]
    place = folder / "place"
    results: dict[str, Any] = {"old": hashlib.sha256(OLD).hexdigest()}
    with surroundings(verb, folder):
        # In this process too, so that the children have everything imported. Twice, as some files have a time in them.
        fresh(verb, folder, old=False)
        from caffe_port import cli

        stdout, sys.stdout = sys.stdout, io.StringIO()
        results["first"] = cli.main(verb.arguments(folder / "inputs", place))
        sys.stdout = stdout
        if results["first"]:
            return results
        results["wholes"] = [listing(place)]
        largest = max(path.stat().st_size for path in place.rglob("*") if path.is_file())
        steps = {}
        for old in (False, True):
            fresh(verb, folder, old)
            counted = ended(forked(verb, folder), folder)
            if counted["code"]:
                return {**results, "counted": counted}
            results["wholes"].append(listing(place))
            steps[old] = counted["steps"]
        for fault in faults:
            count = {"two": 1, "limit": 3}
            moments = [(old, at) for old in steps for at in range(1, count.get(fault, len(steps[old])) + 1)]
            for old, at in random.Random(f"{name} {fault} {seed}").sample(moments, min(most, len(moments))):
                fresh(verb, folder, old)
                outcome = with_fault(verb, folder, fault, at, largest)
                outcome |= {"at": at, "step": steps[old][at - 1], "over": old, "left": listing(place)}
                if fault == "kill":
                    outcome["again"] = {**ended(forked(verb, folder), folder), "left": listing(place)}
                results.setdefault(fault, []).append(outcome)
    return results


def with_fault(verb: Verb, folder: Path, fault: str, at: int, largest: int) -> dict[str, Any]:
    if fault == "two":
        both = [forked(verb, folder) for _ in range(2)]
        return {"both": [ended(child, folder) for child in both]}
    if fault == "limit":
        return ended(forked(verb, folder, limit=max(1, largest * at // 4)), folder)
    return ended(forked(verb, folder, fault, at), folder)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3].split(","), *map(int, sys.argv[4:]))))
