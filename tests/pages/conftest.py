"""A certificate of a small net."""

from __future__ import annotations

import pytest
from html_pages import reports_of
from small import write_model

import caffe_port as cp
from caffe_port.certificate import Artifact, Certificate
from caffe_port.compare import ParityReport
from caffe_port.net import Net


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Net:
    return cp.load(*write_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def reports(loaded: Net) -> tuple[ParityReport, ...]:
    return reports_of(loaded, "numpy", "numpy64")


@pytest.fixture
def certificate(loaded: Net, reports: tuple[ParityReport, ...]) -> Certificate:
    return Certificate(
        loaded,
        (Artifact("onnx", "small.onnx", "ab" * 32, 12_345, {"opset": 17, "batch": "symbolic"}),),
        (),
        reports,
        form={"layout": "NHWC", "inputs": ["x", "y"]},
        changes=("fc was transposed",),
        command="caffe-port convert small.prototxt small.caffemodel -o out",
    )
