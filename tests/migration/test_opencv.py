"""Scripts that read Caffe models by OpenCV: what is found in them, and what they become. OpenCV is not needed."""

from __future__ import annotations

import argparse
import ast
import json
import shlex
import textwrap
from pathlib import Path
from typing import Any

import pytest
import small

from caffe_port.commands import migrate
from caffe_port.errors import ArtifactError, CaffePortError, DataError
from caffe_port.migration.edits import Edits
from caffe_port.migration.opencv import read_script
from caffe_port.migration.plan import Migration, plan
from caffe_port.preprocessing import Preprocessing, read

TWO_HEADS = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "score" type: "InnerProduct" bottom: "conv1" top: "z_score" inner_product_param { num_output: 2 } }
layer { name: "boxes" type: "InnerProduct" bottom: "conv1" top: "a_boxes" inner_product_param { num_output: 4 } }
"""
"""Outputs by name: a_boxes, z_score; by layer the other way round."""


def planned(folder: Path, source: str, prototxt: str | None = None, **options: Any) -> Migration:
    script = folder / "script.py"
    script.write_text(textwrap.dedent(source))
    if prototxt is not None:
        (folder / "net.prototxt").write_text(prototxt)
    return plan(script, **options)


def after(migration: Migration) -> list[str]:
    """The changed lines."""
    return [line[1:] for line in migration.diff.splitlines() if line.startswith("+") and not line.startswith("+++")]


def texts(migration: Migration) -> str:
    return "\n".join(f"{note.line}: {note.text}" for note in migration.notes)


@pytest.mark.parametrize(
    ("start", "call", "expected"),
    [
        (
            "import cv2",
            'cv2.dnn.readNetFromCaffe("p.prototxt", "w.caffemodel")',
            'cv2.dnn.readNetFromONNX("w_batch1.onnx")',
        ),
        ("import cv2 as cv", 'cv.dnn.readNet("w.caffemodel", "p.prototxt")', 'cv.dnn.readNet("w_batch1.onnx")'),
        (
            "import cv2 as cv",
            'cv.dnn.readNet("p.prototxt", "w.caffemodel", "caffe")',
            'cv.dnn.readNet("w_batch1.onnx")',
        ),
        (
            "from cv2 import dnn as d",
            "d.readNetFromCaffe(caffeModel='w.caffemodel', prototxt='p.prototxt')",
            "d.readNetFromONNX('w_batch1.onnx')",
        ),
        (
            "import cv2.dnn as d",
            'd.readNetFromCaffe("p.prototxt", ("w.caffemodel"))',
            'd.readNetFromONNX(("w_batch1.onnx"))',
        ),
        (
            "import cv2\nd = cv2.dnn",
            'd.readNetFromCaffe("p.prototxt", "w.caffemodel")',
            'd.readNetFromONNX("w_batch1.onnx")',
        ),
        (
            "from cv2.dnn import readNetFromCaffe",
            'readNetFromCaffe("p.prototxt", "w.caffemodel")',
            'readNetFromONNX("w_batch1.onnx")',
        ),
    ],
)
def test_reading_becomes_reading_of_onnx(tmp_path: Path, start: str, call: str, expected: str) -> None:
    migration = planned(tmp_path, f"{start}\nnet = {call}  # kept\n")
    assert after(migration)[-1] == f"net = {expected}  # kept"
    (model,) = migration.conversions
    assert (model.definition, model.weights) == ("p.prototxt", "w.caffemodel")
    assert model.command() == "caffe-port convert p.prototxt w.caffemodel --to onnx --batch 1 --name w -o ."


def test_an_import_under_another_name_changes_where_it_is_imported(tmp_path: Path) -> None:
    source = 'from cv2.dnn import blobFromImage, readNetFromCaffe as rd\nnet = rd("p.prototxt", "w.caffemodel")\n'
    lines = after(planned(tmp_path, source))
    assert lines == ["from cv2.dnn import blobFromImage, readNetFromONNX as rd", 'net = rd("w_batch1.onnx")']


def test_a_default_of_argparse_changes_where_it_is_given(tmp_path: Path) -> None:
    source = """
        import argparse, cv2
        ap = argparse.ArgumentParser()
        ap.add_argument("--proto", required=True)
        ap.add_argument("--model", default="models/é.caffemodel")  # é
        args = vars(ap.parse_args())
        net = cv2.dnn.readNetFromCaffe(args["proto"], args["model"])
        """
    migration = planned(tmp_path, source)
    assert after(migration) == [
        'ap.add_argument("--model", default="models/é_batch1.onnx")  # é',
        'net = cv2.dnn.readNetFromONNX(args["model"])',
    ]
    notes = texts(migration)
    assert "4: --proto named the prototxt and is not used any more and still required" in notes
    assert "5: --model now takes the .onnx file" in notes
    assert migration.conversions[0].definition == "DEFINITION.prototxt"


CALL = 'import cv2\nnet = cv2.dnn.readNetFromCaffe("net.prototxt", "net.caffemodel")\n'


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            "1.0, (300, 200), (104, 117, 123)",
            Preprocessing(resize=(200, 300), interpolation="opencv", mean=(104.0, 117.0, 123.0)),
        ),
        (
            "size=(227, 227), scalefactor=1 / 255, swapRB=True",
            Preprocessing(resize=(227, 227), interpolation="opencv", channel_order="RGB", scale=1 / 255),
        ),
        ("mean=127.5", Preprocessing(interpolation="opencv", mean=(127.5, 0.0, 0.0))),
        ("size=(8, 8), mean=(1, 2)", Preprocessing(resize=(8, 8), interpolation="opencv", mean=(1.0, 2.0, 0.0))),
    ],
)
def test_preprocessing_is_the_one_of_the_call(tmp_path: Path, arguments: str, expected: Preprocessing) -> None:
    migration = planned(tmp_path, f"{CALL}blob = cv2.dnn.blobFromImage(image, {arguments})\nnet.setInput(blob)\n")
    assert migration.conversions[0].manifest() == expected


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            "net.setInput(cv2.dnn.blobFromImage(image, size=(8, 8), crop=True))",
            "crop=True keeps the picture's proportions",
        ),
        ("net.setInput(cv2.dnn.blobFromImage(image, scale))", "scalefactor: scale is known only when the script runs"),
        ("net.setInput(cv2.dnn.blobFromImage(cv2.resize(image, (9, 9)), size=(8, 8)))", "cv2.resize at line 3"),
        ("net.setInput(cv2.dnn.blobFromImage(image / 255))", "image / 255 is computed before"),
        ("x = (image - 50).astype('f')\nnet.setInput(cv2.dnn.blobFromImage(x[0]))", "is computed before"),
        ("image -= 50\nnet.setInput(cv2.dnn.blobFromImage(image))", "image -= 50 is computed before"),
        ("net.setInput(made)", "made is not certainly a blobFromImage's result"),
        ("net.setInput(cv2.dnn.blobFromImage(image), 'data', 2.0)", "setInput scales or subtracts too"),
    ],
)
def test_what_a_manifest_cannot_say_is_told(tmp_path: Path, lines: str, reason: str) -> None:
    migration = planned(tmp_path, CALL + lines)
    assert migration.conversions[0].manifest() is None
    assert reason in texts(migration)


def test_a_resize_to_the_same_size_is_the_resize(tmp_path: Path) -> None:
    lines = "blob = cv2.dnn.blobFromImage(cv2.resize(image, (8, 9)), 1.0, (8, 9))\nnet.setInput(blob)"
    steps = planned(tmp_path, CALL + lines).conversions[0].manifest()
    assert steps == Preprocessing(resize=(9, 8), interpolation="opencv")


ONE_CHANNEL = small.CONV_NET.replace("dim: 2 dim: 3", "dim: 1 dim: 1")


def test_one_channel_is_grey_only_if_that_is_certain(tmp_path: Path) -> None:
    lines = "blob = cv2.dnn.blobFromImage(x, 1.0, (7, 8), (104,))\nnet.setInput(blob)"
    grey = planned(tmp_path, f"{CALL}x = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)\n{lines}", ONE_CHANNEL)
    expected = Preprocessing(resize=(8, 7), interpolation="opencv", channel_order="grey", mean=(104.0,))
    assert grey.conversions[0].manifest() == expected
    lab = planned(tmp_path, f"{CALL}x = cv2.cvtColor(image, cv2.COLOR_BGR2LAB)[:, :, 0]\n{lines}", ONE_CHANNEL)
    assert lab.conversions[0].manifest() is None
    assert "the net takes one channel" in texts(lab)


def test_two_ways_to_preprocess_make_no_manifest(tmp_path: Path) -> None:
    lines = "".join(f"net.setInput(cv2.dnn.blobFromImage(image, {scale}))\n" for scale in (1.0, 2.0))
    model = planned(tmp_path, CALL + lines).conversions[0]
    assert len(model.preprocessing) == 2
    assert model.manifest() is None


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("out = net.forward()", "out = net.forward('a_boxes')"),
        ("out = net.forward('score')", "out = net.forward('z_score')"),
        ("outs = net.forward(net.getUnconnectedOutLayersNames())", "outs = net.forward(['z_score', 'a_boxes'])"),
        (
            "names = net.getLayerNames()\nnames = [names[i[0] - 1] for i in net.getUnconnectedOutLayers()]",
            "names = ['z_score', 'a_boxes']",
        ),
        ("outs = net.forward(['boxes'])", "outs = net.forward(['a_boxes', 'z_score'])[:1]"),
        ("out = net.forward(('boxes', 'score'))", "out = net.forward(['a_boxes', 'z_score'])"),
    ],
)
def test_outputs_are_named(tmp_path: Path, before: str, expected: str) -> None:
    migration = planned(tmp_path, f"{CALL}{before}\n", TWO_HEADS)
    assert after(migration)[-1] == expected
    assert migration.conversions[0].extra_outputs == []


def test_what_is_inside_the_net_becomes_an_output(tmp_path: Path) -> None:
    migration = planned(tmp_path, f"{CALL}a = net.forward('conv1')\nb = net.forward('relu1')\n", TWO_HEADS)
    (model,) = migration.conversions
    assert model.extra_outputs == ["conv1@conv1", "conv1"]
    assert after(migration)[1:] == ["a = net.forward('conv1@conv1')", "b = net.forward('conv1')"]
    assert "extra_outputs=['conv1@conv1', 'conv1']" in model.code()


def test_the_python_for_blobs_inside_makes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    monkeypatch.chdir(tmp_path)
    migration = planned(tmp_path, f"{CALL}a = net.forward('conv1')\nb = net.forward()\n", TWO_HEADS)
    small.write_model(tmp_path, TWO_HEADS, "net")
    exec(f"import caffe_port as cp, onnx\n{migration.conversions[0].code()}", {})
    assert [one.name for one in onnx.load("net_batch1.onnx").graph.output] == ["a_boxes", "z_score", "conv1@conv1"]
    assert after(migration)[1:] == ["a = net.forward('conv1@conv1')", "b = net.forward('a_boxes')"]


def test_a_net_of_one_output_needs_no_name(tmp_path: Path) -> None:
    source = f"{CALL}out = net.forward()\nouts = net.forward(net.getUnconnectedOutLayersNames())\n"
    migration = planned(tmp_path, source, small.CONV_NET)
    assert after(migration) == ['net = cv2.dnn.readNetFromONNX("net_batch1.onnx")']
    assert migration.notes == []


def test_without_the_prototxt_outputs_are_left_and_told(tmp_path: Path) -> None:
    migration = planned(tmp_path, f"{CALL}a = net.forward()\nb = net.forward('score')\n")
    assert len(after(migration)) == 1
    notes = texts(migration)
    assert "2: net.prototxt was not found" in notes
    assert "3: forward() gives the last layer in OpenCV 4" in notes
    assert "4: net.forward('score'): a name must be that of an output" in notes


def test_the_names_of_all_outputs_keep_their_order(tmp_path: Path) -> None:
    """OpenCV 4 has them by layer, OpenCV 5 as the file has them."""
    source = f"{CALL}names = net.getUnconnectedOutLayersNames()\nids = net.getUnconnectedOutLayers()\n"
    migration = planned(tmp_path, source, TWO_HEADS)
    assert after(migration)[1] == "names = ['z_score', 'a_boxes']"
    (tmp_path / "net.prototxt").unlink()
    assert "3: getUnconnectedOutLayersNames(): " in texts(planned(tmp_path, source))


def test_a_layer_that_the_net_lacks_is_told(tmp_path: Path) -> None:
    migration = planned(tmp_path, f"{CALL}out = net.forward('scores')\n", TWO_HEADS)
    assert "3: the net has no layer 'scores'" in texts(migration)
    assert len(after(migration)) == 1


def test_a_blob_of_another_size_makes_the_file_of_that_size(tmp_path: Path) -> None:
    source = f"{CALL}net.setInput(cv2.dnn.blobFromImage(image, 1.0, (16, 12)))\n"
    migration = planned(tmp_path, source, TWO_HEADS)
    assert "--input-shape data=1,3,12,16" in migration.conversions[0].command()
    assert "3: OpenCV resizes the net to the blob's 12x16; the prototxt has 8x8" in texts(migration)


def test_blobs_of_several_pictures_leave_the_batch_open(tmp_path: Path) -> None:
    migration = planned(tmp_path, f"{CALL}net.setInput(cv2.dnn.blobFromImages(images))\n")
    assert "--batch" not in migration.conversions[0].command()


def test_the_scale_of_set_input_moves_to_the_blob(tmp_path: Path) -> None:
    source = (
        f"{CALL}b = cv2.dnn.blobFromImage(image, size=(8, 8), swapRB=True)\nnet.setInput(b, 'data', 0.5, (1, 2, 3))\n"
    )
    assert after(planned(tmp_path, source))[1:] == [
        "b = cv2.dnn.blobFromImage(image, 0.5, (8, 8), (1, 2, 3), swapRB=True)",
        "net.setInput(b, 'data')",
    ]


def test_detections_are_recognized_and_their_order_told(tmp_path: Path) -> None:
    source = f"""{CALL}found = net.forward()
for i in range(found.shape[2]):
    print(found[0, 0, i, 2], found[0, 0, i, 3:7])
"""
    migration = planned(tmp_path, source)
    assert migration.conversions[0].detections
    assert "5: rows of detections (1, 1, N, 7) stay" in texts(migration)


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ("net.setPreferableBackend(cv2.dnn.DNN_BACKEND_CUDA)", "computes on the CPU and only warns"),
        ("net.setPreferableBackend(cv2.dnn.DNN_BACKEND_HALIDE)", "no Halide"),
        ("net.getLayer(net.getLayerId('a')).blobs = [x]", "weights that the script sets belong into the caffemodel"),
        ("net.setInput(cv2.dnn.blobFromImage(image, mean=127.5))", "from the first channel only"),
        ("net.setInput(cv2.dnn.blobFromImage(image, ddepth=cv2.CV_8U))", "refuses bytes"),
        ("m = cv2.dnn_DetectionModel('a.caffemodel', 'a.prototxt')", "is not migrated"),
        ("other = cv2.dnn.readNet(a, b)", "that is not certain"),
    ],
)
def test_what_cannot_be_settled_is_a_note_with_its_line(tmp_path: Path, line: str, note: str) -> None:
    notes = [one for one in planned(tmp_path, f"{CALL}{line}\n").notes if note in one.text]
    assert [one.line for one in notes] == [3]


def test_the_usual_backend_is_no_news(tmp_path: Path) -> None:
    lines = "net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)\nnet.setPreferableTarget(cv2.dnn.DNN_TARGET_CPU)\n"
    assert all(note.line < 3 for note in planned(tmp_path, CALL + lines).notes)


def test_calls_go_to_their_nets(tmp_path: Path) -> None:
    source = """
        import cv2
        class Two:
            def __init__(self):
                self.face = cv2.dnn.readNetFromCaffe("f.prototxt", "f.caffemodel")
                self.age = load()
            def run(self, image, net):
                self.face.setInput(cv2.dnn.blobFromImage(image, 1.0, (300, 300)))
                blob = cv2.dnn.blobFromImage(image, 1.0, (227, 227))
                self.age.setInput(blob)
                net.forward()
        def load():
            return cv2.dnn.readNetFromCaffe("a.prototxt", "a.caffemodel")
        """
    migration = planned(tmp_path, source)
    face, age = migration.conversions
    assert (face.weights, age.weights) == ("f.caffemodel", "a.caffemodel")
    steps = [model.manifest() for model in (face, age)]
    assert [one.resize for one in steps if one is not None] == [(300, 300), (227, 227)]
    assert "11: net.forward: which of the nets this is, is not certain" in texts(migration)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.py", b"import cv2\n", "no call reads a Caffe model"),
        ("a.py", b"import cv2\nn = cv2.dnn.readNet(a)\n", "cv2.dnn.readNet(a) reads Caffe models only if"),
        ("a.py", b"import cv2\nn = cv2.dnn.readNetFromONNX('a.onnx')\n", "no call reads a Caffe model"),
        ("a.py", b"print 'x'\n", "a.py:1:1: no Python 3: Missing parentheses in call to 'print'"),
        ("a.py", b"x = (\n", "a.py:1:5: no Python 3: '(' was never closed"),
        ("a.py", b"x = 1\0\n", "no Python"),
        ("a.py", b"x = '\xff'\n", "no Python source that can be decoded"),
        ("a.py", b"x = " + b"-" * 5000 + b"1\n", "no Python"),
        ("a.cpp", b"int main() {}\n", "only Python scripts are read"),
        ("a.ipynb", b"{}", "a notebook"),
    ],
)
def test_what_is_no_such_script_is_one_clear_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_script(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_script_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_script(tmp_path / "none.py")


def test_line_ends_and_encoding_stay(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    lines = ["# coding: latin-1", "import cv2", "name = 'é\f'; n = cv2.dnn.readNetFromCaffe('p', 'é.caffemodel')", ""]
    script.write_bytes("\r\n".join(lines).encode("latin-1"))
    assert run("--from-opencv", script, "--write") == 0
    written = (tmp_path / "script_onnx.py").read_bytes()
    assert written == script.read_bytes().replace(
        b"readNetFromCaffe('p', '\xe9.caffemodel')", b"readNetFromONNX('\xe9_batch1.onnx')"
    )


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    migrate.add_arguments(parser)
    return migrate.run(parser.parse_args(list(map(str, arguments))))


def test_json_has_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"{CALL}blob = cv2.dnn.blobFromImage(image, 1.0, (8, 8))\nnet.setInput(blob)\nnet.forward()\n")
    assert run("--from-opencv", script, "--json", "-o", tmp_path / "made") == 0
    found = json.loads(capsys.readouterr().out)
    (model,) = found["models"]
    assert model["manifest"]["resize"] == [8, 8]
    assert f"--manifest {tmp_path}/made/net.preprocessing.json" in model["command"]
    assert read(tmp_path / "made" / "net.preprocessing.json") == Preprocessing(resize=(8, 8), interpolation="opencv")
    assert [note["line"] for note in found["notes"]] == [2, 5]
    assert found["changes"][0]["line"] == 2


def test_the_command_makes_the_file_that_the_script_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from caffe_port import cli

    monkeypatch.chdir(tmp_path)
    small.write_model(tmp_path / "models", TWO_HEADS, "net")
    call = 'cv2.dnn.readNetFromCaffe("models/net.prototxt", "models/net.caffemodel")'
    Path("script.py").write_text(f"import cv2\nnet = {call}\nnet.setInput(cv2.dnn.blobFromImage(image, 1, (8, 8)))\n")
    assert run("--from-opencv", "script.py", "-o", "made") == 0
    migration = plan("script.py")
    _, *words = shlex.split(migration.conversions[0].command("made"))
    assert cli.main([*words, "--no-verify"]) == 0
    assert migration.conversions[0].onnx == "models/net_batch1.onnx"
    assert Path("models/net_batch1.onnx").is_file()
    assert after(migration) == ['net = cv2.dnn.readNetFromONNX("models/net_batch1.onnx")']


def test_the_script_is_replaced_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "script.py"
    script.write_text(CALL)
    assert run("--from-opencv", script) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]
    assert f"{script}:2: net.prototxt + net.caffemodel -> net_batch1.onnx" in capsys.readouterr().out
    assert run("--from-opencv", script, "--write") == 0
    for target in ((), (script,)):
        with pytest.raises(DataError, match="is there already"):
            run("--from-opencv", script, "--write", *target)
    assert script.read_text() == CALL
    assert run("--from-opencv", script, "--write", script, "--overwrite") == 0
    assert "readNetFromONNX" in script.read_text()


def test_a_prototxt_that_is_given_is_taken(tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "net.prototxt"
    other.parent.mkdir()
    other.write_text(TWO_HEADS)
    migration = planned(tmp_path, f"{CALL}net.forward()\n", prototxts=[other])
    assert migration.conversions[0].outputs == ("a_boxes", "z_score")
    with pytest.raises(DataError, match="no model of"):
        planned(
            tmp_path,
            f"{CALL}m = cv2.dnn.readNetFromCaffe('x.prototxt', 'x.caffemodel')\n",
            prototxts=[Path("q.prototxt")],
        )


def test_a_prototxt_that_cannot_be_read_is_a_note(tmp_path: Path) -> None:
    migration = planned(tmp_path, CALL, "layer {")
    assert "net.prototxt cannot be read" in texts(migration)


def test_edits_that_would_break_the_script_are_refused() -> None:
    tree = ast.parse("f(1)")
    edits = Edits("f(1)")
    (call,) = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    edits.set_arguments(call, "(", "a test")
    with pytest.raises(ArtifactError):
        edits.result()
    assert issubclass(ArtifactError, CaffePortError)
