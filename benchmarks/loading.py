"""Loading a caffemodel, in time and memory: caffe_port beside protobuf's own parser and OpenCV.

    python benchmarks/loading.py [--rounds 7]

open_nsfw, and VGG-16 written by our own writer. Each loading is a process of its own; what counts is the time of the
call and what it adds to the process's peak of resident memory, imports excluded. The files are in the system's cache.
"Read" is `wire.read`, the counterpart of protobuf's parser: the file checked to its last length, its numbers as arrays
in the mapped file. "Net" is `load` of prototxt and caffemodel, ready to run, once as it is, with each weight looked at
for NaN and infinity, and once without that look.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path

from models import Model, architecture, open_nsfw
from processes import in_turns, megabytes, ratio, row, seconds

OURS = {"read": "read", "load": "net", "unlooked": "net, weights not looked at"}
OTHERS = {"protobuf": "protobuf (Python, upb)", "opencv": "OpenCV"}


def loader(kind: str, prototxt: Path, caffemodel: Path) -> Callable[[], object]:
    """What loads the model; all it needs is imported."""
    if kind == "opencv":
        import cv2

        return lambda: cv2.dnn.readNetFromCaffe(str(prototxt), str(caffemodel))
    import caffe_port.loading
    from caffe_port.proto import schema, wire

    # The schema is read at its first use.
    net = schema.message("NetParameter")
    if kind == "read":
        return lambda: wire.read(caffemodel)
    if kind == "protobuf":
        return lambda: net.ParseFromString(caffemodel.read_bytes())
    if kind == "unlooked":
        caffe_port.loading.check_weight_values = lambda net, **_: net
    return lambda: caffe_port.load(prototxt, caffemodel)


def peak() -> float:
    """The peak of this process's resident memory, in MB. Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise SystemExit("the peak of memory is not known here")


def serve(kind: str, prototxt: Path, caffemodel: Path) -> None:
    """Prints the seconds one loading takes, and the MB it adds to the peak of this process's memory."""
    load = loader(kind, prototxt, caffemodel)
    before = peak()
    start = time.perf_counter()
    kept = load()
    print(time.perf_counter() - start, peak() - before)
    del kept


def rows(rounds: int, model: Model) -> list[str]:
    kinds = [*OURS, *(kind for kind in OTHERS if kind != "opencv" or importlib.util.find_spec("cv2"))]
    files = [str(model.prototxt), str(model.caffemodel)]
    took = in_turns({kind: [sys.executable, __file__, "--serve", kind, *files] for kind in kinds}, rounds)
    times = {kind: [float(one.output.split()[0]) for one in took[kind]] for kind in kinds}
    added = {kind: [float(one.output.split()[1]) for one in took[kind]] for kind in kinds}

    def cell(kind: str) -> str:
        return f"{seconds(times[kind])}, +{megabytes(added[kind])}"

    lines = []
    for ours, other in (("read", "protobuf"), ("load", "opencv"), ("load", "unlooked")):
        if other not in kinds:
            continue
        title = OTHERS.get(other) or OURS[other]
        # Memory that a page or two make has no ratio.
        size = ratio(added[ours], added[other]) if min(added[other]) > 1 else None
        shares = f"{ratio(times[ours], times[other]):.2g}" + ("" if size is None else f", {size:.2g}")
        what = f"load {model.title}: {OURS[ours]}"
        lines.append(row(what, cell(ours), f"{title}: {cell(other)}", shares, "milliseconds" if ours == "read" else ""))
    return lines


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print(HEAD)
    for model in (open_nsfw(), architecture("vgg16", "VGG-16")):
        print("\n".join(rows(rounds, model)))


HEAD = "\n".join((row("", "caffe_port", "beside it", "times it: time, memory", "aim"), "|---|---|---|---|---|"))

if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
