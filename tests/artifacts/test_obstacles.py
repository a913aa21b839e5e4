"""A dry run names everything that stands in the way, at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small import write_caffemodel

import caffe_port as cp
from caffe_port.artifacts.form import Form
from caffe_port.net import Net
from caffe_port.obstacles import Obstacle, obstacles

INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 8 } } }\n'


def found_in(tmp_path: Path, layers: str, *targets: str, form: Form | None = None) -> list[Obstacle]:
    file = tmp_path / "net.prototxt"
    file.write_text(INPUT + layers)

    def load(with_weights: bool) -> Net:
        return cp.load(file, allow_unknown=True, allow_missing_weights=True)

    return obstacles(load, targets or ("onnx", "pytorch"), form)


def test_nothing_stands_in_the_way(tmp_path: Path) -> None:
    assert found_in(tmp_path, 'layer { name: "r" type: "ReLU" bottom: "x" top: "y" }') == []


def test_everything_at_once(tmp_path: Path) -> None:
    found = found_in(
        tmp_path,
        """
        layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 2 kernel_size: 1 } }
        layer { name: "a" type: "Axpy3000" bottom: "c" top: "a" }
        layer { name: "p" type: "ReLU" bottom: "c" top: "p" pooling_param { kernel_size: 2 } }
        """,
        "onnx",
        form=Form(int8=True, half="all"),
    )
    kinds = {(one.kind, one.layer) for one in found}
    assert ("missing layer", "a") in kinds
    assert ("missing weights", None) in kinds
    assert ("ignored parameter", "p") in kinds
    assert ("form", None) in kinds
    (missing,) = [one.text for one in found if one.kind == "missing weights"]
    assert missing == "there are none, and 1 layers need them: give a weight file"
    # What stops it first.
    assert [one.stops for one in found] == sorted((one.stops for one in found), reverse=True)
    assert not next(one for one in found if one.kind == "ignored parameter").stops


RESHAPE = """layer { name: "s" type: "Reshape" bottom: "x" top: "y"
  reshape_param { shape { dim: 4 dim: 9 dim: 8 } } }"""


def test_a_fixed_batch_stops_only_who_asks_for_an_open_one(tmp_path: Path) -> None:
    (found,) = found_in(tmp_path, RESHAPE)
    assert (found.kind, found.stops) == ("fixed batch", False)
    (found,) = found_in(tmp_path, RESHAPE, form=Form(batch="symbolic"))
    assert (found.kind, found.stops) == ("fixed batch", True)
    assert found_in(tmp_path, RESHAPE, form=Form(batch=2)) == []


def test_weights_that_do_not_fit_do_not_hide_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "net.prototxt"
    file.write_text(
        INPUT
        + """layer { name: "c" type: "Convolution" bottom: "x" top: "c"
               convolution_param { num_output: 2 kernel_size: 1 } }
             layer { name: "a" type: "Axpy3000" bottom: "c" top: "a" }"""
    )
    layers = """layer { name: "c" type: "Convolution" bottom: "x" top: "c" }"""
    weights = write_caffemodel(tmp_path / "w.caffemodel", layers, {"c": [np.ones((5, 3, 1, 1)), np.ones(2)]})

    def load(with_weights: bool) -> Net:
        return cp.load(file, weights if with_weights else None, allow_unknown=True, allow_missing_weights=True)

    found = obstacles(load, ["onnx"])
    assert {(one.kind, one.layer) for one in found} >= {("weights", "c"), ("missing layer", "a")}


def test_layers_that_the_weight_file_lacks(tmp_path: Path) -> None:
    layer = (
        """layer { name: "%s" type: "InnerProduct" bottom: "x" top: "%s" inner_product_param { num_output: 2 } }\n"""
    )
    file = tmp_path / "net.prototxt"
    file.write_text(INPUT + layer % ("a", "a") + layer % ("b", "b"))
    weights = write_caffemodel(tmp_path / "w.caffemodel", layer % ("a", "a"), {"a": [np.ones((2, 144)), np.ones(2)]})
    found = obstacles(lambda with_weights: cp.load(file, weights, allow_missing_weights=True), ["caffemodel"])
    assert [(one.kind, one.layer, one.stops) for one in found] == [("missing weights", "b", True)]
    assert found[0].text == "layer 'b': learned blobs of 2x144, 2 have no values"


def test_a_file_that_is_no_net(tmp_path: Path) -> None:
    file = tmp_path / "net.prototxt"
    file.write_text("layer { nam: 3 }")
    (found,) = obstacles(lambda with_weights: cp.load(file, allow_unknown=True), ["onnx"])
    assert found.kind == "prototxt" and found.stops


@pytest.mark.parametrize("target", ["onnx", "ort"])
def test_what_a_target_lacks(tmp_path: Path, target: str) -> None:
    found = found_in(
        tmp_path,
        'layer { name: "f" type: "Python" bottom: "x" top: "y" python_param { module: "m" layer: "L" } }',
        target,
    )
    assert any(one.layer == "f" or "'f'" in one.text for one in found if one.stops)


def test_what_the_source_cannot_say(tmp_path: Path) -> None:
    file = tmp_path / "net.prototxt"
    file.write_text(INPUT + 'layer { name: "d" type: "Dropout" bottom: "x" top: "y" }')

    def load(with_weights: bool) -> Net:
        return cp.load(file, phase="TRAIN")

    (found,) = obstacles(load, ["pytorch-source"])
    assert found.kind == "target lacks the layer" and found.stops
    assert "source is written of nets of phase TEST" in found.text
    assert obstacles(load, ["pytorch"]) == []
