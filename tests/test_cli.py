"""The command line: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from small import CONV_NET, built, filled, inputs_of, weights_of, write_caffemodel, write_model

import caffe_port as cp
from caffe_port import cli, recording
from caffe_port._version import __version__
from caffe_port.errors import CaffePortError, WeightsError
from caffe_port.net import Net
from caffe_port.recording import RecordedLayer, Recording
from caffe_port.runtime import run_layers

COMMAND = [sys.executable, "-m", "caffe_port.cli"]

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A prototxt and a caffemodel."""
    definition, weights = write_model(tmp_path_factory.mktemp("model"))
    return str(definition), str(weights)


def caffe_port(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120, **options)


def failure(capsys: Capture, *arguments: object, code: int = 2) -> str:
    """Runs a command that must fail with `code`, print nothing, and say one line; returns the line."""
    assert cli.main([str(argument) for argument in arguments]) == code
    out, err = capsys.readouterr()
    assert out == "", out
    lines = [line for line in err.splitlines() if not line.startswith(("note: ", "writing "))]
    assert len(lines) == 1, err
    assert lines[0].startswith("caffe-port: ") and "Traceback" not in err
    return lines[0]


# inspect


def test_inspect_table(model: tuple[str, str], capsys: Capture) -> None:
    """MACs by hand: conv1 makes 2*4*8*7 values of 27 products, fc 2*5 of 48."""
    assert cli.main(["inspect", *model]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["layer", "type", "output", "parameters", "MACs"]
    assert ["conv1", "Convolution", "2x4x8x7", "112", f"{448 * 27:,}"] in rows
    assert ["relu1", "ReLU", "2x4x8x7"] in rows
    assert ["pool1", "Pooling", "2x4x4x3"] in rows
    assert ["fc", "InnerProduct", "2x5", "245", "480"] in rows
    assert ["total", "6", "layers", "357", f"{448 * 27 + 480:,}"] in rows
    assert out.splitlines()[-2:] == ["inputs: data 2x3x8x7", "outputs: prob 2x5"]


def test_inspect_without_weights_and_at_another_shape(model: tuple[str, str], capsys: Capture) -> None:
    assert cli.main(["inspect", model[0], "--input-shape", "data=5,3,8,7"]) == 0
    assert "inputs: data 5x3x8x7" in capsys.readouterr().out
    assert cli.main(["inspect", model[0], "--input-shape", "data=5x3x8x7"]) == 0
    assert "outputs: prob 5x5" in capsys.readouterr().out


def test_inspect_a_caffemodel_alone_and_a_folder(model: tuple[str, str], capsys: Capture) -> None:
    tables = []
    for arguments in (model, [model[1]], [str(Path(model[0]).parent)]):
        assert cli.main(["inspect", *arguments]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] == tables[2]


def test_inspect_json(model: tuple[str, str], capsys: Capture) -> None:
    assert cli.main(["inspect", *model, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["name"], summary["phase"], summary["parameters"], summary["parameter_bytes"]) == (
        "small",
        "TEST",
        357,
        1428,
    )
    assert summary["multiply_accumulates"] == 448 * 27 + 480
    # data 336, conv1 448 (once: the ReLU works in place), pool1 96, fc 10, prob 10 values of 4 bytes.
    assert summary["activation_bytes"] == 4 * (336 + 448 + 96 + 10 + 10)
    assert summary["inputs"] == {"data": [2, 3, 8, 7]} and summary["outputs"] == {"prob": [2, 5]}
    conv = summary["layers"][1]
    assert conv == {
        "index": 1,
        "name": "conv1",
        "type": "Convolution",
        "bottoms": ["data"],
        "tops": [{"name": "conv1", "shape": [2, 4, 8, 7]}],
        "parameters": 112,
        "multiply_accumulates": 12096,
        "location": f"{model[0]}:4:1",
    }


TWO_USES = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "say \\"a\\"" type: "ReLU" bottom: "x" top: "a" }
layer { name: "t" type: "TanH" bottom: "a" top: "a" }
layer { name: "b" type: "ReLU" bottom: "x" top: "b" }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "a" }
"""


def test_inspect_splits(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "net.prototxt").write_text(TWO_USES)
    assert cli.main(["inspect", str(tmp_path / "net.prototxt")]) == 0
    assert "x_in_0_split" not in capsys.readouterr().out
    assert cli.main(["inspect", str(tmp_path / "net.prototxt"), "--splits"]) == 0
    assert "x_in_0_split  Split" in capsys.readouterr().out


def test_inspect_dot(tmp_path: Path, capsys: Capture) -> None:
    """A layer in place stands in its blob's box; an edge a use; Split layers are no boxes; quotes are escaped."""
    (tmp_path / "net.prototxt").write_text(TWO_USES)
    assert cli.main(["inspect", str(tmp_path / "net.prototxt"), "--dot"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("digraph net {\n") and out.endswith("}\n")
    boxes = [line for line in out.splitlines() if "[label=" in line and "->" not in line]
    assert boxes == [
        '  l0 [label="in  (Input)"];',
        '  l2 [label="say \\"a\\"  (ReLU)\\nt  (TanH)"];',
        '  l4 [label="b  (ReLU)"];',
        '  l5 [label="sum  (Eltwise)"];',
    ]
    edges = sorted(line.split("[")[0].strip() for line in out.splitlines() if "->" in line)
    assert edges == ["l0 -> l2", "l0 -> l4", "l2 -> l5", "l4 -> l5"]


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_inspect_svg(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "net.prototxt").write_text(TWO_USES)
    assert cli.main(["inspect", str(tmp_path / "net.prototxt"), "--svg", str(tmp_path / "net.svg")]) == 0
    assert "<svg" in (tmp_path / "net.svg").read_text()
    assert capsys.readouterr().out == ""


def test_inspect_svg_without_graphviz(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.prototxt").write_text(TWO_USES)
    monkeypatch.setenv("PATH", str(tmp_path))
    line = failure(capsys, "inspect", tmp_path / "net.prototxt", "--svg", tmp_path / "net.svg")
    assert "Graphviz is needed to draw" in line and not (tmp_path / "net.svg").exists()


def test_svg_by_a_graphviz_that_fails(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.prototxt").write_text(TWO_USES)
    dot = tmp_path / "dot"
    dot.write_text("#!/bin/sh\necho 'no fonts' >&2\nexit 3\n")
    dot.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert "Graphviz failed: no fonts" in failure(
        capsys, "inspect", tmp_path / "net.prototxt", "--svg", tmp_path / "net.svg"
    )
    dot.write_text("#!/bin/sh\ncat > /dev/null\necho '<svg/>'\n")
    assert cli.main(["inspect", str(tmp_path / "net.prototxt"), "--svg", str(tmp_path / "net.svg")]) == 0
    assert (tmp_path / "net.svg").read_text() == "<svg/>\n"


def test_notes_go_to_standard_error(tmp_path: Path, capsys: Capture) -> None:
    net = CONV_NET.replace('top: "prob" }', 'top: "prob" convolution_param { num_output: 3 } }')
    (tmp_path / "net.prototxt").write_text(net)
    assert cli.main(["inspect", str(tmp_path / "net.prototxt"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("note: ") and "layer 'prob': convolution_param means nothing" in err
    assert len(json.loads(out)["notes"]) == 1


# run


def test_run_npz_to_npz(model: tuple[str, str], tmp_path: Path, capsys: Capture) -> None:
    x = inputs_of(built(CONV_NET))["data"]
    np.savez(tmp_path / "in.npz", data=x)
    expected = cp.run(filled(CONV_NET), {"data": x})
    assert cli.main(["run", *model, "--input", str(tmp_path / "in.npz"), "-o", str(tmp_path / "out.npz")]) == 0
    assert capsys.readouterr().out == "prob 2x5 float32\n"
    with np.load(tmp_path / "out.npz") as out:
        assert out.files == ["prob"] and np.array_equal(out["prob"], expected["prob"])


def test_run_chosen_blobs_in_float64_at_another_batch(model: tuple[str, str], tmp_path: Path, capsys: Capture) -> None:
    x = np.random.default_rng(2).standard_normal((3, 3, 8, 7))
    np.savez(tmp_path / "in.npz", data=x)
    to = ["--input", str(tmp_path / "in.npz"), "-o", str(tmp_path / "out")]
    assert cli.main(["run", *model, *to, "--blob", "fc", "--blob", "conv1", "--dtype", "float64"]) == 0
    assert capsys.readouterr().out == "fc 3x5 float64\nconv1 3x4x8x7 float64\n"
    with np.load(tmp_path / "out") as out:
        assert np.array_equal(out["fc"], cp.run(filled(CONV_NET), {"data": x}, dtype="float64")["fc"])
    assert cli.main(["run", *model, *to, "--blob", "all"]) == 0
    with np.load(tmp_path / "out") as out:
        assert set(out.files) == {"data", "conv1", "pool1", "fc", "prob"}
    capsys.readouterr()
    assert "has no blob 'nothing'" in failure(capsys, "run", *model, *to, "--blob", "nothing")


@pytest.mark.parametrize("name", ["file", "allow_pickle", "a/b", "args", "self"])
def test_run_gives_out_blobs_of_any_name(name: str, tmp_path: Path, capsys: Capture) -> None:
    """np.savez takes names as keywords, and has some of its own."""
    (tmp_path / "net.prototxt").write_text(
        TWO_USES.replace('top: "b"', f'top: "{name}"').replace('bottom: "b"', f'bottom: "{name}"')
    )
    np.savez(tmp_path / "in.npz", x=np.ones((2, 3)))
    arguments = [
        "run",
        str(tmp_path / "net.prototxt"),
        "--input",
        str(tmp_path / "in.npz"),
        "-o",
        str(tmp_path / "o.npz"),
    ]
    assert cli.main([*arguments, "--blob", name]) == 0
    assert capsys.readouterr().out == f"{name} 2x3 float32\n"
    with np.load(tmp_path / "o.npz") as out:
        assert np.array_equal(out[name], np.ones((2, 3)))


def npy(path: Path) -> None:
    np.save(path.open("wb"), np.ones(3))


def pickled(path: Path) -> None:
    np.savez(path.open("wb"), data=np.array([{}], dtype=object))


def damaged(path: Path) -> None:
    np.savez_compressed(path.open("wb"), data=np.arange(336.0).reshape(2, 3, 8, 7))
    content = bytearray(path.read_bytes())
    content[150:250] = bytes(100)
    path.write_bytes(content)


def no_arrays(path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "text")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (npy, "this is a single array"),
        (pickled, "no npz file that can be read: "),
        (damaged, "no npz file that can be read: "),
        (no_arrays, "'data' in it is no array"),
        (lambda path: path.write_text("text"), "no npz file that can be read: "),
        (lambda path: path.write_bytes(b""), "no npz file that can be read: "),
        (lambda path: path.write_bytes(b"PK\x03\x04 no zip"), "no npz file that can be read: "),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: None, "No such file or directory"),
        (lambda path: np.savez(path.open("wb"), data=np.zeros((2, 3))), "layer 'conv1': "),
        (lambda path: np.savez(path.open("wb"), dota=np.zeros((2, 3))), "missing: data; not an input: dota"),
        (lambda path: np.savez(path.open("wb"), data=np.array(["a"])), "input 'data' is no array of real numbers"),
    ],
)
def test_inputs_that_are_none(
    make: Callable[[Path], object], message: str, model: tuple[str, str], tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "in.npz"
    make(path)
    line = failure(capsys, "run", *model, "--input", path, "-o", tmp_path / "out.npz")
    assert message in line
    assert str(path) in line or "'conv1'" in line or "takes data" in line or "input 'data'" in line
    assert not (tmp_path / "out.npz").exists()


# convert


def certificate(folder: Path, name: str = "small") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / f"{name}.certificate.json").read_text())
    return document


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


# verify


def recorded(
    net: Net, inputs: dict[str, Any], change: Callable[[str, Any], Any] = lambda layer, value: value
) -> Recording:
    """A recording of our own float32 run, with changes: it shows what verify does, not that the net is right."""
    layers = []
    for layer, tops in run_layers(net, inputs):
        if layer.definition.is_input or layer.type == "Split":
            continue
        for blob, value in tops.items():
            changed = np.asarray(change(layer.name, value.copy()), np.float32)
            flat = changed.reshape(-1)
            sample = flat[recording.sample_indices(flat.size, 256)]
            exact = flat.astype(np.float64)
            stats = np.array([exact.min(), exact.max(), exact.mean(), np.sqrt(exact @ exact)])
            layers.append(RecordedLayer(layer.index, layer.name, layer.type, blob.name, changed.shape, sample, stats))
    last = {entry.top: entry for entry in layers}
    finals = {name: last[name].sample.reshape(last[name].shape) for name in net.outputs}
    return Recording(
        layers=layers,
        inputs=inputs,
        input_shapes={name: value.shape for name, value in inputs.items()},
        finals=finals,
        input_names=net.inputs,
        output_names=net.outputs,
        limit=256,
    )


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recordings") / "good.npz"
    net = filled(CONV_NET)
    recording.write(path, recorded(net, inputs_of(net)))
    return path


@pytest.fixture(scope="module")
def bad(good: Path) -> Path:
    """pool1 is 0.1 % off, and the layers behind it are as they were."""
    path = good.with_name("bad.npz")
    net = filled(CONV_NET)
    recording.write(
        path, recorded(net, inputs_of(net), lambda layer, value: value * (1.001 if layer == "pool1" else 1))
    )
    return path


def test_verify(model: tuple[str, str], good: Path, tmp_path: Path, capsys: Capture) -> None:
    document = tmp_path / "certificate.json"
    arguments = ["verify", *model, "--recording", str(good), "--backend", "numpy", "--backend", "numpy64"]
    assert cli.main([*arguments, "--certificate", str(document)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all("5 blobs agree" in line and "good.npz" in line for line in lines)
    written = json.loads(document.read_text())
    assert written["verdict"] == "verified against Caffe"
    assert [report["backend"] for report in written["verification"]] == ["numpy float32", "numpy float64"]
    assert [entry["name"] for entry in written["reference"]["recordings"]] == ["good.npz"]


def test_verify_says_what_differs_and_fails(model: tuple[str, str], bad: Path, capsys: Capture) -> None:
    assert cli.main(["verify", *model, "--recording", str(bad), "--backend", "numpy"]) == 1
    out, err = capsys.readouterr()
    assert "'pool1'" in out and "Traceback" not in out + err
    assert cli.main(["verify", *model, "--recording", str(bad), "--backend", "numpy", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "failed"


def test_verify_verbose_has_a_line_a_blob(model: tuple[str, str], good: Path, capsys: Capture) -> None:
    assert cli.main(["verify", *model, "--recording", str(good), "--backend", "numpy", "-v"]) == 0
    out = capsys.readouterr().out
    for name in ("conv1", "relu1", "pool1", "fc", "prob"):
        assert any(name in line.split() for line in out.splitlines()), name


def test_verify_without_a_recording(model: tuple[str, str], capsys: Capture) -> None:
    assert cli.main(["verify", *model, "--backend", "numpy"]) == 0
    out, err = capsys.readouterr()
    assert "no recording of Caffe" in err and "5 blobs agree" in out


def test_verify_each_layer_by_itself(model: tuple[str, str], good: Path, bad: Path, capsys: Capture) -> None:
    """data, pool1 and fc are recorded in full (conv1, of more than 256 values, is not): conv1, fc and prob are run."""
    arguments = ["verify", *model, "--backend", "numpy", "--isolated", "--recording"]
    assert cli.main([*arguments, str(good)]) == 0
    assert "3 blobs agree" in capsys.readouterr().out
    # fc is now computed from a wrong pool1, and differs from what was recorded.
    assert cli.main([*arguments, str(bad)]) == 1
    capsys.readouterr()
    assert "--isolated needs a recording" in failure(capsys, "verify", *model, "--isolated")


def test_verify_with_inputs_from_elsewhere(model: tuple[str, str], good: Path, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "shapes-only.npz"
    recording.write(path, replace(recording.read(good), inputs={}))
    arguments = ["verify", *model, "--backend", "numpy", "--recording", str(path)]
    assert "input data is not recorded in full" in failure(capsys, *arguments)
    np.savez(tmp_path / "in.npz", **inputs_of(filled(CONV_NET)))
    assert cli.main([*arguments, "--input", str(tmp_path / "in.npz")]) == 0
    np.savez(tmp_path / "other.npz", data=np.ones((2, 3, 8, 7)))
    assert cli.main([*arguments, "--input", str(tmp_path / "other.npz")]) == 1


def test_verify_unknown_backend(model: tuple[str, str], capsys: Capture) -> None:
    assert "unknown backend 'cntk'; known: numpy" in failure(capsys, "verify", *model, "--backend", "cntk")


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


# layers, and what argparse does


def test_layers(capsys: Capture) -> None:
    from caffe_port import registry

    assert cli.main(["layers"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["type", "numpy", "pytorch", "onnx"]
    assert [row[0] for row in rows[1:]] == [definition.type for definition in registry.layer_types()]
    assert ["Convolution", "yes", "yes", "yes"] in rows and ["Input", "yes", "yes", "yes"] in rows
    assert cli.main(["layers", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    relu = next(row for row in document if row["type"] == "ReLU")
    assert relu["numpy"] is relu["pytorch"] is relu["onnx"] is True
    assert (relu["bottoms"], relu["tops"]) == ("1", "1") and "negative_slope" in relu["summary"]
    assert all(isinstance(row[backend], (bool, str)) for row in document for backend in ("pytorch", "onnx"))


def test_without_a_command(capsys: Capture) -> None:
    assert cli.main([]) == 2
    out = capsys.readouterr().out
    for verb in ("fetch", "convert", "verify", "inspect", "run", "score", "layers"):
        assert f"\n    {verb} " in out


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], ["inspect"], ["run", "x"], ["inspect", "x", "--phase", "DEPLOY"], ["--nonsense"]]
)
def test_wrong_usage(arguments: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2 and "caffe-port" in capsys.readouterr().err


def test_version() -> None:
    done = caffe_port("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"caffe-port {__version__}\n", "")


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


class FullDisk:
    """A file that takes so many bytes and no more."""

    def __init__(self, stream: Any, room: int) -> None:
        self.stream, self.room = stream, room

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def write(self, content: Any) -> int:
        if memoryview(content).nbytes > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= memoryview(content).nbytes
        return int(self.stream.write(content))


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("convert", "small.onnx"),
        ("convert", "small.safetensors"),
        ("convert", "small.pt2"),
        ("convert", "small.certificate.json"),
        ("convert", "small.certificate.html"),
        ("run", "out.npz"),
        ("verify", "c.json"),
    ],
)
def test_a_full_disk(
    command: str, file: str, model: tuple[str, str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system refuses to write more of one of the files: one line, and none of them is there."""
    np.savez(tmp_path / "in.npz", **inputs_of(built(CONV_NET)))
    if command == "convert" and not file.endswith((".onnx", ".json", ".html")):
        pytest.importorskip("torch")
    original = Path.open
    hit = []

    def opened(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        stream = original(self, mode, *arguments, **options)
        if mode == "xb" and f".{file}." in self.name:
            hit.append(self)
            return FullDisk(stream, 100)
        return stream

    monkeypatch.setattr(Path, "open", opened)
    place = tmp_path / "place"
    place.mkdir()
    target = "pytorch" if file.endswith((".safetensors", ".pt2")) else "onnx"
    arguments = {
        "convert": ["-o", place, "--to", target, "--no-verify"],
        "run": ["--input", tmp_path / "in.npz", "-o", place / "out.npz"],
        "verify": ["--backend", "numpy", "--certificate", place / "c.json"],
    }[command]
    assert cli.main([command, *model, *map(str, arguments)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("note: ", "writing "))]
    assert lines == [f"caffe-port: {place / file}: cannot be written: No space left on device"]
    assert hit
    nothing_left(place)


def test_a_file_size_limit(model: tuple[str, str], tmp_path: Path) -> None:
    """The system itself refuses, in a process that may write files of 1000 bytes only."""
    done = caffe_port(
        "convert", *model, "-o", tmp_path / "out", "--to", "onnx", "--no-verify",
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
