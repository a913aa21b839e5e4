"""`caffe-port finetune`."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

sys.path.append(str(Path(__file__).parents[1] / "training"))

import toys
from PIL import Image
from small import write_caffemodel

import caffe_port as cp
from caffe_port import cli, commands
from caffe_port.preprocessing import Manifest, Preprocessing

DEPLOY = """
name: "toy"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" inner_product_param { num_output: 2 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""


@pytest.fixture(autouse=True)
def verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(commands.VERBS, "finetune", "fine-tune a model on one's own images")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, its manifest, and images of two classes."""
    rng = np.random.default_rng(0)
    blobs = {
        "conv": [rng.normal(size=(6, 3, 3, 3)) * 0.3, np.zeros(6)],
        "fc": [rng.normal(size=(2, 216)) * 0.05, np.zeros(2)],
    }
    (tmp_path / "toy.prototxt").write_text(DEPLOY)
    write_caffemodel(tmp_path / "toy.caffemodel", DEPLOY, blobs)
    steps = Preprocessing(resize=(10, 10), crop=(8, 8), mean=(128.0,), scale=0.01, interpolation="opencv")
    Manifest(steps, None, ("down", "up"), 1).write(tmp_path / "manifest.json")
    for number in range(24):
        place = tmp_path / "data" / ("down", "up")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(toys.pixels(number).transpose(1, 2, 0)).save(place / f"{number}.png")
    return tmp_path


def finetune(folder: Path, *arguments: str, data: str = "data") -> int:
    files = [str(folder / "toy.prototxt"), str(folder / "toy.caffemodel"), "--manifest", str(folder / "manifest.json")]
    common = ["--data", str(folder / data), "-o", str(folder / "out"), "--workers", "0", "--threads", "1"]
    return cli.main(["finetune", *files, *common, "--batch", "8", *arguments])


def failure(
    capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str, code: int = 2, data: str = "data"
) -> str:
    """The one line that a run which must fail says, but for notes and counts."""
    capsys.readouterr()
    assert finetune(folder, "--quiet", *arguments, data=data) == code
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("note: ") and " images to train with" not in line]
    assert len(lines) == 1 and lines[0].startswith("caffe-port: "), err
    return lines[0]


def test_from_images_to_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    options = ["--epochs", "8", "--base-lr", "0.05", "--no-mirror", "--class-weights", "balanced", "--name", "tuned"]
    assert finetune(folder, *options, "--to", "onnx,caffemodel", "--seed", "3") == 0
    out, err = capsys.readouterr()
    assert "down: 10 images to train with, 2 to validate with" in err and "Optimization" not in out
    assert "after   accuracy 100 %" in out and "AUC of up: 1.0000" in out
    assert err.splitlines()[-1] == "verified against the float64 run, not against Caffe"
    made = folder / "out"
    for name in ("tuned.onnx", "tuned.caffemodel", "report.md", "report.json", "validation.html", "validation.csv"):
        assert (made / name).is_file() and str(made / name) in out
    assert (made / "train.log").is_file() and (made / "loss.png").read_bytes().startswith(b"\x89PNG")
    command = json.loads((made / "tuned.certificate.json").read_text())["command"]
    assert command.startswith("caffe-port finetune toy.prototxt toy.caffemodel --data data --output out ")
    assert "--class-weights balanced" in command and str(folder) not in command
    # What was made is a model for the other verbs.
    image = str(next((folder / "data" / "up").iterdir()))
    scored = ["score", image, "--model", str(made / "tuned.onnx"), "--manifest", str(made / "manifest.json")]
    assert cli.main(scored) == 0
    assert float(capsys.readouterr().out.split()[0]) > 0.5


def test_the_command_of_the_certificate_repeats_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shlex

    monkeypatch.chdir(folder)
    assert (
        finetune(folder, "--iterations", "3", "--to", "caffemodel", "--no-verify", "--freeze", "conv", "--quiet") == 0
    )
    first = (folder / "out" / "toy_finetuned.caffemodel").read_bytes()
    command = json.loads((folder / "out" / "toy_finetuned.certificate.json").read_text())["command"]
    (folder / "out").rename(folder / "before")
    assert cli.main([*shlex.split(command)[1:], "--quiet"]) == 0
    assert (folder / "out" / "toy_finetuned.caffemodel").read_bytes() == first


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune(folder, "--iterations", "2", "--to", "caffemodel", "--no-verify", "--json", "--quiet") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["format"] == "caffe_port fine-tuning report 1" and report["verdict"] == "not verified"
    assert report == json.loads((folder / "out" / "report.json").read_text())


def test_ctrl_c_and_going_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = folder / "out" / "train.log"
    options = ["--iterations", "4000", "--evaluate-every", "20", "--patience", "0", "--base-lr", "0.0001"]

    def press() -> None:
        while not log.exists() or "Testing net" not in log.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    before = signal.getsignal(signal.SIGINT)
    assert finetune(folder, *options) == 130
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    told = capsys.readouterr().err.splitlines()[-1]
    states = list((folder / "out" / "snapshots").glob("*.solverstate"))
    last = max(states, key=lambda path: int(path.stem.rpartition("_")[2]))
    assert told.startswith("caffe-port: interrupted at iteration ") and f"snapshot {last}; " in told
    assert "has a fine-tuning already" in failure(capsys, folder, *options)
    assert "was made with another recipe" in failure(capsys, folder, "--resume", "--iterations", "5")
    stopped = int(last.stem.rpartition("_")[2])
    document = json.loads((folder / "out" / "progress.json").read_text())
    document["recipe"]["iterations"] = stopped + 5
    (folder / "out" / "progress.json").write_text(json.dumps(document))
    options[1] = str(stopped + 5)
    assert finetune(folder, *options, "--resume", "--to", "caffemodel", "--no-verify") == 0
    assert json.loads((folder / "out" / "report.json").read_text())["iterations"] == stopped + 5


def test_bad_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such folder or file" in failure(capsys, folder, data="none")
    table = folder / "t.csv"
    table.write_text("path,label\ndata/up/1.png,1\ndata/gone.png,0\n")
    assert "data/gone.png: no such file" in failure(capsys, folder, data="t.csv")
    table.write_text("path,label\ndata/up/1.png,1\ndata/up/3.png,1\n")
    assert "not the numbers from 0 on" in failure(capsys, folder, data="t.csv")
    table.write_text("path,label\ndata/up/1.png,yes\ndata/up/3.png,yes\n")
    assert "all images are of one class, 'yes'" in failure(capsys, folder, data="t.csv")
    table.write_text("path,label\ndata/up/1.png,2\n")
    assert "t.csv:2: " in (said := failure(capsys, folder, "--classes", "down,up", data="t.csv"))
    assert "label '2' is out of range" in said
    (folder / "data" / "up" / "1.png").write_text("no picture")
    assert "1.png: not an image" in failure(capsys, folder)


def test_a_rate_that_is_too_high(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = failure(capsys, folder, "--base-lr", "1e20", "--iterations", "20", "--evaluate-every", "5")
    assert "iteration 1: the loss is" in said and "there is no snapshot yet" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--scale", "9"), "--scale '9': 2 numbers are needed"),
        (("--class-weights", "a,b"), "--class-weights 'a,b': some numbers are needed"),
        (("--class-weights", "1,2,3"), "3 class weights for 2 classes"),
        (("--batch", "0"), "batch must be at least 1, it is 0"),
        (("--threads", "0"), "--threads must be at least 1, it is 0"),
        (("--freeze", "pool*"), "is called 'pool*'"),
        (("--head", "conv"), "'fc' makes, not 'conv'"),
        (("--positive", "left"), "'left' is none of down, up"),
        (("--validation", "2"), "lies between 0 and 1, not 2"),
        (("--resume",), "has no fine-tuning that could go on"),
        (("--to", "onnx,paper"), "paper"),
        (("--name", "a/b"), "'a/b' is no file name"),
    ],
)
def test_bad_options(folder: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str) -> None:
    assert said in failure(capsys, folder, "--iterations", "2", *options)
    assert not (folder / "out" / "progress.json").exists()


def test_the_weights_are_those_of_the_best_snapshot(folder: Path) -> None:
    assert finetune(folder, "--iterations", "6", "--evaluate-every", "2", "--to", "caffemodel", "--quiet") == 0
    out = folder / "out"
    best = json.loads((out / "report.json").read_text())["best_iteration"]
    snapshot = cp.load(out / "deploy.prototxt", out / "snapshots" / f"toy_finetuned_iter_{best}.caffemodel")
    written = cp.load(out / "deploy.prototxt", out / "toy_finetuned.caffemodel")
    for a, b in zip(snapshot.weights(), written.weights(), strict=True):
        assert a.data is not None and b.data is not None and np.array_equal(a.data, b.data)
