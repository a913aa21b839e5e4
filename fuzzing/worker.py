"""One process of libFuzzer for one target; `fuzzing.run` starts it.

What an input raises is kept and the run goes on: in here each place of a failure is kept once. What ends a process (too
long, too much memory, a crash of native code) libFuzzer keeps itself, and `fuzzing.run` starts another process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import os
import resource
import struct
import sys
import traceback
from pathlib import Path

import atheris

from fuzzing import catalogue


def place_of(error: BaseException) -> str:
    """What tells a failure from others: the kind of the exception and the innermost function of ours it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}fuzzing{os.sep}" not in frame.filename] or frames
    own = [f for f in ours if any(part in Path(f.filename).parts for part in ("caffe_port", "proto", "converters"))]
    frame = (own or ours)[-1]
    return f"{type(error).__name__} in {Path(frame.filename).name}:{frame.name}"


class Watch:
    """Counts executions where the parent sees them, and keeps the inputs that fail."""

    def __init__(self, target: catalogue.Target, counter: Path, findings: Path) -> None:
        self.target = target
        self.findings = findings
        with counter.open("r+b") as stream:
            self.shared = mmap.mmap(stream.fileno(), 8)
        (self.executions,) = struct.unpack("<Q", self.shared[:8])
        self.known: set[str] = set()

    def once(self, data: bytes) -> None:
        self.executions += 1
        struct.pack_into("<Q", self.shared, 0, self.executions)
        try:
            self.target.once(data)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever comes out of a reader is what is looked for
            self.found(data, error)

    def found(self, data: bytes, error: BaseException) -> None:
        place = place_of(error)
        if place in self.known:
            return
        self.known.add(place)
        self.findings.mkdir(parents=True, exist_ok=True)
        name = f"{type(error).__name__}-{hashlib.sha256(data).hexdigest()[:12]}"
        (self.findings / name).write_bytes(data)
        record = {"target": self.target.name, "place": place, "message": str(error)[:200], "input": name}
        print(f"finding: {json.dumps(record)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--counter", type=Path, required=True)
    parser.add_argument("--findings", type=Path, required=True)
    parser.add_argument("--memory", type=int, required=True, help="MiB beyond what the reader takes once imported")
    parser.add_argument("libfuzzer", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    libfuzzer = [option for option in args.libfuzzer if option != "--"]
    with atheris.instrument_imports(include=["caffe_port", "fuzzing.targets"]):
        target = catalogue.load(args.target)
    for path in catalogue.inputs_in(target.corpus)[:1]:
        # What is imported at the first use is not the first input's doing.
        Watch(target, args.counter, args.findings).once(path.read_bytes())
    taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    # Above libFuzzer's own limit on resident memory, so that an array nobody touches is seen too.
    limit = taken + args.memory * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    atheris.Setup(
        [sys.argv[0], f"-max_len={target.max_length}", *libfuzzer], Watch(target, args.counter, args.findings).once
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
