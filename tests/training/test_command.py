"""`caffe-port train`."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

import toys

from caffe_port import cli, commands
from caffe_port.training.log import read_log


@pytest.fixture(autouse=True)
def verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(commands.VERBS, "train", "train a net as Caffe does")


def train(folder: Path, *arguments: str) -> int:
    common = ["--root", str(folder), "--solver", str(folder / "solver.prototxt"), "--workers", "0"]
    return cli.main(["train", *common, *arguments])


def test_a_run_and_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    toys.image_problem(tmp_path)
    assert train(tmp_path, "-o", str(tmp_path / "out" / "log")) == 0
    out, err = capsys.readouterr()
    assert out.startswith("iteration 10, loss ") and out.endswith(f"snapshot {tmp_path}/snap_iter_10.solverstate\n")
    logged = (tmp_path / "out" / "log" / "train.log").read_text()
    assert "Optimization Done." in logged and logged == err
    assert (tmp_path / "out" / "log" / "loss.png").read_bytes().startswith(b"\x89PNG")
    # A resumed run goes on in the same log.
    state = str(tmp_path / "snap_iter_5.solverstate")
    assert train(tmp_path, "--snapshot", state, "-o", str(tmp_path / "out" / "log"), "--quiet") == 0
    assert capsys.readouterr().err == ""
    records = read_log(tmp_path / "out" / "log" / "train.log")
    assert [r.iteration for r in records if r.net is None] == [0, 2, 4, 6, 8, 10, 6, 8, 10]


def test_the_same_bytes_from_a_seed(tmp_path: Path) -> None:
    toys.image_problem(tmp_path)
    found = []
    for seed in ("11", "11", "12"):
        assert train(tmp_path, "--seed", seed, "--quiet", "--threads", "1", "--device", "cpu") == 0
        found.append((tmp_path / "snap_iter_10.caffemodel").read_bytes())
    assert found[0] == found[1] != found[2]


def test_ctrl_c(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toys.image_problem(tmp_path)
    path = tmp_path / "solver.prototxt"
    path.write_text(path.read_text().replace("max_iter: 10", "max_iter: 1000000"))
    log = tmp_path / "log" / "train.log"

    def press() -> None:
        while not log.exists() or "Iteration 6 " not in log.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    before = signal.getsignal(signal.SIGINT)
    assert train(tmp_path, "-o", str(log.parent)) == 130
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    told = capsys.readouterr().err.splitlines()[-1]
    last = max(tmp_path.glob("snap_iter_*.solverstate"), key=lambda file: int(file.stem.split("_")[-1]))
    assert told.startswith("caffe-port: interrupted at iteration ") and told.endswith(f"snapshot {last}")
    assert "Optimization stopped early." in log.read_text()
    assert train(tmp_path, "--snapshot", str(tmp_path / "none.solverstate")) == 2


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        (["--threads", "0"], "--threads must be at least 1, it is 0"),
        (["--workers", "-1"], "--workers must be at least 0, it is -1"),
        (["--data-from-start"], "--data-from-start is for --snapshot"),
        (["--device", "nowhere"], "--device nowhere: "),
        (["--weights", "none.caffemodel"], "none.caffemodel"),
    ],
)
def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], want: str) -> None:
    toys.image_problem(tmp_path)
    assert train(tmp_path, *arguments) == 2
    err = capsys.readouterr().err.splitlines()
    assert want in err[-1] and err[-1].startswith("caffe-port: ")


def test_bad_data_end_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toys.image_problem(tmp_path)
    toys.write_list(tmp_path / "train.txt", range(11), label=5)
    assert train(tmp_path, "--quiet") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "all 11 labels are 5" in line
    with (tmp_path / "train.txt").open("a") as stream:
        stream.write("im/0.png 0\n")
    assert train(tmp_path, "--quiet") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has label 5; there are 2 classes" in line and line.endswith("there is no snapshot yet")
