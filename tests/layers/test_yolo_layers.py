"""Reorg and the output layers of YOLO: by hand, against loops after the forks' source, backend against backend."""

from __future__ import annotations

import math

import cases
import numpy as np
import pytest
import small
from fork_layers import F32, Floats, layer, runs

import caffe_port as cp

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
