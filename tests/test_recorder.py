"""The recorder: what record.py writes with a pycaffe is a whole recording that verifies, and what is wrong is told."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fill
import numpy as np
import pytest
import small
from PIL import Image

import caffe_port as cp
from caffe_port import recording, registry
from caffe_port.backends import BACKENDS, NumpyBackend, TorchBackend
from caffe_port.errors import MissingDependency, ParityError, PrototxtError
from caffe_port.limits import Limits
from caffe_port.proto import text, wire
from caffe_port.proto.blobs import BlobData
from caffe_port.recorder import check, record, script
from caffe_port.recording import Recording
from caffe_port.self_comparison import verify_self

FAKE = Path(__file__).parent / "fake_pycaffe"
NETS = Path(recording.__file__).parents[1] / "reference_outputs" / "nets"
MODELS = Path(__file__).parents[2] / "shared" / "conformance" / "models"

Recorder = Callable[..., Path]

TWO_INPUTS = """
name: "two"
input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 7 }
input: "scale" input_shape { dim: 1 }
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "flat" type: "Flatten" bottom: "pool" top: "flat" }
layer { name: "relu" type: "ReLU" bottom: "flat" top: "flat" }
layer { name: "again" type: "Power" bottom: "pool" top: "again" power_param { shift: 1 } }
layer { name: "times" type: "Scale" bottom: "again" bottom: "scale" top: "times" scale_param { axis: 0 } }
layer { name: "quiet" type: "Silence" bottom: "flat" }
"""
"""`flat` shares memory with `pool`'s Split, and is overwritten in place before `again` reads it."""

GRAY = small.one_input(1, 1, 6, 5, name="data") + 'layer { name: "p" type: "Power" bottom: "data" top: "p" }'

TRAINED = """
name: "trained"
layer { name: "read" type: "Data" top: "data" top: "label" data_param { source: "absent" batch_size: 4 }
        transform_param { crop_size: 2 mean_value: 1 mean_value: 2 mean_value: 3 } }
layer { name: "dummy" type: "DummyData" top: "one"
        dummy_data_param { shape { dim: 4 dim: 5 } data_filler { value: 1 } } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 5 } }
layer { name: "sum" type: "Eltwise" bottom: "fc" bottom: "one" top: "sum" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "sum" bottom: "label" top: "loss" }
"""


@pytest.fixture
def pycaffe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets `import caffe` find the stand-in, anew for each test."""
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.setenv("GLOG_minloglevel", "1")
    yield
    for name in [name for name in sys.modules if name == "caffe" or name.startswith("caffe.")]:
        del sys.modules[name]


@pytest.fixture
def made(pycaffe: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Recorder:
    """Records a prototxt, or the files given, with the options given."""

    def make(prototxt: str, *options: str, weights: bool = True) -> Path:
        files = small.write_model(tmp_path / "model", prototxt)
        arguments = [str(file) for file in (files if weights else files[:1])]
        output = tmp_path / "recording.npz"
        code = record.main([*arguments, "-o", str(output), *options])
        told = capsys.readouterr()
        assert code == 0, told.err
        assert str(output) in told.out
        return output

    return make


@pytest.fixture
def refused(pycaffe: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs what must be refused, in one line and without leaving a file; returns the line."""

    def refuse(*arguments: str, prototxt: str | None = None, weights: bool = True) -> str:
        folder = tmp_path / "refused"
        folder.mkdir()
        files: list[Path] = []
        if prototxt is not None:
            files = list(small.write_model(tmp_path / "model", prototxt))[: 2 if weights else 1]
        code = record.main([*map(str, files), "-o", str(folder / "x.npz"), *arguments])
        told = capsys.readouterr()
        assert (code, told.out) == (2, "")
        assert list(folder.iterdir()) == []
        lines = [line for line in told.err.splitlines() if not line.startswith("note: ")]
        assert len(lines) == 1 and lines[0].startswith("record.py: ")
        return lines[0]

    return refuse


def arrays_of(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as opened:
        return dict(opened)


def meta_of(path: Path) -> dict[str, Any]:
    return dict(json.loads(arrays_of(path)["meta"].tobytes()))


def run_script(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(FAKE), "FAKE_PYCAFFE_ABORTS": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def agrees_everywhere(net: cp.Net, recorded: Recording) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    for backend in BACKENDS:
        report = cp.verify(net, recorded, backend)
        assert report.ok, report.explanation()
        assert len(report.comparisons) == len(recorded.layers)


# The script itself.


def test_it_is_printed_as_it_is_run() -> None:
    assert script() == Path(record.__file__).read_text(encoding="ascii")
    assert script().startswith('"""Records what Caffe computes')


def test_it_parses_as_python_2() -> None:
    ast27 = pytest.importorskip("typed_ast.ast27")
    ast27.parse(script())
    with pytest.raises(SyntaxError):
        ast27.parse(script() + "\nx: int = 1\n")


NOT_IN_PYTHON_2 = (
    ast.AnnAssign, ast.AsyncFor, ast.AsyncFunctionDef, ast.AsyncWith, ast.Await, ast.FormattedValue, ast.JoinedStr,
    ast.MatMult, ast.Match, ast.NamedExpr, ast.Nonlocal, ast.YieldFrom,
)  # fmt: skip


def beyond_python_2(source: str) -> set[str]:
    """What of a source Python 2.7 has no syntax for; the places where its grammar is narrower."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, NOT_IN_PYTHON_2):
            found.add(type(node).__name__)
        elif isinstance(node, ast.arguments) and (node.kwonlyargs or node.posonlyargs):
            found.add("keyword-only")
        elif (isinstance(node, ast.arg) and node.annotation) or (isinstance(node, ast.FunctionDef) and node.returns):
            found.add("annotation")
        elif isinstance(node, ast.Raise) and node.cause:
            found.add("raise from")
        elif isinstance(node, ast.ClassDef) and node.keywords:
            found.add("metaclass")
        elif isinstance(node, (ast.List, ast.Tuple, ast.Set, ast.Dict)):
            elements = node.keys if isinstance(node, ast.Dict) else node.elts
            if any(element is None or isinstance(element, ast.Starred) for element in elements):
                found.add("unpacking")
        elif isinstance(node, ast.Call):
            stars = [isinstance(argument, ast.Starred) for argument in node.args]
            if sum(stars) > 1 or (any(stars) and not stars[-1]) or sum(k.arg is None for k in node.keywords) > 1:
                found.add("unpacking")
            if (any(stars) or any(k.arg is None for k in node.keywords)) and re.search(
                r",\s*\)$", ast.get_source_segment(source, node) or ""
            ):
                found.add("comma after *arguments")
    return found


def test_it_keeps_to_python_2() -> None:
    source = script()
    source.encode("ascii")  # Python 2 wants a declaration for more.
    assert beyond_python_2(source) == set()
    tree = ast.parse(source)
    futures = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    assert {"print_function", "division", "absolute_import"} <= {alias.name for node in futures for alias in node.names}
    imported = {alias.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    imported |= {str(n.module).partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert imported - {"__future__", "caffe", "numpy"} <= {
        "argparse", "hashlib", "io", "json", "os", "platform", "re", "sys", "tempfile", "zipfile"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("f'{1}'", "JoinedStr"),
        ("x: int = 1", "AnnAssign"),
        ("def f(*, a): pass", "keyword-only"),
        ("def f(a: int): pass", "annotation"),
        ("def f() -> int: pass", "annotation"),
        ("def f():\n def g():\n  nonlocal x", "Nonlocal"),
        ("def f(): yield from x", "YieldFrom"),
        ("a @ b", "MatMult"),
        ("raise a from b", "raise from"),
        ("[*a]", "unpacking"),
        ("{**a}", "unpacking"),
        ("f(*a, b)", "unpacking"),
        ("f(\n *a,\n)", "comma after *arguments"),
        ("(a := 1)", "NamedExpr"),
    ],
)
def test_the_check_for_python_2_finds(code: str, what: str) -> None:
    assert what in beyond_python_2(code)


def test_it_agrees_with_the_package_on_the_format() -> None:
    types = {definition.type for definition in registry.layer_types() if definition.is_input}
    assert set(record.INPUT_TYPES + record.DATA_TYPES + record.UNFED_TYPES) == types
    assert Limits().unpacked_bytes == record.MAX_BYTES
    for size in (0, 1, 2, 255, 256, 257, 1023, 1025, 4097, 802816, 1 << 20):
        for limit in (1, 2, 256, 1024):
            want = recording.sample_indices(size, limit)
            assert np.array_equal(record.sample(np.arange(size), limit), want)
        assert record.sample(np.arange(size), None).size == size


# What it records.


def test_a_recording_made_by_the_script_alone(tmp_path: Path) -> None:
    """As a user runs it: the printed text in a file of its own, in another process."""
    prototxt, weights = small.write_model(tmp_path)
    (tmp_path / "record.py").write_text(script())
    done = run_script(tmp_path, "record.py", prototxt, weights, "-o", "r.npz", "--seed", "3", "--samples", "50")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "r.npz: 5 tops of 5 layers, at most 50 values of each",
        "inputs: data 2x3x8x7",
        "outputs: prob 2x5",
        "next, where caffe-port is: caffe-port record --check r.npz --net small.prototxt",
    ]
    recorded = recording.read(tmp_path / "r.npz")
    assert recorded.limit == 50 and recorded.inputs["data"].std() > 30
    net = cp.load(prototxt, weights)
    agrees_everywhere(net, recorded)
    told = check(tmp_path / "r.npz", net)
    assert told.ok and not told.notes and (told.layers, told.tops, told.full) == (5, 5, 2)
    assert told.made_by["caffe"] == "1.0.0-fake" and told.made_by["inputs"] == ["--seed 3"]
    assert [file["sha256"] for file in told.made_by["weights"]] == [
        s.sha256() for s in net.sources if s.role == "weights"
    ]


def test_each_top_is_as_it_was_right_after_its_layer(made: Recorder) -> None:
    """The ReLU works in place: the convolution's top is recorded before it, and so is what the ReLU made of it."""
    recorded = recording.read(made(small.CONV_NET, "--full"))
    before, after = recorded.layers[0], recorded.layers[1]
    assert [(e.layer, e.top, e.index) for e in (before, after)] == [("conv1", "conv1", 1), ("relu1", "conv1", 2)]
    assert before.value is not None and after.value is not None
    assert (before.value < 0).any() and np.array_equal(np.maximum(before.value, 0), after.value)


def test_the_statistics(made: Recorder) -> None:
    for entry in recording.read(made(small.CONV_NET, "--full")).layers:
        wide = entry.sample.astype(np.float64)
        want = [wide.min(), wide.max(), wide.mean(), np.linalg.norm(wide)]
        assert entry.stats is not None and np.allclose(entry.stats, want, rtol=1e-14, atol=0)


def test_the_same_options_give_the_same_bytes(made: Recorder) -> None:
    first = made(small.CONV_NET, "--seed", "1").read_bytes()
    assert made(small.CONV_NET, "--seed", "1").read_bytes() == first
    assert made(small.CONV_NET, "--seed", "2").read_bytes() != first


@pytest.mark.parametrize("age", ["", "2015"])
def test_what_real_caffe_recorded_of_the_same_net(
    pycaffe: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: str
) -> None:
    """Layers, indices, shapes, inputs and outputs are those that Caffe 1.0 had; old Caffes do not count the inputs.

    Of the three fully connected layers with their 300 MB only shapes are compared, of all before them the values.
    """
    monkeypatch.setenv("FAKE_PYCAFFE", age)
    real = NETS / "ms_ctc.npz"
    prototxt = NETS / "ms_ctc.prototxt"
    net = cp.load(prototxt)
    # A caffemodel without those layers: Caffe leaves them as they start.
    message, _ = text.parse(prototxt.read_text(), file=prototxt.name)
    kept = [layer for layer in message.layer if layer.type != "InnerProduct"]
    weights = [
        [small.blob(fill.fill(w.layer, layer.type, i, w.shape)) for i, w in enumerate(net.layer(layer.name).weights)]
        for layer in kept
    ]
    del message.layer[:]
    message.layer.extend(kept)
    caffemodel = tmp_path / "part.caffemodel"
    wire.write(caffemodel, message, weights)
    data = fill.input_data("data", net.input_shapes["data"])
    np.savez(tmp_path / "in.npz", data=data)
    path = tmp_path / "r.npz"
    options = ["-o", str(path), "--input", str(tmp_path / "in.npz"), "--samples", "256"]
    assert record.main([str(prototxt), str(caffemodel), *options]) == 0
    mine, theirs = recording.read(path), recording.read(real)
    shift = 1 if age else 0
    assert [(e.index + shift, e.layer, e.type, e.top, e.shape) for e in mine.layers] == [
        (e.index, e.layer, e.type, e.top, e.shape) for e in theirs.layers
    ]
    assert (mine.input_names, mine.output_names, mine.limit) == (theirs.input_names, theirs.output_names, 256)
    assert mine.inputs["data"].tobytes() == data.tobytes()
    assert mine.finals["prob"].shape == theirs.finals["prob"].shape
    if not age:
        assert arrays_of(path).keys() == arrays_of(real).keys()
    convolutions = next(index for index, e in enumerate(theirs.layers) if e.type == "InnerProduct")
    assert convolutions > 30
    for got, want in zip(mine.layers[:convolutions], theirs.layers[:convolutions], strict=True):
        assert got.stats is not None and want.stats is not None
        scale = np.abs(want.stats[:2]).max()
        assert np.allclose(got.sample, want.sample, rtol=0, atol=1e-5 * scale), got.key
        assert np.allclose(got.stats, want.stats, rtol=1e-5, atol=1e-5 * scale), got.key
    for recorded in (path, real):
        assert check(recorded, net).ok and check(recorded, prototxt).ok


@pytest.mark.parametrize("name", ["lenet", "mtcnn_det1", "mtcnn_det2"])
def test_small_models_against_recordings_of_caffe(pycaffe: None, tmp_path: Path, name: str) -> None:
    folder = MODELS / name
    if not folder.exists():
        pytest.skip(f"{name} belongs to another project and is not here")
    want = recording.read(folder / "recording.npz")
    np.savez(tmp_path / "in.npz", **{blob: fill.input_data(blob, shape) for blob, shape in want.input_shapes.items()})
    files = [str(folder / "net.prototxt"), str(folder / "weights.caffemodel")]
    output = tmp_path / "r.npz"
    assert record.main([*files, "-o", str(output), "--input", str(tmp_path / "in.npz"), "--samples", "512"]) == 0
    got, real = meta_of(output), meta_of(folder / "recording.npz")
    assert {key: got[key] for key in ("layers", "inputs", "outputs")} == real
    agrees_everywhere(cp.load(*files), recording.read(output))


@pytest.mark.parametrize("age", ["", "2015"])
def test_shared_memory_and_several_inputs(
    made: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: str
) -> None:
    monkeypatch.setenv("FAKE_PYCAFFE", age)
    path = made(TWO_INPUTS, "--full", weights=False)
    assert check(path, tmp_path / "model" / "small.prototxt").ok
    recorded = recording.read(path)
    assert not recorded.inputs["scale"].any()  # one axis: zeros, as labels need
    np.savez(tmp_path / "in.npz", data=-recorded.inputs["data"], scale=np.array([2.5]))
    recorded = recording.read(made(TWO_INPUTS, "--full", "--input", str(tmp_path / "in.npz"), weights=False))
    values = {entry.layer: entry.value for entry in recorded.layers}
    assert values["pool"].min() < 0 and values["again"].min() >= 1  # type: ignore[union-attr]
    assert [entry.layer for entry in recorded.layers] == ["pool", "flat", "relu", "again", "times"]
    agrees_everywhere(cp.load(tmp_path / "model" / "small.prototxt"), recorded)


def test_other_shapes_than_the_prototxt_has(made: Recorder, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", data=np.ones((3, 3, 8, 7), np.float64))
    recorded = recording.read(made(small.CONV_NET, "--input", str(tmp_path / "in.npz")))
    assert recorded.input_shapes == {"data": (3, 3, 8, 7)} and recorded.finals["prob"].shape == (3, 5)
    assert check(tmp_path / "recording.npz", small.built(small.CONV_NET)).ok
    recorded = recording.read(made(small.CONV_NET, "--input-shape", "data=1,3,8,7"))
    assert recorded.finals["prob"].shape == (1, 5)


def test_what_data_layers_read_becomes_the_inputs(made: Recorder, tmp_path: Path) -> None:
    path = made(TRAINED)
    recorded = recording.read(path)
    assert recorded.input_names == ("data", "label") and recorded.output_names == ("loss",)
    assert recorded.inputs["label"].tolist() == [0, 1, 2, 3]
    assert [entry.layer for entry in recorded.layers] == ["dummy", "fc", "sum", "loss"]
    assert meta_of(path)["recorder"]["inputs"] == ["read by data layers"]
    assert check(path, tmp_path / "model" / "small.prototxt").ok
    net = cp.load(tmp_path / "model" / "small.prototxt", tmp_path / "model" / "small.caffemodel")
    agrees_everywhere(net, recorded)


def test_a_top_that_nobody_named(
    made: Recorder, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = made(TRAINED.replace(' top: "loss"', ""))
    assert recording.read(path).layers[-1].top == "(automatic)"
    assert check(path, tmp_path / "model" / "small.prototxt").ok
    for name in [name for name in sys.modules if name == "caffe" or name.startswith("caffe.")]:
        del sys.modules[name]
    monkeypatch.setenv("FAKE_PYCAFFE", "2015")
    assert "give every layer of the prototxt a top" in refused(prototxt=TRAINED.replace(' top: "loss"', ""))


def test_phase_level_and_stages(made: Recorder, tmp_path: Path) -> None:
    rule = small.CONV_NET + (
        'layer { name: "top" type: "Power" bottom: "prob" top: "top" include { phase: TRAIN min_level: 2 stage: "s" } }'
    )
    options = ["--phase", "TRAIN", "--level", "2", "--stage", "s"]
    assert recording.read(made(rule)).output_names == ("prob",)
    path = made(rule, *options)
    assert recording.read(path).output_names == ("top",)
    prototxt = tmp_path / "model" / "small.prototxt"
    assert check(path, prototxt).ok
    told = check(path, cp.load(prototxt))
    assert "recorded in phase TRAIN, the net is of phase TEST" in told.problems
    assert "output top is none of the net's" in told.problems


def test_nan_is_recorded_and_told(pycaffe: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = small.one_input(1, 6, name="x") + 'layer { name: "l" type: "Log" bottom: "x" top: "l" }'
    prototxt, _ = small.write_model(tmp_path, root)
    path = tmp_path / "r.npz"
    assert record.main([str(prototxt), "-o", str(path)]) == 0
    assert "note: 1:l:l has NaN" in capsys.readouterr().err
    told = check(path)
    assert told.ok and told.notes == ("NaN in 1:l:l: nothing agrees with that",)
    assert not cp.verify(cp.load(prototxt), recording.read(path)).ok


# Pictures.


def picture(path: Path, height: int, width: int, mode: str = "RGB") -> np.ndarray:
    pixels = np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image.save(path)
    return np.asarray(image)


def prepared(pixels: np.ndarray) -> np.ndarray:
    """BGR, (1, 3, H, W), 0 to 255 as caffe.io makes it in float32."""
    return ((pixels / 255.0).astype(np.float32).transpose(2, 0, 1)[::-1] * np.float32(255))[None]


CONV_NET_1 = small.CONV_NET.replace("dim: 2 dim: 3", "dim: 1 dim: 3")


def test_pictures_go_through_the_transformer(made: Recorder, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    want = prepared(picture(file, 8, 7))
    got = recording.read(made(CONV_NET_1, "--images", str(file))).inputs["data"]
    assert got.tobytes() == want.tobytes()
    mean = np.array([104, 117, 123], np.float64)[None, :, None, None]
    path = made(CONV_NET_1, "--images", str(file), str(file), "--mean", "104,117,123", "--input-scale", "0.5")
    got = recording.read(path).inputs["data"]
    assert got.shape == (2, 3, 8, 7) and np.array_equal(got[0], got[1])
    assert np.allclose(got[:1], (want - mean) * 0.5, atol=1e-5)
    assert check(path).made_by["inputs"] == ["--images"]
    options = ["--raw-scale", "1", "--channel-swap", "0,1,2"]
    got = recording.read(made(CONV_NET_1, "--images", str(file), *options)).inputs["data"]
    assert np.allclose(got, want[:, ::-1] / 255, atol=1e-6)


def test_resized_pictures_are_cut_to_their_centre(made: Recorder, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    pixels = picture(file, 13, 11)
    got = recording.read(made(CONV_NET_1, "--images", str(file), "--resize", "13,11")).inputs["data"]
    assert got.tobytes() == prepared(pixels[2:10, 2:9]).tobytes()


def test_gray_pictures(made: Recorder, tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png", 6, 5, "L")
    path = made(GRAY, "--images", str(tmp_path / "a.png"), weights=False)
    assert np.allclose(recording.read(path).inputs["data"][0, 0], pixels, atol=1e-4)


def test_means_in_files(made: Recorder, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    want = prepared(picture(file, 8, 7))
    mean = np.random.default_rng(1).random((3, 8, 7)).astype(np.float32) * 200
    np.save(tmp_path / "mean.npy", mean)
    wire.write_blob(tmp_path / "mean.binaryproto", BlobData((1, 3, 8, 7), True, mean.reshape(-1)))
    for name in ("mean.npy", "mean.binaryproto"):
        path = made(CONV_NET_1, "--images", str(file), "--mean", str(tmp_path / name))
        assert np.allclose(recording.read(path).inputs["data"], want - mean, atol=1e-4)


# What is refused.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--input", "{tmp}/absent.npz"], "absent.npz: no such file"),
        (["--input", "{tmp}"], "a folder"),
        (["--images", "{tmp}/absent.png"], "absent.png: no such file"),
        (["--input", "{tmp}/text"], "no npz file that can be read"),
        (["--images", "{tmp}/text"], "cannot be read as a picture"),
        (["--input", "{tmp}/other.npz"], "other.npz: y: the net's inputs are data"),
        (["--input", "{tmp}/empty.npz"], "no value for input data"),
        (["--input", "{tmp}/words.npz"], "data is no array of numbers"),
        (["--input", "{tmp}/nan.npz"], "not finite"),
        (["--input-shape", "y=1,2"], "the net's inputs are data"),
        (["--input-shape", "data=1,b"], "numbers separated by commas"),
        (["--samples", "0"], "at least 1"),
        (["--images", "{tmp}/a.png", "--mean", "1,2"], "is 2, the input 3x8x7"),
        (["--images", "{tmp}/a.png", "--mean", "grey"], "neither numbers nor"),
        (["--images", "{tmp}/a.png", "--mean", "{tmp}/absent.npy"], "no such file"),
        (["--images", "{tmp}/a.png", "--mean", "{tmp}/mean.npy"], "give --mean=1,2,3"),
        (["--images", "{tmp}/a.png", "--channel-swap", "2,1"], "each of the 3 channels"),
        (["--images", "{tmp}/a.png", "--resize", "4,4"], "at least the input's 8,7"),
        (["--images", "{tmp}/a.png", "--image-blob", "x"], "choose of data"),
    ],
)
def test_wrong_options(refused: Callable[..., str], tmp_path: Path, options: list[str], words: str) -> None:
    (tmp_path / "text").write_text("no array, no picture")
    np.savez(tmp_path / "other.npz", y=np.zeros(3))
    np.savez(tmp_path / "empty.npz")
    np.savez(tmp_path / "words.npz", data=np.array(["a"]))
    np.savez(tmp_path / "nan.npz", data=np.full((2, 3, 8, 7), np.nan))
    np.save(tmp_path / "mean.npy", np.broadcast_to(np.array([1.0, 2, 3])[:, None, None], (3, 9, 9)))
    picture(tmp_path / "a.png", 8, 7)
    given = [option.replace("{tmp}", str(tmp_path)) for option in options]
    assert words in refused(*given, prototxt=small.CONV_NET)


def test_files_that_are_not_there(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "absent.prototxt: no such file" in refused(str(tmp_path / "absent.prototxt"))


def test_learned_layers_without_weights(refused: Callable[..., str]) -> None:
    assert "give their caffemodel" in refused(prototxt=small.CONV_NET, weights=False)


def test_a_layer_that_a_program_feeds(refused: Callable[..., str]) -> None:
    net = (
        'layer { name: "m" type: "MemoryData" top: "d" top: "l" '
        "memory_data_param { batch_size: 1 channels: 1 height: 2 width: 2 } }"
    )
    assert "use a deploy prototxt" in refused(prototxt=net, weights=False)


def test_an_old_caffe_has_no_levels(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PYCAFFE", "2015")
    assert "too old for --level and --stage" in refused("--level", "1", prototxt=small.CONV_NET)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (None, "cannot import caffe"),
        ("", "it is not pycaffe"),
        ("class Net:\n def __init__(self, *a): pass\ndef set_mode_cpu(): pass\n", "its Net has no copy_from"),
    ],
)
def test_no_pycaffe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str | None, words: str
) -> None:
    prototxt, weights = small.write_model(tmp_path)
    if module is None:
        monkeypatch.setitem(sys.modules, "caffe", None)
    else:
        (tmp_path / "caffe.py").write_text(module)
        monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert record.main([str(prototxt), str(weights), "-o", str(tmp_path / "r.npz")]) == 2
    finally:
        sys.modules.pop("caffe")
    assert words in capsys.readouterr().err


def test_more_than_can_be_read_again(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MAX_BYTES", 1000)
    assert "fewer --samples" in refused(prototxt=small.CONV_NET)


def test_where_caffe_ends_the_process_the_old_file_stays(tmp_path: Path) -> None:
    prototxt, weights = small.write_model(tmp_path)
    (tmp_path / "r.npz").write_text("as it was")
    before = sorted(path.name for path in tmp_path.iterdir())
    done = run_script(tmp_path, record.__file__, prototxt, weights, "-o", "r.npz", "--input-shape", "data=1,3,2,2")
    assert done.returncode == 134 and "Check failed" in done.stderr
    assert (tmp_path / "r.npz").read_text() == "as it was"
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_fault_in_between_leaves_nothing(
    pycaffe: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prototxt, weights = small.write_model(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    arguments = [str(prototxt), str(weights), "-o", str(tmp_path / "r.npz")]

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "r.npz")

    monkeypatch.setattr(record.os, "chmod", full)
    assert record.main(arguments) == 2
    assert capsys.readouterr().err == "record.py: r.npz: No space left on device\n"

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(record, "run", broken)
    assert record.main(arguments) == 70
    assert capsys.readouterr().err == "record.py: ZeroDivisionError: oh (--debug shows where)\n"
    with pytest.raises(ZeroDivisionError):
        record.main([*arguments, "--debug"])
    assert sorted(path.name for path in tmp_path.iterdir()) == before


# Another model than the recorded one.


def test_another_model_does_not_verify(made: Recorder) -> None:
    recorded = recording.read(made(small.CONV_NET))
    net = small.filled(small.CONV_NET)
    assert cp.verify(net, recorded).ok
    weights = [np.array(weight.data) for weight in net.layer("fc").weights]
    weights[0][0, np.argmax(np.abs(weights[0][0]))] *= np.float32(1.01)
    report = cp.verify(net.with_weights({"fc": weights}, partial=True), recorded)
    assert not report.ok and report.first_divergence is not None and report.first_divergence.layer == "fc"
    without = small.filled(small.CONV_NET.replace('type: "ReLU"', 'type: "ReLU" relu_param { negative_slope: 0.1 }'))
    report = cp.verify(without, recorded)
    assert not report.ok and report.first_divergence is not None and report.first_divergence.layer == "relu1"


# check.


@pytest.fixture
def whole(made: Recorder) -> dict[str, Any]:
    return arrays_of(made(small.CONV_NET))


def with_meta(arrays: dict[str, Any], **changes: Any) -> dict[str, Any]:
    meta = {**json.loads(arrays["meta"].tobytes()), **changes}
    return {**arrays, "meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)}


def saved(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path, **arrays)
    return path


def test_check_tells_all_problems_of_a_file_together(whole: dict[str, Any], tmp_path: Path) -> None:
    del whole["sample:1:conv1:conv1"], whole["in:data"]
    whole["extra"] = np.zeros(1)
    told = check(saved(tmp_path / "r.npz", whole), small.built(small.CONV_NET))
    assert not told.ok and told.recording is None and told.tops == 0
    assert told.problems == (
        "layer 'conv1': sample of top 'conv1' missing",
        "input 'data' missing",
        "array 'extra' is not in the list of layers, inputs and outputs",
    )
    assert [line for line in told.lines() if not line.startswith("wrong: ")] == [
        f"{tmp_path / 'r.npz'}: no whole recording"
    ]
    assert told.as_json()["ok"] is False


def test_check_of_what_is_no_recording(tmp_path: Path) -> None:
    assert check(tmp_path / "absent.npz").problems == ("No such file or directory",)
    (tmp_path / "text").write_text("x")
    assert "not an npz file" in check(tmp_path / "text").problems[0]


def test_check_of_shapes_only(tmp_path: Path) -> None:
    told = check(NETS / "ms_ctc.npz")
    assert told.ok and not told.made_by
    assert told.notes == ("input data has only its shape in it: verify needs the values (--input)",)
    answer = told.as_json()
    assert answer["inputs"] == {
        "data": {"shape": list(recording.read(NETS / "ms_ctc.npz").input_shapes["data"]), "values": False}
    }
    assert answer["sample_limit"] == 256 and answer["tops"] == 42 and answer["recorder"] is None
    json.dumps(answer, allow_nan=False)
    assert list(told.lines())[-1] == "whole"


def test_check_against_the_net(whole: dict[str, Any], tmp_path: Path) -> None:
    path = saved(tmp_path / "r.npz", whole)
    net = small.built(small.CONV_NET)
    assert list(check(path, net).lines())[-1] == "whole, and of the net small"

    def problems(old: str, new: str) -> tuple[str, ...]:
        return check(path, small.built(small.CONV_NET.replace(old, new))).problems

    assert problems('name: "fc"', 'name: "fc8"') == (
        "1 tops of the net are not recorded: fc8 (InnerProduct):fc",
        "1 recorded tops are none of the net's: fc (InnerProduct):fc",
    )
    assert problems("num_output: 5", "num_output: 6") == (
        "layer 'fc': top 'fc' is recorded as 2x5, the net makes 2x6",
        "layer 'prob': top 'prob' is recorded as 2x5, the net makes 2x6",
    )
    assert problems('"prob"', '"p"')[:2] == ("output p of the net is not in it", "output prob is none of the net's")
    assert problems('"data"', '"x"')[0].startswith("the net does not take the recorded inputs: ")
    (tmp_path / "x.prototxt").write_text(small.CONV_NET.replace('"data"', '"x"'))
    assert "does not take the recorded inputs" in check(path, tmp_path / "x.prototxt").problems[0]
    (tmp_path / "x.prototxt").write_text("layer {")
    with pytest.raises(PrototxtError):
        check(path, tmp_path / "x.prototxt")


def test_check_of_layers_in_another_order(made: Recorder, tmp_path: Path) -> None:
    power = 'layer {{ name: "{0}" type: "Power" bottom: "x" top: "{0}" }}\n'
    path = made(small.one_input(1, 4) + power.format("a") + power.format("b"), weights=False)
    other = small.built(small.one_input(1, 4) + power.format("b") + power.format("a"))
    assert check(path, other).problems == ("the layers were recorded in another order than the net has them",)


def test_check_tells_other_weights(made: Recorder, tmp_path: Path) -> None:
    path = made(small.CONV_NET)
    prototxt = tmp_path / "model" / "small.prototxt"
    other = {
        name: [blob * 2 for blob in blobs] for name, blobs in small.weights_of(small.built(small.CONV_NET)).items()
    }
    small.write_caffemodel(tmp_path / "other.caffemodel", small.CONV_NET, other)
    told = check(path, cp.load(prototxt, tmp_path / "other.caffemodel"))
    assert told.ok and told.notes == ("recorded with other weight files (small.caffemodel) than other.caffemodel",)


@pytest.mark.parametrize("told", [None, 1, [], {}, {"phase": "TEST"}, {"phase": "TEST", "level": 0, "stages": [1]}])
def test_check_does_not_rely_on_who_made_it(whole: dict[str, Any], tmp_path: Path, told: Any) -> None:
    path = saved(tmp_path / "r.npz", with_meta(whole, recorder=told))
    (tmp_path / "net.prototxt").write_text(small.CONV_NET)
    answer = check(path, tmp_path / "net.prototxt")
    assert answer.ok and answer.made_by == {} and answer.as_json()["recorder"] is None
    assert len(list(answer.lines())) == 4


# verify without a recording.


def test_backends_are_compared_with_each_other() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    compared = verify_self(small.filled(small.CONV_NET))
    assert compared.ok
    compared.raise_if_failed()
    assert [report.backend for report in compared.reports] == ["torch (without oneDNN)", "onnxruntime"]
    assert len(compared.pairs) == 6 and all(pair.blobs == 5 for pair in compared.pairs)
    assert {pair.first for pair in compared.pairs} == {"numpy float64", "numpy float32", "torch (without oneDNN)"}
    assert all(0 < pair.multiple < 8 for pair in compared.pairs)
    assert "not that Caffe computes that" in list(compared.lines())[-1]
    assert len(list(compared.lines())) == 2 + 6 + 1
    json.dumps(compared.as_json(), allow_nan=False)


def test_a_backend_that_computes_something_else_is_found() -> None:
    torch = pytest.importorskip("torch")
    from caffe_port.converters.to_pytorch import to_pytorch

    net = small.filled(small.CONV_NET)
    module = to_pytorch(net)
    with torch.no_grad():
        dict(module.named_parameters())["fc.weight"][0, 0] += 0.5
    compared = verify_self(net, backends=[NumpyBackend("float64"), TorchBackend(module)])
    assert not compared.ok
    with pytest.raises(ParityError, match="first layer 'fc'"):
        compared.raise_if_failed()
    far = [pair for pair in compared.pairs if "torch" in pair.second]
    assert len(far) == 2 and all(pair.multiple > 100 and pair.layer in ("fc", "prob") for pair in far)


def test_numpy_alone_proves_nothing() -> None:
    with pytest.raises(MissingDependency, match="nothing to compare"):
        verify_self(small.filled(small.CONV_NET), backends=[NumpyBackend("float64"), NumpyBackend("float32")])


def test_self_comparison_takes_inputs() -> None:
    pytest.importorskip("torch")
    net = small.filled(small.CONV_NET)
    zero = verify_self(net, {"data": np.zeros((1, 3, 8, 7), np.float32)}, [TorchBackend()])
    assert zero.ok and zero.reports[0].comparisons[0].shape == (1, 4, 8, 7)


def test_a_net_that_computes_nothing_is_no_success() -> None:
    pytest.importorskip("torch")
    compared = verify_self(small.built(small.one_input(1, 2)), backends=[TorchBackend()])
    assert not compared.ok and "nothing was compared" in next(compared.lines())
