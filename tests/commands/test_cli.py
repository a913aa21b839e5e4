"""The command line: what it prints and writes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import Capture, caffe_port, failure
from small import CONV_NET, built, filled, inputs_of

import caffe_port as cp
from caffe_port import cli, recording
from caffe_port._version import __version__


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
        (lambda path: path.mkdir(), "a folder, not a file"),
        (lambda path: None, "no such file"),
        (lambda path: np.savez(path.open("wb"), data=np.zeros((2, 3))), "layer 'conv1': "),
        (lambda path: np.savez(path.open("wb"), dota=np.zeros((2, 3))), "missing: data; not an input: dota"),
        (lambda path: np.savez(path.open("wb"), data=np.array(["a"])), "values of <U1, not an array of numbers"),
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
