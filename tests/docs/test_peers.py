"""docs/peers.md and the README's short form: our column is what the code does."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import cases
import pytest
from pages import PAGES, ROOT

from caffe_port import cli, registry
from caffe_port.compare import TOLERANCE

TYPES = [
    "AbsVal", "Accuracy", "ArgMax", "BNLL", "BatchNorm", "BatchReindex", "Bias", "Clip", "Concat", "Convolution",
    "Crop", "Deconvolution", "Dropout", "ELU", "Eltwise", "Embed", "Exp", "Filter", "Flatten", "Im2col",
    "InnerProduct", "Input", "LRN", "LSTM", "Log", "MVN", "PReLU", "Parameter", "Pooling", "Power", "Python", "RNN",
    "ReLU", "Reduction", "Reshape", "SPP", "Scale", "Sigmoid", "Silence", "Slice", "Softmax", "Split", "Swish",
    "TanH", "Threshold", "Tile",
]  # fmt: skip
"""Caffe's types (BVLC/caffe @ 9b89154) that are neither data nor loss, LSTMUnit counted with LSTM."""


def rows(page: str) -> dict[str, str]:
    """What our column says, by row; of every table that has one."""
    table: dict[str, str] = {}
    for line in PAGES[page].read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) > 1:
            table[cells[0]] = cells[1]
    return table


ROWS = rows("peers.md")


def parses(*words: str) -> None:
    cli.make_parser().parse_args(["convert", "deploy.prototxt", "weights.caffemodel", *words])


def test_layer_types() -> None:
    known = subprocess.run(
        [sys.executable, "-c", "from caffe_port import registry; print(*(t.type for t in registry.layer_types()))"],
        capture_output=True, check=True, text=True,
    ).stdout.split()  # fmt: skip
    assert len(TYPES) == 46 and set(TYPES) <= set(known)
    assert ROWS["layer types of Caffe, of 46 that are neither data nor loss"] == "46"
    assert ROWS["layer types in all, forks' included"] == str(len(known))
    assert rows("README.md")["layer types of Caffe, of 46 that are neither data nor loss"] == "46"


def test_recorded_layers() -> None:
    """tests/layers/test_layer_cases.py holds each to agree, and tests/check_conformance.py the list of exceptions."""
    (row,) = [name for name in ROWS if name.startswith("recorded single-layer nets")]
    total = len(cases.all_cases())
    listed = (ROOT / "tests" / "conformance_exceptions.txt").read_text().splitlines()
    exceptions = [line.split()[:2] for line in listed if line and not line.startswith("#")]
    assert {backend for backend, _ in exceptions} == {"onnx"}
    renamed = sum(any(fnmatch(name, pattern) for _, pattern in exceptions) for name in cases.all_cases())
    assert row == f"recorded single-layer nets right, of {total}"
    assert ROWS[row] == f"NumPy {total}, PyTorch {total}, ONNX {total} ({renamed} under another name)"


def test_installs() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    least = config["options"]["python_requires"].removeprefix(">=")
    most = max(re.findall(r"Python :: (3\.\d+)", config["metadata"]["classifiers"]), key=lambda v: int(v[2:]))
    assert ROWS["installs on Python 3.11 today"] == f"yes, {least} to {most}"


def test_formats_and_rules() -> None:
    from caffe_port.frontend import NetState
    from caffe_port.proto import hdf5, upgrade
    from caffe_port.scoring.mean import Mean

    assert ROWS["V0 and V1 files"] == "yes, yes" and callable(upgrade.upgrade_net)
    assert ROWS["HDF5 weights, binaryproto mean"] == "yes, yes" and callable(Mean.read) and hdf5.__all__
    assert ROWS["phase and stage rules"] == "all"
    assert {"phase", "level", "stages"} <= set(NetState.__dataclass_fields__)


def test_what_can_be_asked_for() -> None:
    assert ROWS["batch"] == "open, or fixed with `--batch`"
    parses("--batch", "3"), parses("--batch", "symbolic")
    assert ROWS["back to caffemodel"] == "yes"
    parses("--to", "caffemodel")
    assert ROWS["verification"] == "every layer, from a recording of Caffe"
    parses("--recording", "recording.npz")


def test_tolerance() -> None:
    floors, ulps = f"{TOLERANCE.floors:g}", f"{TOLERANCE.ulps:g}"
    assert ROWS["tolerance it tests at"] == f"{floors} noise floors and {ulps} ulps, measured for each blob"


def test_what_cannot_be_done_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ROWS["what it cannot do exactly"] == rows("README.md")["what it cannot do exactly"]
    assert ROWS["what it cannot do exactly"] == "an error with layer and line"
    path = tmp_path / "net.prototxt"
    path.write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }\n'
        'layer { name: "odd" type: "NoSuchLayer" bottom: "x" top: "y" }\n'
    )
    assert cli.main(["convert", str(path), "--to", "onnx", "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "net.prototxt:2:1: layer 'odd'" in said and not (tmp_path / "out").exists()


def test_every_row_of_ours_is_looked_at() -> None:
    looked_at = set(re.findall(r'(?:ROWS\["|== f?")([^"]+)"', Path(__file__).read_text(encoding="utf-8")))
    text = PAGES["peers.md"].read_text(encoding="utf-8")
    table = text[text.index("<!-- peers") : text.index("<!-- /peers")]
    names = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][1:]
    pointers = {name for name in names if ROWS[name].startswith("see the ")}
    known = registry.layer_types()
    counted = {name for name in names if name.startswith("recorded single-layer nets")}
    assert [name for name in names if name not in looked_at | pointers | counted] == [] and known
