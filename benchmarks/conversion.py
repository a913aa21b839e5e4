"""Conversion to ONNX as a whole process, in time and memory, beside the package caffe-onnx 0.1.2.

    python benchmarks/conversion.py [--rounds 5] [--peer-python PYTHON]

open_nsfw, AlexNet and VGG-16, the latter two written by our own writer. What both make of a model is run by onnxruntime
and held against the float64 run of caffe_port; the table says how far it is.

caffe-onnx gets an environment of its own, once, with the newest Python it is quick with: its protobuf (below 4) has no
compiled wheel from Python 3.11 on, and is 15 times as slow there; and it writes Dropout as ONNX had it until opset 11,
which the newest onnx that it takes without an error is 1.6, for Python up to 3.7. With a later one it converts nets
without Dropout, and says of others that it has saved nothing.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from models import Model, architecture, open_nsfw
from peers import environment
from processes import CACHE, TOOL, Took, in_turns, megabytes, row, run, seconds

PEER = "caffe-onnx==0.1.2"
PYTHONS = ("3.7", "3.6", "3.10", "3.9", "3.8")
"""Those it is quick with, the best first."""


def peer_python() -> str:
    """The Python to run caffe-onnx with: the first of PYTHONS that is installed, else this one."""
    for version in PYTHONS:
        found = shutil.which(f"python{version}")
        managed = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
        for python in [*([found] if found else []), *map(str, managed)]:
            # What pyenv puts into the path starts only what is chosen.
            if subprocess.run([python, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
                return python
    return sys.executable


def peer(python: str) -> tuple[str, list[str]]:
    """What the peer is called in the table, and its command; its environment is made where it is not there."""
    told = subprocess.run(
        [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True, check=True
    )
    version = told.stdout.strip()
    old = ["onnx==1.6.0"] if version in ("3.6", "3.7") else []
    binaries = environment(f"caffe-onnx-python{version}", python, PEER, *old)
    return f"caffe-onnx (Python {version})", [str(binaries / "caffe2onnx")]


def check(onnx_file: Path, prototxt: Path, caffemodel: Path) -> None:
    """Prints how far a model's output is from the float64 run, as a share of its largest magnitude."""
    import numpy as np
    import onnxruntime

    import caffe_port

    net = caffe_port.load(prototxt, caffemodel)
    (blob,), (output,) = net.inputs, net.outputs
    x = np.random.default_rng(0).normal(0, 50, net.input_shapes[blob]).astype(np.float32)
    exact = caffe_port.run(net, {blob: x}, dtype="float64", outputs=[output])[output]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(onnx_file), options, providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {session.get_inputs()[0].name: x})
    print(float(np.abs(made.reshape(exact.shape) - exact).max() / np.abs(exact).max()))


def error(onnx_file: Path, model: Model) -> str:
    if not onnx_file.exists():
        return "nothing was written"
    told = run([sys.executable, __file__, "--check", onnx_file, model.prototxt, model.caffemodel]).output
    return f"error {float(told):.0e}"


def cell(took: list[Took]) -> str:
    return f"{seconds(one.seconds for one in took)}, {megabytes(one.peak for one in took)}"


def rows(rounds: int, python: str) -> list[str]:
    title, command = peer(python)
    lines = []
    for model in (open_nsfw(), architecture("alexnet", "AlexNet"), architecture("vgg16", "VGG-16")):
        small = model.name == "open_nsfw"
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            convert = [
                *TOOL,
                "convert",
                model.prototxt,
                model.caffemodel,
                "--to",
                "onnx",
                "--name",
                "ours",
                "-o",
                folder,
            ]
            # The second writes the same file once more. What takes a quarter of a minute or more runs once.
            quick = {"plain": [*convert, "--no-verify"]}
            slow = {"verified": convert, "peer": [*command, model.prototxt, model.caffemodel, "theirs", folder]}
            took = in_turns({**quick, **slow} if small else quick, rounds)
            if not small:
                took |= {name: [run(slow[name])] for name in slow}
            errors = [error(Path(folder) / f"{whose}.onnx", model) for whose in ("ours", "theirs")]
        plain, other = took["plain"], took["peer"]
        lines.append(
            row(
                f"convert {model.title} to ONNX, not verified",
                f"{cell(plain)}; {errors[0]}",
                f"{title}: {cell(other)}; {errors[1]}",
                f"{ratio_of_medians(plain, other, 'seconds')}, {ratio_of_medians(plain, other, 'peak')}",
                "about 1 s" if small else "",
            )
        )
        if model.name == "VGG-16":
            share = max(one.peak for one in plain) / model.size
            lines.append(row("its peak memory, as a multiple of the model", f"{share:.2f}", "", "", "at most 1.5"))
        lines.append(row(f"convert {model.title} to ONNX, verified", cell(took["verified"]), "", "", ""))
    return lines


def ratio_of_medians(ours: list[Took], theirs: list[Took], what: str) -> str:
    """Of so many rounds of ours and maybe another number of theirs."""
    middle, other = (statistics.median(getattr(one, what) for one in took) for took in (ours, theirs))
    return f"{middle / other:.2g}"


def main() -> None:
    if sys.argv[1:2] == ["--check"]:
        check(*map(Path, sys.argv[2:]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-python", metavar="PYTHON", help="to run caffe-onnx with (default: the best there is)")
    args = parser.parse_args()
    print("\n".join(rows(args.rounds, args.peer_python or peer_python())))


if __name__ == "__main__":
    main()
