"""The nine recorded architectures, every layer, in every backend.

The prototxts of all but MS_CTC belong to others and lie beside the checkout, where they are present; the recordings are
ours.
"""

from __future__ import annotations

from pathlib import Path

import fill
import pytest

import caffe_port as cp
from caffe_port import recording
from caffe_port.backends import BACKENDS, make_backend
from caffe_port.verification import Reference

ROOT = Path(__file__).parents[1]
OURS = ROOT / "reference_outputs" / "nets"
THEIRS = ROOT.parent / "shared" / "conformance" / "nets"

LAYERS = {
    "alexnet": 23, "caffenet": 23, "googlenet": 142, "ms_ctc": 42, "resnet50": 228, "resnet50_1by2": 228,
    "squeezenet_v1.0": 66, "squeezenet_v1.1": 66, "vgg16": 39,
}  # fmt: skip
"""How many tops Caffe recorded of each."""


def test_all_recordings_are_there() -> None:
    assert sorted(path.stem for path in OURS.glob("*.npz")) == sorted(LAYERS)


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_every_layer_agrees_with_caffe(name: str) -> None:
    prototxt = OURS / f"{name}.prototxt" if name == "ms_ctc" else THEIRS / f"{name}.prototxt"
    if not prototxt.exists():
        pytest.skip(f"{prototxt.name} belongs to another project and is not here")
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    net = cp.load(prototxt)
    net = net.with_weights(
        {
            layer.name: [fill.fill(layer.name, layer.type, i, w.shape) for i, w in enumerate(layer.weights)]
            for layer in net.layers
            if layer.weights
        }
    )
    inputs = {blob: fill.input_data(blob, shape) for blob, shape in net.input_shapes.items()}
    reference = Reference.make(net, recording.read(OURS / f"{name}.npz"), inputs)
    for backend in BACKENDS:
        report = reference.compare(make_backend(backend))
        assert report.ok, report.explanation()
        assert len(report.comparisons) == LAYERS[name]
