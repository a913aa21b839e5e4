"""Source of a net: it computes what the net computes, reads as written by hand, and nothing of a net can run in it."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import re
import subprocess
import sys
import tokenize
import types
import warnings
from pathlib import Path
from typing import Any

import fill
import numpy as np
import pytest
from small import CONV_NET, built, filled, inputs_of, one_input, weights_of

import caffe_port as cp
from caffe_port import recording
from caffe_port.converters.to_pytorch_source import PyTorchSource, names, require_writable, to_pytorch_source
from caffe_port.errors import ArtifactError, FetchError, GraphError, UnsupportedLayer, WeightsError
from caffe_port.models.fetch import fetch
from caffe_port.net import Net
from caffe_port.preprocessing import OPEN_NSFW, MeanImage, Preprocessing
from caffe_port.runtime import run, run_layers
from caffe_port.scoring import preprocess as pictures

torch = pytest.importorskip("torch")
save_file = pytest.importorskip("safetensors.numpy").save_file

from caffe_port.converters.to_pytorch_source import load_module  # noqa: E402

ROOT = Path(__file__).parents[1]
THEIRS = ROOT.parent / "shared" / "conformance"
IMAGES = Path(recording.__file__).parents[1] / "reference_outputs" / "open_nsfw"


def written(source: PyTorchSource, folder: Path) -> Any:
    """The module of a source, by way of its files."""
    (folder / "net.py").write_text(source.source, encoding="utf-8")
    save_file(source.tensors, folder / "net.safetensors")
    return load_module(folder / "net.py", folder / "net.safetensors")


def call(module: Any, net: Net, inputs: Any, dtype: Any = torch.float64) -> dict[str, Any]:
    with warnings.catch_warnings():
        # The switch warns of a setting for other hardware.
        warnings.simplefilter("ignore", UserWarning)
        with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
            result = module.to(dtype)(*[torch.from_numpy(np.array(inputs[name])).to(dtype) for name in net.inputs])
    return result if isinstance(result, dict) else {net.outputs[0]: result}


def assert_computes(net: Net, folder: Path, inputs: Any = None, tolerance: float = 1e-6) -> PyTorchSource:
    """In float64 it is the net's own float64 run but for parameters, which are the same in float32 alone."""
    inputs = inputs_of(net) if inputs is None else inputs
    source = to_pytorch_source(net, "net")
    got = call(written(source, folder), net, inputs)
    want = run(net, inputs, "float64", outputs=net.outputs)
    assert list(got) == list(net.outputs)
    for name, value in want.items():
        assert tuple(got[name].shape) == value.shape, name
        scale = max(1e-30, float(np.abs(value).max(initial=0)))
        np.testing.assert_allclose(got[name].numpy(), value, rtol=0, atol=tolerance * scale, err_msg=name)
    assert_black(source.source)
    return source


def assert_black(source: str) -> None:
    black = pytest.importorskip("black")
    assert black.format_str(source, mode=black.Mode()) == source


def valued(net: Net) -> Net:
    """The net with positive weights, which do as variances too."""
    rng = np.random.default_rng(1)
    values = {id(w): (0.5 + rng.random(w.shape)).astype(np.float32) for w in net.weights()}
    return net.with_values({key: np.asarray(value) for key, value in values.items()})


def layer(kind: str, parameters: str = "", name: str = "l", bottom: str = "x", top: str = "y") -> str:
    bottoms = " ".join(f'bottom: "{one}"' for one in bottom.split())
    tops = " ".join(f'top: "{one}"' for one in top.split())
    return f'layer {{ name: "{name}" type: "{kind}" {bottoms} {tops} {parameters} }}\n'


# Layers

SHAPE = (2, 4, 7, 6)
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


# Whole nets

NETS = {
    # lines at most, classes, uses of the block
    "googlenet": (120, 2, ("Inception(", 9)),
    "squeezenet_v1.0": (90, 2, ("Fire(", 8)),
    "squeezenet_v1.1": (90, 2, ("Fire(", 8)),
    "resnet50_1by2": (130, 2, ("Bottleneck(", 16)),
    "lenet": (50, 1, None),
    "mtcnn_det1": (60, 1, None),
    "mtcnn_det2": (60, 1, None),
    "mtcnn_det3": (70, 1, None),
}


def prototxt_of(name: str) -> Path:
    ours = ROOT / "reference_outputs" / "nets" / f"{name}.prototxt"
    prototxt = ours if ours.exists() else THEIRS / "nets" / f"{name}.prototxt"
    if not prototxt.exists():
        pytest.skip(f"{name} belongs to another project and is not here")
    return prototxt


def load_net(name: str) -> Net:
    folder = THEIRS / "models" / name
    weights = folder / "weights.caffemodel" if folder.exists() else None
    prototxt = folder / "net.prototxt" if weights else prototxt_of(name)
    net = cp.load(prototxt, weights)
    net = net.with_input_shapes({blob: (1, *shape[1:]) for blob, shape in net.input_shapes.items()})
    return net if weights else net.with_weights(weights_of(net))


def assert_hooks(net: Net, source: PyTorchSource, module: Any, inputs: Any) -> None:
    """Float32, module by module: within 4 times NumPy's own float32 noise and 4 ulps of float64."""
    seen: dict[str, Any] = {}
    handles = [
        module.get_submodule(path).register_forward_hook(
            lambda _m, _i, out, path=path: seen.update({path: out.numpy()})
        )
        for path in source.hooks
    ]
    outputs = call(module, net, inputs, torch.float32)
    for handle in handles:
        handle.remove()
    assert seen.keys() == source.hooks.keys()
    got = {id(blob): (path, seen[path]) for path, blob in source.hooks.items()}
    got |= {id(blob.origin): (blob.name, outputs[blob.name].numpy()) for blob in net.output_blobs}
    cast = {name: value.astype(np.float64) for name, value in inputs.items()}
    compared = 0
    runs = zip(run_layers(net, inputs, "float32"), run_layers(net, cast, "float64"), strict=True)
    for (_, own), (_, exact) in runs:
        for blob, value in exact.items():
            if id(blob) in got:
                path, tensor = got[id(blob)]
                noise = np.abs(own[blob] - value).max()
                bound = 4 * noise + 4 * np.spacing(np.float32(np.abs(value).max()))
                assert np.abs(tensor - value).max() <= bound, path
                compared += 1
    assert compared == len(got)


@pytest.mark.parametrize("name", sorted(NETS))
def test_net(name: str, tmp_path: Path) -> None:
    net = load_net(name)
    lines, classes, block = NETS[name]
    source = to_pytorch_source(net, name)
    assert len(source.source.splitlines()) <= lines
    assert source.source.count("(nn.Module):") == classes
    if block:
        assert source.source.count(block[0]) == block[1] + 1, "in its own definition too"
    assert_black(source.source)
    inputs = {blob: fill.input_data(blob, shape) for blob, shape in net.input_shapes.items()}
    assert_hooks(net, source, written(source, tmp_path), inputs)


@pytest.mark.parametrize("name", ["alexnet", "caffenet", "ms_ctc", "vgg16", "resnet50"])
def test_net_of_many_weights(name: str) -> None:
    """Its text alone: all of its calls are in smaller nets too."""
    net = cp.load(prototxt_of(name))
    net = net.with_values({id(w): np.broadcast_to(np.float32(1), w.shape) for w in net.weights()})
    source = to_pytorch_source(net, name)
    assert len(source.source.splitlines()) < 130
    assert source.source.count("=Bottleneck(") == (16 if name == "resnet50" else 0)
    assert_black(source.source)
    shapes = {f"{weight.layer}/{weight.index}": weight.shape for weight in net.weights()}
    for key, row in source.blobs.items():
        assert source.tensors[key].size == np.prod(shapes[f"{row['layer']}/{row['blob']}"]), key


@pytest.fixture(scope="module")
def open_nsfw() -> Net:
    try:
        files = fetch("open_nsfw")
    except FetchError as error:
        pytest.skip(f"the released model cannot be had: {error}")
    return cp.load(files.prototxt, files.caffemodel)


def test_open_nsfw(open_nsfw: Net, tmp_path: Path) -> None:
    source = to_pytorch_source(open_nsfw, "open_nsfw", OPEN_NSFW)
    assert source.class_name == "OpenNsfw"
    assert len(source.source.splitlines()) < 150 and source.source.count("(nn.Module):") == 2
    assert_black(source.source)
    for file in open_nsfw.sources:
        assert hashlib.sha256(file.path.read_bytes()).hexdigest() in source.source
    module = written(source, tmp_path)
    assert {"stage0.block0.conv_branch2a", "stage3.block2", "stage2", "bn_1", "fc_nsfw"} <= source.hooks.keys()
    state = {key for key in module.state_dict() if not key.endswith("num_batches_tracked")}
    assert state == source.tensors.keys() == source.blobs.keys()
    assert not module.training
    assert_hooks(
        open_nsfw, source, module, {"data": pictures.tensor(IMAGES / "images" / "chelsea.png", OPEN_NSFW)[None]}
    )


# The file


def function(source: PyTorchSource) -> Any:
    """The `preprocess` of a source."""
    module = types.ModuleType("made")
    exec(compile(source.source, "made", "exec"), module.__dict__)
    return module.preprocess


def test_preprocessing_is_bit_exact() -> None:
    from PIL import Image

    preprocess = function(to_pytorch_source(built(one_input(1, 3, 224, 224) + layer("ReLU")), "net", OPEN_NSFW))
    scores = json.loads((IMAGES / "scores.json").read_text())
    images = [name for name, entry in scores.items() if "tensor" in entry]
    assert len(images) == 25
    for name in images:
        with Image.open(IMAGES / "images" / name) as image:
            got = preprocess(image).numpy()
        assert got.shape == (1, 3, 224, 224) and got.dtype == np.float32
        assert hashlib.sha256(got.tobytes()).hexdigest() == scores[name]["tensor"], name


def test_other_preprocessings() -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    net = built(one_input(1, 3, 4, 6) + layer("ReLU"))
    for steps in (
        Preprocessing(channel_order="RGB"),
        Preprocessing(crop=(4, 6)),
        Preprocessing(crop=(4, 6), mean=(1.5, 2, 3.25), scale=0.017),
        Preprocessing(resize=(9, 12), crop=(3, 4), channel_order="RGB"),
        Preprocessing(resize=(5, 4), mean=(1, 2, 3)),
        Preprocessing(jpeg_round_trip=True, scale=1 / 255),
        Preprocessing(channel_order="grey", resize=(5, 4), jpeg_round_trip=True, mean=(33.3,)),
        Preprocessing(raw_scale=1, mean=(0.4,), scale=1 / 3),
    ):
        source = to_pytorch_source(net, "net", steps)
        assert_black(source.source)
        got = function(source)(Image.fromarray(pixels))[0].numpy()
        want = pictures.tensor(Image.fromarray(pixels), steps)
        assert np.array_equal(got.view(np.uint32), want.view(np.uint32)), steps
    preprocess = function(to_pytorch_source(net, "net", Preprocessing(crop=(40, 6))))
    with pytest.raises(ValueError, match="smaller than 6x40"):
        preprocess(Image.fromarray(pixels))


def test_preprocessings_that_a_source_cannot_have() -> None:
    net = built(one_input(1, 3, 4, 6) + layer("ReLU"))
    image = MeanImage((3, 4, 6), "float32", bytes(3 * 4 * 6 * 4))
    steps = Preprocessing(resize=(4, 6), interpolation="opencv", mean=image)
    want = r"2 problems:\n.*a mean image has too many.*\n.*'opencv' interpolation is not"
    with pytest.raises(GraphError, match=want):
        to_pytorch_source(net, "net", steps)


BARE = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("caffe_port", "google", "onnx", "PIL"):
            raise ImportError(name + " is not for this file")

sys.meta_path.insert(0, Refused())
sys.path.insert(0, sys.argv[1])
import torch
import net
print(net.load(sys.argv[1] + "/net.safetensors")(torch.ones(2, 3, 8, 7)).tolist())
assert "caffe_port" not in sys.modules
"""


def test_it_needs_torch_and_safetensors_alone(tmp_path: Path) -> None:
    net = filled(CONV_NET)
    written(to_pytorch_source(net, "net", OPEN_NSFW), tmp_path)
    done = subprocess.run(
        [sys.executable, "-I", "-c", BARE, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    want = run(net, {"data": np.ones((2, 3, 8, 7))})["prob"]
    np.testing.assert_allclose(json.loads(done.stdout), want, rtol=1e-4)


def test_nothing_is_imported_or_defined_in_vain() -> None:
    source = to_pytorch_source(filled(CONV_NET), "net").source
    for name in re.findall(r"^(?:import|from) .*?(\w+)$", source, re.MULTILINE):
        assert len(re.findall(rf"\b{name}\b", source)) > 1, name
    assert "OrderedDict" not in source and "import io" not in source


EVIL = [
    '"); import os; os._exit(7); ("',
    "a\\nimport os; os._exit(7)",
    '\'\'\'\\"\\"\\"\\nimport os; os._exit(7)\\n\\"\\"\\"',
    "{0} {m0}",
    "fmt: off",
    "class",
    "forward",
    "training",
    "1x1",
    "x y",
    "\u00fc\u2028\U0001f600",
    "\\\\",
    "self",
    "F",
    "torch",
    "a" * 300,
]


@pytest.mark.parametrize("name", EVIL)
def test_any_name_will_do(name: str, tmp_path: Path) -> None:
    """Of the net, a layer and a blob: nothing of it is code, no two things get one name."""
    quoted = name.replace('"', '\\"') if '"' in name and "\\" not in name else name
    net = valued(
        built(
            f'name: "{quoted}"\n'
            + one_input(2, 3, 4, 4)
            + layer("Convolution", "convolution_param { num_output: 2 kernel_size: 1 }", quoted, top="c")
            + layer("PReLU", "", f".{quoted}", "c", "d").replace('top: "d"', f'top: "{quoted}"')
            + layer("ReLU", "", f"{quoted}.", "c", "e")
        )
    )
    source = assert_computes(net, tmp_path)
    assert source.source.isascii()
    tokens = tokenize.generate_tokens(io.StringIO(source.source).readline)
    assert not {"os", "_exit"} & {token.string for token in tokens if token.type == tokenize.NAME}


def test_the_name_of_the_net_is_no_code() -> None:
    net = filled('name: "\\"\\"\\"\\nimport os"\n' + CONV_NET.replace('name: "small"', ""))
    for name in ('x"""\nimport os', "1", "", "F", "nn.Module): pass"):
        source = to_pytorch_source(net, name)
        assert source.class_name.isidentifier() and "\nimport os\n" not in source.source
        assert_black(source.source)


def test_names_of_modules_are_kept_free() -> None:
    assert {name for name in (*dir(torch.nn.Module), *vars(torch.nn.Module())) if name[0] != "_"} <= names.RESERVED


# Blocks

RESIDUAL = """
layer { name: "N_conv" type: "Convolution" bottom: "FROM" top: "N_conv" convolution_param { num_output: C kernel_size: 3 pad: 1 bias_term: false } }
layer { name: "N_bn" type: "BatchNorm" bottom: "N_conv" top: "N_conv" }
layer { name: "N_scale" type: "Scale" bottom: "N_conv" top: "N_conv" scale_param { bias_term: true } }
layer { name: "N_relu" type: "ReLU" bottom: "N_conv" top: "N_conv" }
layer { name: "N_add" type: "Eltwise" bottom: "SHORT" bottom: "N_conv" top: "N_add" }
"""  # noqa: E501
PROJECTION = """
layer { name: "N_proj" type: "Convolution" bottom: "FROM" top: "N_proj" convolution_param { num_output: C kernel_size: 1 } }
"""  # noqa: E501


def residual(blocks: list[tuple[str, int, bool]]) -> str:
    """A net of residual blocks: name, channels, whether there is a projection."""
    text, previous = one_input(1, 4, 5, 5), "x"
    for name, channels, projected in blocks:
        block = (PROJECTION if projected else "") + RESIDUAL
        short = "N_proj" if projected else "FROM"
        text += (
            block.replace("SHORT", short)
            .replace("FROM", previous)
            .replace("N_", f"{name}_")
            .replace(": C", f": {channels}")
        )
        previous = f"{name}_add"
    return text


def test_blocks_with_and_without_projection_are_one_class(tmp_path: Path) -> None:
    net = filled(residual([("s1_b1", 4, False), ("s1_b2", 4, False), ("s2_b1", 6, True), ("s2_b2", 6, False)]))
    source = assert_computes(net, tmp_path)
    assert source.source.count("class ") == 2 and source.source.count("ResidualBlock(") == 5
    assert "b1=ResidualBlock(4, 6, projection=True)" in source.source
    assert {"s1.b1.conv", "s2.b1.proj", "s2.b1", "s2"} <= source.hooks.keys()
    assert source.blobs["s2.b1.proj.bias"] == {"layer": "s2_b1_proj", "blob": 1, "as": "same"}


def test_blocks_without_a_pattern_in_their_names(tmp_path: Path) -> None:
    text = residual([("one", 4, False), ("two", 4, False)])
    text = text.replace('name: "one_conv"', 'name: "alpha"').replace('name: "two_conv"', 'name: "omega"')
    source = assert_computes(filled(text), tmp_path)
    assert source.source.count("ResidualBlock(") == 3 and "self.one_add = ResidualBlock()" in source.source
    assert "# alpha to one_bn" in source.source


def test_what_is_there_once_is_no_class(tmp_path: Path) -> None:
    source = assert_computes(filled(residual([("one", 4, False)])), tmp_path)
    assert source.source.count("class ") == 1


def test_a_block_with_an_output_inside_is_left_open(tmp_path: Path) -> None:
    text = residual([("b1", 4, False), ("b2", 4, False), ("b3", 4, False)])
    text += layer("TanH", "", "t", "b2_conv", "t")
    source = assert_computes(filled(text), tmp_path)
    assert source.source.count("ResidualBlock(") == 3 and "self.b2_conv" in source.source


# Refusals


def test_every_layer_without_a_plain_form_is_named() -> None:
    net = built(
        one_input(2, 4, 3, 3)
        + layer("MVN", "", "one")
        + layer("ArgMax", "", "two", "y", "z")
        + layer("ReLU", "", "three", "z", "w")
    )
    with pytest.raises(UnsupportedLayer, match="2 problems") as caught:
        to_pytorch_source(net, "net")
    assert "layer 'one': MVN" in str(caught.value) and "layer 'two': ArgMax" in str(caught.value)
    assert "target pytorch" in str(caught.value)


def test_what_can_be_written_is_known_without_weights() -> None:
    require_writable(built(CONV_NET))
    require_writable(built(one_input(2, 3) + layer("BatchNorm")))
    with pytest.raises(UnsupportedLayer, match="MVN"):
        require_writable(built(one_input(2, 4, 3, 3) + layer("MVN")))
    with pytest.raises(GraphError, match="TRAIN"):
        require_writable(built(CONV_NET, phase="TRAIN"))


def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        to_pytorch_source(built(CONV_NET), "net")
    with pytest.raises(GraphError, match="TRAIN"):
        to_pytorch_source(filled(CONV_NET, phase="TRAIN"), "net")
    text = one_input(2, 3) + layer("BatchNorm", "batch_norm_param { use_global_stats: false }")
    with pytest.raises(UnsupportedLayer, match="use_global_stats"):
        to_pytorch_source(filled(text), "net")
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        (tmp_path / "net.py").write_text("raise ValueError('no net')\n")
        load_module(tmp_path / "net.py", tmp_path / "net.safetensors")
