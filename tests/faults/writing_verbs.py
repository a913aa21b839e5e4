"""Every verb that writes, on inputs small enough to be run hundreds of times: what it is given, and what it writes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parent.parent
for helpers in (TESTS, TESTS / "models", TESTS / "training"):
    if str(helpers) not in sys.path:
        sys.path.append(str(helpers))

from small import CONV_NET, built, inputs_of, write_caffemodel, write_model  # noqa: E402

__all__ = ["BY_NAME", "VERBS", "Verb", "make_inputs"]

CLASSIFIER = """
name: "toy"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" inner_product_param { num_output: 2 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""

OLD_NET = """
name: "old"
input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
layers { name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1"
         convolution_param { num_output: 4 kernel_size: 3 } }
layers { name: "relu1" type: RELU bottom: "conv1" top: "conv1" }
"""

SCRIPT = 'import cv2\nnet = cv2.dnn.readNetFromCaffe("small.prototxt", "small.caffemodel")\n'

SOLVER = """
net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 2 snapshot: 1 random_seed: 3 solver_mode: CPU
test_iter: 1 test_interval: 2 snapshot_format: %s snapshot_prefix: "../place/snap"
"""

Arguments = Callable[[Path, Path], list[str]]


@dataclass(frozen=True)
class Verb:
    """A command line, by the folder of inputs and that of outputs (beside it, called `place`), and the files it writes.

    `needs`: modules. `keeps`: what an interrupted run leaves on purpose, so that it can be gone on with. `together`:
    files that come all or none. `heavy`: takes seconds.
    """

    name: str
    arguments: Arguments
    files: tuple[str, ...]
    needs: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    together: tuple[tuple[str, ...], ...] = ()
    heavy: bool = False

    @property
    def missing(self) -> str:
        """A module that is not installed, or ''."""
        return next((module for module in self.needs if importlib.util.find_spec(module) is None), "")


def _convert(
    name: str, target: str, files: str, *needs: str, heavy: bool = False, options: tuple[str, ...] = ()
) -> Verb:
    def arguments(inputs: Path, place: Path) -> list[str]:
        model = [str(inputs / "small.prototxt"), str(inputs / "small.caffemodel")]
        return ["convert", *model, "-o", str(place / "made"), "--to", target, *(options or ("--no-verify",))]

    names = (*files.split(), "small.certificate.json", "small.certificate.html")
    made = tuple(f"made/{file}" for file in names)
    return Verb(name, arguments, made, needs, together=(made,), heavy=heavy)


def _score(name: str, file: str, *options: str, needs: tuple[str, ...] = ()) -> Verb:
    def arguments(inputs: Path, place: Path) -> list[str]:
        model = ["--model", inputs / "toy.prototxt", "--weights", inputs / "toy.caffemodel"]
        words = ["score", inputs / "im", *model, "--manifest", inputs / "manifest.json", "--backend", "numpy"]
        # Only what was interrupted can be gone on with.
        resumed = ["--resume"] if (place / f"{file}.unfinished").exists() else []
        return [*map(str, words), "-o", str(place / file), "--workers", "1", "--quiet", *options, *resumed]

    return Verb(
        name, arguments, (file,), ("PIL", *needs), keeps=(f"{file}.unfinished",), heavy=bool(needs) or bool(options)
    )


def _train(name: str, solver: str, suffix: str, *needs: str) -> Verb:
    def arguments(inputs: Path, place: Path) -> list[str]:
        words = ["train", "--root", inputs, "--solver", inputs / solver, "--workers", "0", "--threads", "1", "--quiet"]
        return [*map(str, words), "--device", "cpu"]

    pairs = [tuple(f"snap_iter_{n}.{what}{suffix}" for what in ("caffemodel", "solverstate")) for n in (1, 2)]
    return Verb(name, arguments, (*pairs[0], *pairs[1]), ("torch", *needs), together=tuple(pairs), heavy=True)


def _finetune(inputs: Path, place: Path) -> list[str]:
    model = [inputs / "toy.prototxt", inputs / "toy.caffemodel", "--manifest", inputs / "manifest.json"]
    words = ["finetune", *model, "--data", inputs / "data", "-o", place / "tuned", "--workers", "0", "--threads", "1"]
    words += ["--batch", "8", "--iterations", "2", "--to", "caffemodel", "--no-verify", "--quiet", "--device", "cpu"]
    return [*map(str, words), *(["--resume"] if (place / "tuned" / "progress.json").exists() else [])]


def _simple(
    name: str,
    words: Callable[[Path, Path], list[object]],
    *files: str,
    needs: tuple[str, ...] = (),
    together: bool = False,
    heavy: bool = False,
) -> Verb:
    def arguments(inputs: Path, place: Path) -> list[str]:
        return [str(word) for word in words(inputs, place)]

    return Verb(name, arguments, files, needs, together=(files,) if together else (), heavy=heavy)


VERBS = (
    _convert("convert", "onnx", "small.onnx", "onnx"),
    _convert("convert verified", "onnx", "small.onnx", "onnx", "onnxruntime", heavy=True, options=("--name", "small")),
    _convert("convert to onnxruntime", "ort", "small.ort", "onnx", "onnxruntime", heavy=True),
    _convert("convert to OpenVINO", "openvino", "small.xml small.bin", "onnx", "openvino", heavy=True),
    _simple(
        "convert to int8",
        lambda inputs, place: [
            *("convert", inputs / "small.prototxt", inputs / "small.caffemodel", "-o", place / "made", "--to", "onnx"),
            *("--int8", "--calibrate", inputs / "in.npz", "--no-verify"),
        ],
        *(f"made/small_int8.{ending}" for ending in ("onnx", "certificate.json", "certificate.html")),
        needs=("onnx", "onnxruntime"),
        together=True,
        heavy=True,
    ),
    _convert("convert to PyTorch", "pytorch", "small.pt2 small.safetensors", "torch", "safetensors", heavy=True),
    _convert(
        "convert to PyTorch source",
        "pytorch-source",
        "small.py small.weights.safetensors",
        "torch",
        "safetensors",
        heavy=True,
    ),
    _convert("convert to caffemodel", "caffemodel", "small.caffemodel"),
    _convert("convert to HDF5", "caffemodel-h5", "small.caffemodel.h5", "h5py", heavy=True),
    _simple(
        "run",
        lambda inputs, place: [
            *("run", inputs / "small.prototxt", inputs / "small.caffemodel"),
            *("--input", inputs / "in.npz", "-o", place / "out.npz"),
        ],
        "out.npz",
    ),
    _simple(
        "verify",
        lambda inputs, place: [
            *("verify", inputs / "small.prototxt", inputs / "small.caffemodel"),
            *("--backend", "numpy", "--certificate", place / "c.json"),
        ],
        "c.json",
    ),
    _simple("upgrade", lambda i, place: ["upgrade", i / "old.prototxt", place / "new.prototxt"], "new.prototxt"),
    _simple(
        "build",
        lambda inputs, place: ["build", "squeezenet_v1.1", "--classes", "2", "-o", place / "built"],
        *(f"built/{file}" for file in ("deploy.prototxt", "train_val.prototxt", "solver.prototxt")),
        together=True,
    ),
    _simple(
        "compare",
        lambda inputs, place: [
            *("compare", inputs / "small.prototxt", "--accuracy", "small=0.7", "--figure", place / "figure.svg")
        ],
        "figure.svg",
        needs=("matplotlib",),
        heavy=True,
    ),
    _simple(
        "migrate",
        lambda inputs, place: [
            *("migrate", "--from-opencv", inputs / "script.py", "--write", place / "new.py", "--overwrite")
        ],
        "new.py",
    ),
    _simple(
        "calibrate",
        lambda inputs, place: ["calibrate", inputs / "scores.csv", "-o", place / "report", "--figures", "none"],
        *(f"report/{file}" for file in ("calibration.html", "calibration.json", "threshold.json")),
        needs=("sklearn", "scipy"),
        together=True,
        heavy=True,
    ),
    _score("score", "out.csv"),
    _score("score ranked", "out.jsonl", "--rank"),
    _score("score to Parquet", "out.parquet", needs=("pyarrow",)),
    _simple(
        "fetch",
        lambda inputs, place: ["fetch", "tiny"],
        "caffe_port/models/tiny/tiny.caffemodel",
        "caffe_port/models/tiny/deploy.prototxt",
    ),
    _train("train", "solver.prototxt", ""),
    _train("train with HDF5", "solver_h5.prototxt", ".h5", "h5py"),
    Verb(
        "finetune",
        _finetune,
        tuple(f"tuned/{file}" for file in ("toy_finetuned.caffemodel", "report.json", "report.md")),
        ("torch", "sklearn", "matplotlib", "PIL"),
        keeps=("tuned/train.log",),
        heavy=True,
    ),
)

BY_NAME = {verb.name: verb for verb in VERBS}


def make_inputs(folder: Path) -> Path:
    """What the verbs read."""
    from caffe_port.preprocessing import Manifest, Preprocessing

    folder.mkdir()
    write_model(folder)
    np.savez(folder / "in.npz", **inputs_of(built(CONV_NET)))
    (folder / "old.prototxt").write_text(OLD_NET)
    (folder / "script.py").write_text(SCRIPT)
    rng = np.random.default_rng(0)
    blobs = {
        "conv": [rng.normal(size=(6, 3, 3, 3)) * 0.3, np.zeros(6)],
        "fc": [rng.normal(size=(2, 216)) * 0.05, np.zeros(2)],
    }
    (folder / "toy.prototxt").write_text(CLASSIFIER)
    write_caffemodel(folder / "toy.caffemodel", CLASSIFIER, blobs)
    steps = Preprocessing(resize=(10, 10), crop=(8, 8), mean=(128.0,), scale=0.01, interpolation="opencv")
    Manifest(steps, None, ("down", "up"), 1).write(folder / "manifest.json")
    labels = rng.integers(0, 2, 60)
    rows = [f"{label},{0.3 * label + 0.7 * value:.6f}\n" for label, value in zip(labels, rng.random(60), strict=True)]
    (folder / "scores.csv").write_text("label,score\n" + "".join(rows))
    _make_pictures(folder)
    return folder


def _make_pictures(folder: Path) -> None:
    if importlib.util.find_spec("PIL") is None:
        return
    import toys
    from PIL import Image

    toys.image_problem(folder)
    for file, form in (("solver.prototxt", "BINARYPROTO"), ("solver_h5.prototxt", "HDF5")):
        (folder / file).write_text(SOLVER % form)
    for number in range(24):
        place = folder / "data" / ("down", "up")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(toys.pixels(number).transpose(1, 2, 0)).save(place / f"{number}.png")
