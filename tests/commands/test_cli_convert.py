"""`caffe-port convert`: what it prints and writes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from certificates import certificate
from command import Capture, caffe_port, failure
from small import CONV_NET, built, filled, weights_of

import caffe_port as cp
from caffe_port import cli


@pytest.fixture(scope="module")
def converted(
    model: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Both formats, as a user makes them, without a recording."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("converted") / "new" / "folder"
    return folder, caffe_port("convert", *model, "-o", folder)


def test_convert(converted: tuple[Path, subprocess.CompletedProcess[str]], model: tuple[str, str]) -> None:
    folder, done = converted
    assert done.returncode == 0, done.stderr
    names = ["small.onnx", "small.pt2", "small.safetensors", "small.certificate.json", "small.certificate.html"]
    assert done.stdout.splitlines() == [str(folder / name) for name in names]
    assert sorted(entry.name for entry in folder.iterdir()) == sorted(names)
    assert "no recording of Caffe for this model" in done.stderr
    assert done.stderr.splitlines()[-1] == "verified against the float64 run, not against Caffe"
    document = certificate(folder)
    assert document["verdict"] == "verified against the float64 run, not against Caffe"
    assert document["reference"]["kind"] == "float64 run of caffe_port"
    assert {report["backend"] for report in document["verification"]} >= {"numpy float32", "onnxruntime"}
    for role, path in zip(("definition", "weights"), model, strict=True):
        (source,) = [entry for entry in document["sources"] if entry["role"] == role]
        assert source["name"] == Path(path).name and source["bytes"] == Path(path).stat().st_size
    assert {entry["name"] for entry in document["artifacts"]} == set(names[:3])
    assert str(folder) not in json.dumps(document) and str(Path(model[0]).parent) not in json.dumps(document)


def test_what_was_converted_computes_the_same(converted: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    folder, _ = converted
    x = np.random.default_rng(4).standard_normal((5, 3, 8, 7)).astype(np.float32)
    expected = cp.run(filled(CONV_NET), {"data": x}, dtype="float64")["prob"]
    session = onnxruntime.InferenceSession(str(folder / "small.onnx"), providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(None, {"data": x})[0], expected, atol=1e-6)
    with torch.no_grad():
        program = torch.export.load(folder / "small.pt2").module()
        assert np.allclose(program(torch.from_numpy(x)).numpy(), expected, atol=1e-6)
    stored = load_file(folder / "small.safetensors")
    assert np.array_equal(stored["fc.weight"].numpy(), weights_of(built(CONV_NET))["fc"][0])


def test_convert_without_verification(model: tuple[str, str], tmp_path: Path, capsys: Capture) -> None:
    arguments = ["convert", *model, "-o", str(tmp_path), "--to", "onnx", "--no-verify", "--name", "other", "--json"]
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    files = [str(tmp_path / f"other.{suffix}") for suffix in ("onnx", "certificate.json", "certificate.html")]
    assert json.loads(out) == {"verdict": "not verified", "files": files}
    assert "blobs agree" not in err
    document = certificate(tmp_path, "other")
    assert document["verdict"] == "not verified" and document["verification"] == []
    onnx.checker.check_model(onnx.load(files[0]), full_check=True)


def test_convert_replaces_what_is_there(model: tuple[str, str], tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "small.onnx").write_text("old")
    (tmp_path / "mine.txt").write_text("stays")
    assert cli.main(["convert", *model, "-o", str(tmp_path), "--to", "onnx,onnx", "--to", "onnx", "--no-verify"]) == 0
    names = ["small.onnx", "small.certificate.json", "small.certificate.html"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(["mine.txt", *names])
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / name) for name in names]
    onnx.load(tmp_path / "small.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "onxx"], "unknown target onxx; known: onnx, ort, openvino, pytorch"),
        (["--to", ","], "unknown target none"),
        (["--to", "onnx", "--name", "a/b"], "'a/b' is no file name"),
        (["--to", "onnx", "--name", ".."], "'..' is no file name"),
        (["--input-shape", "data"], "--input-shape 'data': give it as BLOB=N,C,H,W"),
        (["--input-shape", "=1,2"], "give it as BLOB=N,C,H,W"),
        (["--input-shape", "data=1,x"], "give it as BLOB=N,C,H,W"),
        (["--input-shape", "dota=1,3,8,7"], "a shape is given for 'dota', which is no input of the net"),
        (["--input-shape", "data=-1,3,8,7"], "shape -1x3x8x7 has a negative dim"),
        (["--recording", "nowhere.npz"], "nowhere.npz: No such file or directory"),
    ],
)
def test_convert_with_wrong_arguments(
    arguments: list[str], message: str, model: tuple[str, str], tmp_path: Path, capsys: Capture
) -> None:
    if "--recording" in arguments:
        arguments = [*arguments, "--to", "onnx"]
        pytest.importorskip("onnxruntime")
    assert message in failure(capsys, "convert", *model, "-o", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_convert_a_net_without_weights(model: tuple[str, str], tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(["convert", model[0], "-o", str(tmp_path / "out"), "--to", "onnx", "--no-verify"]) == 2
    err = capsys.readouterr().err
    assert "layer 'conv1': learned blob 0 of shape 4x3x3x3 has no values" in err and "layer 'fc'" in err
    assert "Traceback" not in err and not (tmp_path / "out").exists()


def test_convert_with_a_recording(model: tuple[str, str], good: Path, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("onnxruntime")
    assert cli.main(["convert", *model, "-o", str(tmp_path), "--to", "onnx", "--recording", str(good)]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "verified against Caffe"
    document = certificate(tmp_path)
    assert document["verdict"] == "verified against Caffe"
    assert document["reference"]["recordings"][0]["caffe"] == "a Caffe that the recording does not name"


def test_convert_that_fails_verification_leaves_nothing(
    model: tuple[str, str], bad: Path, tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("onnxruntime")
    assert cli.main(["convert", *model, "-o", str(tmp_path / "out"), "--to", "onnx", "--recording", str(bad)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "'pool1'" in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_convert_that_fails_verification_leaves_the_old_files(
    model: tuple[str, str], bad: Path, tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "small.onnx").write_text("old")
    assert cli.main(["convert", *model, "-o", str(tmp_path), "--to", "onnx", "--recording", str(bad)]) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.onnx"]
    assert (tmp_path / "small.onnx").read_text() == "old"
