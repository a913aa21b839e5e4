"""Layers of forks: by what the forks recorded; those for segmentation and mobile nets by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cases import assert_agrees, fork_cases, load_case, run_onnx, run_torch
from everywhere import TOLERANCE, everywhere, layer, shape_of
from gradients import assert_gradients
from small import THROUGH, built, filled, inputs_of, one_input

import caffe_port as cp
from caffe_port.converters.to_onnx import to_onnx, value_names
from caffe_port.errors import GraphError, ShapeError, UnsupportedParameter
from caffe_port.layer_cases import LayerCase

OURS = (
    "Axpy", "ConvolutionDepthwise", "Interp", "Normalize", "Permute", "ReLU6", "ShuffleChannel", "Upsample",
)  # fmt: skip

CASES = sorted(name for name in fork_cases() if name.rsplit("_", 1)[0] in OURS)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> LayerCase:
    return fork_cases()[request.param]


def test_all_cases_are_there() -> None:
    assert len(fork_cases()) == 66 and len(CASES) == 6 * len(OURS)
    assert all(case.info["status"] == "ok" for case in fork_cases().values())


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", TOLERANCE), ("float64", 1e-5)])
def test_numpy(case: LayerCase, dtype: str, tolerance: float) -> None:
    blobs = cp.run(load_case(case), case.inputs, dtype)
    for name, want in case.outputs.items():
        assert blobs[name].dtype == np.dtype(dtype)
        assert_agrees(blobs[name], want, name, tolerance)


def test_pytorch(case: LayerCase) -> None:
    pytest.importorskip("torch")
    for name, value in run_torch(load_case(case), case.inputs).items():
        assert_agrees(value, case.outputs[name], name, TOLERANCE)


def test_onnx(case: LayerCase) -> None:
    pytest.importorskip("onnxruntime")
    import onnx

    net = load_case(case)
    model = to_onnx(net)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    outputs, names = run_onnx(model, case.inputs), value_names(net)
    for blob in net.output_blobs:
        assert_agrees(outputs[names[blob]], case.outputs[blob.name], blob.name, TOLERANCE)


@pytest.mark.parametrize("name", [name for name in CASES if fork_cases()[name].grads])
def test_gradients(name: str) -> None:
    pytest.importorskip("torch")
    assert_gradients(fork_cases()[name], 1e-4)


def test_transpose() -> None:
    net = one_input(2, 3, 1, 4) + layer("Transpose", "transpose_param { dim: 3 dim: 2 dim: 0 dim: 1 }")
    x = np.arange(24.0)
    (y,) = everywhere(net, {"x": x}).values()
    assert y.shape == (4, 1, 2, 3)
    # y[w, h, n, c] = x[n, c, h, w]
    assert y[3, 0, 1, 2] == 23 and y[0, 0, 1, 0] == 12 and y[2, 0, 0, 1] == 6


@pytest.mark.parametrize("dims", ["dim: 0 dim: 1", "dim: 0 dim: 1 dim: 2 dim: 3 dim: 4"])
def test_transpose_names_every_axis(dims: str) -> None:
    with pytest.raises(ShapeError, match="bottom of 4 axes"):
        built(one_input(2, 3, 1, 4) + layer("Transpose", f"transpose_param {{ {dims} }}"))


@pytest.mark.parametrize(
    ("type_name", "parameters", "message"),
    [
        ("Transpose", "transpose_param { dim: 0 dim: 0 }", "each axis once"),
        ("Permute", "permute_param { order: 1 order: 1 }", "an axis twice"),
        ("Reverse", "reverse_param { axis: -1 }", "must not be negative"),
        ("ShuffleChannel", "shuffle_channel_param { group: 0 }", "must be positive"),
        ("Padding", "padding_param { pad_beg: 1 pad_end: -1 }", "one pads, the other cuts"),
        ("Interp", "interp_param { pad_beg: 1 zoom_factor: 2 }", "it does not pad"),
        ("Interp", "interp_param { zoom_factor: 0 }", "at least 1"),
        ("Interp", "interp_param { height: 3 }", "give height and width"),
        ("Upsample", "upsample_param { scale: 1.5 }", "whole number"),
        ("Upsample", "upsample_param { scale: 0 }", "larger than 0"),
        ("Upsample", "upsample_param { scale: 2 pad_out_h: true }", "with a mask"),
        ("Upsample", "upsample_param { upsample_h: 4 upsample_w: 4 }", "with a mask"),
        ("Unpooling", "unpooling_param { kernel_size: 2 unpool: TILE unpool_size: 4 }", "TILE adds"),
        ("Unpooling", "unpooling_param { kernel_size: 2 }", "unpool_size"),
        ("Unpooling", "unpooling_param { kernel_size: 2 pad: 1 unpool_size: 4 }", "pad must be 0"),
        ("Unpooling", "unpooling_param { unpool_size: 4 }", "kernel_size"),
        ("BN", "bn_param { bn_mode: LEARN frozen: true }", "fields of different forks"),
        ("BN", "bn_param { scale_filler { } bias_filler { } }", "fields of different forks"),
        ("BN", "", "--dialect"),
        ("Normalize", "", "--dialect"),
        ("Lstm", "lstm_param { }", "num_output"),
        ("Pooling", "pooling_param { kernel_size: 2 round_mode: CEIL ceil_mode: true }", "ceil_mode"),
    ],
)
def test_what_is_refused(type_name: str, parameters: str, message: str) -> None:
    with pytest.raises(UnsupportedParameter, match=message):
        built(one_input(2, 3, 6, 5) + layer(type_name, parameters))


def test_reverse() -> None:
    (y,) = everywhere(
        one_input(3, 2) + layer("Reverse", "reverse_param { axis: 0 }"), {"x": [1, 2, 3, 4, 5, 6]}
    ).values()
    assert y.tolist() == [[5, 6], [3, 4], [1, 2]]


def test_padding_pads_and_cuts() -> None:
    x = {"x": np.arange(1.0, 7.0)}
    padded = everywhere(one_input(1, 1, 2, 3) + layer("Padding", "padding_param { pad_beg: 1 pad_end: 0 }"), x)["y"]
    assert padded.tolist() == [[[[0, 0, 0, 0], [0, 1, 2, 3], [0, 4, 5, 6]]]]
    cut = everywhere(one_input(1, 1, 2, 3) + layer("Padding", "padding_param { pad_beg: -1 pad_end: 0 }"), x)["y"]
    assert cut.tolist() == [[[[5, 6]]]]
    with pytest.raises(ShapeError, match="leave nothing"):
        built(one_input(1, 1, 2, 3) + layer("Padding", "padding_param { pad_beg: -1 pad_end: -1 }"))


def test_interp_between_the_corners() -> None:
    net = one_input(1, 1, 2, 3) + layer("Interp", "interp_param { height: 3 width: 2 }")
    (y,) = everywhere(net, {"x": [0, 2, 4, 10, 12, 14]}).values()
    assert y.tolist() == [[[[0, 4], [5, 9], [10, 14]]]]


@pytest.mark.parametrize(
    ("parameters", "plane"),
    [
        ("zoom_factor: 3", (13, 7)),  # (5 - 1) * 3 + 1, (3 - 1) * 3 + 1
        ("shrink_factor: 2", (3, 2)),
        ("shrink_factor: 2 zoom_factor: 4", (9, 5)),
        ("shrink_factor: 2 zoom_factor: 4 height: 8 width: 9", (8, 9)),
        ("zoom_factor: 2 height: 8 width: 9", (9, 5)),  # one factor alone wins over the size
        ("pad_beg: -1 pad_end: -1 zoom_factor: 2", (5, 1)),
        ("height: 1 width: 1", (1, 1)),
    ],
)
def test_size_of_interp(parameters: str, plane: tuple[int, int]) -> None:
    net = one_input(2, 1, 5, 3) + layer("Interp", f"interp_param {{ {parameters} }}")
    assert shape_of(net) == (2, 1, *plane)
    everywhere(net, inputs_of(built(net)))


def test_upsample_without_mask_repeats() -> None:
    (y,) = everywhere(
        one_input(1, 2, 1, 2) + layer("Upsample", "upsample_param { scale: 3 }"), {"x": [1, 2, 3, 4]}
    ).values()
    rows = [[[1, 1, 1, 2, 2, 2]] * 3, [[3, 3, 3, 4, 4, 4]] * 3]
    assert y.tolist() == [rows]
    assert shape_of(one_input(1, 2, 3, 2) + layer("Upsample")) == (1, 2, 3, 2)


MASKED = one_input(1, 2, 2, 2) + one_input(1, 2, 2, 2, name="mask")


@pytest.mark.parametrize(
    ("parameters", "plane"),
    [
        ("scale: 2", (4, 4)),
        ("", (4, 4)),
        ("scale: 2 pad_out_h: true", (3, 4)),
        ("scale_h: 3 scale_w: 4", (6, 8)),
        ("scale: 2 upsample_h: 5 upsample_w: 3", (5, 3)),
    ],
)
def test_upsample_with_mask(parameters: str, plane: tuple[int, int]) -> None:
    net = MASKED + layer("Upsample", f"upsample_param {{ {parameters} }}", "x mask")
    (y,) = everywhere(net, {"x": np.arange(1.0, 9.0), "mask": [0, 2, 11, 5, 1, 3, 4, 10]}).values()
    want = np.zeros((2, plane[0] * plane[1]))
    want[0, [0, 2, 11, 5]] = 1, 2, 3, 4
    want[1, [1, 3, 4, 10]] = 5, 6, 7, 8
    assert np.array_equal(y, want.reshape(1, 2, *plane))


def test_a_mask_that_points_outside() -> None:
    net = built(MASKED + layer("Upsample", "", "x mask"))
    for bad in (16, -1):
        with pytest.raises(GraphError, match=rf"cell {bad} of a plane of 4x4"):
            cp.run(net, {"x": np.ones((1, 2, 2, 2), np.float32), "mask": np.full((1, 2, 2, 2), bad, np.float32)})


def test_unpooling() -> None:
    parameters = "unpooling_param { unpool: MAX kernel_size: 2 stride: 2 unpool_h: 3 unpool_w: 4 }"
    x = np.arange(1.0, 9.0)
    (y,) = everywhere(
        MASKED + layer("Unpooling", parameters, "x mask"), {"x": x, "mask": [1, 2, 8, 11, 0, 3, 9, 10]}
    ).values()
    assert y[0, 0].tolist() == [[0, 1, 2, 0], [0, 0, 0, 0], [3, 0, 0, 4]]
    assert y[0, 1].tolist() == [[5, 0, 0, 6], [0, 0, 0, 0], [0, 7, 8, 0]]
    # Without a mask each value stands at the first cell of its window.
    (y,) = everywhere(one_input(1, 2, 2, 2) + layer("Unpooling", parameters), {"x": x}).values()
    assert y[0, 0].tolist() == [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0]]


def test_axpy_of_two_axes() -> None:
    net = one_input(1, 2, name="a") + one_input(1, 2, 3) + one_input(1, 2, 3, name="y")
    (top,) = everywhere(
        net + layer("Axpy", "", "a x y", "z"), {"a": [2, 3], "x": [1, 2, 3, 4, 5, 6], "y": [10] * 3 + [20] * 3}
    ).values()
    assert top.tolist() == [[[12, 14, 16], [32, 35, 38]]]


def test_mish() -> None:
    (y,) = everywhere(one_input(1, 4) + layer("Mish"), {"x": [0, 1, -1, 40]}).values()
    # x tanh(ln(1 + e^x)), worked out by hand with w = (1 + e^x)^2: x (w - 1) / (w + 1).
    w = (1 + np.e) ** 2
    v = (1 + 1 / np.e) ** 2
    assert np.allclose(y, [[0, (w - 1) / (w + 1), -(v - 1) / (v + 1), 40]], atol=1e-12)


@pytest.mark.parametrize("type_name", ["Convolution", "DepthwiseConvolution", "ConvolutionDepthwise"])
def test_depthwise_convolutions_are_one(type_name: str) -> None:
    parameters = "convolution_param { num_output: 2 group: 2 kernel_size: 2 bias_term: true }"
    net = one_input(1, 2, 2, 3) + layer(type_name, parameters)
    (y,) = everywhere(net, {"x": np.arange(12.0)}, [[1, 2, 3, 4, 1, 0, 0, -1], [0.5, -1]]).values()
    # Channel 0 is 0 1 2 / 3 4 5: 0 + 2 + 9 + 16 and 1 + 4 + 12 + 20; channel 1 is 6 7 8 / 9 10 11.
    assert y.tolist() == [[[[27.5, 37.5]], [[-5, -5]]]]


def test_convolution_depthwise_needs_its_channels() -> None:
    with pytest.raises(ShapeError, match="must be the channels"):
        built(
            one_input(1, 2, 4, 4) + layer("ConvolutionDepthwise", "convolution_param { num_output: 4 kernel_size: 1 }")
        )


def test_ceil_mode() -> None:
    for mode, plane in (("false", (2, 2)), ("true", (3, 3))):
        net = one_input(1, 1, 6, 6) + layer(
            "Pooling", f"pooling_param {{ kernel_size: 3 stride: 2 ceil_mode: {mode} }}"
        )
        assert shape_of(net) == (1, 1, *plane)
        everywhere(net, inputs_of(built(net)))


def test_dropout_that_scales_in_test() -> None:
    net = one_input(1, 3) + layer("Dropout", "dropout_param { dropout_ratio: 0.25 scale_train: false }")
    (y,) = everywhere(net, {"x": [4, 8, -4]}).values()
    assert y.tolist() == [[3, 6, -3]]


@pytest.mark.parametrize(
    ("parameters", "phase", "kept"),
    [("scale_train: false", "TRAIN", 1.0), ("sample_weights_test: true", "TEST", 2.0)],
)
@pytest.mark.parametrize("backend", sorted(THROUGH))
def test_dropout_that_drops(parameters: str, phase: str, kept: float, backend: str) -> None:
    parameters = f"dropout_param {{ dropout_ratio: 0.5 {parameters} }}"
    net = built(one_input(1, 1000) + layer("Dropout", parameters), phase=phase)
    (y,) = THROUGH[backend](net, {"x": np.ones((1, 1000), np.float32)}).values()
    assert set(np.unique(y)) == {0, kept} and 400 < np.count_nonzero(y) < 600


SPATIAL = "python_param {{ module: 'spatial_dropout' layer: 'SpatialDropoutLayer' param_str: \"{}\" }}"


def test_spatial_dropout_scales_in_test_too() -> None:
    net = one_input(1, 2, 1, 2) + layer("Python", SPATIAL.format("{'phase': 'TEST', 'p': '0.5'}"))
    (y,) = everywhere(net, {"x": [1, 2, 3, 4]}).values()
    assert y.ravel().tolist() == [2, 4, 6, 8]


@pytest.mark.parametrize("backend", sorted(THROUGH))
def test_spatial_dropout_drops_whole_channels(backend: str) -> None:
    net = built(one_input(2, 500, 1, 3) + layer("Python", SPATIAL.format("{'phase': 'TRAIN', 'p': 0.5}")))
    (y,) = THROUGH[backend](net, {"x": np.ones((2, 500, 1, 3), np.float32)}).values()
    assert set(np.unique(y)) == {0, 2} and (y == y[..., :1]).all() and 400 < np.count_nonzero(y[..., 0]) < 600


@pytest.mark.parametrize(
    "written",
    ["", "p=1", "{'p': 0.5}", "{'phase': 'TEST', 'p': 1}", "{'phase': 'TEST', 'p': [0.5]}", "[1]", "(" * 100_000],
)
def test_a_spatial_dropout_that_says_something_else(written: str) -> None:
    with pytest.raises(UnsupportedParameter, match=r"p must be|param_str (must be|is no mapping)"):
        built(one_input(1, 2, 1, 2) + layer("Python", SPATIAL.format(written)))


WRITTEN = {
    "Permute": "permute_param { order: 2 order: 0 }",
    "Transpose": "transpose_param { dim: 3 dim: 2 dim: 0 dim: 1 }",
    "Reverse": "reverse_param { axis: 2 }",
    "ShuffleChannel": "shuffle_channel_param { group: 2 }",
    "Padding": "padding_param { pad_beg: -1 pad_end: -2 }",
    "Interp": "interp_param { zoom_factor: 3 pad_end: -1 }",
    "Upsample": "upsample_param { scale: 3 }",
    "ReLU6": "",
    "Mish": "",
    "DepthwiseConvolution": "convolution_param { num_output: 8 group: 4 kernel_size: 3 stride: 2 }",
    "ConvolutionDepthwise": "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }",
}


@pytest.mark.parametrize("type_name", WRITTEN)
def test_as_pytorch_source(type_name: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    from pytorch_sources import assert_black, assert_computes

    net = filled(one_input(2, 4, 6, 5) + layer(type_name, WRITTEN[type_name]))
    assert_black(assert_computes(net, tmp_path).source)


def test_axpy_as_pytorch_source(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    from pytorch_sources import assert_computes

    inputs = one_input(2, 4, 1, 1, name="a") + one_input(2, 4, 3, 5) + one_input(2, 4, 3, 5, name="y")
    assert_computes(built(inputs + layer("Axpy", "", "a x y", "z")), tmp_path)
