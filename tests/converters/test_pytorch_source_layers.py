"""Source of every layer type that has a plain form, and of learned blobs that are shared."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from pytorch_sources import SHAPE, assert_computes, call, layer, valued, written
from small import CONV_NET, built, filled, inputs_of, one_input, weights_of

from caffe_port.converters.to_pytorch_source import to_pytorch_source
from caffe_port.errors import UnsupportedLayer
from caffe_port.runtime import run

pytest.importorskip("torch")
pytest.importorskip("safetensors.numpy")

ONE_BOTTOM = {
    "relu": layer("ReLU"),
    "leaky": layer("ReLU", "relu_param { negative_slope: 0.1 }"),
    "prelu": layer("PReLU"),
    "prelu_shared": layer("PReLU", "prelu_param { channel_shared: true }"),
    "elu": layer("ELU", "elu_param { alpha: 0.7 }"),
    "sigmoid": layer("Sigmoid"),
    "tanh": layer("TanH"),
    "abs": layer("AbsVal"),
    "bnll": layer("BNLL"),
    "swish": layer("Swish", "swish_param { beta: 1.5 }"),
    "clip": layer("Clip", "clip_param { min: -0.5 max: 0.25 }"),
    "threshold": layer("Threshold", "threshold_param { threshold: 0.3 }"),
    "exp": layer("Exp", "exp_param { base: 2 scale: 0.5 shift: 1 }"),
    "power_1": layer("Power", "power_param { scale: 0.5 shift: -1 }"),
    "power_2": layer("Power", "power_param { power: 2 shift: 1 }"),
    "power_3": layer("Power", "power_param { power: 3 scale: 2 }"),
    "power_0": layer("Power", "power_param { power: 0 }"),
    "log": layer("AbsVal", top="a") + layer("Log", "log_param { base: 10 shift: 0.5 }", "m", "a"),
    "conv": layer("Convolution", "convolution_param { num_output: 6 kernel_size: 3 stride: 2 pad: 1 }"),
    "conv_uneven": layer(
        "Convolution",
        "convolution_param { num_output: 6 kernel_h: 1 kernel_w: 3 stride_h: 1 stride_w: 2 pad_h: 0 pad_w: 1 }",
    ),
    "conv_plain": layer(
        "Convolution", "convolution_param { num_output: 3 kernel_size: 2 dilation: 2 bias_term: false }"
    ),
    "conv_depthwise": layer("Convolution", "convolution_param { num_output: 8 kernel_size: 3 group: 4 }"),
    "conv_past_pad": layer("Convolution", "convolution_param { num_output: 2 kernel_size: 8 stride: 4 }"),
    "conv_twice": one_input(*SHAPE, name="z")
    + layer("Convolution", "convolution_param { num_output: 2 kernel_size: 3 }", bottom="x z", top="y w"),
    "deconv": layer("Deconvolution", "convolution_param { num_output: 6 kernel_size: 4 stride: 2 pad: 1 group: 2 }"),
    "fc": layer("InnerProduct", "inner_product_param { num_output: 5 }"),
    "fc_transposed": layer("InnerProduct", "inner_product_param { num_output: 5 transpose: true bias_term: false }"),
    "fc_last_axis": layer("InnerProduct", "inner_product_param { num_output: 5 axis: -1 }"),
    "fc_axis_2": layer("InnerProduct", "inner_product_param { num_output: 5 axis: 2 }"),
    "bn": layer("BatchNorm"),
    "bn_eps": layer("BatchNorm", "batch_norm_param { eps: 0.001 }"),
    "bn_scale": layer("BatchNorm", top="b") + layer("Scale", "scale_param { bias_term: true }", "s", "b"),
    "bn_scale_no_bias": layer("BatchNorm", top="b") + layer("Scale", "", "s", "b"),
    "bn_of_two_readers": layer("BatchNorm", top="b") + layer("Scale", "", "s", "b") + layer("TanH", "", "t", "b", "z"),
    "scale": layer("Scale", "scale_param { bias_term: true }"),
    "scale_axes": layer("Scale", "scale_param { axis: 1 num_axes: 2 }"),
    "scale_all": layer("Scale", "scale_param { axis: 0 num_axes: 0 bias_term: true }"),
    "bias": layer("Bias"),
    "lrn": layer("LRN", "lrn_param { local_size: 3 alpha: 0.5 beta: 0.6 k: 2 }"),
    "lrn_within": layer("LRN", "lrn_param { local_size: 3 alpha: 0.5 norm_region: WITHIN_CHANNEL }"),
    "softmax": layer("Softmax"),
    "softmax_last": layer("Softmax", "softmax_param { axis: -1 }"),
    "flatten": layer("Flatten"),
    "flatten_part": layer("Flatten", "flatten_param { axis: 1 end_axis: 2 }"),
    "reshape": layer("Reshape", "reshape_param { shape { dim: 0 dim: 2 dim: -1 dim: 6 } }"),
    "reshape_part": layer("Reshape", "reshape_param { shape { dim: -1 } axis: 2 num_axes: 2 }"),
    "reshape_batch": layer("Reshape", "reshape_param { shape { dim: -1 dim: 42 } }"),
    "slice": layer("Slice", "slice_param { slice_point: 1 slice_point: 3 }", top="p q r"),
    "slice_equal": layer("Slice", "slice_param { axis: 0 }", top="p q"),
    "tile": layer("Tile", "tile_param { axis: 2 tiles: 3 }"),
    "sum": layer("Reduction", "reduction_param { axis: 1 coeff: 0.5 }"),
    "mean": layer("Reduction", "reduction_param { operation: MEAN axis: 2 }"),
    "sum_of_squares": layer("Reduction", "reduction_param { operation: SUMSQ }"),
    "dropout": layer("Dropout") + layer("TanH", "", "t", "y", "z"),
    "in_place": layer("ReLU", top="x") + layer("Power", "power_param { scale: 2 }", "p", top="x"),
    "shared_memory": layer("Power", "power_param { shift: 1 }", "a", top="a")
    + layer("Flatten", "", "f", "a", "f")
    + layer("ReLU", "", "r", "f", "f")
    + layer("Power", "power_param { scale: 2 }", "b", "a", "b"),
    "outputs": layer("ReLU") + layer("TanH", "", "t", top="z"),
    "silence": layer("ReLU") + layer("TanH", "", "t", top="z") + 'layer { name: "s" type: "Silence" bottom: "z" }',
    "embed": layer("Threshold", top="i") + layer("Embed", "embed_param { input_dim: 2 num_output: 3 }", "e", "i"),
    "many": layer("Power", "power_param { scale: -1 }", "p", top="p")
    + layer("Sigmoid", "", "a_name_that_is_rather_long_and_more_than_a_line_takes/at/all", "p", "q")
    + layer("Eltwise", "eltwise_param { coeff: -1 coeff: 0.5 coeff: 2 }", "e", "x p q"),
}


@pytest.mark.parametrize("name", sorted(ONE_BOTTOM))
def test_layer(name: str, tmp_path: Path) -> None:
    assert_computes(valued(built(one_input(*SHAPE) + ONE_BOTTOM[name])), tmp_path)


TWO_BOTTOMS = {
    "sum": layer("Eltwise", bottom="x z"),
    "difference": layer("Eltwise", "eltwise_param { coeff: 1 coeff: -1 }", bottom="x z")
    + layer("Power", "power_param { scale: 3 }", "p", "y", "w"),
    "product": layer("Eltwise", "eltwise_param { operation: PROD }", bottom="x z"),
    "maximum": layer("Eltwise", "eltwise_param { operation: MAX }", bottom="x z x"),
    "concat": layer("Concat", bottom="x z x"),
    "concat_last": layer("Concat", "concat_param { axis: -1 }", bottom="x z"),
}


@pytest.mark.parametrize("name", sorted(TWO_BOTTOMS))
def test_layer_of_two_bottoms(name: str, tmp_path: Path) -> None:
    assert_computes(built(one_input(*SHAPE) + one_input(*SHAPE, name="z") + TWO_BOTTOMS[name]), tmp_path)


def test_bottoms_of_other_shapes(tmp_path: Path) -> None:
    for text in (
        one_input(2, 4, name="z") + layer("Scale", "scale_param { axis: 0 }", bottom="x z"),
        one_input(2, 4, name="z") + layer("Scale", "scale_param { axis: 0 bias_term: true }", bottom="x z"),
        one_input(6, name="z") + layer("Bias", "bias_param { axis: 3 }", bottom="x z"),
        one_input(2, 4, 3, 2, name="z") + layer("Crop", "crop_param { offset: 2 offset: 0 }", bottom="x z"),
    ):
        assert_computes(filled(one_input(*SHAPE) + text), tmp_path)


def test_every_pooling(tmp_path: Path) -> None:
    """Each window either goes as PyTorch's own, or is padded, or refused; never is it wrong."""
    refused = 0
    for method in ("MAX", "AVE"):
        for kernel, stride, pad, mode in itertools.product((1, 2, 3, 4), (1, 2, 3, 5), (0, 1, 2), ("CEIL", "FLOOR")):
            if pad >= kernel:
                continue
            text = f"pool: {method} kernel_size: {kernel} stride: {stride} pad: {pad} round_mode: {mode}"
            net = built(one_input(2, 2, 7, 6) + layer("Pooling", f"pooling_param {{ {text} }}"))
            try:
                source = to_pytorch_source(net, "net")
            except UnsupportedLayer:
                assert method == "AVE"
                refused += 1
                continue
            inputs = inputs_of(net)
            want = run(net, inputs, "float64")["y"]
            got = call(written(source, tmp_path), net, inputs)["y"].numpy()
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12, err_msg=text)
    assert 0 < refused < 30
    for method in ("MAX", "AVE"):
        text = f"pooling_param {{ pool: {method} global_pooling: true }}"
        assert_computes(built(one_input(*SHAPE) + layer("Pooling", text)), tmp_path)


def test_any_batch(tmp_path: Path) -> None:
    net = filled(CONV_NET)
    module = written(to_pytorch_source(net, "net"), tmp_path)
    for batch in (1, 5, 0):
        x = {"data": np.random.default_rng(batch).standard_normal((batch, 3, 8, 7)).astype(np.float32)}
        got = call(module, net, x)["prob"].numpy()
        np.testing.assert_allclose(got, run(net, x, "float64")["prob"], rtol=1e-6, atol=1e-9)


# Weights


def test_the_table_of_weights() -> None:
    net = filled(
        one_input(2, 3, 5, 5)
        + layer("Convolution", "convolution_param { num_output: 4 kernel_size: 1 }", "c", top="c")
        + layer("BatchNorm", "", "b", "c", "c")
        + layer("Scale", "", "s", "c", "c")
        + layer("InnerProduct", "inner_product_param { num_output: 2 transpose: true }", "f", "c")
    )
    source = to_pytorch_source(net, "net")
    assert json.loads(json.dumps(source.blobs)) == {
        "c.weight": {"layer": "c", "blob": 0, "as": "same"},
        "c.bias": {"layer": "c", "blob": 1, "as": "same"},
        "b.weight": {"layer": "s", "blob": 0, "as": "same"},
        "b.bias": {"layer": "s", "blob": None, "as": "zeros"},
        "b.running_mean": {"layer": "b", "blob": 0, "as": "batchnorm_mean"},
        "b.running_var": {"layer": "b", "blob": 1, "as": "batchnorm_variance"},
        "f.weight": {"layer": "f", "blob": 0, "as": "transposed"},
        "f.bias": {"layer": "f", "blob": 1, "as": "same"},
    }
    blobs = weights_of(net)
    tensors = source.tensors
    assert all(tensor.dtype == np.float32 and tensor.flags.c_contiguous for tensor in tensors.values())
    assert np.array_equal(tensors["f.weight"], blobs["f"][0].T) and not tensors["b.bias"].any()
    factor = np.float32(1) / blobs["b"][2][0]
    assert np.array_equal(tensors["b.running_mean"], blobs["b"][0] * factor)
    assert np.array_equal(tensors["b.running_var"], blobs["b"][1] * factor)


def test_statistics_of_factor_zero(tmp_path: Path) -> None:
    net = built(one_input(2, 3) + layer("BatchNorm"))
    net = net.with_weights({"l": [np.ones(3), np.ones(3), [0]]})
    source = assert_computes(net, tmp_path)
    assert not source.tensors["l.running_mean"].any() and not source.tensors["l.running_var"].any()


SHARED = 'param { name: "w" } inner_product_param { num_output: 4 bias_term: %s }'


def test_shared_layers_are_one_module(tmp_path: Path) -> None:
    text = one_input(2, 4)
    text += layer("InnerProduct", SHARED % "false", "a", top="a") + layer("InnerProduct", SHARED % "false", "b", "a")
    source = assert_computes(valued(built(text)), tmp_path)
    assert source.source.count("nn.Linear(") == 1 and not source.hooks


def test_shared_blobs_are_tied(tmp_path: Path) -> None:
    text = one_input(2, 4)
    text += layer("InnerProduct", SHARED % "true", "a", top="a") + layer("InnerProduct", SHARED % "true", "b", "a")
    net = valued(built(text))
    source = assert_computes(net, tmp_path)
    module = written(source, tmp_path)
    assert module.a.weight is module.b.weight and module.a.bias is not module.b.bias
    assert source.blobs["b.weight"] == {"layer": "a", "blob": 0, "as": "same"}
