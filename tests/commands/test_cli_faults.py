"""The command line where things go wrong: wrong files, output that cannot be written, interruptions."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command import COMMAND, Capture, caffe_port, failure
from small import CONV_NET, built, inputs_of, weights_of, write_caffemodel, write_model

import caffe_port as cp
from caffe_port import cli
from caffe_port.errors import CaffePortError, WeightsError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A prototxt and a caffemodel."""
    definition, weights = write_model(tmp_path_factory.mktemp("model"))
    return str(definition), str(weights)


# Wrong files


def test_a_truncated_caffemodel(model: tuple[str, str], tmp_path: Path, capsys: Capture) -> None:
    whole = Path(model[1]).read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 45):
        cut = tmp_path / "cut.caffemodel"
        cut.write_bytes(whole[:size])
        for command in (["inspect"], ["convert", "-o", str(tmp_path / "out")]):
            assert "cut.caffemodel: " in failure(capsys, *command, model[0], cut)
    assert not (tmp_path / "out").exists()


def test_a_prototxt_with_a_typo(tmp_path: Path, capsys: Capture) -> None:
    """File, line, column, what stands there, and the nearest field."""
    path = tmp_path / "net.prototxt"
    path.write_text(CONV_NET.replace("kernel_size: 3 pad", "kernal_size: 3 pad"))
    line = failure(capsys, "inspect", path)
    # On line 5, behind 8 blanks and `convolution_param { num_output: 4 `.
    assert f"{path}:5:43: " in line and "'kernal_size'" in line and "'kernel_size'" in line


def test_every_problem_of_a_prototxt_has_its_line(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(CONV_NET.replace('"ReLU"', '"RELU"').replace('bottom: "fc"', 'bottom: "fd"'))
    assert cli.main(["inspect", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "caffe-port: 2 problems:" and len(lines) == 3
    assert any(f"{path}:6:1: layer 'relu1': unknown layer type 'RELU' (did you mean 'ReLU'" in line for line in lines)
    assert any(f"{path}:10:1: layer 'prob': unknown bottom 'fd'" in line for line in lines)


def test_weights_of_another_net(model: tuple[str, str], tmp_path: Path, capsys: Capture) -> None:
    other = CONV_NET.replace('"conv1" type', '"conv9" type').replace("num_output: 5", "num_output: 6")
    weights = write_caffemodel(tmp_path / "other.caffemodel", other, weights_of(built(other)))
    assert cli.main(["convert", model[0], str(weights), "-o", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "caffe-port: 4 problems:" and len(lines) == 5
    text = "\n".join(lines)
    assert "layer 'conv9': other.caffemodel has 2 learned blobs for it, and no layer of the net has this name" in text
    assert "layer 'conv1': other.caffemodel has no weights for it (4x3x3x3, 4 needed)" in text
    assert "layer 'fc': learned blob 0 is 5x48 in the net, 6x48 in other.caffemodel" in text
    assert "layer 'fc': learned blob 1 is 5 in the net, 6 in other.caffemodel" in text
    assert not (tmp_path / "out").exists()


def test_missing_and_unused_weights(model: tuple[str, str], tmp_path: Path, capsys: Capture) -> None:
    other = CONV_NET.replace('"conv1" type', '"conv9" type')
    weights = write_caffemodel(tmp_path / "other.caffemodel", other, weights_of(built(other)))
    assert cli.main(["inspect", model[0], str(weights)]) == 2
    report = capsys.readouterr().err
    assert "layer 'conv1': other.caffemodel has no weights for it" in report
    assert "layer 'conv9': other.caffemodel has 2 learned blobs for it" in report
    assert "no layer of the net has this name" in failure(
        capsys, "inspect", model[0], weights, "--allow-missing-weights", "--refuse-unused-weights"
    )
    assert cli.main(["inspect", model[0], str(weights), "--allow-missing-weights"]) == 0
    assert "note: layer 'conv9': other.caffemodel has 2 learned blobs for it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{dir}/nowhere.prototxt"], "{dir}/nowhere.prototxt: no such file"),
        (["{net}", "{dir}/nowhere.caffemodel"], "{dir}/nowhere.caffemodel: no such file"),
        (["{net}", "{dir}"], "{dir}: a folder; give a prototxt, then its weights"),
        (["{dir}", "{weights}"], "{dir}: a folder"),
        (["{dir}"], "no .caffemodel in it"),
        (["{weights}", "{net}"], "net.prototxt: this is no caffemodel but text; the prototxt comes first"),
        (["{net}", "{empty}"], "empty"),
        (["nosuchmodel", "--offline"], "nosuchmodel"),
        (["{net}", "{image}"], "image.png"),
    ],
)
def test_wrong_files(
    arguments: list[str], message: str, model: tuple[str, str], tmp_path: Path, capsys: Capture
) -> None:
    places = {
        "dir": str(tmp_path),
        "net": str(tmp_path / "net.prototxt"),
        "weights": model[1],
        "empty": str(tmp_path / "empty"),
        "image": str(tmp_path / "image.png"),
    }
    (tmp_path / "net.prototxt").write_text(CONV_NET)
    (tmp_path / "empty").touch()
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8)
    line = failure(capsys, "inspect", *[argument.format(**places) for argument in arguments])
    assert message.format(**places) in line


def test_an_empty_prototxt_is_no_net(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "net.prototxt"
    path.touch()
    line = failure(capsys, "inspect", path)
    assert "net.prototxt" in line and "no layer" in line


def test_debug_gives_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(CaffePortError, match="no such file"):
        cli.main(["inspect", str(tmp_path / "nowhere.prototxt"), "--debug"])
    done = caffe_port("inspect", tmp_path / "nowhere.prototxt", "--debug")
    assert done.returncode == 1 and "Traceback" in done.stderr
    done = caffe_port("inspect", tmp_path / "nowhere.prototxt")
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_not_enough_memory(model: tuple[str, str], capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("caffe_port.summary.summarize", exhausted)
    assert failure(capsys, "inspect", *model) == "caffe-port: not enough memory"


# Output that cannot be written


def nothing_left(folder: Path) -> None:
    assert [entry.name for entry in folder.rglob("*")] == []


@pytest.mark.parametrize("command", ["convert", "run"])
def test_a_folder_that_cannot_be_written_into(
    command: str, model: tuple[str, str], tmp_path: Path, capsys: Capture
) -> None:
    """Root may write anywhere, so here the folder is a file."""
    np.savez(tmp_path / "in.npz", **inputs_of(built(CONV_NET)))
    place = tmp_path / "place"
    place.write_text("a file")
    arguments = {
        "convert": ["-o", place / "deeper", "--to", "onnx", "--no-verify"],
        "run": ["--input", tmp_path / "in.npz", "-o", place / "out.npz"],
    }[command]
    line = failure(capsys, command, *model, *arguments)
    assert str(place) in line and "cannot be written" in line and "Not a directory" in line
    assert place.read_text() == "a file"


@pytest.mark.parametrize("command", ["convert", "run", "verify", "inspect"])
def test_a_folder_without_permission(
    command: str, model: tuple[str, str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "in.npz", **inputs_of(built(CONV_NET)))
    dot = tmp_path / "dot"
    dot.write_text("#!/bin/sh\ncat\n")
    dot.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name: str(dot))
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o555)
    if os.access(place, os.W_OK):  # root
        refuse_to_write(monkeypatch, place, errno.EACCES)
    arguments = {
        "convert": ["-o", place, "--to", "onnx", "--no-verify"],
        "run": ["--input", tmp_path / "in.npz", "-o", place / "out.npz"],
        "verify": ["--backend", "numpy", "--certificate", place / "c.json"],
        "inspect": ["--svg", place / "net.svg"],
    }[command]
    assert cli.main([command, *model, *map(str, arguments)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("note: ", "writing "))]
    assert len(lines) == 1 and str(place) in lines[0] and "Permission denied" in lines[0]
    nothing_left(place)


def refuse_to_write(monkeypatch: pytest.MonkeyPatch, place: Path, number: int) -> None:
    """Files below `place` cannot be made."""
    original = Path.open

    def opened(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if place in self.parents and set(mode) & set("xwa"):
            raise OSError(number, os.strerror(number), str(self))
        return original(self, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", opened)


def test_a_file_size_limit(model: tuple[str, str], tmp_path: Path) -> None:
    """The system itself refuses, in a process that may write files of 1000 bytes only."""
    done = caffe_port(
        "convert", *model, "-o", tmp_path / "out", "--to", "onnx", "--no-verify",
        # A measurement of coverage would write a file of its own.
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )  # fmt: skip
    assert done.returncode == 2
    assert (
        done.stderr.splitlines()[-1]
        == f"caffe-port: {tmp_path / 'out' / 'small.onnx'}: cannot be written: File too large"
    )
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


@contextlib.contextmanager
def tiny_disk(place: Path, kilobytes: int) -> Iterator[None]:
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full(model: tuple[str, str], tmp_path: Path, capsys: Capture) -> None:
    """4 KiB hold the ONNX file of 2.4 kB, and not the certificate beside it."""
    place = tmp_path / "disk"
    with tiny_disk(place, 4):
        line = failure(capsys, "convert", *model, "-o", place / "out", "--to", "onnx", "--no-verify")
        assert (
            line
            == f"caffe-port: {place / 'out' / 'small.certificate.json'}: cannot be written: No space left on device"
        )
        nothing_left(place)


@pytest.mark.slow
def test_a_disk_that_is_full_when_pytorch_writes(model: tuple[str, str], tmp_path: Path, capsys: Capture) -> None:
    """8 KiB hold the weights, and not the program."""
    pytest.importorskip("torch")
    place = tmp_path / "disk"
    with tiny_disk(place, 8):
        line = failure(capsys, "convert", *model, "-o", place / "out", "--to", "pytorch", "--no-verify")
        assert line == f"caffe-port: {place / 'out' / 'small.pt2'}: cannot be written: No space left on device"
        nothing_left(place)


# Interruptions


@pytest.mark.parametrize(
    "moment",
    ["writing small as onnx", "writing small as pytorch", "numpy float64 against", "onnxruntime against", "torch"],
)
def test_ctrl_c_during_convert(moment: str, model: tuple[str, str], tmp_path: Path) -> None:
    """Interrupted as soon as that line comes: one line says so, and no file is there but complete ones."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "out"
    process = subprocess.Popen(
        [*COMMAND, "convert", *model, "-o", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith(moment):
            process.send_signal(signal.SIGINT)
            break
    else:
        pytest.fail("".join(seen))
    _, rest = process.communicate(timeout=120)
    assert "Traceback" not in rest
    if process.returncode == 0:  # it was done by then
        assert len(list(folder.iterdir())) == 4
        return
    # Python itself ends by the signal where it came during an import that runs text (dataclasses do); a shell shows 130
    # for both.
    assert process.returncode in (130, -signal.SIGINT), rest
    assert rest.splitlines()[-1] == "caffe-port: interrupted; nothing half-done was left behind"
    assert not folder.exists()


def test_ctrl_c_at_the_start(model: tuple[str, str], tmp_path: Path) -> None:
    """At several moments of the start: never a half-written file."""
    for delay in (0.05, 0.15, 0.3):
        folder = tmp_path / f"{delay}"
        process = subprocess.Popen(
            [*COMMAND, "convert", *model, "-o", str(folder), "--to", "onnx", "--no-verify"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        if process.returncode == 0:
            onnx.load(folder / "small.onnx")
        else:
            assert not folder.exists()


def test_ctrl_c_keeps_the_old_files(
    model: tuple[str, str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "small.onnx").write_text("old")
    monkeypatch.setattr("caffe_port.certificate.Certificate.write", interrupted)
    assert cli.main(["convert", *model, "-o", str(tmp_path), "--to", "onnx", "--no-verify"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "caffe-port: interrupted; nothing half-done was left behind"
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.onnx"]
    assert (tmp_path / "small.onnx").read_text() == "old"


def test_a_reader_that_goes_away(model: tuple[str, str]) -> None:
    """`caffe-port layers | head -1`: no complaint."""
    for arguments in (["layers"], ["inspect", *model, "--json"]):
        process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()  # before it has written anything
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == b""
        process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_standard_output_that_is_full_or_closed(model: tuple[str, str]) -> None:
    """One line and exit code 2; of a closed one nobody wants to hear."""
    quiet = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    for buffering in ({}, {"PYTHONUNBUFFERED": "1"}):
        for arguments in (["build", "--list"], ["inspect", *model, "--json"], ["--version"]):
            with Path("/dev/full").open("w") as full:
                done = subprocess.run(
                    [*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, env=quiet | buffering, timeout=60
                )
            if arguments == ["--version"] and buffering:  # argparse itself passes over what it cannot print
                continue
            assert (done.returncode, done.stderr) == (2, b"caffe-port: No space left on device\n"), arguments
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "build", "--list"],
            capture_output=True,
            env=quiet | buffering,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, b"")


def test_head(model: tuple[str, str]) -> None:
    command = f"{shlex.quote(sys.executable)} -m caffe_port.cli inspect {shlex.quote(model[0])} --json | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{\n", "")


def test_errors_of_the_library_are_the_same(model: tuple[str, str], tmp_path: Path) -> None:
    """What the command prints is the exception's text."""
    cut = tmp_path / "cut.caffemodel"
    cut.write_bytes(Path(model[1]).read_bytes()[:900])
    with pytest.raises(WeightsError) as caught:
        cp.load(model[0], cut)
    assert caffe_port("inspect", model[0], cut).stderr == f"caffe-port: {caught.value}\n"
