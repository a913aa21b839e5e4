"""How near each way of computing open_nsfw comes to what Caffe computed.

    python benchmarks/accuracy.py

Prints two Markdown tables: scores of all recorded images, and the parity of the three layer-by-layer recordings. The
numbers of float32 kernels differ from one processor to another; docs/accuracy.md says why and has the last run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

import caffe_port as cp
from caffe_port import recording
from caffe_port.backends import BACKENDS, make_backend
from caffe_port.layers.base import Array
from caffe_port.models.fetch import fetch
from caffe_port.net import Net
from caffe_port.preprocessing import OPEN_NSFW
from caffe_port.scoring.preprocess import tensor
from caffe_port.scoring.runners import BACKENDS as SCORER_BACKENDS
from caffe_port.scoring.scorer import Scorer
from caffe_port.verification import Reference

FOLDER = Path(__file__).parents[1] / "reference_outputs" / "open_nsfw"


def ways(net: Net) -> dict[str, Callable[[Array], Array]]:
    """Each way of computing the probabilities of a batch."""
    import onnxruntime
    import torch

    def plain_torch(batch: Array) -> Array:
        with torch.no_grad():
            return np.asarray(cp.to_pytorch(net)(torch.from_numpy(batch)))

    def plain_onnx(batch: Array) -> Array:
        session = onnxruntime.InferenceSession(cp.to_onnx(net).SerializeToString(), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(["prob"], {"data": batch})[0])

    found: dict[str, Callable[[Array], Array]] = {
        "numpy float64": lambda batch: cp.run(net, {"data": batch}, dtype="float64", outputs=["prob"])["prob"],
        "to_pytorch, float32": plain_torch,
        "to_onnx, onnxruntime": plain_onnx,
    }
    for backend in SCORER_BACKENDS:
        found[f"`score --backend {backend}`"] = Scorer(net=net, backend=backend).classify
    return found


def main() -> None:
    scores = {
        name: entry for name, entry in json.loads((FOLDER / "scores.json").read_text()).items() if "prob" in entry
    }
    found = fetch("open_nsfw")
    net = cp.load(found.prototxt, found.caffemodel)
    batch = np.stack([tensor(FOLDER / "images" / name, OPEN_NSFW) for name in scores])
    expected = np.array([entry["prob"][1] for entry in scores.values()])
    print(f"Scores of {len(scores)} images, distance from Caffe's:\n")
    print("| computed by | largest | mean | the image |")
    print("|---|---|---|---|")
    for name, classify in ways(net).items():
        distance = np.abs(classify(batch)[:, 1].astype(np.float64) - expected)
        print(f"| {name} | {distance.max():.2e} | {distance.mean():.2e} | {list(scores)[int(distance.argmax())]} |")
    print("\nLayer by layer, 228 layers of each recording:\n")
    print("| recording | backend | blobs | distance / floor, median | largest share of the bound | at |")
    print("|---|---|---|---|---|---|")
    for path in recording.available("open_nsfw"):
        reference = Reference.make(net, recording.read(path))
        for backend in BACKENDS:
            report = reference.compare(make_backend(backend))
            worst = report.worst
            assert worst is not None
            print(
                f"| {path.stem} | {report.backend} | {len(report.comparisons)}{'' if report.ok else ' FAILED'} "
                f"| {report.median_multiple:.2f} | {worst.of_bound:.2f} | {worst.layer} |"
            )


if __name__ == "__main__":
    main()
