"""The nine recorded architectures, every layer, in every backend.

The nets are built; that they are the published ones is the business of architectures/test_published.py.
"""

from __future__ import annotations

from pathlib import Path

import fill
import pytest
from places import ROOT
from small import weights_of

import caffe_port as cp
from caffe_port import architectures, recording
from caffe_port.backends import BACKENDS, make_backend
from caffe_port.proto import text
from caffe_port.verification import Reference

OURS = ROOT / "reference_outputs" / "nets"

LAYERS = {
    "alexnet": 23, "caffenet": 23, "googlenet": 142, "ms_ctc": 42, "resnet50": 228, "resnet50_1by2": 228,
    "squeezenet_v1.0": 66, "squeezenet_v1.1": 66, "vgg16": 39,
}  # fmt: skip
"""How many tops Caffe recorded of each."""
ONE_IMAGE = ("ms_ctc", "resnet50", "resnet50_1by2")
"""Recorded with one image; the others with ten."""


def test_all_recordings_are_there() -> None:
    assert sorted(path.stem for path in OURS.glob("*.npz")) == sorted(LAYERS)


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_every_layer_agrees_with_caffe(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    text.write(tmp_path / "deploy.prototxt", architectures.deploy(name, batch=1 if name in ONE_IMAGE else 10))
    net = cp.load(tmp_path / "deploy.prototxt")
    net = net.with_weights(weights_of(net))
    inputs = {blob: fill.input_data(blob, shape) for blob, shape in net.input_shapes.items()}
    reference = Reference.make(net, recording.read(OURS / f"{name}.npz"), inputs)
    for backend in BACKENDS:
        report = reference.compare(make_backend(backend))
        assert report.ok, report.explanation()
        assert len(report.comparisons) == LAYERS[name]
