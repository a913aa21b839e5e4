"""Small trained models of others, every layer, in every backend: MTCNN's three nets and LeNet, as Caffe wrote them.

They belong to others and lie beside the checkout, where they are present.
"""

from __future__ import annotations

import fill
import pytest
from places import CONFORMANCE

import caffe_port as cp
from caffe_port import recording
from caffe_port.backends import BACKENDS, make_backend
from caffe_port.verification import Reference, verify_isolated

MODELS = CONFORMANCE / "models"


@pytest.mark.parametrize("name", ["lenet", "mtcnn_det1", "mtcnn_det2", "mtcnn_det3"])
def test_every_layer_agrees_with_caffe(name: str) -> None:
    folder = MODELS / name
    if not folder.exists():
        pytest.skip(f"{name} belongs to another project and is not here")
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    net = cp.load(folder / "net.prototxt", folder / "weights.caffemodel")
    recorded = recording.read(folder / "recording.npz")
    inputs = {blob: fill.input_data(blob, shape) for blob, shape in net.input_shapes.items()}
    reference = Reference.make(net, recorded, inputs)
    for backend in BACKENDS:
        report = reference.compare(make_backend(backend))
        assert report.ok, report.explanation()
        assert len(report.comparisons) == len(recorded.layers)
    isolated = verify_isolated(net, recorded, inputs=inputs)
    assert isolated.ok, isolated.explanation()
