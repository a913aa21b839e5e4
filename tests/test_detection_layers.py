"""Detection layers of forks: by hand, against loops that follow the forks' source, and backend against backend."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import cases
import check_families
import choices
import numpy as np
import pytest
import small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import caffe_port as cp
from caffe_port.backends import make_backend
from caffe_port.layers.boxes import Suppression
from caffe_port.layers.roi import rounded
from caffe_port.net import Net
from caffe_port.recording import RecordedLayer, Recording
from caffe_port.verification import Reference

Floats = NDArray[np.float32]
Run = Callable[[dict[str, Floats]], Floats]

F32 = np.float32
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def layer(type_name: str, *bottoms: str, params: str = "", top: str = "y", more: str = "") -> str:
    named = " ".join(f'bottom: "{bottom}"' for bottom in bottoms)
    return f'layer {{ name: "L" type: "{type_name}" {named} top: "{top}" {params} {more} }}\n'


def runs(net: Net) -> dict[str, Run]:
    """The net's only output by each backend; made once, run often. The ONNX file is checked in full."""
    onnx, torch = pytest.importorskip("onnx"), pytest.importorskip("torch")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = cp.to_onnx(net)
    assert {node.domain for node in model.graph.node} == {""}
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    module = cp.to_pytorch(net)

    def by_torch(inputs: dict[str, Floats]) -> Floats:
        with torch.no_grad():
            return np.asarray(module(*[torch.from_numpy(inputs[name]) for name in net.inputs]))

    return {
        "numpy": lambda inputs: cp.run(net, inputs)[net.outputs[0]],
        "torch": by_torch,
        "onnx": lambda inputs: np.asarray(
            session.run(None, {one.name: inputs[one.name] for one in session.get_inputs()})[0]
        ),
    }


@pytest.mark.parametrize("name", [name for name in cases.fork_cases() if name.startswith(("Prior", "Detec", "ROI"))])
def test_recorded(name: str) -> None:
    """Of forks' own C++; rows of detections in the same number and order."""
    case = cases.fork_cases()[name]
    for backend, run in runs(cases.load_case(case)).items():
        cases.assert_agrees(run(case.inputs), case.outputs["y"], backend, 2e-5)


# DetectionOutput


def detection_text(images: int, priors: int, classes: int, params: str, locations: int = 1) -> str:
    return (
        small.one_input(images, priors * 4 * locations, name="loc")
        + small.one_input(images, priors * classes, name="conf")
        + small.one_input(1, 2, priors * 4, name="prior")
        + layer(
            "DetectionOutput",
            "loc",
            "conf",
            "prior",
            params=f"detection_output_param {{ num_classes: {classes} {params} }}",
        )
    )


def jaccard(a: Floats, b: Floats) -> float:
    """JaccardOverlap of bbox_util.cpp for fractions of an image, in float32."""

    def area(box: Floats) -> np.float32:
        return F32(0) if box[2] < box[0] or box[3] < box[1] else F32((box[2] - box[0]) * (box[3] - box[1]))

    if b[0] > a[2] or b[2] < a[0] or b[1] > a[3] or b[3] < a[1]:
        return 0.0
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if not (width > 0 and height > 0):
        return 0.0
    shared = width * height
    return float(shared / (area(a) + area(b) - shared))


def rows_by_loops(boxes: Floats, conf: Floats, options: dict[str, Any]) -> Floats:
    """What detection_output_layer.cpp gives for decoded boxes (N, P, L, 4) and scores (N, P, C)."""
    rows: list[list[float]] = []
    images, _, classes = conf.shape
    for image in range(images):
        found: list[tuple[np.float32, int, int]] = []
        for label in range(classes):
            if label == options["background"]:
                continue
            candidates = [(conf[image, i, label], i) for i in range(conf.shape[1])]
            candidates = [one for one in candidates if one[0] > F32(options["confidence"])]
            candidates.sort(key=lambda one: -one[0])
            if options["top_k"] > -1:
                candidates = candidates[: options["top_k"]]
            threshold, kept = F32(options["nms"]), []
            for _, index in candidates:
                own = boxes[image, :, label if boxes.shape[2] > 1 else 0]
                keep = all(jaccard(own[index], own[other]) <= threshold for other in kept)
                if keep:
                    kept.append(index)
                    if options["eta"] < 1 and threshold > 0.5:
                        threshold = F32(threshold * F32(options["eta"]))
            found += [(conf[image, index, label], label, index) for index in kept]
        if -1 < options["keep_top_k"] < len(found):
            best = sorted(found, key=lambda one: -one[0])[: options["keep_top_k"]]
            found = [one for one in found if one in best]
        for score, label, index in found:
            rows.append([image, label, score, *boxes[image, index, label if boxes.shape[2] > 1 else 0]])
    if not rows:
        rows = [[image, *[-1.0] * 6] for image in range(images)]
    return np.array(rows, F32)[None, None]


BASE: dict[str, Any] = {"background": 0, "confidence": 0.2, "nms": 0.45, "eta": 1.0, "top_k": 400, "keep_top_k": 200}
CONFIGS: dict[str, tuple[dict[str, Any], str, int]] = {
    "usual": ({}, "code_type: CENTER_SIZE", 1),
    "unshared": ({}, "share_location: false code_type: CORNER_SIZE", 3),
    "few": ({"top_k": 4, "keep_top_k": 5}, "code_type: CORNER", 1),
    "only_some": ({"keep_top_k": 3, "top_k": -1}, "code_type: CORNER", 1),
    "none_kept": ({"keep_top_k": 0}, "code_type: CORNER", 1),
    "no_candidate": ({"top_k": 0}, "code_type: CORNER", 1),
    "no_background": ({"background": -1, "keep_top_k": -1}, "code_type: CORNER variance_encoded_in_target: true", 1),
    "last_background": ({"background": 2, "nms": 0.0}, "share_location: false code_type: CORNER", 3),
    "adaptive": ({"eta": 0.7, "nms": 0.9, "top_k": -1}, "code_type: CORNER", 1),
    "adaptive_unshared": ({"eta": 0.5, "nms": 0.75}, "share_location: false code_type: CORNER", 3),
}
PRIORS, CLASSES, IMAGES = 7, 3, 2


@functools.cache
def configured(name: str) -> tuple[Net, dict[str, Run]]:
    changed, text, locations = CONFIGS[name]
    options = {**BASE, **changed}
    params = (
        f"background_label_id: {options['background']} confidence_threshold: {options['confidence']} "
        f"keep_top_k: {options['keep_top_k']} {text} "
        f"nms_param {{ nms_threshold: {options['nms']} top_k: {options['top_k']} eta: {options['eta']} }}"
    )
    net = small.built(detection_text(IMAGES, PRIORS, CLASSES, params, locations))
    return net, runs(net)


def eighths(low: int, high: int, *shape: int) -> st.SearchStrategy[Floats]:
    """Few different values, so that scores tie and overlaps are just at the threshold; all sums of them are exact."""
    return hnp.arrays(np.int64, shape, elements=st.integers(low, high)).map(lambda x: (x / 8).astype(F32))


@st.composite
def detections(draw: st.DrawFn, locations: int, center_size: bool) -> dict[str, Floats]:
    starts = draw(eighths(0, 6, PRIORS, 2))
    ends = starts + draw(eighths(1, 6, PRIORS, 2))
    variances = np.full((PRIORS, 4), 0.5, F32)
    loc = draw(eighths(-8, 8, IMAGES, PRIORS, locations, 4))
    if center_size:
        # exp(0) is 1 in every library.
        loc[..., 2:] = 0
    return {
        "loc": loc.reshape(IMAGES, -1),
        "conf": draw(eighths(0, 4, IMAGES, PRIORS * CLASSES)),
        "prior": np.stack([np.concatenate([starts, ends], axis=1), variances]).reshape(1, 2, -1),
    }


def decoded(inputs: dict[str, Floats], text: str, locations: int) -> Floats:
    """Boxes (N, P, L, 4), written out coordinate by coordinate."""
    prior, variance = inputs["prior"].reshape(2, PRIORS, 4)
    loc = inputs["loc"].reshape(IMAGES, PRIORS, locations, 4)
    made = np.zeros_like(loc)
    for n, p, c in np.ndindex(loc.shape[:3]):
        x = loc[n, p, c] * (F32(1) if "in_target: true" in text else variance[p])
        width, height = prior[p, 2] - prior[p, 0], prior[p, 3] - prior[p, 1]
        if "CENTER_SIZE" in text:
            middle_x, middle_y = (
                x[0] * width + (prior[p, 0] + prior[p, 2]) / 2,
                x[1] * height + (prior[p, 1] + prior[p, 3]) / 2,
            )
            half_x, half_y = math.exp(x[2]) * width / 2, math.exp(x[3]) * height / 2
            made[n, p, c] = middle_x - half_x, middle_y - half_y, middle_x + half_x, middle_y + half_y
        elif "CORNER_SIZE" in text:
            made[n, p, c] = prior[p] + x * np.array([width, height, width, height])
        else:
            made[n, p, c] = prior[p] + x
    return made


@pytest.mark.parametrize("name", CONFIGS)
def test_detections_follow_the_source(name: str) -> None:
    changed, text, locations = CONFIGS[name]
    _, by_backend = configured(name)

    @QUICK
    @given(detections(locations, "CENTER_SIZE" in text))
    def check(inputs: dict[str, Floats]) -> None:
        boxes = decoded(inputs, text, locations)
        want = rows_by_loops(boxes, inputs["conf"].reshape(IMAGES, PRIORS, CLASSES), {**BASE, **changed})
        for backend, run in by_backend.items():
            np.testing.assert_array_equal(run(inputs), want, backend)

    check()


def test_detection_by_hand() -> None:
    """Two boxes that overlap by 1/3 and one apart: at 0.3 the better of the two suppresses the other, at 0.35 not."""
    prior = np.array([[0, 0, 0.5, 0.5], [0.25, 0, 0.75, 0.5], [0.5, 0.5, 1, 1]], F32)
    inputs = {
        "loc": np.zeros((1, 12), F32),
        "conf": np.array([[0.2, 0.8, 0.1, 0.9, 0.5, 0.5]], F32),
        "prior": np.stack([prior, np.full_like(prior, 0.1)]).reshape(1, 2, 12),
    }
    for threshold, kept in ((0.3, [1, 2]), (0.35, [1, 0, 2])):
        net = small.built(detection_text(1, 3, 2, f"nms_param {{ nms_threshold: {threshold} }}"))
        want = [[0, 1, inputs["conf"][0, 2 * i + 1], *prior[i]] for i in kept]
        for run in runs(net).values():
            np.testing.assert_array_equal(run(inputs), np.array([[want]], F32))


def with_priors(name: str) -> Net:
    """The net of a configuration, its priors made by a layer; so all inputs have the batch in common."""
    prototxt = detection_text(IMAGES, PRIORS, CLASSES, CONFIGS[name][1], CONFIGS[name][2])
    made = small.one_input(IMAGES, 3, 1, PRIORS, name="map")
    made += layer("PriorBox", "map", "map", params="prior_box_param { min_size: 1 }", top="prior").replace('"L"', '"P"')
    return small.built(prototxt.replace(small.one_input(1, 2, PRIORS * 4, name="prior"), made))


def test_detection_batch_is_open_in_onnx() -> None:
    model = cp.to_onnx(with_priors("usual"))
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert any(node.op_type == "NonMaxSuppression" for node in model.graph.node)
    assert any(node.op_type == "Loop" for node in cp.to_onnx(configured("adaptive")[0]).graph.node)


@pytest.mark.parametrize(("name", "locations"), [("usual", 1), ("unshared", 2)])
def test_boxes_for_a_runtime_of_its_own(name: str, locations: int) -> None:
    from caffe_port.converters.to_onnx import to_onnx

    net = with_priors(name)
    model = to_onnx(net, detection="boxes")
    pytest.importorskip("onnx").checker.check_model(model, full_check=True)
    shapes = {
        one.name: [dim.dim_value or dim.dim_param for dim in one.type.tensor_type.shape.dim]
        for one in model.graph.output
    }
    assert shapes == {"y.boxes": ["N", locations, PRIORS, 4], "y.scores": ["N", CLASSES - 1, PRIORS]}
    rng = np.random.default_rng(0)
    inputs = {key: rng.integers(0, 8, shape).astype(F32) / 8 for key, shape in net.input_shapes.items()}
    got = cases.run_onnx(model, inputs)
    text, number = CONFIGS[name][1:]
    inputs["prior"] = cp.run(net, inputs)["prior"]
    want = decoded(inputs, text, number).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(got["y.boxes"], want[:, -locations:], rtol=1e-6, atol=1e-7)
    scores = inputs["conf"].reshape(IMAGES, PRIORS, CLASSES).transpose(0, 2, 1)[:, 1:]
    np.testing.assert_array_equal(got["y.scores"], scores)
    with pytest.raises(cp.CaffePortError, match="'rows' or 'boxes'"):
        to_onnx(net, detection="masks")


def test_detection_exports_from_pytorch() -> None:
    torch = pytest.importorskip("torch")
    net, by_backend = configured("adaptive")
    rng = np.random.default_rng(1)
    inputs = {key: rng.integers(0, 8, shape).astype(F32) / 8 for key, shape in net.input_shapes.items()}
    given_inputs = tuple(torch.from_numpy(inputs[name]) for name in net.inputs)
    program = torch.export.export(cp.to_pytorch(net), given_inputs).module()
    np.testing.assert_array_equal(program(*given_inputs).numpy(), by_backend["numpy"](inputs))


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ("nms_param { nms_threshold: -1 }", "nms_threshold must not be below 0"),
        ("nms_param { eta: 0 }", "eta be in"),
        ("objectness_score: 0.5", "objectness_score"),
        ("nms_param { soft_nms: true }", "soft_nms"),
    ],
)
def test_detection_refuses(params: str, told: str) -> None:
    with pytest.raises(cp.CaffePortError, match=told):
        small.built(detection_text(1, 3, 2, params))


def test_detection_shapes_that_do_not_fit() -> None:
    text = detection_text(1, 3, 2, "").replace("dim: 12 }", "dim: 13 }", 1)
    with pytest.raises(cp.CaffePortError, match="3 priors need N x 12"):
        small.built(text)


# Priors


def prior_net(params: str, kind: str = "PriorBox", size: int = 40) -> Net:
    return small.built(
        small.one_input(2, 3, 1, 2)
        + small.one_input(2, 3, size, 2 * size, name="image")
        + layer(kind, "x", "image", params=f"prior_box_param {{ {params} }}")
    )


def test_priors_by_hand() -> None:
    """Centres (20, 20) and (60, 20) of an image of 80 x 40; 10, sqrt(10 * 40) = 20, and ratio 4: 20 x 5, 5 x 20."""
    net = prior_net("min_size: 10.9 max_size: 40 aspect_ratio: 4 clip: false variance: 0.1 variance: 0.2 "
                    "variance: 0.3 variance: 0.4")  # fmt: skip
    want = []
    for x in (20, 60):
        for width, height in ((10, 10), (20, 20), (20, 5), (5, 20)):
            want += [(x - width / 2) / 80, (20 - height / 2) / 40, (x + width / 2) / 80, (20 + height / 2) / 40]
    inputs = {name: np.zeros(shape, F32) for name, shape in net.input_shapes.items()}
    for run in runs(net).values():
        made = run(inputs)
        np.testing.assert_allclose(made[0, 0], want, rtol=1e-6)
        np.testing.assert_array_equal(made[0, 1], np.tile(np.array([0.1, 0.2, 0.3, 0.4], F32), 8))


def test_clustered_priors_by_hand() -> None:
    net = prior_net("width: 8 width: 16 height: 4 height: 20 step: 10 clip: true", "PriorBoxClustered")
    want = []
    for x in (5, 15):
        for width, height in ((8, 4), (16, 20)):
            corners = [(x - width / 2) / 80, (5 - height / 2) / 40, (x + width / 2) / 80, (5 + height / 2) / 40]
            want += [min(max(corner, 0), 1) for corner in corners]
    inputs = {name: np.zeros(shape, F32) for name, shape in net.input_shapes.items()}
    for run in runs(net).values():
        np.testing.assert_allclose(run(inputs)[0, 0], want, rtol=1e-6)


def test_priors_are_a_constant_of_any_batch() -> None:
    model = cp.to_onnx(prior_net("min_size: 10"))
    assert [node.op_type for node in model.graph.node] == ["Identity"]


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ("", "min_size must be given"),
        ("min_size: 10 max_size: 10", "greater than min_size"),
        ("min_size: 10 max_size: 20 max_size: 30", "2 max_size for 1 min_size"),
        ("min_size: 10 variance: 0.1 variance: 0.2", "one or four"),
        ("min_size: 10 step: 4 step_h: 4 step_w: 4", "both step and"),
        ("min_size: 10 img_h: 4", "must be above 0"),
    ],
)
def test_priors_refuse(params: str, told: str) -> None:
    with pytest.raises(cp.CaffePortError, match=told):
        prior_net(params)


# Regions of interest


def roi_net(kind: str, params: str, shape: tuple[int, ...], rois: int) -> Net:
    return small.built(
        small.one_input(*shape) + small.one_input(rois, 5, name="rois") + layer(kind, "x", "rois", params=params)
    )


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


PYTHON_PROPOSAL = "python_param { module: 'rpn.proposal_layer' layer: 'ProposalLayer' param_str: \"%s\" }"
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


@pytest.mark.parametrize("text", ["'feat_stride': 16, 'colour': 3", "import os", "'scales': [8]"])
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


# YOLO


def test_reorg_is_darknets() -> None:
    for reverse, shape in ((False, (2, 8, 4, 6)), (True, (2, 12, 2, 3))):
        net = small.built(
            small.one_input(*shape)
            + layer("Reorg", "x", params=f"reorg_param {{ stride: 2 reverse: {str(reverse).lower()} }}")
        )
        x = np.arange(math.prod(shape), dtype=F32).reshape(shape)
        n, c, h, w = shape
        flat, want = x.ravel(), np.zeros(x.size, F32)
        for b, k, j, i in np.ndindex(n, c, h, w):
            # blas.c, reorg_cpu
            inside = i + w * (j + h * (k + c * b))
            c2, offset = k % (c // 4), k // (c // 4)
            outside = (i * 2 + offset % 2) + w * 2 * ((j * 2 + offset // 2) + h * 2 * (c2 + c // 4 * b))
            if reverse:
                want[outside] = flat[inside]
            else:
                want[inside] = flat[outside]
        top = (2, 3, 4, 6) if reverse else (2, 32, 2, 3)
        for run in runs(net).values():
            np.testing.assert_array_equal(run({"x": x}), want.reshape(top))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def yolo_rows(
    maps: list[Floats],
    anchors: list[list[tuple[float, float]]],
    units: list[int],
    third: bool,
    least: float,
    nms: float,
) -> Floats:
    """What the forks' layers of version 2 or 3 give, candidate by candidate."""
    found = []
    for x, own, unit in zip(maps, anchors, units, strict=True):
        side, length = x.shape[2], x.shape[1] // len(own)
        for b, j, i, n in np.ndindex(len(x), side, side, len(own)):
            v = [float(value) for value in x[b, n * length : (n + 1) * length, j, i]]
            box = (
                (i + sigmoid(v[0])) / side,
                (j + sigmoid(v[1])) / side,
                math.exp(v[2]) * own[n][0] / (side * unit),
                math.exp(v[3]) * own[n][1] / (side * unit),
            )
            if third:
                scores = [sigmoid(score) * sigmoid(v[4]) for score in v[5:]]
                found += [(score, label, box) for label, score in enumerate(scores) if score > least]
            else:
                powers = [math.exp(score - max(v[5:])) for score in v[5:]]
                label = powers.index(max(powers))
                score = sigmoid(v[4]) * max(powers) / sum(powers)
                found += [(score, label, box)] if score >= least else []
    found.sort(key=lambda one: -one[0])
    kept: list[tuple[float, int, tuple[float, ...]]] = []
    for one in found:
        box, overlaps = one[2], []
        for _, _, other in kept:
            w, h = (
                min(box[k] + box[k + 2] / 2, other[k] + other[k + 2] / 2)
                - max(box[k] - box[k + 2] / 2, other[k] - other[k + 2] / 2)
                for k in (0, 1)
            )
            shared = w * h if w >= 0 and h >= 0 else 0
            overlaps.append(shared / (box[2] * box[3] + other[2] * other[3] - shared))
        if all(overlap < nms for overlap in overlaps):
            kept.append(one)
    rows = [
        [0, label + 1, score, x - w / 2, y - h / 2, x + w / 2, y + h / 2] for score, label, (x, y, w, h) in kept
    ] or [[image, *[-1] * 6] for image in range(len(maps[0]))]
    return np.array(rows, F32)[None, None]


@pytest.mark.parametrize("least", [0.2, 0.999])
def test_yolo_2_follows_the_source(least: float) -> None:
    net = small.built(
        small.one_input(2, 16, 3, 3) + layer("YoloDetectionOutput", "x", params=(
            f"yolo_detection_output_param {{ num_classes: 3 num_box: 2 confidence_threshold: {least} "
            "nms_threshold: 0.3 biases: 1 biases: 2 biases: 2 biases: 0.5 }"))
    )  # fmt: skip
    by_backend = runs(net)
    for seed in range(6):
        x = np.random.default_rng(seed).standard_normal((2, 16, 3, 3)).astype(F32)
        want = yolo_rows([x], [[(1, 2), (2, 0.5)]], [1], False, least, 0.3)
        for backend, run in by_backend.items():
            np.testing.assert_allclose(run({"x": x}), want, rtol=1e-5, atol=1e-6, err_msg=backend)


@pytest.mark.parametrize("least", [0.3, 0.999])
def test_yolo_3_follows_the_source(least: float) -> None:
    net = small.built(
        small.one_input(1, 14, 2, 2) + small.one_input(1, 14, 4, 4, name="x2")
        + layer("Yolov3DetectionOutput", "x", "x2", params=(
            f"yolov3_detection_output_param {{ num_classes: 2 num_box: 2 confidence_threshold: {least} "
            "nms_threshold: 0.4 biases: 10 biases: 14 biases: 23 biases: 27 biases: 37 biases: 58 mask: 1 "
            "mask: 2 mask: 0 mask: 1 anchors_scale: 32 anchors_scale: 16 mask_group_num: 2 }"))
    )  # fmt: skip
    by_backend = runs(net)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        inputs = {name: rng.standard_normal(shape).astype(F32) for name, shape in net.input_shapes.items()}
        anchors = [[(23, 27), (37, 58)], [(10, 14), (23, 27)]]
        want = yolo_rows([inputs["x"], inputs["x2"]], anchors, [32, 16], True, least, 0.4)
        for backend, run in by_backend.items():
            np.testing.assert_allclose(run(inputs), want, rtol=1e-5, atol=1e-6, err_msg=backend)


def test_yolo_boxes_for_a_runtime_of_its_own() -> None:
    from caffe_port.converters.to_onnx import to_onnx

    net = small.built(
        small.one_input(2, 16, 3, 3)
        + layer("YoloDetectionOutput", "x", params=(
            "yolo_detection_output_param { num_classes: 3 num_box: 2 biases: 1 biases: 2 biases: 2 biases: 0.5 }"))
    )  # fmt: skip
    x = np.random.default_rng(0).standard_normal((2, 16, 3, 3)).astype(F32)
    got = cases.run_onnx(to_onnx(net, detection="boxes"), {"x": x})
    assert got["y.boxes"].shape == (2, 1, 18, 4)
    assert got["y.scores"].shape == (2, 3, 18)
    # The third anchor of all: the second cell's first.
    v = x[1, :8, 0, 1].astype(float)
    middle, half = (1 + sigmoid(v[0])) / 3, math.exp(v[2]) / 3 / 2
    np.testing.assert_allclose(got["y.boxes"][1, 0, 2, [0, 2]], [middle - half, middle + half], rtol=1e-5)
    np.testing.assert_allclose(got["y.scores"][1, :, 2].sum(), sigmoid(v[4]), rtol=1e-5)


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ("num_classes: 2 biases: 1", "a width and a height"),
        ("num_classes: 2 num_box: 1 biases: 1 biases: 1 mask: 3 anchors_scale: 32 mask_group_num: 1", "mask 3 of 1"),
        (
            "num_classes: 2 num_box: 1 biases: 1 biases: 1 mask: 0 anchors_scale: 32 mask_group_num: 2",
            "2, and 1 bottoms",
        ),
        ("num_classes: 2 gaussian_box: true biases: 1 biases: 1", "gaussian_box"),
    ],
)
def test_yolo_refuses(params: str, told: str) -> None:
    with pytest.raises(cp.CaffePortError, match=told):
        small.built(
            small.one_input(1, 7, 2, 2)
            + layer("Yolov3DetectionOutput", "x", params=f"yolov3_detection_output_param {{ {params} }}")
        )


# Training


def test_smooth_l1_by_hand() -> None:
    """Differences 0.1 and 2 with sigma 2: 0.1^2 * 4 / 2 = 0.02, and 2 - 1 / 8; by 3 outside, by 2 for the batch."""
    net = small.built(
        "".join(small.one_input(2, 2, name=name) for name in ("a", "b", "inside", "outside"))
        + layer("SmoothL1Loss", "a", "b", "inside", "outside", params="smooth_l1_loss_param { sigma: 2 }")
    )
    inputs = {
        "a": np.array([[0.2, 2], [5, 7]], F32),
        "b": np.array([[0, 0], [1, 7]], F32),
        "inside": np.array([[0.5, 1], [0, 1]], F32),
        "outside": np.array([[3, 3], [3, 3]], F32),
    }
    for run in runs(net).values():
        np.testing.assert_allclose(run(inputs), 3 * (0.02 + 2 - 0.125) / 2, rtol=1e-6)


def multibox_text(loc: int) -> str:
    return (
        'layer { name: "data" type: "AnnotatedData" top: "data" top: "label" data_param { batch_size: 4 source: "x" } '
        "transform_param { mean_value: 104 resize_param { prob: 1 height: 30 width: 20 } } "
        'annotated_data_param { batch_sampler { max_sample: 1 } label_map_file: "m" } }'
        + small.one_input(4, loc, name="loc") + small.one_input(4, 6, name="conf")
        + layer("PriorBox", "data", "data", params="prior_box_param { min_size: 8 }", top="prior").replace('"L"', '"P"')
        + layer("MultiBoxLoss", "loc", "conf", "prior", "label", params="multibox_loss_param { num_classes: 2 }")
    )  # fmt: skip


def test_a_net_that_trains_can_be_looked_at() -> None:
    """Input shapes are those the data layer gives; priors are 600, so 3 do not fit."""
    with pytest.raises(cp.CaffePortError, match="600 priors need N x 2400"):
        small.built(multibox_text(12), phase="TRAIN")
    net = small.built(multibox_text(2400).replace("dim: 6 ", "dim: 1200 "), phase="TRAIN")
    assert net.input_shapes["data"] == (4, 3, 30, 20)
    assert net.input_shapes["label"] == (1, 1, 1, 8)
    assert net.layers[-1].tops[0].shape == ()
    inputs = {name: np.zeros(shape, F32) for name, shape in net.input_shapes.items()}
    with pytest.raises(cp.CaffePortError, match="MultiBoxLoss is read and inspected, not run"):
        cp.run(net, inputs)
    with pytest.raises(cp.CaffePortError, match="inspection only"):
        cp.to_onnx(net)


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
    assert choices.cut(pooling("ROIPooling")[0], {})[2] == []


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
    for layer, tops in make_backend("numpy").trace(net, inputs):
        yield layer, tuple(top + F32(1e-5) for top in tops if top is not None)
