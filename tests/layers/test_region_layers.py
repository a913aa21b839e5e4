"""Pooling of regions, and proposals: by hand, against loops after the forks' source, and backend against backend."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import cases
import numpy as np
import pytest
import small
from fork_layers import F32, PYTHON_PROPOSAL, QUICK, Floats, Run, layer, roi_net, runs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import caffe_port as cp
from caffe_port.layers.roi import rounded
from caffe_port.net import Net
from caffe_port.recording import RecordedLayer, Recording

# Regions of interest


def test_rounding_of_halves_is_away_from_zero() -> None:
    values = np.array([0.5, 1.5, -0.5, -1.5, 0.49999997, 2.4], F32)
    np.testing.assert_array_equal(rounded(values), [1, 2, -1, -2, 0, 2])


def test_roi_pooling_by_hand() -> None:
    """A region of 3 x 3 in cells of 1.5, which share a row and a column; one that leaves the map; one outside."""
    net = roi_net("ROIPooling", "roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.5 }", (1, 1, 4, 5), 3)
    x = np.arange(20, dtype=F32).reshape(1, 1, 4, 5) - 30
    rois = np.array([[0, 1, 1, 5, 5], [0, 6, 4, 20, 12], [0, -40, -40, -30, -30]], F32)
    # 1 * 0.5 = 0.5 → 1 and 5 * 0.5 = 2.5 → 3: rows and columns 1 to 3, cells [1, 2] and [2, 3].
    first = [[x[0, 0, 2, 2], x[0, 0, 2, 3]], [x[0, 0, 3, 2], x[0, 0, 3, 3]]]
    # Columns 3 to 10 in cells of 4: [3, 6] cut to [3, 4], [7, 10] outside; rows 2 to 6 by 2.5: [2, 4] and [4, 6].
    second = [[x[0, 0, 3, 4], 0], [0, 0]]
    for run in runs(net).values():
        np.testing.assert_array_equal(run({"x": x, "rois": rois})[:, 0], [first, second, np.zeros((2, 2))])


def test_psroi_pooling_by_hand() -> None:
    """A region from (0, 0) to (3, 3) at scale 0.5: [0, 2) in two cells of 1, each from its own channel."""
    net = roi_net(
        "PSROIPooling", "psroi_pooling_param { output_dim: 2 group_size: 2 spatial_scale: 0.5 }", (2, 8, 3, 4), 2
    )
    x = np.random.default_rng(0).standard_normal((2, 8, 3, 4)).astype(F32)
    rois = np.array([[1, 0, 0, 3, 3], [0, 2, 1, 4, 3]], F32)
    want = np.zeros((2, 2, 2, 2))
    for d, p, q in np.ndindex(2, 2, 2):
        want[0, d, p, q] = x[1, 4 * d + 2 * p + q, p, q]
        # Columns from 1 to 2.5 in cells of 0.75: [1, 1.75] → 1, [1.75, 2.5] → 1 and 2; rows from 0.5 to 2: 0 and 1, 1.
        rows, columns = ([0, 1], [1])[p], ([1], [1, 2])[q]
        want[1, d, p, q] = x[0, 4 * d + 2 * p + q][np.ix_(rows, columns)].mean()
    for run in runs(net).values():
        np.testing.assert_allclose(run({"x": x, "rois": rois}), want, rtol=1e-6)


@QUICK
@given(
    hnp.arrays(F32, (4, 4), elements=st.integers(-80, 400).map(lambda v: v / 8)),
    hnp.arrays(np.int64, 4, elements=st.integers(0, 1)),
    st.integers(0, 2**31),
)
@pytest.mark.parametrize("kind", ["ROIPooling", "PSROIPooling"])
def test_roi_backends_agree(kind: str, corners: Floats, images: NDArray[np.int64], seed: int) -> None:
    _, by_backend = pooling(kind)
    rois = np.concatenate([images[:, None], corners], axis=1).astype(F32)
    x = np.random.default_rng(seed).standard_normal((2, 9, 11, 13)).astype(F32)
    want = by_backend["numpy"]({"x": x, "rois": rois})
    for backend in ("torch", "onnx"):
        np.testing.assert_allclose(by_backend[backend]({"x": x, "rois": rois}), want, rtol=1e-5, atol=1e-5)


@functools.cache
def pooling(kind: str) -> tuple[Net, dict[str, Run]]:
    params = {
        "ROIPooling": "roi_pooling_param { pooled_h: 3 pooled_w: 4 spatial_scale: 0.25 }",
        "PSROIPooling": "psroi_pooling_param { output_dim: 1 group_size: 3 spatial_scale: 0.25 }",
    }
    net = roi_net(kind, params[kind], (2, 9, 11, 13), 4)
    return net, runs(net)


def test_a_region_of_no_image() -> None:
    net, _ = pooling("ROIPooling")
    rois = np.full((4, 5), 3, F32)
    with pytest.raises(cp.CaffePortError, match="image 3 to 3 of a batch of 2"):
        cp.run(net, {"x": np.zeros((2, 9, 11, 13), F32), "rois": rois})


CXX_PROPOSAL = (
    "proposal_param { feat_stride: 16 base_size: 16 min_size: 16 ratio: 0.5 ratio: 1 ratio: 2 scale: 8 scale: 16 "
    "scale: 32 pre_nms_topn: 60 post_nms_topn: 7 nms_thresh: 0.6 }"
)


def proposal_net(kind: str, params: str, anchors: int = 9, tops: int = 1) -> Net:
    second = 'top: "scores"' if tops == 2 else ""
    return small.built(
        small.one_input(1, 2 * anchors, 3, 4, name="probability")
        + small.one_input(1, 4 * anchors, 3, 4, name="deltas")
        + small.one_input(1, 4, name="im_info")
        + layer(kind, "probability", "deltas", "im_info", params=params, more=second)
    )


@pytest.mark.parametrize(
    ("kind", "params"), [("Python", PYTHON_PROPOSAL % "'feat_stride': 16"), ("Proposal", CXX_PROPOSAL)]
)
def test_anchors_are_the_published_ones(kind: str, params: str) -> None:
    definition: Any = proposal_net(kind, params).layers[-1].definition
    assert definition.anchors == (
        (-84, -40, 99, 55), (-176, -88, 191, 103), (-360, -184, 375, 199),
        (-56, -56, 71, 71), (-120, -120, 135, 135), (-248, -248, 263, 263),
        (-36, -80, 51, 95), (-80, -168, 95, 183), (-168, -344, 183, 359),
    )  # fmt: skip
    np.testing.assert_array_equal(definition.grid(3, 4)[9 * 5], [-84 + 16, -40 + 16, 99 + 16, 55 + 16])


def proposals_by_loops(inputs: dict[str, Floats], anchors: Any, options: dict[str, Any]) -> Floats:
    """What proposal_layer.py (small ones dropped) or proposal_layer.cpp (their score is 0) gives, one by one."""
    height, width, scale, scale_w = (float(value) for value in inputs["im_info"][0])
    found = []
    for h, w, a in np.ndindex(3, 4, len(anchors)):
        x1, y1, x2, y2 = (edge + 16 * (w, h)[i % 2] for i, edge in enumerate(anchors[a]))
        dx, dy, dw, dh = inputs["deltas"][0, 4 * a : 4 * a + 4, h, w].astype(float)
        sides = x2 - x1 + 1, y2 - y1 + 1
        middle = x1 + sides[0] / 2 + dx * sides[0], y1 + sides[1] / 2 + dy * sides[1]
        half = math.exp(dw) * sides[0] / 2, math.exp(dh) * sides[1] / 2
        box = [
            min(max(middle[i % 2] + sign * half[i % 2], 0), (width, height)[i % 2] - 1)
            for i, sign in enumerate((-1, -1, 1, 1))
        ]
        score = float(inputs["probability"][0, len(anchors) + a, h, w])
        large = (
            box[2] - box[0] + 1 >= 16 * (scale if options["drops"] else scale_w) and box[3] - box[1] + 1 >= 16 * scale
        )
        if large or not options["drops"]:
            found.append((score if large else 0.0, box))
    found.sort(key=lambda one: -one[0])
    kept: list[tuple[float, list[float]]] = []
    for score, box in found[: options["before"]]:
        overlaps = []
        for _, other in kept:
            w, h = (min(box[i + 2], other[i + 2]) - max(box[i], other[i]) for i in (0, 1))
            if not options["drops"] and (w < 0 or h < 0):
                continue
            shared = max(w + 1, 0) * max(h + 1, 0)
            area, own = ((b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (box, other))
            overlaps.append(shared / (area + own - shared))
        if len(kept) < options["after"] and all(overlap <= options["nms"] for overlap in overlaps):
            kept.append((score, box))
    return np.array([[0, *box] for _, box in kept], F32)


@pytest.mark.parametrize(
    ("kind", "params", "options"),
    [
        ("Python", PYTHON_PROPOSAL % "'feat_stride': 16", {"drops": True, "before": 6000, "after": 300, "nms": 0.7}),
        ("Proposal", CXX_PROPOSAL, {"drops": False, "before": 60, "after": 7, "nms": 0.6}),
    ],
)
def test_proposals_follow_the_source(kind: str, params: str, options: dict[str, Any]) -> None:
    net = proposal_net(kind, params)
    by_backend = runs(net)
    definition: Any = net.layers[-1].definition
    for seed, scale in itertools.product(range(6), (1, 8)):
        rng = np.random.default_rng(seed)
        inputs = {
            "probability": rng.random((1, 18, 3, 4)).astype(F32),
            "deltas": (rng.standard_normal((1, 36, 3, 4)) * 0.4).astype(F32),
            "im_info": np.array([[180, 250, scale, scale]], F32),
        }
        want = proposals_by_loops(inputs, definition.anchors, options)
        assert len(want)
        for backend, run in by_backend.items():
            np.testing.assert_allclose(run(inputs), want, rtol=1e-5, atol=1e-4, err_msg=f"{backend}, seed {seed}")


def test_proposals_with_scores() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for kind, params, axes in (("Python", PYTHON_PROPOSAL % "'feat_stride': 16", 2), ("Proposal", CXX_PROPOSAL, 1)):
        net = proposal_net(kind, params, tops=2)
        inputs = {name: rng.random(shape).astype(F32) for name, shape in net.input_shapes.items()}
        inputs["im_info"] = np.array([[300, 400, 1, 1]], F32)
        blobs = cp.run(net, inputs)
        assert blobs["scores"].shape == (len(blobs["y"]), 1)[:axes]
        assert (np.diff(blobs["scores"].ravel()) <= 0).all()
        for other in (
            cases.run_onnx(cp.to_onnx(net), inputs),
            {k: v.numpy() for k, v in cp.to_pytorch(net)(*[torch.from_numpy(inputs[n]) for n in net.inputs]).items()},
        ):
            np.testing.assert_allclose(other["y"], blobs["y"], rtol=1e-5, atol=1e-4)
            np.testing.assert_array_equal(other["scores"], blobs["scores"])


@pytest.mark.parametrize(
    ("text", "anchors"),
    [("'feat_stride': 16 \\n'scales': !!python/tuple [4, 8, 16, 32]", 12), ("{'feat_stride': 16, 'scales': [8]}", 3)],
)
def test_param_str_of_proposals(text: str, anchors: int) -> None:
    definition: Any = proposal_net("Python", PYTHON_PROPOSAL % text, anchors).layers[-1].definition
    assert (len(definition.anchors), definition.feat_stride) == (anchors, 16)


@pytest.mark.parametrize(
    ("changed", "told"),
    [("scale: 8 scale: 16 scale: 32", "ratio and scale must be given"), ("scale: 8 scale: 16 scale: 32 ", "happynear")],
)
def test_proposals_that_are_refused(changed: str, told: str) -> None:
    other = "scale: 64 " if changed.endswith(" ") else ""
    assert changed.strip() in CXX_PROPOSAL
    with pytest.raises(cp.CaffePortError, match=told):
        proposal_net("Proposal", CXX_PROPOSAL.replace(changed.strip(), other))


@pytest.mark.parametrize(
    "text",
    [
        "'feat_stride': 16, 'colour': 3",
        "import os",
        "'scales': [8]",
        "'feat_stride': 16.5",
        "'feat_stride': 0",
        "'feat_stride': [16]",
        "'feat_stride': 'x'",
        "'feat_stride': 16, 'feat_stride': 16",
        "'feat_stride': 16, 'scales': 8",
        "'feat_stride': 16, 'scales': [0]",
        "'feat_stride': 16, 'ratios': [1, 1e7]",
        "'feat_stride': 16, 'ratios': [1e999]",
        "'feat_stride': 16, 'scales': " + "(" * 100_000,
        "'feat_stride': 16, 'scales': " + "[" * 300 + "]" * 300,
        "'feat_stride': " + "-" * 900,
        "{[]: 1, 'feat_stride': 16}",
        "{'feat_stride': 16" + " " * 100_000,
    ],
)
def test_param_str_that_is_not_understood(text: str) -> None:
    with pytest.raises(cp.CaffePortError, match="param_str"):
        proposal_net("Python", PYTHON_PROPOSAL % text)


def test_another_python_layer_is_not_run() -> None:
    with pytest.raises(cp.CaffePortError, match="--allow-python-layers"):
        proposal_net("Python", "python_param { module: 'layers.text_proposal_layer' layer: 'ProposalLayer' }")


def test_a_recording_may_call_it_python() -> None:
    """Caffe knows the layer as `Python`; its class is what it is here."""
    net = proposal_net("Python", PYTHON_PROPOSAL % "'feat_stride': 16")
    rng = np.random.default_rng(0)
    inputs = {name: rng.random(shape).astype(F32) for name, shape in net.input_shapes.items()}
    inputs["im_info"] = np.array([[180, 250, 1, 1]], F32)
    rois = cp.run(net, inputs)["y"]
    stats = np.array([rois.min(), rois.max(), rois.mean(), np.linalg.norm(rois)], np.float64)

    def recorded(kind: str) -> Recording:
        layers = [RecordedLayer(3, "L", kind, "y", rois.shape, rois.reshape(-1), stats)]
        shapes = {name: value.shape for name, value in inputs.items()}
        return Recording(layers, inputs, shapes, {"y": rois}, net.inputs, net.outputs, rois.size)

    for kind in ("Python", "rpn.proposal_layer.ProposalLayer"):
        assert cp.verify(net, recorded(kind)).ok
    report = cp.verify(net, recorded("Proposal"))
    assert report.missing == ("L (Proposal):y",)
    assert report.extra == ("L (rpn.proposal_layer.ProposalLayer):y",)


def test_what_follows_proposals_takes_any_number_of_them() -> None:
    """Fewer regions than the most there could be go through pooling and a fully connected layer."""
    prototxt = (
        small.one_input(1, 2, 3, 4, name="probability")
        + small.one_input(1, 4, 3, 4, name="deltas")
        + small.one_input(1, 3, name="im_info")
        + small.one_input(1, 2, 3, 4)
        + layer("Python", "probability", "deltas", "im_info", top="rois",
                params=PYTHON_PROPOSAL % "{'feat_stride': 16, 'scales': [1], 'ratios': [1]}").replace('"L"', '"P"')
        + layer("ROIPooling", "x", "rois", params="roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.0625 }",
                top="pool")
        + layer("InnerProduct", "pool", params="inner_product_param { num_output: 3 }").replace('"L"', '"F"')
    )  # fmt: skip
    net = small.filled(prototxt)
    rng = np.random.default_rng(0)
    inputs = {name: rng.random(shape).astype(F32) for name, shape in net.input_shapes.items()}
    inputs["im_info"] = np.array([[48, 64, 1]], F32)
    by_backend = runs(net)
    want = by_backend["numpy"](inputs)
    assert 0 < len(want) < 12
    for backend in ("torch", "onnx"):
        np.testing.assert_allclose(by_backend[backend](inputs), want, rtol=1e-5, atol=1e-6)
