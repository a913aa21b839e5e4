"""`upgrade_file` and what the command line says of nets, solvers and their states."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from places import CONFORMANCE
from small import CONV_NET, blob, write_caffemodel

from caffe_port import cli
from caffe_port.errors import CaffePortError, PrototxtError, WeightsError
from caffe_port.proto import schema, text, wire
from caffe_port.proto.blobs import BlobData
from caffe_port.upgrading import kind_of, read_solver, upgrade_file

UPGRADED = CONFORMANCE / "upgraded"
SOLVERS = CONFORMANCE / "solver"

V1 = """
name: "old"
input: "x" input_dim: 1 input_dim: 3 input_dim: 1 input_dim: 1
layers { name: "fc" type: INNER_PRODUCT bottom: "x" top: "y" blobs_lr: 1 blobs_lr: 2
         inner_product_param { num_output: 5 } }
"""
V2 = """
name: "old"
layer { name: "input" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 dim: 1 dim: 1 } } }
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "y" param { lr_mult: 1 } param { lr_mult: 2 }
        inner_product_param { num_output: 5 } }
"""
STEPS = ("V1 to V2 layers", "input fields to an Input layer")


def given(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


@pytest.mark.skipif(not UPGRADED.is_dir(), reason="what Caffe's own upgrade tool made is not here")
def test_as_caffes_tool(tmp_path: Path) -> None:
    compared = 0
    for path in sorted(UPGRADED.glob("*.prototxt")):
        done = upgrade_file(CONFORMANCE / "prototxt" / path.name, tmp_path / "out.prototxt")
        assert text.read(tmp_path / "out.prototxt")[0] == text.read(path)[0], path.name
        assert done.kind == "net" and done.steps
        compared += 1
    assert compared >= 130


def test_text(tmp_path: Path) -> None:
    source, target = given(tmp_path / "old.prototxt", V1), tmp_path / "new.prototxt"
    done = upgrade_file(source, target)
    assert (done.kind, done.steps, done.warnings) == ("net", STEPS, ())
    assert text.read(target)[0] == text.parse(V2)[0]
    # Of a file of today nothing changes but its layout; it may take its own place.
    before = target.read_bytes()
    assert upgrade_file(target, target).steps == () and target.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.prototxt", "old.prototxt"]


def test_binary(tmp_path: Path) -> None:
    message, _ = text.parse(V1)
    weight, bias = np.arange(15, dtype=np.float32), np.arange(5, dtype=np.float32)
    own = [[BlobData((1, 1, 5, 3), True, weight), BlobData((1, 1, 1, 5), True, bias)]]
    wire.write(tmp_path / "old", message, own)
    done = upgrade_file(tmp_path / "old", tmp_path / "old")
    assert (done.kind, done.steps) == ("weights", STEPS)
    # What protobuf itself reads.
    net = schema.message("NetParameter")
    net.ParseFromString((tmp_path / "old").read_bytes())
    assert [layer.type for layer in net.layer] == ["Input", "InnerProduct"] and not net.layers and not net.input
    first, second = net.layer[1].blobs
    assert (first.height, first.width, list(first.data)) == (5, 3, weight.tolist())
    assert list(second.data) == bias.tolist()


def test_solver(tmp_path: Path) -> None:
    source = given(tmp_path / "solver.prototxt", 'net: "n"  # {\nbase_lr: 0.1\nsolver_type: ADAGRAD\n')
    done = upgrade_file(source, tmp_path / "new")
    assert (done.kind, done.steps) == ("solver", ("solver_type to type",))
    assert (tmp_path / "new").read_text() == 'base_lr: 0.1\nnet: "n"\ntype: "AdaGrad"\n'
    assert upgrade_file(tmp_path / "new", tmp_path / "newer").steps == ()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ('net: "a"', "solver"),
        ("solver_mode: CPU", "solver"),
        ('net_param { name: "base_lr: 1" }', "solver"),
        ("# base_lr: 1\nname: 'base_lr: 1 {'", "net"),
        ("layer { base_lr: 1 }", "net"),
        ("layers < name: 'a' > ", "net"),
        ("", "net"),
    ],
)
def test_kinds_of_text(tmp_path: Path, content: str, kind: str) -> None:
    assert kind_of(given(tmp_path / "f", content)) == kind


def test_other_kinds(tmp_path: Path) -> None:
    assert kind_of(write_caffemodel(tmp_path / "w", CONV_NET, {"fc": [blob(np.zeros(3))]})) == "weights"
    state = schema.message("SolverState")
    state.iter = 3
    (tmp_path / "s").write_bytes(state.SerializeToString())
    assert kind_of(tmp_path / "s") == "solverstate"
    with pytest.raises(WeightsError, match="s: a solver's state needs no upgrade"):
        upgrade_file(tmp_path / "s", tmp_path / "t")
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    "content", ["layers { type: NONSENSE }", "layer {", 'layer { name: "a" } layers { name: "b" }', "base_lr: x"]
)
def test_nothing_is_left_of_a_failure(tmp_path: Path, content: str) -> None:
    source = given(tmp_path / "bad", content)
    with pytest.raises(CaffePortError):
        upgrade_file(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]
    with pytest.raises(PrototxtError, match="no such file"):
        upgrade_file(tmp_path / "none", tmp_path / "out")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = given(tmp_path / "old.prototxt", V1)
    assert cli.main(["upgrade", str(source), str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'new'}: V1 to V2 layers; input fields to an Input layer\n"
    assert cli.main(["upgrade", "--json", str(tmp_path / "new"), str(tmp_path / "new")]) == 0
    assert json.loads(capsys.readouterr().out) == {"kind": "net", "steps": [], "warnings": []}
    assert cli.main(["upgrade", str(tmp_path / "none"), str(tmp_path / "new")]) == 2


def test_inspecting_a_solver(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = given(tmp_path / "s", 'net: "n" base_lr: 0.1 solver_type: ADAM test_iter: [3, 4] solver_mode: CPU')
    assert cli.main(["inspect", str(source)]) == 0
    out, err = capsys.readouterr()
    assert 'type         "Adam"' in out and "base_lr      0.1" in out and "upgraded: solver_type to type" in err
    assert cli.main(["inspect", "--json", str(source)]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "solver": {"test_iter": [3, 4], "base_lr": 0.1, "solver_mode": "CPU", "net": "n", "type": "Adam"},
        "upgrades": ["solver_type to type"],
    }


@pytest.mark.skipif(not SOLVERS.is_dir(), reason="no recordings here")
def test_recorded_solvers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in sorted(SOLVERS.iterdir()):
        assert kind_of(folder / "solver.prototxt") == "solver" and kind_of(folder / "net.prototxt") == "net"
        assert kind_of(folder / "snap_iter_12.caffemodel") == "weights"
        # The folder's name has the type.
        assert read_solver(folder / "solver.prototxt").message.type == folder.name.split("_")[1]
    shutil.copy(folder / "snap_iter_12.solverstate", tmp_path / "anything")
    assert cli.main(["inspect", str(tmp_path / "anything")]) == 0
    assert "iteration     12" in capsys.readouterr().out
    assert cli.main(["inspect", "--json", str(tmp_path / "anything")]) == 0
    assert json.loads(capsys.readouterr().out)["iteration"] == 12
