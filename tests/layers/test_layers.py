"""What the recorded cases leave open: rare parameters, ties, refusals, held to definitions and hand-computed values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import Arrays, assert_agrees, run_onnx, run_torch

import caffe_port as cp
from caffe_port.errors import CaffePortError, GraphError, ShapeError, UnsupportedParameter, WeightsError
from caffe_port.proto import wire

TOLERANCE = 2e-5
Maker = Callable[..., cp.Net]


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """Builds a net of one layer; its learned blobs are random, but for those given."""

    def build(layer: str, weights: Sequence[Any] | None = None, phase: str = "TEST", **inputs: Sequence[int]) -> cp.Net:
        text = "".join(
            f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
            + " ".join(f"dim: {dim}" for dim in shape)
            + " } } }\n"
            for name, shape in inputs.items()
        )
        path = tmp_path / "net.prototxt"
        path.write_text(text + layer, encoding="utf-8")
        net = cp.load(path, phase=phase)
        rng = np.random.default_rng(11)
        values = {
            layer.name: weights or [rng.standard_normal(weight.shape).astype(np.float32) for weight in layer.weights]
            for layer in net.layers
            if layer.weights
        }
        return net.with_weights(values) if values else net

    return build


def inputs_of(net: cp.Net, seed: int = 5) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in net.input_shapes.items()}


def run_everywhere(net: cp.Net, inputs: Arrays) -> Arrays:
    """The outputs of NumPy in float64, after the other backends were held to them."""
    exact = cp.run(net, inputs, "float64", outputs=net.outputs)
    for backend in (run_torch, lambda net, inputs: run_onnx(cp.to_onnx(net), inputs)):
        outputs = backend(net, inputs)
        assert sorted(outputs) == sorted(net.outputs)
        for name, value in outputs.items():
            assert_agrees(value, exact[name], name, TOLERANCE)
    return exact


def layer(kind: str, bottoms: str, tops: str, rest: str = "") -> str:
    names = [f'bottom: "{name}"' for name in bottoms.split()] + [f'top: "{name}"' for name in tops.split()]
    return f'layer {{ name: "L" type: "{kind}" {" ".join(names)} {rest} }}\n'


def test_argmax_takes_the_larger_index_of_equals(make: Maker) -> None:
    net = make(layer("ArgMax", "x", "y", "argmax_param { top_k: 3 axis: 1 }"), x=(1, 5))
    x = np.array([[2, 7, 7, 1, 7]], np.float32)
    np.testing.assert_array_equal(run_everywhere(net, {"x": x})["y"], [[4, 2, 1]])


@pytest.mark.parametrize(
    ("shape", "top"), [((2, 6), (2, 2, 3)), ((2, 3, 2, 4), (2, 2, 3, 1)), ((2, 3, 1, 2, 2), (2, 2, 3, 1, 1))]
)
def test_argmax_of_whole_items_with_values(make: Maker, shape: tuple[int, ...], top: tuple[int, ...]) -> None:
    net = make(layer("ArgMax", "x", "y", "argmax_param { top_k: 3 out_max_val: true }"), x=shape)
    inputs = inputs_of(net)
    y = run_everywhere(net, inputs)["y"]
    assert y.shape == top
    flat = inputs["x"].reshape(2, -1)
    np.testing.assert_array_equal(y.reshape(2, 2, 3)[:, 0], np.argsort(-flat, axis=1)[:, :3])
    np.testing.assert_array_equal(y.reshape(2, 2, 3)[:, 1], -np.sort(-flat, axis=1)[:, :3])


@pytest.mark.parametrize("operation", ["SUM", "ASUM", "SUMSQ", "MEAN"])
def test_reduction(make: Maker, operation: str) -> None:
    rest = f"reduction_param {{ operation: {operation} axis: 1 coeff: -2.5 }}"
    net = make(layer("Reduction", "x", "y", rest), x=(3, 4, 2))
    inputs = inputs_of(net)
    flat = inputs["x"].reshape(3, 8).astype(np.float64)
    want = {"SUM": flat, "ASUM": np.abs(flat), "SUMSQ": flat**2, "MEAN": flat / 8}[operation].sum(axis=1) * -2.5
    np.testing.assert_allclose(run_everywhere(net, inputs)["y"], want)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(
    ("shape", "axis", "window"),
    [
        ((2, 4, 7, 9), 1, "kernel_size: 3 stride: 2 pad: 1"),
        ((2, 4, 7, 9), 1, "kernel_h: 2 kernel_w: 4 stride_h: 3 stride_w: 1 pad_h: 0 pad_w: 2"),
        ((2, 3, 4, 9), 2, "kernel_size: 3 stride: 2 dilation: 2"),
        ((5, 4), 1, "kernel_size: 1"),
        ((2, 4, 5, 6, 7), 1, "kernel_size: 2 stride: 1 stride: 2 stride: 3"),
    ],
)
def test_deconvolution_is_the_transpose_of_convolution(
    make: Maker, shape: tuple[int, ...], axis: int, window: str, group: int
) -> None:
    """<conv(x), y> = <x, deconv(y)> with the same weights, for any x and y."""
    common = f"group: {group} axis: {axis} bias_term: false {window}"
    conv = make(layer("Convolution", "x", "y", f"convolution_param {{ num_output: 6 {common} }}"), x=shape)
    x = inputs_of(conv)["x"].astype(np.float64)
    y = cp.run(conv, {"x": x}, "float64")["y"]
    grad = np.random.default_rng(2).standard_normal(y.shape)
    kernel = conv.layer("L").weights[0].data
    text = layer("Deconvolution", "y", "x", f"convolution_param {{ num_output: 4 {common} }}")
    deconv = make(text, [kernel], y=y.shape)
    back = run_everywhere(deconv, {"y": grad.astype(np.float32)})["x"]
    whole = tuple(slice(size) for size in back.shape)
    # Cells of x behind the last window belong to no output; deconvolution does not make them.
    assert abs(np.vdot(y, grad.astype(np.float32)) - np.vdot(x[whole], back)) < 1e-6 * np.abs(y).sum()


def test_deconvolution_of_several_bottoms_with_bias(make: Maker) -> None:
    rest = "convolution_param { num_output: 3 kernel_size: 2 stride: 2 }"
    net = make(layer("Deconvolution", "a b", "y z", rest), a=(2, 4, 3, 5), b=(2, 4, 3, 5))
    inputs = inputs_of(net)
    both = run_everywhere(net, inputs)
    swapped = cp.run(net, {"a": inputs["b"], "b": inputs["a"]}, "float64")
    np.testing.assert_array_equal(both["z"], swapped["y"])
    assert both["y"].shape == (2, 3, 6, 10)


def test_im2col_is_what_a_convolution_multiplies_with(make: Maker) -> None:
    window = "kernel_h: 3 kernel_w: 2 stride: 2 pad: 1 dilation: 2"
    net = make(layer("Im2col", "x", "y", f"convolution_param {{ {window} }}"), x=(2, 3, 9, 8))
    inputs = inputs_of(net)
    columns = run_everywhere(net, inputs)["y"]
    conv = make(
        layer("Convolution", "x", "y", f"convolution_param {{ num_output: 5 bias_term: false {window} }}"),
        x=(2, 3, 9, 8),
    )
    kernel = conv.layer("L").weights[0].data
    assert kernel is not None
    want = cp.run(conv, inputs, "float64")["y"]
    np.testing.assert_allclose(np.einsum("ok,nkhw->nohw", kernel.reshape(5, -1), columns), want, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 6, 4), (1, 2, 8, 8), (2, 2, 9, 13)])
@pytest.mark.parametrize("pool", ["MAX", "AVE"])
def test_spp_has_the_bins_of_every_level(make: Maker, shape: tuple[int, ...], pool: str) -> None:
    net = make(layer("SPP", "x", "y", f"spp_param {{ pyramid_height: 2 pool: {pool} }}"), x=shape)
    inputs = inputs_of(net)
    y = run_everywhere(net, inputs)["y"]
    assert y.shape == (shape[0], shape[1] * 5)
    whole = inputs["x"].reshape(*shape[:2], -1)
    np.testing.assert_allclose(y[:, : shape[1]], whole.max(axis=2) if pool == "MAX" else whole.mean(axis=2), rtol=1e-5)


def test_crossed_bounds_of_clip_give_min(make: Maker) -> None:
    net = make(layer("Clip", "x", "y", "clip_param { min: 2 max: -1 }"), x=(3, 4))
    assert (run_everywhere(net, inputs_of(net))["y"] == 2).all()


def test_mvn_of_two_axes_has_four(make: Maker) -> None:
    net = make(layer("MVN", "x", "y", "mvn_param { across_channels: true eps: 0.5 }"), x=(2, 3))
    x = np.array([[1, 2, 3], [4, 4, 4]], np.float32)
    deviation = np.sqrt(2 / 3) + 0.5
    want = np.array([[-1 / deviation, 0, 1 / deviation], [0, 0, 0]]).reshape(2, 3, 1, 1)
    np.testing.assert_allclose(run_everywhere(net, {"x": x})["y"], want)


def test_mvn_of_a_constant_has_a_gradient() -> None:
    torch = pytest.importorskip("torch")
    from caffe_port.converters.to_pytorch.modules.normalization import MVN
    from caffe_port.layers.normalization import MVN as DEFINITION

    x = torch.ones(1, 1, 2, 2, requires_grad=True)
    MVN(DEFINITION(eps=1e-3))(x).sum().backward()
    assert torch.isfinite(x.grad).all()


RECURRENT = "recurrent_param {{ num_output: 4 {} }}"


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
@pytest.mark.parametrize("static", [False, True])
def test_exposed_states_carry_a_sequence_over(make: Maker, kind: str, static: bool) -> None:
    """A sequence in two halves, the states of the first given to the second, is the sequence in one."""
    states = {"LSTM": "h c", "RNN": "h"}[kind]
    lasts = " ".join(f"{name}_T" for name in states.split())
    extra: dict[str, Sequence[int]] = {"s": (3, 2, 2)} if static else {}
    bottoms = "x cont s" if static else "x cont"
    whole = make(layer(kind, bottoms, "y", RECURRENT.format("")), x=(6, 3, 5), cont=(6, 3), **extra)
    weights = [weight.data for weight in whole.layer("L").weights]
    given = dict.fromkeys(states.split(), (1, 3, 4))
    half = make(
        layer(kind, f"{bottoms} {states}", f"y {lasts}", RECURRENT.format("expose_hidden: true")),
        weights, x=(3, 3, 5), cont=(3, 3), **extra, **given,
    )  # fmt: skip
    inputs = inputs_of(whole)
    inputs["cont"] = (np.random.default_rng(1).random((6, 3)) > 0.3).astype(np.float32)
    want = run_everywhere(whole, inputs)["y"]
    carried: Arrays = {name: np.zeros((1, 3, 4)) for name in given}
    for start in (0, 3):
        part = {name: inputs[name][start : start + 3] for name in ("x", "cont")}
        part |= {name: inputs[name] for name in extra} | {
            name: value.astype(np.float32) for name, value in carried.items()
        }
        got = run_everywhere(half, part)
        assert_agrees(got["y"], want[start : start + 3], "y", TOLERANCE)
        carried = {name: got[f"{name}_T"] for name in given}


def test_cont_starts_a_sequence_anew(make: Maker) -> None:
    net = make(layer("LSTM", "x cont", "y", RECURRENT.format("")), x=(4, 1, 3), cont=(4, 1))
    inputs = inputs_of(net)
    inputs["cont"] = np.array([[0], [1], [0], [1]], np.float32)
    inputs["x"][2:] = inputs["x"][:2]
    y = run_everywhere(net, inputs)["y"]
    np.testing.assert_array_equal(y[2:], y[:2])


def test_filter_may_leave_nothing(make: Maker) -> None:
    text = layer("Filter", "x s", "y") + 'layer { name: "R" type: "ReLU" bottom: "y" top: "z" }'
    net = make(text, x=(3, 2), s=(3, 1))
    inputs = inputs_of(net)
    for selector, kept in (([0, 0, 0], []), ([0, -2, 0.5], [1, 2])):
        inputs["s"] = np.array(selector, np.float32)[:, None]
        z = run_everywhere(net, inputs)["z"]
        np.testing.assert_array_equal(z, np.maximum(inputs["x"][kept], 0).astype(np.float64))


def test_a_layer_behind_a_filter_whose_weights_do_not_fit_is_named(make: Maker) -> None:
    ip = 'layer { name: "I" type: "InnerProduct" bottom: "y" top: "z" inner_product_param { num_output: 2 axis: 0 } }'
    net = make(layer("Filter", "x s", "y") + ip, x=(3, 2), s=(3,))
    inputs = inputs_of(net)
    assert cp.run(net, inputs | {"s": np.ones(3)})["z"].shape == (2,)
    with pytest.raises(ShapeError, match="layer 'I'"):
        cp.run(net, inputs | {"s": np.array([1, 0, 1])})


INFOGAIN = "loss_param {{ {} }} infogain_loss_param {{ axis: 1 {} }} {}"


def infogain(scores: np.ndarray, labels: np.ndarray, gains: np.ndarray, ignore: int) -> tuple[float, int]:
    """-sum of H[y] . log softmax over the positions that count, and their number, straight from the definition."""
    total, positions = 0.0, 0
    for n, h in np.ndindex(labels.shape):
        label = int(labels[n, h])
        if label != ignore:
            exponentials = np.exp(scores[n, :, h].astype(np.float64))
            total -= gains[label] @ np.log(exponentials / exponentials.sum())
            positions += 1
    return total, positions


@pytest.mark.parametrize("mode", ["FULL", "VALID", "BATCH_SIZE", "NONE"])
@pytest.mark.parametrize("from_file", [False, True])
def test_infogain_loss(make: Maker, tmp_path: Path, mode: str, from_file: bool) -> None:
    rng = np.random.default_rng(8)
    gains = rng.random((3, 3)).astype(np.float32)
    labels = np.array([[0, 2, 1, 2], [1, 1, 0, 2]], np.float32)
    source = ""
    if from_file:
        blob = cp_blob(gains)
        (tmp_path / "h.binaryproto").write_bytes(blob)
        source = f'source: "{tmp_path / "h.binaryproto"}"'
        assert wire.read_blob(tmp_path / "h.binaryproto").data.size == 9
    rest = INFOGAIN.format(f"ignore_label: 1 normalization: {mode}", source, "loss_weight: 1 loss_weight: 0")
    shapes: dict[str, Sequence[int]] = {"x": (2, 3, 4), "t": (2, 4)}
    if not from_file:
        shapes["h"] = (1, 1, 3, 3)
    net = make(layer("InfogainLoss", "x t" if from_file else "x t h", "y p", rest), **shapes)
    inputs = {
        name: value
        for name, value in (inputs_of(net) | {"t": labels, "h": gains.reshape(1, 1, 3, 3)}).items()
        if name in shapes
    }
    got = run_everywhere(net, inputs)
    total, valid = infogain(inputs["x"], labels, gains.astype(np.float64), 1)
    np.testing.assert_allclose(got["y"], total / {"FULL": 8, "VALID": valid, "BATCH_SIZE": 2, "NONE": 1}[mode])
    np.testing.assert_allclose(got["p"].sum(axis=1), 1)


def cp_blob(values: np.ndarray) -> bytes:
    """A BlobProto of these values."""
    from caffe_port.proto import schema

    blob = schema.message("BlobProto")
    blob.shape.dim.extend(values.shape)
    blob.data.extend(values.reshape(-1).tolist())
    return bytes(blob.SerializeToString())


@pytest.mark.parametrize("norm", ["L1", "L2"])
def test_hinge_loss_of_more_axes(make: Maker, norm: str) -> None:
    net = make(layer("HingeLoss", "x t", "y", f"hinge_loss_param {{ norm: {norm} }}"), x=(2, 3, 2), t=(2, 1))
    inputs = inputs_of(net)
    inputs["t"] = np.array([[4], [1]], np.float32)
    margins = 1 + inputs["x"].reshape(2, 6).astype(np.float64)
    for n, label in enumerate((4, 1)):
        margins[n, label] = 2 - margins[n, label]
    margins = np.maximum(margins, 0) ** (1 if norm == "L1" else 2)
    np.testing.assert_allclose(run_everywhere(net, inputs)["y"], margins.sum() / 2)


@pytest.mark.parametrize("legacy", ["true", "false"])
def test_contrastive_loss_of_equal_pairs(make: Maker, legacy: str) -> None:
    torch = pytest.importorskip("torch")
    rest = f"contrastive_loss_param {{ margin: 2 legacy_version: {legacy} }}"
    net = make(layer("ContrastiveLoss", "a b t", "y", rest), a=(2, 3, 1, 1), b=(2, 3, 1, 1), t=(2, 1))
    a = np.ones((2, 3, 1, 1), np.float32)
    inputs = {"a": a, "b": a, "t": np.array([[0], [1]], np.float32)}
    assert run_everywhere(net, inputs)["y"] == (2 if legacy == "true" else 4) / 4
    tensors = [torch.from_numpy(value.copy()).requires_grad_() for value in inputs.values()]
    cp.to_pytorch(net)(*tensors).backward()
    assert torch.isfinite(tensors[0].grad).all()


def test_a_floored_probability_still_has_a_gradient(make: Maker) -> None:
    """Caffe floors the probability in the loss, not in the gradient, which is p - 1 for the label."""
    torch = pytest.importorskip("torch")
    net = make(layer("SoftmaxWithLoss", "x t", "y"), x=(1, 2), t=(1,))
    x = torch.tensor([[300.0, 0.0]], requires_grad=True)
    top = cp.to_pytorch(net)(x, torch.tensor([1.0]))
    top.backward()
    assert top.item() == pytest.approx(-np.log(np.finfo(np.float32).tiny), rel=1e-6)
    assert x.grad.tolist() == [[1.0, -1.0]]


def test_slice_of_one_top_is_its_bottom(make: Maker) -> None:
    text = layer("Slice", "x", "y") + 'layer { name: "R" type: "ReLU" bottom: "y" top: "y" }'
    net = make(text, x=(2, 3))
    inputs = inputs_of(net)
    np.testing.assert_array_equal(run_everywhere(net, inputs)["y"], np.maximum(inputs["x"], 0))


FILLERS = {
    "uniform": "min: -1 max: 3",
    "gaussian": "mean: 1 std: 2",
    "xavier": "",
    "msra": "",
    "positive_unitball": "",
    "bilinear": "",
    "constant": "value: 2.5",
}


@pytest.mark.parametrize("kind", sorted(FILLERS))
def test_dummy_data_has_the_same_distribution_everywhere(make: Maker, kind: str) -> None:
    filler = f'data_filler {{ type: "{kind}" {FILLERS[kind]} }}'
    rest = f"dummy_data_param {{ num: 40 channels: 5 height: 12 width: 12 {filler} }}"
    net = make(layer("DummyData", "", "y", rest))
    drawn = [cp.run(net, {}, seed=1)["y"], run_torch(net, {})["y"], run_onnx(cp.to_onnx(net), {})["y"]]
    for values in drawn[1:]:
        assert values.shape == (40, 5, 12, 12)
        scale = drawn[0].std() + 1e-6
        assert abs(values.mean() - drawn[0].mean()) < 0.05 * scale
        assert abs(values.std() - drawn[0].std()) < 0.03 * scale
    if kind == "positive_unitball":
        for values in drawn:
            np.testing.assert_allclose(values.sum(axis=(1, 2, 3)), 1, rtol=1e-4)
    other = cp.run(net, {}, seed=2)["y"]
    assert np.array_equal(other, drawn[0]) == (kind in ("constant", "bilinear"))


def test_sparse_dummy_data_everywhere(make: Maker) -> None:
    rest = 'dummy_data_param { shape { dim: 50 dim: 400 } data_filler { type: "gaussian" sparse: 10 } }'
    net = make(layer("DummyData", "", "y z", rest))
    for outputs in (cp.run(net, {}), run_torch(net, {}), run_onnx(cp.to_onnx(net), {})):
        for name in "yz":
            assert abs((outputs[name] != 0).mean() - 0.2) < 0.02


def test_hdf5_output_writes_only_when_asked(make: Maker, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    target = tmp_path / "out.h5"
    text = layer("HDF5Output", "x t", "", f'hdf5_output_param {{ file_name: "{target}" }}')
    net = make(text + 'layer { name: "R" type: "ReLU" bottom: "x" top: "y" }', x=(2, 3), t=(2,))
    inputs = inputs_of(net)
    run_everywhere(net, inputs)
    assert not target.exists()
    net.layer("L").definition.save(target, inputs["x"], inputs["t"])  # type: ignore[attr-defined]
    with h5py.File(target) as file:
        assert file["data"].shape == (2, 3, 1, 1) and file["label"].shape == (2, 1, 1, 1)
        np.testing.assert_array_equal(file["data"][:].reshape(2, 3), inputs["x"])


REFUSED = [
    ("ArgMax", "x", "y", "argmax_param { top_k: 0 }", UnsupportedParameter, "top_k"),
    ("ArgMax", "x", "y", "argmax_param { top_k: 25 }", ShapeError, "top_k 25 is more than the 24"),
    ("AbsVal", "x", "x", "", GraphError, "in place"),
    ("BatchReindex", "x x2", "y", "", ShapeError, "1 axis"),
    ("Clip", "x", "y", "clip_param { min: 1 }", CaffePortError, "max"),
    ("ContrastiveLoss", "v v2 x", "y", "", ShapeError, "must be"),
    ("Crop", "x x2", "y", "crop_param { axis: 1 offset: 1 offset: 2 }", ShapeError, "2 offset for 3"),
    ("Crop", "x v", "y", "", ShapeError, "fewer axes"),
    ("Deconvolution", "x", "y", "convolution_param { num_output: 3 kernel_size: 1 pad: 3 }", ShapeError, "pad"),
    ("DummyData", "", "y", "", GraphError, "no shape"),
    ("DummyData", "", "y", "dummy_data_param { num: 1 shape { dim: 1 } }", UnsupportedParameter, "both shape and num"),
    ("DummyData", "", "y z", "dummy_data_param { shape { dim: 1 } data_filler { } data_filler { } data_filler { } }",
     GraphError, "3 data_filler"),
    ("Embed", "x", "y", "embed_param { input_dim: 3 }", UnsupportedParameter, "num_output"),
    ("EuclideanLoss", "x v", "y", "", ShapeError, "size"),
    ("Exp", "x", "y", "exp_param { base: 0 }", UnsupportedParameter, "base"),
    ("Filter", "x v", "y z", "", GraphError, "1 tops"),
    ("Filter", "x v", "y", "", ShapeError, "one value an item"),
    ("HDF5Output", "x v", "", "", UnsupportedParameter, "file_name"),
    ("HingeLoss", "x v", "y", "", ShapeError, "one label an item"),
    ("Im2col", "v", "y", "convolution_param { kernel_size: 1 }", ShapeError, "no spatial axis"),
    ("InfogainLoss", "x v", "y", "", UnsupportedParameter, "matrix is missing"),
    ("InfogainLoss", "x v", "y", 'infogain_loss_param { source: "/nowhere/h" }', WeightsError, "nowhere"),
    ("InfogainLoss", "x v x2", "y p", "", UnsupportedParameter, "loss_weight"),
    ("InfogainLoss", "v l v2", "y", "loss_param { normalize: true }", UnsupportedParameter, "normalize"),
    ("InfogainLoss", "v l v2", "y", "", ShapeError, "values"),
    ("LSTM", "x l", "y", "recurrent_param { num_output: 0 }", UnsupportedParameter, "num_output"),
    ("LSTM", "x l", "y", "recurrent_param { num_output: 2 }", ShapeError, r"bottom\[1\]"),
    ("LSTM", "x v", "y z", "recurrent_param { num_output: 2 }", GraphError, "1 tops"),
    ("LSTM", "x v", "y z w", "recurrent_param { num_output: 2 expose_hidden: true }", GraphError, "4 or 5 bottoms"),
    ("LSTMUnit", "x v l", "y z", "", ShapeError, "4H"),
    ("Log", "x", "y", "log_param { base: 1 }", UnsupportedParameter, "base"),
    ("MVN", "big", "y", "", ShapeError, "at most 4"),
    ("MultinomialLogisticLoss", "v v2", "y", "", ShapeError, "one label an item"),
    ("PReLU", "l", "y", "", ShapeError, "2 axes"),
    ("PReLU", "big", "y", "", ShapeError, "at most 4"),
    ("RNN", "x v l", "y", "recurrent_param { num_output: 2 }", ShapeError, "streams"),
    ("Reduction", "x", "y", "reduction_param { axis: 4 }", ShapeError, "axis 4"),
    ("SPP", "x", "y", "", UnsupportedParameter, "pyramid_height"),
    ("SPP", "x", "y", "spp_param { pyramid_height: 2 pool: STOCHASTIC }", UnsupportedParameter, "STOCHASTIC"),
    ("SPP", "v", "y", "spp_param { pyramid_height: 2 }", ShapeError, "4 axes"),
    ("SigmoidCrossEntropyLoss", "x v", "y", "", ShapeError, "size"),
    ("Silence", "", "", "", GraphError, "bottoms"),
    ("Slice", "x", "y z", "slice_param { axis: 1 slice_dim: 1 }", UnsupportedParameter, "both axis and slice_dim"),
    ("Slice", "x", "y z w", "slice_param { slice_point: 2 slice_point: 2 }", UnsupportedParameter, "increase"),
    ("Slice", "x", "y z", "slice_param { slice_point: 9 }", ShapeError, "do not fit"),
    ("SoftmaxWithLoss", "x l8", "y", "softmax_param { axis: 3 }", ShapeError, "axis 0"),
    ("Tile", "x", "y", "tile_param { tiles: -1 }", UnsupportedParameter, "tiles"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "bottoms", "tops", "rest", "error", "words"),
    REFUSED,
    ids=[f"{case[0]}-{case[5][:20]}" for case in REFUSED],
)
def test_refused(
    make: Maker, kind: str, bottoms: str, tops: str, rest: str, error: type[CaffePortError], words: str
) -> None:
    shapes = {
        "x": (2, 3, 4, 2), "x2": (2, 2, 4, 2), "v": (2, 3), "v2": (2, 3), "l": (2,), "l8": (8, 3),
        "big": (2, 3, 1, 1, 1),
    }  # fmt: skip
    given = {name: shapes[name] for name in bottoms.split()}
    with pytest.raises(error, match=words) as caught:
        make(layer(kind, bottoms, tops, rest), **given)
    assert "layer 'L'" in str(caught.value) or "net.prototxt" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "shapes", "wrong", "rest"),
    [
        ("Embed", {"x": (2,)}, {"x": [0, 3]}, "embed_param { input_dim: 3 num_output: 2 }"),
        ("BatchReindex", {"x": (2, 3), "i": (2,)}, {"i": [0, 2]}, ""),
        ("BatchReindex", {"x": (2, 3), "i": (2,)}, {"i": [0, -1]}, ""),
        ("BatchReindex", {"x": (2, 3), "i": (2,)}, {"i": [0, np.nan]}, ""),
        ("HingeLoss", {"x": (2, 3), "t": (2,)}, {"t": [0, 3]}, ""),
        ("MultinomialLogisticLoss", {"x": (2, 3), "t": (2,)}, {"t": [0, -1]}, ""),
        ("SoftmaxWithLoss", {"x": (2, 3), "t": (2,)}, {"t": [0, -1]}, ""),
        ("Accuracy", {"x": (2, 3), "t": (2,)}, {"t": [0, 3]}, ""),
        ("InfogainLoss", {"x": (2, 3), "t": (2,), "h": (3, 3)}, {"t": [0, 3]}, ""),
    ],
)
def test_an_index_that_is_not_there(
    make: Maker, kind: str, shapes: dict[str, Sequence[int]], wrong: dict[str, Any], rest: str
) -> None:
    """Caffe reads past the end; here it is an error that names the layer."""
    net = make(layer(kind, " ".join(shapes), "y", rest), **shapes)
    with pytest.raises(ShapeError, match=r"layer 'L': .* not"):
        cp.run(net, inputs_of(net) | {name: np.array(value) for name, value in wrong.items()})


def test_an_ignored_label_need_not_be_a_class(make: Maker) -> None:
    net = make(layer("SoftmaxWithLoss", "x t", "y", "loss_param { ignore_label: 255 }"), x=(2, 3), t=(2,))
    inputs = inputs_of(net) | {"t": np.array([255, 1], np.float32)}
    x = inputs["x"][1].astype(np.float64)
    np.testing.assert_allclose(run_everywhere(net, inputs)["y"], np.log(np.exp(x).sum()) - x[1])
