"""The command's forms, targets and ways back, as a user types them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from command import Capture, failure
from small import CONV_NET, write_model

from caffe_port import cli

PICTURE_NET = CONV_NET.replace("dim: 8 dim: 7", "dim: 7 dim: 7")
MANIFEST = {"format": "caffe_port preprocessing 1", "resize": [8, 8], "crop": [7, 7], "mean": [1, 2, 3]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [str(path) for path in write_model(tmp_path_factory.mktemp("model"), PICTURE_NET)]


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(MANIFEST))
    return str(path)


def certificate_of(folder: Path) -> dict[str, object]:
    (path,) = folder.glob("*.certificate.json")
    found: dict[str, object] = json.loads(path.read_text())
    return found


def test_the_command_in_the_certificate_repeats_the_conversion(
    model: list[str], manifest: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    options = ["--fold", "--half", "--batch", "3", "--to", "onnx", "--budget", "0.02", "--manifest", manifest]
    assert cli.main(["convert", *model, "-o", str(tmp_path / "a"), *options]) == 0
    command = str(certificate_of(tmp_path / "a")["command"])
    assert str(tmp_path) not in command
    here = tmp_path / "here"
    here.mkdir()
    for path in (*model, manifest):
        (here / Path(path).name).write_bytes(Path(path).read_bytes())
    monkeypatch.chdir(here)
    assert cli.main([*shlex.split(command)[1:], "-o", str(tmp_path / "b")]) == 0
    capsys.readouterr()
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names[-1] == "small_folded_fp16weights_batch3.onnx"
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_picture_goes_in(model: list[str], manifest: str, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("onnxruntime")
    arguments = ["convert", *model, "-o", str(tmp_path / "out"), "--to", "onnx", "--preprocess"]
    line = failure(capsys, *arguments)
    assert "nothing is known of this model's preprocessing: give a manifest, --manifest FILE" in line
    assert cli.main([*arguments, "--manifest", manifest]) == 0
    assert "within the budget of 0.1 %" in capsys.readouterr().err


def test_int8_by_a_folder_of_pictures(model: list[str], manifest: str, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("onnxruntime")
    from PIL import Image

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(4):
        noise = np.random.default_rng(i).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(noise).save(pictures / f"{i}.png")
    (pictures / "notes.txt").write_text("no picture")
    arguments = ["convert", *model, "-o", str(tmp_path / "out"), "--to", "onnx", "--int8", "--budget", "0.2"]
    assert "--calibrate FOLDER" in failure(capsys, *arguments)
    assert cli.main([*arguments, "--manifest", manifest, "--calibrate", str(pictures)]) == 0
    err = capsys.readouterr().err
    assert "note: passed over" in err and "notes.txt" in err
    (artifact,) = certificate_of(tmp_path / "out")["artifacts"]  # type: ignore[misc]
    assert artifact["precision"] == "int8" and artifact["calibrated_on"] == 4


def test_there_and_back(model: list[str], tmp_path: Path, capsys: Capture) -> None:
    """To PyTorch, and from each of its state dicts back to the same bytes; from a changed one to other bytes."""
    pytest.importorskip("torch")
    from safetensors.numpy import load_file, save_file

    there, back = tmp_path / "there", tmp_path / "back"
    assert cli.main(["convert", *model, "-o", str(there), "--to", "pytorch,pytorch-source", "--no-verify"]) == 0
    for state in ("small.safetensors", "small.weights.safetensors"):
        assert cli.main(["convert", *model, "-o", str(back), "--to", "caffemodel", "--state", str(there / state)]) == 0
        assert (back / "small.caffemodel").read_bytes() == Path(model[1]).read_bytes()
    tensors = load_file(there / "small.safetensors")
    tensors["fc.bias"] = tensors["fc.bias"] + 1
    save_file(tensors, tmp_path / "tuned.safetensors")
    arguments = [
        "convert",
        *model,
        "-o",
        str(back),
        "--to",
        "caffemodel",
        "--state",
        str(tmp_path / "tuned.safetensors"),
    ]
    assert cli.main(arguments) == 0
    before, after = (back / "small.caffemodel").read_bytes(), Path(model[1]).read_bytes()
    assert len(before) == len(after) and 0 < sum(a != b for a, b in zip(before, after, strict=True)) <= 5 * 4
    capsys.readouterr()
    del tensors["fc.bias"]
    tensors["fc.other"] = np.zeros(3, np.float32)
    save_file(tensors, tmp_path / "tuned.safetensors")
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert "'fc.bias' (5) is not in the state dict" in err and "'fc.other'" in err


def test_dry_run(model: list[str], tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert cli.main(["convert", *model, "--dry-run", "-o", str(out)]) == 0
    assert capsys.readouterr() == ("", "nothing stands in the way\n")
    assert cli.main(["convert", model[0], "--dry-run", "--json", "-o", str(out), "--to", "onnx", "--batch", "2"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert not told["convertible"]
    assert [one["kind"] for one in told["obstacles"]] == ["missing weights"]
    assert not out.exists()


def test_record(tmp_path: Path, model: list[str], capsys: Capture) -> None:
    assert cli.main(["record", "--script"]) == 0
    script = capsys.readouterr().out
    compile(script, "record.py", "exec")
    (tmp_path / "record.npz").write_text("no recording")
    assert cli.main(["record", "--check", str(tmp_path / "record.npz")]) == 1
    assert "wrong: " in capsys.readouterr().out
    assert "--net and --json go with --check" in failure(capsys, "record", "--script", "--json")


def test_verify_self(model: list[str], capsys: Capture) -> None:
    pytest.importorskip("onnxruntime")
    assert cli.main(["verify", *model, "--self", "--backend", "onnxruntime"]) == 0
    assert "no recording of Caffe was used" in capsys.readouterr().out
    assert "--self uses no recording" in failure(capsys, "verify", *model, "--self", "--isolated")


def test_calibrate(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    scores = np.clip(0.3 + 0.4 * labels + 0.15 * rng.standard_normal(400), 0, 1)
    table = tmp_path / "scores.csv"
    table.write_text("label,score\n" + "".join(f"{a},{b}\n" for a, b in zip(labels, scores, strict=True)))
    folder = tmp_path / "out"
    assert cli.main(["calibrate", str(table), "--max-fpr", "0.05", "-o", str(folder), "--figures", "svg"]) == 0
    capsys.readouterr()
    assert {"threshold.json", "calibration.json", "calibration.html"} <= {path.name for path in folder.iterdir()}
    threshold = json.loads((folder / "threshold.json").read_text())
    flagged = scores >= threshold["value"]
    assert flagged[labels == 0].mean() <= 0.05 < flagged[labels == 1].mean()
    assert "--cost-fp and --cost-fn go together" in failure(capsys, "calibrate", table, "--cost-fp", "1")


def test_options_for_spark_alone(tmp_path: Path, capsys: Capture) -> None:
    assert "are for --engine spark" in failure(capsys, "score", "--master", "local[1]", tmp_path)
    line = failure(capsys, "score", "--engine", "spark", tmp_path)
    assert "it needs --output, writes Parquet" in line
    line = failure(capsys, "score", "--engine", "spark", "--rank", tmp_path, "-o", tmp_path / "out.parquet")
    assert "--rank are for one machine" in line
