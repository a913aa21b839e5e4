"""DetectionOutput, priors, losses: by hand, against loops after the forks' source, and backend against backend."""

from __future__ import annotations

import functools
import math
from typing import Any

import cases
import numpy as np
import pytest
import small
from detections import CLASSES, IMAGES, PRIORS, rows_by_loops
from fork_layers import F32, QUICK, Floats, Run, layer, runs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import caffe_port as cp
from caffe_port.net import Net


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
