"""`caffe-port build`: the files it writes, and how it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import caffe_port as cp
from caffe_port import architectures, cli
from caffe_port.architectures.files import FILES
from caffe_port.proto import text
from caffe_port.summary import summarize

Capture = pytest.CaptureFixture[str]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def build(*arguments: object) -> int:
    return cli.main(["build", *map(str, arguments)])


def failure(capsys: Capture, *arguments: object) -> str:
    """Runs a build that must fail with exit code 2 and one line; returns it."""
    assert build(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    (line,) = err.splitlines()
    assert line.startswith("caffe-port: ")
    return line


def test_three_files(tmp_path: Path, capsys: Capture) -> None:
    assert build("resnet50_1by2", "--classes", 5, "-o", tmp_path / "new" / "net") == 0
    out, err = capsys.readouterr()
    folder = tmp_path / "new" / "net"
    assert names(folder) == sorted(FILES)
    net = cp.load(folder / "deploy.prototxt")
    counted = summarize(net)
    assert out.splitlines() == [
        *(str(folder / file) for file in FILES),
        f"{counted.parameters:,} parameters, {counted.macs:,} multiply-accumulates",
    ]
    assert err == ""
    assert text.read(folder / "deploy.prototxt")[0] == architectures.deploy("resnet50_1by2", 5)
    trained = architectures.train_val("resnet50_1by2", 5)
    assert text.read(folder / "train_val.prototxt")[0] == trained
    for phase in ("TRAIN", "TEST"):
        assert "loss" in cp.load(folder / "train_val.prototxt", phase=phase).outputs
    solver = text.read(folder / "solver.prototxt", "SolverParameter")[0]
    assert solver == architectures.solver("resnet50_1by2") and solver.net == "train_val.prototxt"


def test_upstream_can_read_it(tmp_path: Path) -> None:
    """No field and no value of a fork."""
    for name in ("alexnet", "squeezenet_v1.0", "vgg16", "googlenet", "resnet50", "resnet36_inception_trick_4k"):
        assert build(name, "-o", tmp_path) == 0
        for file in FILES[:2]:
            text.read(tmp_path / file, forks=False)


@pytest.mark.parametrize("name", ["alexnet", "squeezenet_v1.0", "open_nsfw"])
def test_it_loads_in_both_phases(name: str, tmp_path: Path) -> None:
    assert build(name, "-o", tmp_path, "--batch", 2, "--val-batch", 3) == 0
    for phase, batch in (("TRAIN", 2), ("TEST", 3)):
        assert cp.load(tmp_path / "train_val.prototxt", phase=phase).input_shapes["label"] == (batch,)


def test_fine_tuning(tmp_path: Path) -> None:
    """The announcement's recipe; without a word the head is new."""
    assert (
        build("resnet50_1by2", "--classes", 2, "--finetune", "-o", tmp_path, "--train", "t.txt", "--val", "v.txt") == 0
    )
    message = text.read(tmp_path / "train_val.prototxt")[0]
    assert [layer.image_data_param.source for layer in message.layer[:2]] == ["t.txt", "v.txt"]
    (head,) = (layer for layer in message.layer if layer.type == "InnerProduct")
    assert (head.name, [spec.lr_mult for spec in head.param]) == ("fc_new", [5, 10])
    assert cp.load(tmp_path / "deploy.prototxt").blobs["fc_new"].shape == (1, 2)
    assert text.read(tmp_path / "solver.prototxt", "SolverParameter")[0].max_iter == 100000
    assert build("resnet50_1by2", "--classes", 2, "--finetune", "nsfw", "-o", tmp_path) == 0
    assert "fc_nsfw" in cp.load(tmp_path / "deploy.prototxt").blobs


def test_options_and_solver_fields(tmp_path: Path) -> None:
    options = ["--option", "blocks=1,1,1,1", "--option", "main_branch=normal", "--option", "fc_layers=true"]
    fields = ["--solver", "base_lr=0.5", "--solver", "lr_policy=fixed", "--solver", "solver_mode=CPU"]
    assert build("resnet50_1by2", *options, *fields, "--mean-file", "m.binaryproto", "-o", tmp_path) == 0
    net = cp.load(tmp_path / "deploy.prototxt")
    assert {"conv_1by1_4096", "conv_stage3_block0_branch2b"} <= set(net.blobs)
    assert "conv_stage3_block1_branch2b" not in net.blobs
    solver = text.read(tmp_path / "solver.prototxt", "SolverParameter")[0]
    assert (solver.base_lr, solver.lr_policy, solver.solver_mode) == (0.5, "fixed", 0)
    layer = text.read(tmp_path / "train_val.prototxt")[0].layer[0]
    assert (layer.transform_param.mean_file, list(layer.transform_param.mean_value)) == ("m.binaryproto", [])


def test_json(tmp_path: Path, capsys: Capture) -> None:
    assert build("squeezenet_v1.1", "-o", tmp_path, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == [str(tmp_path / file) for file in FILES]
    assert told["parameters"] == 1235496


def test_list(capsys: Capture) -> None:
    assert build("--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(architectures.ARCHITECTURES)
    assert build("--list", "--json") == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == list(architectures.ARCHITECTURES)


def test_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert build("squeezenet_v1.1") == 0
    assert names(tmp_path / "squeezenet_v1.1") == sorted(FILES)


def test_what_is_refused_writes_nothing(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "net"
    for arguments, told in [
        ([], "say which architecture to build; --list has their names"),
        (["resnet18", "-o", folder], "there is no architecture 'resnet18'"),
        (["vgg16", "-o", folder, "--classes", 0], "classes must be a whole number from 1 on, not 0"),
        (["vgg16", "-o", folder, "--batch", 0], "a batch must be a whole number from 1 on, not 0"),
        (["vgg16", "-o", folder, "--option", "blocks"], "--option 'blocks': give it as NAME=VALUE"),
        (["vgg16", "-o", folder, "--option", "blocks=3"], "vgg16 has no option 'blocks'"),
        (["vgg16", "-o", folder, "--solver", "base_lr=fast"], "base_lr of SolverParameter cannot be 'fast'"),
        (["vgg16", "-o", folder, "--finetune", "a/b"], "a head cannot be called after 'a/b'"),
    ]:
        assert told in failure(capsys, *arguments), told
        assert not folder.exists()


def test_a_net_that_cannot_be_built_writes_nothing(tmp_path: Path, capsys: Capture) -> None:
    """Seven stages leave pool nothing of 7 x 7."""
    line = failure(capsys, "resnet50_1by2", "-o", tmp_path / "net", "--option", "blocks=1,1,1,1,1,1,1")
    assert "deploy.prototxt: layer 'pool'" in line
    assert build("vgg16", "-o", tmp_path / "net", "--option", "fc=0") == 2
    assert "layer 'fc6': num_output" in capsys.readouterr().err
    assert not (tmp_path / "net").exists()


def test_all_files_or_none(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "solver.prototxt").mkdir()
    assert "solver.prototxt: cannot be written: it is a folder" in failure(capsys, "squeezenet_v1.1", "-o", tmp_path)
    assert names(tmp_path) == ["solver.prototxt"]


def test_as_a_process_without_frameworks(tmp_path: Path) -> None:
    program = (
        "import sys; from caffe_port import cli; code = cli.main(sys.argv[1:]); "
        "assert not {'torch', 'onnx', 'onnxruntime', 'PIL'} & set(sys.modules); sys.exit(code)"
    )
    command = [sys.executable, "-c", program, "build", "googlenet", "-o", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
