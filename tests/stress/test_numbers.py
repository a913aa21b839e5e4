"""Layers given numbers at the ends of their range, or none at all: by Caffe's rules, and alike in every backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small import CONV_NET, blob, built, filled, inputs_of, one_input, weights_of, write_caffemodel

import caffe_port as cp
from caffe_port.errors import ArtifactError, CaffePortError, FetchError, GraphError, ShapeError, UnsupportedLayer
from caffe_port.models.fetch import fetch
from caffe_port.passes.fold_linear import fold_linear
from caffe_port.runtime import run

# What NumPy warns of must not reach a terminal.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

Arrays = dict[str, NDArray[Any]]
Runner = Callable[[Mapping[str, Any]], Arrays]

BACKENDS = ("numpy", "torch", "onnxruntime")
INF, NAN, HUGE = np.float32(np.inf), np.float32(np.nan), np.float32(1e30)


def layer(type_name: str, params: str = "", bottoms: str = "x", tops: str = "y") -> str:
    named = "".join(f' bottom: "{name}"' for name in bottoms.split()) + "".join(f' top: "{t}"' for t in tops.split())
    return f'layer {{ name: "L" type: "{type_name}"{named} {params} }}\n'


def runner(net: cp.Net, backend: str) -> Runner:
    """The net in a backend, made once."""
    if backend.startswith("numpy"):
        dtype = "float64" if backend == "numpy64" else "float32"
        return lambda inputs: run(net, inputs, dtype, outputs=net.outputs)
    if backend == "torch":
        torch = pytest.importorskip("torch")
        module = cp.to_pytorch(net)

        def through_module(inputs: Mapping[str, Any]) -> Arrays:
            with torch.no_grad():
                result = module(*[torch.from_numpy(np.array(inputs[name], np.float32)) for name in net.inputs])
            tensors = result if isinstance(result, dict) else {net.outputs[0]: result}
            return {name: tensor.numpy() for name, tensor in tensors.items()}

        return through_module
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        cp.to_onnx(net).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    return lambda inputs: dict(
        zip(net.outputs, session.run(None, {name: np.asarray(inputs[name], np.float32) for name in names}), strict=True)
    )


def everywhere(net: cp.Net, inputs: Mapping[str, Any]) -> dict[str, Arrays]:
    return {backend: runner(net, backend)(inputs) for backend in (*BACKENDS, "numpy64")}


def difference(a: NDArray[Any], b: NDArray[Any]) -> str:
    """How two results differ: in NaN, in infinities, or by more than rounding; "" if they do not."""
    if a.shape != b.shape:
        return f"shapes {a.shape} and {b.shape}"
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return f"{np.isnan(a).sum()} and {np.isnan(b).sum()} NaN"
    infinite = np.isinf(a) | np.isinf(b)
    if not np.array_equal(a[infinite], b[infinite]):
        return f"{a[infinite][:3]} and {b[infinite][:3]}"
    finite = np.isfinite(a)
    apart = np.abs(a[finite].astype(np.float64) - b[finite]).max(initial=0)
    # What the float32 nearest to 0 is apart from the next, too: subnormal numbers have few digits.
    return f"{apart} apart" if apart > 1e-5 * np.abs(a[finite]).max(initial=0) + 1e-43 else ""


X = one_input(2, 3, 4, 5)
XZ = X + one_input(2, 3, 4, 5, name="z")
LAYERS = {
    "convolution": X + layer("Convolution", "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }"),
    "deconvolution": X + layer("Deconvolution", "convolution_param { num_output: 4 kernel_size: 3 stride: 2 }"),
    "im2col": X + layer("Im2col", "convolution_param { kernel_size: 3 }"),
    "max pooling": X + layer("Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 }"),
    "average pooling": X + layer("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }"),
    "global pooling": X + layer("Pooling", "pooling_param { pool: AVE global_pooling: true }"),
    "SPP": X + layer("SPP", "spp_param { pyramid_height: 2 }"),
    "LRN": X + layer("LRN", "lrn_param { local_size: 3 alpha: 0.1 beta: 0.75 }"),
    "LRN within": X + layer("LRN", "lrn_param { local_size: 3 alpha: 0.1 norm_region: WITHIN_CHANNEL }"),
    "InnerProduct": X + layer("InnerProduct", "inner_product_param { num_output: 4 }"),
    "Flatten": X + layer("Flatten"),
    "Concat": XZ + layer("Concat", "", "x z"),
    "Slice": X + layer("Slice", "slice_param { slice_point: 1 }", "x", "y m"),
    "Eltwise sum": XZ + layer("Eltwise", "", "x z"),
    "Eltwise 1 0": XZ + layer("Eltwise", "eltwise_param { coeff: 1 coeff: 0 }", "x z"),
    "Eltwise difference": XZ + layer("Eltwise", "eltwise_param { coeff: 1 coeff: -1 }", "x z"),
    "Eltwise product": XZ + layer("Eltwise", "eltwise_param { operation: PROD }", "x z"),
    "Eltwise maximum": XZ + layer("Eltwise", "eltwise_param { operation: MAX }", "x z"),
    "Reduction sum": X + layer("Reduction", "reduction_param { axis: 1 }"),
    "Reduction asum": X + layer("Reduction", "reduction_param { axis: 1 operation: ASUM }"),
    "Reduction sumsq": X + layer("Reduction", "reduction_param { axis: 1 operation: SUMSQ }"),
    "Reduction mean": X + layer("Reduction", "reduction_param { axis: 1 operation: MEAN }"),
    "Tile": X + layer("Tile", "tile_param { tiles: 2 }"),
    "ArgMax": X + layer("ArgMax", "argmax_param { axis: 1 }"),
    "Softmax": X + layer("Softmax"),
    "MVN": X + layer("MVN"),
    "MVN mean": X + layer("MVN", "mvn_param { normalize_variance: false across_channels: true }"),
    "BatchNorm": X + layer("BatchNorm"),
    "BatchNorm of the batch": X + layer("BatchNorm", "batch_norm_param { use_global_stats: false }"),
    "Scale": X + layer("Scale", "scale_param { bias_term: true }"),
    "Bias": X + layer("Bias"),
    "ReLU": X + layer("ReLU", "relu_param { negative_slope: 0.1 }"),
    "PReLU": X + layer("PReLU"),
    "ELU": X + layer("ELU"),
    "Sigmoid": X + layer("Sigmoid"),
    "TanH": X + layer("TanH"),
    "Swish": X + layer("Swish"),
    "Clip": X + layer("Clip", "clip_param { min: -1 max: 6 }"),
    "AbsVal": X + layer("AbsVal"),
    "BNLL": X + layer("BNLL"),
    "square": X + layer("Power", "power_param { power: 2 scale: 2 shift: 1 }"),
    "cube": X + layer("Power", "power_param { power: 3 }"),
    "reciprocal": X + layer("Power", "power_param { power: -1 }"),
    "Exp": X + layer("Exp"),
    "Log": X + layer("Log", "log_param { base: 2 shift: 1 }"),
    "Threshold": X + layer("Threshold", "threshold_param { threshold: 0.5 }"),
    "EuclideanLoss": XZ + layer("EuclideanLoss", "", "x z"),
    "SoftmaxWithLoss": X + one_input(2, 4, 5, name="label") + layer("SoftmaxWithLoss", "", "x label"),
    "Normalize": X + layer("Normalize", "norm_param { across_spatial: false channel_shared: false }"),
}


def every(step: int, value: np.float32) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def changed(x: NDArray[Any]) -> NDArray[Any]:
        x = x.copy()
        x.reshape(-1)[::step] = value
        return x

    return changed


STRESS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "huge": lambda x: x * HUGE,
    "tiny": lambda x: x * np.float32(1e-30),
    "subnormal": lambda x: x * np.float32(1e-40),
    "zero": lambda x: x * 0,
    "inf": every(7, INF),
    "-inf": every(7, -INF),
    "NaN": every(7, NAN),
}

APART = {
    ("max pooling", "NaN"): "Caffe never chooses NaN, PyTorch always does",
    ("SPP", "NaN"): "as max pooling",
    ("ArgMax", "NaN"): "in a sort NaN stands anywhere",
    ("LRN", "huge"): "onnxruntime's running sum has inf - inf, as Caffe's own",
    ("LRN", "inf"): "the same",
    ("LRN", "-inf"): "the same",
    ("LRN", "NaN"): "a running sum keeps NaN",
    ("ELU", "tiny"): "onnxruntime has exp(x) - 1 to more digits than exp(x) has",
    ("ELU", "subnormal"): "the same",
    ("TanH", "subnormal"): "onnxruntime's has fewer digits there",
}
"""Where backends do not agree, which a verification tells: the reasons, which docs/numbers.md gives too."""


@pytest.mark.parametrize("name", LAYERS)
def test_backends_agree_at_the_ends_of_float32(name: str) -> None:
    net = filled(LAYERS[name])
    runners = {backend: runner(net, backend) for backend in (*BACKENDS, "numpy64")}
    for stress, change in STRESS.items():
        inputs = {key: np.zeros_like(x) if key == "label" else change(x) for key, x in inputs_of(net).items()}
        results = {backend: run(inputs) for backend, run in runners.items()}
        for backend in BACKENDS[1:]:
            for top, value in results["numpy"].items():
                found = difference(value, results[backend][top])
                assert not found or (name, stress) in APART, f"{stress}: numpy and {backend}: {found}"


RULES: dict[str, tuple[str, list[float], list[float]]] = {
    "Sigmoid ends at 0 and 1": (layer("Sigmoid"), [-1e30, -200, 200, 1e30], [0, 0, 1, 1]),
    "TanH ends at -1 and 1": (layer("TanH"), [-1e30, -200, 200, 1e30], [-1, -1, 1, 1]),
    "ELU ends at -alpha": (
        layer("ELU", "elu_param { alpha: 2 }"),
        [-1e30, -np.inf, 1e30, np.inf],
        [-2, -2, 1e30, np.inf],
    ),
    "Exp overflows": (layer("Exp"), [-1e30, 100, 1e30], [0, np.inf, np.inf]),
    "BNLL is x where that is large": (layer("BNLL"), [-1e30, 1e30], [0, 1e30]),
    "Log of 0 and less": (layer("Log"), [0, -1, 1], [-np.inf, np.nan, 0]),
    "a root of a negative number": (layer("Power", "power_param { power: 0.5 }"), [-4, 0, 4], [np.nan, 0, 2]),
    "a root of -inf is C's pow's": (layer("Power", "power_param { power: 0.5 }"), [-np.inf, np.inf], [np.inf, np.inf]),
    "1 by 0": (layer("Power", "power_param { power: -1 }"), [0, 2], [np.inf, 0.5]),
    "a constant power of NaN": (layer("Power", "power_param { power: 0 }"), [np.nan, np.inf], [1, 1]),
    "the mean of overflow": (layer("Reduction", "reduction_param { operation: MEAN }"), [3e38, 3e38], [np.inf]),
    "Softmax of huge scores": (layer("Softmax", "softmax_param { axis: 0 }"), [1e30, -1e30, 1e30], [0.5, 0, 0.5]),
    "Softmax of an infinite score": (layer("Softmax", "softmax_param { axis: 0 }"), [np.inf, 1], [np.nan, np.nan]),
}


IN_FLOAT32 = ("Exp overflows", "the mean of overflow")
"""What float64 has numbers for."""


@pytest.mark.parametrize("rule", RULES)
def test_caffes_rule(rule: str) -> None:
    text, given, expected = RULES[rule]
    x = np.array(given, np.float32)
    for backend, tops in everywhere(built(one_input(x.size) + text), {"x": x}).items():
        if rule in IN_FLOAT32 and backend == "numpy64":
            continue
        np.testing.assert_allclose(tops["y"].reshape(-1), np.float32(expected), rtol=1e-6, err_msg=backend)


BATCH_NORM = {
    "factor 0": (([5, 6], [1, 2], [0]), "", [316.22778, -632.45557]),
    "variance 0": (([0, 0], [0, 0], [1]), "", [316.22778, -632.45557]),
    "variance below -eps": (([0, 0], [-1, -1], [1]), "", [np.nan, np.nan]),
    "eps 1e-30": (([0, 0], [0, 0], [1]), "batch_norm_param { eps: 1e-30 }", [1e15, -2e15]),
    "a subnormal factor": (([0, 0], [1e-38, 1e-38], [1e-39]), "", [0.3162276, -0.6324552]),
}


@pytest.mark.parametrize("case", BATCH_NORM)
def test_batch_norm_with_odd_statistics(case: str) -> None:
    """Caffe divides its sums by the factor, or takes 0 for both where that is 0."""
    blobs, params, expected = BATCH_NORM[case]
    net = built(one_input(1, 2, 1, 1) + layer("BatchNorm", params))
    net = net.with_weights({"L": [np.array(values, np.float32) for values in blobs]})
    if case == "a subnormal factor":
        # 1 / 1e-39 is beyond float32, so that Caffe has inf * 1e-38; in float64 there is a result.
        expected = [0.0, -0.0]
    for backend, tops in everywhere(net, {"x": np.array([1, -2], np.float32).reshape(1, 2, 1, 1)}).items():
        if (case, backend) == ("a subnormal factor", "numpy64"):
            continue
        got = tops["y"].reshape(-1)
        if case == "a subnormal factor":
            assert np.isnan(got).all(), backend
        else:
            np.testing.assert_allclose(got, np.float32(expected), rtol=1e-6, err_msg=backend)


def test_batch_norm_that_divides_by_0_is_not_passed() -> None:
    """Without eps x / 0 is infinite; ONNX's operator has NaN there, and a verification says so."""
    from caffe_port.verification import verify

    net = built(one_input(1, 2, 1, 1) + layer("BatchNorm", "batch_norm_param { eps: 0 }"))
    net = net.with_weights({"L": [np.zeros(2), np.zeros(2), np.ones(1)]})
    inputs = {"x": np.array([1, -2], np.float32).reshape(1, 2, 1, 1)}
    results = everywhere(net, inputs)
    for backend in ("numpy", "torch", "numpy64"):
        np.testing.assert_array_equal(results[backend]["y"].reshape(-1), [np.inf, -np.inf])
    assert not verify(net, backend="onnxruntime", inputs=inputs).ok


def test_a_pooling_window_outside_the_image_divides_by_0() -> None:
    text = layer("Pooling", "pooling_param { pool: AVE kernel_size: 1 stride: 3 }")
    for backend, tops in everywhere(built(one_input(1, 1, 2, 1) + text), {"x": np.ones((1, 1, 2, 1))}).items():
        last = tops["y"][0, 0, -1, 0]
        assert np.isnan(last) or last == 0, backend


def test_mvn_of_a_constant_and_of_overflow() -> None:
    net = built(one_input(1, 2, 2, 2) + layer("MVN"))
    for value in (7, 0, 1e30):
        x = np.full((1, 2, 2, 2), value, np.float32)
        x[0, 1, 0, 0] = -x[0, 1, 0, 0]
        for backend in BACKENDS:
            got = runner(net, backend)({"x": x})["y"]
            assert (got[0, 0] == 0).all(), backend
            assert np.isfinite(got).all(), backend


def test_a_loss_is_floored_however_far_off_the_score_is() -> None:
    """Caffe takes the logarithm of FLT_MIN at least: 87.3, for a score of -1e30 too."""
    net = built(one_input(1, 2) + one_input(1, name="label") + layer("SoftmaxWithLoss", "", "x label"))
    for x in ([1e30, 0], [1000, 0], [np.float32(3e38), -np.float32(3e38)]):
        for backend, tops in everywhere(net, {"x": np.array([x], np.float32), "label": np.ones(1)}).items():
            assert tops["y"] == pytest.approx(87.33654, rel=1e-6), backend


@pytest.mark.parametrize("label", [np.nan, np.inf, -np.inf, 3, -1, 1e30])
@pytest.mark.parametrize("loss", ["SoftmaxWithLoss", "HingeLoss", "MultinomialLogisticLoss", "Accuracy"])
def test_a_label_that_is_no_class_is_refused(loss: str, label: float) -> None:
    """Caffe reads past the end of the scores there."""
    net = built(one_input(2, 3) + one_input(2, name="label") + layer(loss, "", "x label"))
    with pytest.raises(ShapeError, match=r"layer 'L': labels .* are not all in 0 to 2"):
        run(net, {"x": np.ones((2, 3)), "label": np.array([0, label])})


def test_an_index_that_is_none_is_refused() -> None:
    net = filled(one_input(2) + layer("Embed", "embed_param { num_output: 2 input_dim: 3 }"))
    with pytest.raises(ShapeError, match="indices nan to nan are not all in 0 to 2"):
        run(net, {"x": np.array([0, np.nan])})


# Nothing at all

HEADS = f"""{one_input(2, 3, 9, 9)}
layer {{ name: "c" type: "Convolution" bottom: "x" top: "c"
        convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 }} }}
layer {{ name: "b" type: "BatchNorm" bottom: "c" top: "c" }}
layer {{ name: "s" type: "Scale" bottom: "c" top: "c" scale_param {{ bias_term: true }} }}
layer {{ name: "r" type: "ReLU" bottom: "c" top: "c" }}
layer {{ name: "n" type: "LRN" bottom: "c" top: "n" }}
layer {{ name: "p" type: "Pooling" bottom: "n" top: "p" pooling_param {{ pool: MAX kernel_size: 3 stride: 2 }} }}
layer {{ name: "g" type: "Convolution" bottom: "p" top: "g"
        convolution_param {{ num_output: 4 kernel_size: 1 group: 2 }} }}
layer {{ name: "e" type: "Eltwise" bottom: "p" bottom: "g" top: "e" }}
layer {{ name: "k" type: "Concat" bottom: "e" bottom: "p" top: "k" }}
layer {{ name: "d" type: "Dropout" bottom: "k" top: "k" }}
layer {{ name: "a" type: "Pooling" bottom: "k" top: "a" pooling_param {{ pool: AVE global_pooling: true }} }}
layer {{ name: "f" type: "InnerProduct" bottom: "a" top: "f" inner_product_param {{ num_output: 5 }} }}
layer {{ name: "fk" type: "InnerProduct" bottom: "k" top: "fk" inner_product_param {{ num_output: 5 }} }}
layer {{ name: "m" type: "Eltwise" bottom: "f" bottom: "fk" top: "m" }}
layer {{ name: "prob" type: "Softmax" bottom: "m" top: "prob" }}
"""
"""What the known architectures end with, and are made of: a global pooling, fully connected layers, branches."""


def test_an_empty_batch_goes_through() -> None:
    net = filled(HEADS).with_input_shapes({"x": (0, 3, 9, 9)})
    for backend, tops in everywhere(net, {"x": np.zeros((0, 3, 9, 9), np.float32)}).items():
        assert tops["prob"].shape == (0, 5), backend
    # And through what was made for another batch.
    for backend in BACKENDS:
        assert runner(filled(HEADS), backend)({"x": np.zeros((0, 3, 9, 9), np.float32)})["prob"].shape == (0, 5)


def test_an_empty_batch_goes_through_open_nsfw() -> None:
    try:
        files = fetch("open_nsfw")
    except FetchError as error:
        pytest.skip(f"the released model cannot be had: {error}")
    net = cp.load(files.prototxt, files.caffemodel)
    for backend in BACKENDS:
        assert runner(net, backend)({"data": np.zeros((0, 3, 224, 224), np.float32)})["prob"].shape == (0, 2)


SIZES = {"no channels": (2, 0, 4, 5), "no rows": (2, 3, 0, 5), "no items": (0, 3, 4, 5)}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("size", SIZES)
def test_blobs_without_values_go_through_or_are_refused(name: str, size: str) -> None:
    """Whatever Caffe would do with such a blob: here a layer gives what it can, or says that it cannot."""
    n, c, h, w = SIZES[size]
    text = LAYERS[name].replace("dim: 2 dim: 3 dim: 4 dim: 5", f"dim: {n} dim: {c} dim: {h} dim: {w}")
    try:
        net = filled(text.replace("dim: 2 dim: 4 dim: 5", f"dim: {n} dim: {h} dim: {w}"))
        inputs = {key: np.zeros(shape, np.float32) for key, shape in net.input_shapes.items()}
        tops = {dtype: run(net, inputs, dtype, outputs=net.outputs) for dtype in ("float32", "float64")}
    except CaffePortError as error:
        assert size != "no items", error
        return
    for top, value in tops["float32"].items():
        assert value.shape == net.blobs[top].shape == tops["float64"][top].shape
    for backend in BACKENDS[1:]:
        if size == "no items":
            for top, value in runner(net, backend)(inputs).items():
                assert not difference(tops["float32"][top], value), backend
        else:
            with pytest.raises(UnsupportedLayer, match="knows no blobs without values but those of an empty batch"):
                runner(net, backend)


def test_the_mean_of_nothing_is_nan() -> None:
    net = built(one_input(2, 0) + layer("Reduction", "reduction_param { operation: MEAN axis: 1 }"))
    assert np.isnan(run(net, {"x": np.zeros((2, 0))})["y"]).all()


def test_weights_of_no_channel_are_refused_as_by_caffe() -> None:
    with pytest.raises(CaffePortError, match="a filler needs a blob with values"):
        built(one_input(1, 0, 2, 2) + layer("InnerProduct", "inner_product_param { num_output: 4 }"))


@pytest.mark.parametrize("kind", ["Scale", "Bias", "PReLU"])
def test_one_channel(kind: str) -> None:
    net = filled(one_input(2, 1, 2, 2) + layer(kind))
    inputs = inputs_of(net)
    results = everywhere(net, inputs)
    for backend in BACKENDS[1:]:
        assert not difference(results["numpy"]["y"], results[backend]["y"])


# One pixel

ONE_PIXEL = {
    "a window that ends outside": ("pool: MAX kernel_size: 2 stride: 2", (1, 1)),
    "a window that is all padding but one": ("pool: AVE kernel_size: 3 stride: 2 pad: 1", (1, 1)),
    "global": ("pool: AVE global_pooling: true", (1, 1)),
}


@pytest.mark.parametrize("case", ONE_PIXEL)
def test_pooling_of_one_pixel(case: str) -> None:
    params, expected = ONE_PIXEL[case]
    try:
        net = built(one_input(1, 2, 1, 1) + layer("Pooling", f"pooling_param {{ {params} }}"))
    except ShapeError:
        pytest.fail("Caffe takes it")
    results = everywhere(net, {"x": np.array([3, -5], np.float32).reshape(1, 2, 1, 1)})
    for backend in BACKENDS:
        assert results[backend]["y"].shape[2:] == expected
        assert not difference(results["numpy"]["y"], results[backend]["y"])


@pytest.mark.parametrize(
    "text",
    [
        layer("Convolution", "convolution_param { num_output: 2 kernel_size: 5 }"),
        layer("Pooling", "pooling_param { pool: MAX kernel_size: 5 stride: 1 }"),
        layer("Deconvolution", "convolution_param { num_output: 2 kernel_size: 1 pad: 3 }"),
        layer("Crop", "crop_param { offset: 1 }", "x x"),
    ],
)
def test_a_size_below_0_is_refused_as_by_caffe(text: str) -> None:
    with pytest.raises(ShapeError, match="layer 'L'"):
        built(one_input(1, 3, 1, 1) + text)


def test_a_picture_of_one_pixel_is_scored(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    from caffe_port.preprocessing import OPEN_NSFW
    from caffe_port.scoring.preprocess import tensor

    image.new("RGB", (1, 1), (10, 200, 30)).save(tmp_path / "one.png")
    made = tensor(tmp_path / "one.png", OPEN_NSFW)
    assert made.shape == (3, 224, 224)
    assert np.isfinite(made).all()
    assert (made == made[:, :1, :1]).all()


# Subnormal weights, and fewer bits


@pytest.mark.parametrize("backend", [*BACKENDS, "numpy64"])
@pytest.mark.parametrize("kind", ["InnerProduct", "Convolution"])
def test_subnormal_weights_are_computed_with(backend: str, kind: str) -> None:
    """Not taken for 0, by any backend that verifies: times 1e20 they give what float64 gives."""
    params = "inner_product_param { num_output: 8 bias_term: false }"
    if kind == "Convolution":
        params = "convolution_param { num_output: 8 kernel_size: 3 bias_term: false }"
    net = filled(one_input(1, 8, 6, 6) + layer(kind, params))
    net = net.with_weights({"L": [weights_of(net)["L"][0] * np.float32(1e-38)]})
    inputs = {"x": np.abs(inputs_of(net)["x"]) * np.float32(1e20)}
    exact = run(net, inputs, "float64")["y"]
    assert np.abs(exact).min() > 0
    np.testing.assert_allclose(runner(net, backend)(inputs)["y"], exact, rtol=0, atol=1e-5 * np.abs(exact).max())


def test_openvino_takes_subnormal_weights_for_0(tmp_path: Path) -> None:
    """So a conversion to it fails its verification, where they matter."""
    pytest.importorskip("openvino")
    onnx = pytest.importorskip("onnx")
    from caffe_port.converters.to_onnx.files import run_openvino, write_openvino

    net = built(one_input(1, 4) + layer("InnerProduct", "inner_product_param { num_output: 2 bias_term: false }"))
    net = net.with_weights({"L": [np.full((2, 4), 1e-39, np.float32)]})
    onnx.save(cp.to_onnx(net), tmp_path / "a.onnx")
    write_openvino(tmp_path / "a.onnx", tmp_path / "a.xml")
    inputs = {"x": np.full((1, 4), 1e20, np.float32)}
    assert run(net, inputs)["y"] == pytest.approx(4e-19, rel=1e-5)
    assert (run_openvino(tmp_path / "a.xml", inputs)["y"] == 0).all()


def of_scale(factor: float) -> cp.Net:
    net = filled(CONV_NET)
    return net.with_weights({k: [v * np.float32(factor) for v in values] for k, values in weights_of(net).items()})


@pytest.mark.parametrize("activations", [False, True])
def test_weights_that_float16_cannot_hold_are_refused(activations: bool) -> None:
    from caffe_port.converters.to_onnx.half import to_half

    with pytest.raises(
        ArtifactError, match=r"constant 'fc.weight' of fc/Gemm has values up to .*; float16 ends at 65504"
    ):
        to_half(cp.to_onnx(of_scale(1e6)), activations=activations)


def test_weights_that_float16_takes_for_0_are_told(tmp_path: Path) -> None:
    from caffe_port.artifacts.form import Form
    from caffe_port.conversion import convert
    from caffe_port.converters.to_onnx.half import lost_to_zero

    assert lost_to_zero(cp.to_onnx(filled(CONV_NET))) == ""
    small = of_scale(1e-9)
    told = "353 of 353 weights are 0 in float16: nearer to it than 3e-08"
    assert lost_to_zero(cp.to_onnx(small)) == told
    definition = tmp_path / "net.prototxt"
    definition.write_text(CONV_NET)
    blobs = {layer.name: [blob(w.data) for w in layer.weights] for layer in small.layers if layer.weights}
    weights = write_caffemodel(tmp_path / "net.caffemodel", CONV_NET, blobs)
    done = convert(
        cp.load(definition, weights), tmp_path / "out", "net", ["onnx"], form=Form(half="weights"), verify=False
    )
    assert told in done.certificate.changes


def test_infinite_weights_stay_infinite_in_float16() -> None:
    from onnx import numpy_helper

    from caffe_port.converters.to_onnx.half import to_half

    values = weights_of(filled(CONV_NET))
    values["conv1"][0][0, 0, 0, 0] = np.inf
    net = filled(CONV_NET).with_weights(values)
    made = to_half(cp.to_onnx(net), calibration=[inputs_of(net)])
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    assert np.isinf(arrays["conv1.weight:stored"]).sum() == 1
    assert not any(np.isnan(array).any() for array in arrays.values())


@pytest.mark.parametrize("factor", [1e-40, 1e-36, 1e-30])
def test_int8_of_tiny_weights(factor: float) -> None:
    pytest.importorskip("onnxruntime")
    from caffe_port.converters.to_onnx.quantize import quantize

    net = of_scale(factor)
    assert quantize(cp.to_onnx(net), [inputs_of(net)]).error.largest < 0.01


def test_int8_of_what_is_not_finite_is_refused() -> None:
    pytest.importorskip("onnxruntime")
    from caffe_port.converters.to_onnx.quantize import quantize

    net = of_scale(1e30)
    with pytest.raises(GraphError, match="is not finite on a calibration input"):
        quantize(cp.to_onnx(net), [inputs_of(net)])


@pytest.mark.parametrize("factor", [1e-40, 1e30])
def test_folding_at_the_ends_of_float32(factor: float) -> None:
    text = CONV_NET.replace('layer { name: "relu1"', layer("BatchNorm", "", "conv1", "conv1") + 'layer { name: "relu1"')
    net = filled(text)
    scaled = [value * np.float32(factor) for value in weights_of(net)["conv1"]]
    net = net.with_weights({"conv1": scaled}, partial=True)
    folded = fold_linear(net).net
    assert len(folded.layers) == len(net.layers) - 1
    inputs = inputs_of(net)
    assert not difference(run(net, inputs)["conv1"], run(folded, inputs)["conv1"])


def test_folding_overflow_warns_nobody() -> None:
    text = CONV_NET.replace('layer { name: "relu1"', layer("BatchNorm", "", "conv1", "conv1") + 'layer { name: "relu1"')
    net = filled(text).with_weights({"L": [np.zeros(4), np.full(4, -1), np.ones(1)]}, partial=True)
    folded = fold_linear(net).net.layer("conv1").weights[0].data
    assert folded is not None
    assert np.isnan(folded).all()


def test_an_input_beyond_float32_is_infinite() -> None:
    net = built(one_input(2) + layer("ReLU"))
    np.testing.assert_array_equal(run(net, {"x": np.array([1e300, -1.0])})["y"], [np.inf, 0])
    np.testing.assert_array_equal(run(net, {"x": np.array([1e300, -1.0])}, "float64")["y"], [1e300, 0])
