"""What compares nets that choose by values, and what looks into a divergence."""

from __future__ import annotations

from typing import Any

import check_families
import choices
import numpy as np
import pytest
import small
from fork_layers import F32, PYTHON_PROPOSAL, Floats, layer, roi_net

import caffe_port as cp
from caffe_port.backends import make_backend
from caffe_port.layers.boxes import Suppression
from caffe_port.net import Net
from caffe_port.verification import Reference

# Suppression, and what compares choices


def test_a_choice_is_compared_by_itself() -> None:
    """The cut net has the rows as inputs; a backend that chooses another row, or a value 1e-4 off, is told of."""
    prototxt = (
        small.one_input(1, 2, 3, 4, name="probability")
        + small.one_input(1, 4, 3, 4, name="deltas")
        + small.one_input(1, 3, name="im_info")
        + small.one_input(1, 2, 3, 4)
        + layer("Python", "probability", "deltas", "im_info", top="rois",
                params=PYTHON_PROPOSAL % "{'feat_stride': 16, 'scales': [1], 'ratios': [1]}").replace('"L"', '"P"')
        + layer("ROIPooling", "x", "rois", params="roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.0625 }")
    )  # fmt: skip
    net = small.built(prototxt)
    rng = np.random.default_rng(0)
    inputs = {name: rng.random(shape).astype(F32) for name, shape in net.input_shapes.items()}
    inputs["im_info"] = np.array([[48, 64, 1]], F32)
    remains, given_inputs, (choice,) = choices.cut(net, inputs)
    rois = cp.run(net, inputs)["rois"]
    assert sorted(remains.input_shapes) == ["rois", "x"]
    np.testing.assert_array_equal(given_inputs["rois"], rois)
    np.testing.assert_array_equal(cp.run(remains, given_inputs)["y"], cp.run(net, inputs)["y"])

    class Other:
        def __init__(self, rows: Floats) -> None:
            self.rows = rows

        def trace(self, net: Net, inputs: Any) -> Any:
            yield net.layers[-1], (self.rows,)

    assert choice.disagreement(make_backend("numpy")) is None
    for rows, told in ((rois[1:], "NumPy has"), (rois + F32(0.5), "other labels"), (rois[::-1], "apart")):
        found = choice.disagreement(Other(rows))  # type: ignore[arg-type]
        assert found is not None and told in found
    assert (
        choices.cut(roi_net("ROIPooling", "roi_pooling_param { pooled_h: 2 pooled_w: 2 }", (2, 9, 11, 13), 4), {})[2]
        == []
    )


def test_adaptive_threshold_counts_what_was_kept() -> None:
    """Three boxes in a row, each 2/3 over the next: at 0.7 all stay; with eta 0.8 the first keep makes 0.56 of it."""
    boxes = np.array([[0, 0, 5, 1], [1, 0, 6, 1], [2, 0, 7, 1]], F32)
    sizes = np.full(3, 5, F32)
    assert Suppression(0.7).kept(boxes, sizes) == [0, 1, 2]
    # 4 / 6 is above 0.56: the second falls; the third overlaps the first by 3 / 7.
    assert Suppression(0.7, 0.8).kept(boxes, sizes) == [0, 2]
    assert Suppression(0.7).kept(boxes, sizes, 2) == [0, 1]


# What looks into a divergence


def rounding_net() -> Net:
    return small.filled(
        small.one_input(1, 8, 6, 6)
        + 'layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 4 kernel_size: 3 '
        'weight_filler { type: "gaussian" std: 0.1 } } }' + 'layer { name: "s" type: "Softmax" bottom: "c" top: "s" }'
    )


def test_pytorch_in_float64_is_far_nearer_than_float32_could_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module whose weights are 1e-8 off is told from the right one."""
    torch = pytest.importorskip("torch")
    net = rounding_net()
    reference = Reference.make(net)
    worst = reference.compare(check_families.TorchInFloat64()).worst
    assert worst is not None and worst.of_bound <= check_families.TINY
    module: Any = cp.to_pytorch(net).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter *= 1 + 1e-8
    monkeypatch.setattr(cp, "to_pytorch", lambda _: module)
    worst = reference.compare(check_families.TorchInFloat64()).worst
    assert worst is not None and worst.of_bound > check_families.TINY


def test_a_layer_is_compared_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    reference = Reference.make(rounding_net())
    softmax = reference.compare(make_backend("numpy")).comparisons[-1]
    assert softmax.layer == "s"
    assert check_families.alone_agrees(reference, softmax)
    monkeypatch.setattr("caffe_port.backends.OnnxBackend.trace", off_by_a_little)
    assert not check_families.alone_agrees(reference, softmax)


def off_by_a_little(_: Any, net: Net, inputs: dict[str, Floats]) -> Any:
    for one, tops in make_backend("numpy").trace(net, inputs):
        yield one, tuple(top + F32(1e-5) for top in tops if top is not None)
