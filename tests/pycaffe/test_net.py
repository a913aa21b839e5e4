"""`caffe.Net`: what upstream's own tests of pycaffe check, what scripts do with it, and Caffe's rules of backward."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import CONV_NET, one_input, write_model

import caffe_port as cp
import caffe_port.pycaffe as caffe
from caffe_port.errors import CaffePortError, DataError, GraphError, ShapeError, WeightsError
from caffe_port.models.fetch import fetch

TRAINED = """
name: "trained"
force_backward: true
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 5 dim: 2 dim: 3 dim: 4 } shape { dim: 5 }
    data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 1 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" loss_weight: 0
  convolution_param { num_output: 11 kernel_size: 2 pad: 3
    weight_filler { type: "gaussian" std: 1 } bias_filler { type: "constant" value: 2 } }
  param { decay_mult: 1 } param { decay_mult: 0 } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip_blob"
  inner_product_param { num_output: 7 weight_filler { type: "gaussian" std: 2.5 }
    bias_filler { type: "constant" value: -3 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip_blob" bottom: "label" top: "loss" }
"""


def written(folder: Path, prototxt: str, name: str = "net.prototxt") -> str:
    file = folder / name
    file.write_text(prototxt)
    return str(file)


def net_of(folder: Path, prototxt: str, phase: int = caffe.TRAIN, **options: Any) -> caffe.Net:
    return caffe.Net(written(folder, prototxt), phase, **options)


@pytest.fixture
def net(tmp_path: Path) -> caffe.Net:
    net = net_of(tmp_path, TRAINED)
    net.blobs["label"].data[...] = [0, 6, 3, 3, 1]
    return net


# What upstream's tests check


def test_arrays_live_longer_than_their_net(net: caffe.Net) -> None:
    net.forward()
    arrays = [a for blobs in net.params.values() for blob in blobs for a in (blob.data, blob.diff)]
    blobs = list(net.blobs.values())
    want = [array.copy() for array in arrays] + [blob.data.copy() for blob in blobs]
    del net
    gc.collect()
    np.zeros(100_000).sum()
    assert all(np.array_equal(a, b) for a, b in zip(arrays + [blob.data for blob in blobs], want, strict=True))


def test_layers_and_names(net: caffe.Net) -> None:
    assert list(net.layer_dict) == list(net._layer_names) == ["data", "conv", "ip", "loss"]
    assert [layer.type for layer in net.layers] == ["DummyData", "Convolution", "InnerProduct", "SoftmaxWithLoss"]
    assert [net.layer_dict[name] for name in net._layer_names] == list(net.layers)
    assert all(isinstance(layer, caffe.Layer) for layer in net.layers)
    assert [len(layer.blobs) for layer in net.layers] == [0, 2, 2, 0]
    assert net.layer_dict["conv"].blobs[0] is net.params["conv"][0]
    assert net.inputs == [] and net.outputs == ["loss"]
    assert list(net.blobs) == ["data", "label", "conv", "ip_blob", "loss"]
    assert list(net.top_names.items()) == [
        ("data", ["data", "label"]), ("conv", ["conv"]), ("ip", ["ip_blob"]), ("loss", ["loss"]),
    ]  # fmt: skip
    assert net.bottom_names["loss"] == ["ip_blob", "label"] and net.bottom_names["data"] == []
    assert net._top_ids(0) == [0, 1] and net._bottom_ids(3) == [3, 1]
    assert net.blob_loss_weights == {"data": 0, "label": 0, "conv": 0, "ip_blob": 0, "loss": 1}
    assert list(net._blob_loss_weights) == [0, 0, 0, 0, 1]


def test_a_pass_forward_and_backward(net: caffe.Net) -> None:
    pytest.importorskip("torch")
    loss = net.forward()["loss"]
    assert loss.shape == () and np.isfinite(loss)
    assert net._forward(1, 3) == pytest.approx(float(loss))
    net.backward()
    scores, labels = net.blobs["ip_blob"].data.astype(np.float64), net.blobs["label"].data.astype(int)
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    want = (p / p.sum(axis=1, keepdims=True) - np.eye(7)[labels]) / 5
    assert np.allclose(net.blobs["ip_blob"].diff, want, atol=1e-6)
    rows = net.blobs["conv"].data.reshape(5, -1)
    assert np.allclose(net.params["ip"][0].diff, want.T @ rows, atol=1e-4)
    assert np.allclose(net.params["ip"][1].diff, want.sum(axis=0), atol=1e-6)
    assert net.params["conv"][0].diff.any() and net.blobs["data"].diff.any()


def test_forward_of_some_layers(net: caffe.Net) -> None:
    """From the middle, what is in the blobs counts, whoever wrote it."""
    conv = np.random.default_rng(0).standard_normal(net.blobs["conv"].data.shape).astype(np.float32)
    net.blobs["conv"].data[...] = conv
    found = net.forward(start="ip", end="ip", blobs=["conv"])
    assert set(found) == {"ip_blob", "conv"} and np.array_equal(found["conv"], conv)
    weight, bias = net.params["ip"]
    assert np.allclose(found["ip_blob"], conv.reshape(5, -1) @ weight.data.T + bias.data, rtol=1e-5, atol=1e-4)
    assert net.blobs["loss"].data == 0
    with pytest.raises(ValueError, match="no layer 'fc8'"):
        net.forward(start="fc8")


def test_backward_of_some_layers(net: caffe.Net) -> None:
    pytest.importorskip("torch")
    net.forward()
    seed = np.random.default_rng(1).standard_normal((5, 7)).astype(np.float32)
    net.blobs["ip_blob"].diff[...] = seed
    found = net.backward(start="ip", end="ip", diffs=["ip_blob"])
    assert set(found) == {"conv", "ip_blob"}
    want = (seed @ net.params["ip"][0].data).reshape(found["conv"].shape)
    assert np.allclose(found["conv"], want, rtol=1e-5, atol=1e-5)
    assert not net.blobs["data"].diff.any() and not net.params["conv"][0].diff.any()


def test_gradients_add_up_until_they_are_cleared(net: caffe.Net) -> None:
    pytest.importorskip("torch")
    net.forward()
    net.backward()
    once = {name: [blob.diff.copy() for blob in blobs] for name, blobs in net.params.items()}
    below = net.blobs["conv"].diff.copy()
    net.backward()
    for name, blobs in net.params.items():
        for blob, first in zip(blobs, once[name], strict=True):
            assert first.any() and np.allclose(blob.diff, 2 * first, rtol=1e-5)
    assert np.array_equal(net.blobs["conv"].diff, below)
    net.clear_param_diffs()
    assert not any(blob.diff.any() for blobs in net.params.values() for blob in blobs)


@pytest.mark.parametrize("form", ["binary", "hdf5"])
def test_saved_and_read(net: caffe.Net, tmp_path: Path, form: str) -> None:
    net.forward()
    net.params["ip"][1].data[3] = 17
    file, definition = str(tmp_path / "saved"), str(tmp_path / "net.prototxt")
    if form == "hdf5":
        pytest.importorskip("h5py")
        net.save_hdf5(file)
        other = caffe.Net(definition, caffe.TRAIN)
        other.load_hdf5(file)
        others = [other]
    else:
        net.save(file)
        others = [caffe.Net(definition, file, caffe.TRAIN), caffe.Net(definition, caffe.TEST, weights=file)]
        others.append(caffe.Net(definition, caffe.TRAIN))
        assert not np.array_equal(others[2].params["conv"][0].data, net.params["conv"][0].data)
        others[2].copy_from(file)
    for other in others:
        assert list(other.params) == list(net.params)
        for name, blobs in net.params.items():
            assert all(np.array_equal(a.data, b.data) for a, b in zip(blobs, other.params[name], strict=True))


LEVELS = """
layer { name: "data" type: "DummyData" top: "data" dummy_data_param { shape { dim: 1 dim: 1 dim: 2 dim: 2 } } }
layer { name: "any" type: "InnerProduct" bottom: "data" top: "any" inner_product_param { num_output: 1 } }
layer { name: "one" type: "InnerProduct" bottom: "data" top: "one" include { min_level: 1 }
  inner_product_param { num_output: 1 } }
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" include { stage: "A" }
  inner_product_param { num_output: 1 } }
layer { name: "ab" type: "InnerProduct" bottom: "data" top: "ab" include { stage: "A" stage: "B" }
  inner_product_param { num_output: 1 } }
layer { name: "not" type: "InnerProduct" bottom: "data" top: "not" exclude { stage: "A" }
  inner_product_param { num_output: 1 } }
layer { name: "train" type: "InnerProduct" bottom: "data" top: "train" include { phase: TRAIN }
  inner_product_param { num_output: 1 } }
"""


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, {"any", "not"}),
        ({"level": 1}, {"any", "not", "one"}),
        ({"stages": ["A"]}, {"any", "a"}),
        ({"stages": ["A", "B"]}, {"any", "a", "ab"}),
        ({"stages": ["B"]}, {"any", "not"}),
        ({"phase": caffe.TRAIN, "level": 2, "stages": ["A"]}, {"any", "one", "a", "train"}),
    ],
)
def test_level_and_stages_choose_layers(tmp_path: Path, options: dict[str, Any], kept: set[str]) -> None:
    net = net_of(tmp_path, LEVELS, **{"phase": caffe.TEST, **options})
    assert set(net.outputs) == kept
    assert set(net.forward()) == kept


def test_one_file_for_training_validation_and_deployment(tmp_path: Path) -> None:
    deploy = 'include { stage: "deploy" }'
    text = f"""
layer {{ name: "train_data" type: "DummyData" top: "data" top: "label" include {{ phase: TRAIN not_stage: "deploy" }}
  dummy_data_param {{ shape {{ dim: 1 dim: 1 dim: 10 dim: 10 }} shape {{ dim: 1 dim: 1 dim: 1 dim: 1 }} }} }}
layer {{ name: "val_data" type: "DummyData" top: "data" top: "label" include {{ phase: TEST not_stage: "deploy" }}
  dummy_data_param {{ shape {{ dim: 1 dim: 1 dim: 10 dim: 10 }} shape {{ dim: 1 dim: 1 dim: 1 dim: 1 }} }} }}
layer {{ name: "data" type: "Input" top: "data" {deploy} input_param {{ shape {{ dim: 1 dim: 1 dim: 10 dim: 10 }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param {{ num_output: 2 }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
  include {{ phase: TRAIN not_stage: "deploy" }} include {{ phase: TEST not_stage: "deploy" }} }}
layer {{ name: "pred" type: "Softmax" bottom: "ip" top: "pred" {deploy} }}
"""
    for phase in (caffe.TRAIN, caffe.TEST):
        net = net_of(tmp_path, text, phase)
        assert net.outputs == ["loss"] and net.forward()["loss"] == pytest.approx(np.log(2))
        assert net.inputs == []
    net = net_of(tmp_path, text, caffe.TEST, stages=["deploy"])
    assert net.inputs == ["data"] and net.outputs == ["pred"]
    assert np.array_equal(net.forward()["pred"], [[0.5, 0.5]])


# What scripts do


@pytest.fixture
def model(tmp_path: Path) -> tuple[str, str]:
    definition, weights = write_model(tmp_path)
    return str(definition), str(weights)


def test_values_are_assigned_and_results_read(model: tuple[str, str]) -> None:
    net = caffe.Net(*model, caffe.TEST)
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 7)).astype(np.float32)
    held = net.blobs["prob"].data
    net.blobs["data"].data[...] = x
    out = net.forward()
    want = cp.run(cp.load(*model), {"data": x})
    assert np.array_equal(out["prob"], want["prob"]) and list(net.blobs) == list(want)
    assert all(np.array_equal(net.blobs[name].data, value) for name, value in want.items())
    # The array held from before shows it too, and a later pass overwrites both.
    assert np.array_equal(held, want["prob"]) and np.shares_memory(out["prob"], held)
    again = net.forward(data=x[::-1])
    assert np.allclose(held, want["prob"][::-1]) and again["prob"] is not held
    assert net.blobs["data"].num == 2 and net.blobs["data"].count == 2 * 3 * 8 * 7
    assert (net.blobs["fc"].channels, net.blobs["fc"].height, net.blobs["fc"].width) == (5, 1, 1)


def test_inputs_by_name_are_checked(model: tuple[str, str]) -> None:
    net = caffe.Net(*model, caffe.TEST)
    with pytest.raises(RuntimeError, match=r"do not match net inputs: image given, data needed"):
        net.forward(image=np.zeros((2, 3, 8, 7)))
    with pytest.raises(ValueError, match=r"'data' is not batch sized: 3x3x8x7 for 2x3x8x7"):
        net.forward(data=np.zeros((3, 3, 8, 7)))
    with pytest.raises(ValueError, match=r"'data': could not broadcast"):
        net.forward(data=np.zeros((2, 3, 8, 8)))
    with pytest.raises(ValueError, match="broadcast"):
        net.blobs["data"].data[...] = np.zeros((2, 3, 8, 8))
    with pytest.raises(KeyError, match="nothing"):
        net.forward(blobs=["nothing"])
    with pytest.raises(AttributeError):
        net.blobs["data"].data = np.zeros((2, 3, 8, 7))


def test_assigned_weights_count(model: tuple[str, str]) -> None:
    net = caffe.Net(*model, caffe.TEST)
    weight, bias = net.params["fc"]
    weight.data[...] = 0
    bias.data[...] = [0, 0, np.log(2), 0, 0]
    assert np.allclose(net.forward()["prob"], [[1 / 6, 1 / 6, 1 / 3, 1 / 6, 1 / 6]] * 2)


def test_a_net_takes_another_size(model: tuple[str, str], tmp_path: Path) -> None:
    text = Path(model[0]).read_text().split('layer { name: "fc"')[0]
    net = caffe.Net(written(tmp_path, text), model[1], caffe.TEST)
    held = net.blobs["data"].data
    for shape, pooled in (((1, 3, 50, 40), (1, 4, 25, 20)), ((1, 3, 8, 7), (1, 4, 4, 3)), ((3, 3, 9, 9), (3, 4, 4, 4))):
        x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
        net.blobs["data"].reshape(*shape)
        net.reshape()
        assert net.blobs["pool1"].shape == pooled and net.blobs["data"].data.shape == shape
        net.blobs["data"].data[...] = x
        want = cp.run(cp.load(tmp_path / "net.prototxt", model[1]), {"data": x})
        assert np.array_equal(net.forward()["pool1"], want["pool1"])
    assert held.shape == (2, 3, 8, 7) and not held.any()
    # Without reshape() too: every layer looks at its bottoms.
    net.blobs["data"].reshape(1, 3, 6, 6)
    assert net.forward()["pool1"].shape == (1, 4, 3, 3)
    with pytest.raises(ValueError, match="negative dim"):
        net.blobs["data"].reshape(1, -3)
    with pytest.raises(ValueError, match="must be integers"):
        net.blobs["data"].reshape(1, 3, 6.5, 6)


def test_a_size_that_does_not_fit_the_weights(model: tuple[str, str]) -> None:
    net = caffe.Net(*model, caffe.TEST)
    net.blobs["data"].reshape(2, 3, 20, 20)
    for call in (net.reshape, net.forward):
        with pytest.raises(ShapeError, match=r"layer 'fc'.*do not fit the learned blobs"):
            call()


def test_net_surgery(model: tuple[str, str], tmp_path: Path) -> None:
    """A fully connected layer becomes a convolution with its weights, and sees every place of a larger image."""
    net = caffe.Net(*model, caffe.TEST)
    text = (
        Path(model[0])
        .read_text()
        .replace(
            'name: "fc" type: "InnerProduct" bottom: "pool1" top: "fc" inner_product_param { num_output: 5 }',
            'name: "fc-conv" type: "Convolution" bottom: "pool1" top: "fc-conv" '
            "convolution_param { num_output: 5 kernel_h: 4 kernel_w: 3 }",
        )
    )
    text = text.replace('bottom: "fc"', 'bottom: "fc-conv"')
    conv = caffe.Net(written(tmp_path, text, "conv.prototxt"), model[1], caffe.TEST)
    conv.params["fc-conv"][0].data.flat = net.params["fc"][0].data.flat
    conv.params["fc-conv"][1].data[...] = net.params["fc"][1].data
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 7)).astype(np.float32)
    dense = net.forward(data=x)["prob"]
    assert np.allclose(conv.forward(data=x)["prob"][:, :, 0, 0], dense, atol=1e-6)
    conv.save(str(tmp_path / "conv.caffemodel"))
    conv = caffe.Net(str(tmp_path / "conv.prototxt"), str(tmp_path / "conv.caffemodel"), caffe.TEST)
    conv.blobs["data"].reshape(1, 3, 16, 14)
    assert conv.forward(data=np.ones((1, 3, 16, 14)))["prob"].shape == (1, 5, 5, 5)


def test_an_image_climbs_a_layers_activation(model: tuple[str, str], tmp_path: Path) -> None:
    """As deepdream has it: force_backward set on the message, forward to a layer, its values as gradient, backward."""
    pytest.importorskip("torch")
    from google.protobuf import text_format

    from caffe_port.pycaffe.proto import caffe_pb2

    message = text_format.Merge(Path(model[0]).read_text(), caffe_pb2.NetParameter())
    message.force_backward = True
    net = caffe.Net(written(tmp_path, str(message), "dream.prototxt"), model[1], caffe.TEST)
    source, target = net.blobs["data"], net.blobs["pool1"]
    source.data[...] = np.random.default_rng(5).standard_normal(source.shape)
    reached = []
    for _ in range(4):
        net.forward(end="pool1")
        reached.append(float(np.square(target.data).sum()))
        target.diff[...] = target.data
        net.backward(start="pool1")
        step = source.diff
        source.data[...] += 0.1 * step / np.abs(step).mean()
    assert not net.blobs["prob"].data.any()
    assert reached == sorted(reached) and reached[-1] > 1.2 * reached[0]


def test_any_number_of_items(model: tuple[str, str]) -> None:
    net = caffe.Net(*model, caffe.TEST)
    x = np.random.default_rng(3).standard_normal((5, 3, 8, 7)).astype(np.float32)
    found = net.forward_all(data=x, blobs=["fc"])
    big = cp.run(cp.load(*model), {"data": x})
    assert set(found) == {"prob", "fc"} and found["prob"].shape == (5, 5)
    assert np.allclose(found["prob"], big["prob"], atol=1e-6) and np.allclose(found["fc"], big["fc"], atol=1e-5)


def test_any_number_of_items_and_their_gradients(model: tuple[str, str], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    text = "force_backward: true\n" + Path(model[0]).read_text()
    net = caffe.Net(written(tmp_path, text, "back.prototxt"), model[1], caffe.TEST)
    rng = np.random.default_rng(4)
    x, seed = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 3, 8, 7), (3, 5)))
    blobs, diffs = net.forward_backward_all(data=x, prob=seed, diffs=["fc"])
    assert blobs["prob"].shape == (3, 5) and diffs["data"].shape == x.shape and diffs["fc"].shape == (3, 5)
    p = blobs["prob"]
    assert np.allclose(diffs["fc"], p * (seed - (p * seed).sum(axis=1, keepdims=True)), atol=1e-6)
    with pytest.raises(RuntimeError, match="do not match net outputs"):
        net.backward(fc=seed[:2])


def test_weights_are_shared(model: tuple[str, str], tmp_path: Path) -> None:
    net, other = caffe.Net(*model, caffe.TEST), caffe.Net(model[0], caffe.TEST)
    other.share_with(net)
    net.params["conv1"][0].data[0] = 5
    assert np.array_equal(other.params["conv1"][0].data, net.params["conv1"][0].data)
    assert not np.shares_memory(other.params["conv1"][0].diff, net.params["conv1"][0].diff)
    x = np.ones((2, 3, 8, 7), np.float32)
    assert np.array_equal(other.forward(data=x)["prob"], net.forward(data=x)["prob"])
    wider = written(tmp_path, CONV_NET.replace("num_output: 4", "num_output: 6"), "wider.prototxt")
    with pytest.raises(WeightsError, match=r"'conv1': learned blobs 6x3x3x3, 6 cannot share those of 4x3x3x3, 4"):
        caffe.Net(wider, caffe.TEST).share_with(net)


def test_callbacks(net: caffe.Net) -> None:
    pytest.importorskip("torch")
    seen: list[tuple[str, int]] = []
    for when in ("before_forward", "after_forward", "before_backward", "after_backward"):
        getattr(net, when)(lambda layer, when=when: seen.append((when, layer)))
    net.forward(start="ip", end="ip")
    net.backward(start="ip", end="ip")
    assert seen == [("before_forward", 2), ("after_forward", 2), ("before_backward", 2), ("after_backward", 2)]


def test_files_that_are_not_there(model: tuple[str, str], tmp_path: Path) -> None:
    for arguments in ((str(tmp_path / "no.prototxt"), caffe.TEST), (model[0], str(tmp_path / "no"), caffe.TEST)):
        with pytest.raises(RuntimeError, match=r"Could not open file .*no"):
            caffe.Net(*arguments)
    with pytest.raises(RuntimeError, match="Could not open file"):
        caffe.Net(*model, caffe.TEST).copy_from(str(tmp_path / "no"))
    for wrong in ((model[0],), (model[0], model[1]), (model[0], 2)):
        with pytest.raises(TypeError, match="phase"):
            caffe.Net(*wrong)


def test_weights_of_other_shapes(model: tuple[str, str], tmp_path: Path) -> None:
    wider = written(tmp_path, CONV_NET.replace("num_output: 4", "num_output: 6"), "wider.prototxt")
    with pytest.raises(WeightsError, match=r"learned blob 0 is 6x3x3x3 in the net, 4x3x3x3 in small\.caffemodel"):
        caffe.Net(wider, model[1], caffe.TEST)


def test_random_numbers_follow_the_seed(tmp_path: Path) -> None:
    nets = []
    for seed in (1, 1, 2):
        caffe.set_random_seed(seed)
        nets.append(net_of(tmp_path, TRAINED))
    weights = [net.params["conv"][0].data for net in nets]
    assert np.array_equal(weights[0], weights[1]) and not np.array_equal(weights[0], weights[2])
    before = nets[0].blobs["data"].data.copy()
    labels = nets[0].blobs["label"].data
    labels[...] = 3
    nets[0].forward()
    # A random filler draws anew in every pass, a constant one never again.
    assert not np.array_equal(nets[0].blobs["data"].data, before) and (labels == 3).all()


# What shares memory


def test_views_share_memory(tmp_path: Path) -> None:
    net = net_of(
        tmp_path,
        one_input(2, 3, 4)
        + """
layer { name: "flat" type: "Flatten" bottom: "x" top: "flat" }
layer { name: "shape" type: "Reshape" bottom: "flat" top: "shape" reshape_param { shape { dim: 4 dim: -1 } } }
layer { name: "relu" type: "ReLU" bottom: "shape" top: "shape" }
layer { name: "a" type: "Power" bottom: "shape" top: "a" }
layer { name: "b" type: "Power" bottom: "shape" top: "b" }
""",
        caffe.TEST,
    )
    x = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 4)
    net.forward(x=x)
    assert np.array_equal(net.blobs["x"].data, np.maximum(x, 0))
    first = net.blobs["x"].data
    for name in ("flat", "shape", "shape_relu_0_split_0", "shape_relu_0_split_1"):
        assert np.shares_memory(net.blobs[name].data, first)
    assert np.shares_memory(net.blobs["flat"].diff, net.blobs["x"].diff)
    assert not np.shares_memory(net.blobs["shape_relu_0_split_0"].diff, net.blobs["shape"].diff)
    assert not np.shares_memory(net.blobs["a"].data, first)
    net.blobs["x"].reshape(4, 6, 7)
    net.reshape()
    assert net.blobs["shape"].shape == (4, 42)
    assert np.shares_memory(net.blobs["shape"].data, net.blobs["x"].data) and not np.shares_memory(
        net.blobs["x"].data, first
    )


def test_a_shared_learned_blob_is_one(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    inner = 'type: "InnerProduct" param { name: "w" } inner_product_param { num_output: 3 bias_term: false }'
    net = net_of(
        tmp_path,
        one_input(2, 3)
        + f"""
layer {{ name: "a" bottom: "x" top: "a" {inner} }}
layer {{ name: "b" bottom: "a" top: "b" {inner} }}
layer {{ name: "loss" type: "Reduction" bottom: "b" top: "loss" loss_weight: 1 }}
""",
    )
    rng = np.random.default_rng(0)
    net.params["a"][0].data[...] = w = rng.standard_normal((3, 3)).astype(np.float32)
    assert np.array_equal(net.params["b"][0].data, w)
    x = rng.standard_normal((2, 3)).astype(np.float32)
    net.forward(x=x)
    net.backward()
    ones = np.ones((2, 3), np.float32)
    want = ones.T @ (x @ w.T) + (ones @ w).T @ x
    for name in ("a", "b"):
        assert np.allclose(net.params[name][0].diff, want, atol=1e-5)
    net.save(str(tmp_path / "shared"))
    again = caffe.Net(str(tmp_path / "net.prototxt"), str(tmp_path / "shared"), caffe.TRAIN)
    assert np.array_equal(again.params["b"][0].data, w)


# Caffe's rules of backward

TWO_BRANCHES = """
layer { name: "fc1" type: "InnerProduct" bottom: "x" top: "fc1" inner_product_param { num_output: 3
  weight_filler { type: "gaussian" std: 1 } } PARAM }
layer { name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2" FC2 inner_product_param { num_output: 3
  weight_filler { type: "gaussian" std: 1 } } }
layer { name: "side" type: "InnerProduct" bottom: "fc1" top: "side" inner_product_param { num_output: 2
  weight_filler { type: "gaussian" std: 1 } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc2" bottom: "y" top: "loss" LOSS }
"""


@pytest.mark.parametrize(
    ("param", "fc2", "loss", "reached"),
    [
        ("", "", "", {"fc1", "fc2"}),
        ("param { lr_mult: 0 } param { lr_mult: 0 }", "", "", {"fc2"}),
        ("", "propagate_down: false", "", {"fc2"}),
        ("", "", "loss_weight: 0", set()),
    ],
)
def test_where_gradients_go(tmp_path: Path, param: str, fc2: str, loss: str, reached: set[str]) -> None:
    """Not to what learns nothing, not past propagate_down, and nowhere without a loss."""
    pytest.importorskip("torch")
    text = TWO_BRANCHES.replace("PARAM", param).replace("FC2", fc2).replace("LOSS", loss)
    text = one_input(4, 5) + one_input(4, 3, name="y") + text
    x, y = np.ones((4, 5)), np.zeros((4, 3))
    net = net_of(tmp_path, text)
    net.forward(x=x, y=y)
    net.backward()
    assert {name for name, blobs in net.params.items() if blobs[0].diff.any()} == reached
    assert not net.blobs["x"].diff.any()
    forced = net_of(tmp_path, "force_backward: true\n" + text)
    forced.forward(x=x, y=y)
    forced.backward()
    wanted = {"fc1", "fc2"} if "weight: 0" not in loss else set()
    assert {name for name, blobs in forced.params.items() if blobs[0].diff.any()} == wanted
    assert forced.blobs["x"].diff.any() == bool(wanted)


def test_the_gradient_at_a_loss_is_its_weight(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    text = "force_backward: true\n" + one_input(4, 3) + one_input(4, 3, name="y")
    text += 'layer { name: "loss" type: "EuclideanLoss" bottom: "x" bottom: "y" top: "loss" loss_weight: 3 }'
    net = net_of(tmp_path, text)
    assert net.blobs["loss"].diff == 3 and net.blob_loss_weights["loss"] == 3
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    loss = net.forward(x=x, y=np.zeros((4, 3)))["loss"]
    assert net._forward(0, len(net.layers) - 1) == pytest.approx(3 * float(loss))
    found = net.backward()
    assert np.allclose(found["x"], 3 * x / 4) and np.allclose(found["y"], -3 * x / 4)
    net.blobs["loss"].diff[...] = 1
    assert np.allclose(net.backward()["x"], x / 4)


def test_splits_add_gradients_up(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    text = (
        "force_backward: true\n"
        + one_input(2, 3)
        + """
layer { name: "a" type: "Power" bottom: "x" top: "a" power_param { scale: 2 } }
layer { name: "b" type: "Power" bottom: "x" top: "b" power_param { scale: 5 } }
"""
    )
    net = net_of(tmp_path, text, caffe.TEST)
    net.forward(x=np.ones((2, 3)))
    found = net.backward(a=np.full((2, 3), 10), b=np.ones((2, 3)))
    assert np.array_equal(found["x"], np.full((2, 3), 25))


def test_dropout_drops_the_same_forward_and_backward(tmp_path: Path) -> None:
    text = "force_backward: true\n" + one_input(50, 40)
    text += 'layer { name: "d" type: "Dropout" bottom: "x" top: "x" dropout_param { dropout_ratio: 0.25 } }'
    net = net_of(tmp_path, text)
    out = net.forward(x=np.ones((50, 40)))["x"].copy()
    assert 0.2 < (out == 0).mean() < 0.3 and np.allclose(out[out > 0], 1 / 0.75)
    assert np.array_equal(net.backward(x=np.full((50, 40), 2))["x"], 2 * out)
    assert not np.array_equal(net.forward(x=np.ones((50, 40)))["x"], out)


@pytest.mark.parametrize(
    ("kind", "slope"),
    [("Sigmoid", lambda y: y * (1 - y)), ("TanH", lambda y: 1 - y * y), ("Exp", lambda y: y)],
)
def test_a_top_that_was_overwritten_is_taken_as_it_is(tmp_path: Path, kind: str, slope: Any) -> None:
    """These layers go backward from their top, which here a ReLU has changed in place since."""
    text = "force_backward: true\n" + one_input(2, 3)
    text += f'layer {{ name: "a" type: "{kind}" bottom: "x" top: "y" }}\n'
    text += 'layer { name: "r" type: "ReLU" bottom: "y" top: "y" relu_param { negative_slope: 2 } }'
    net = net_of(tmp_path, text, caffe.TEST)
    x = np.linspace(-2, 1, 6, dtype=np.float32).reshape(2, 3)
    y = net.forward(x=x)["y"].copy()
    through = np.where(y > 0, 1, 2)
    pytest.importorskip("torch")
    assert np.allclose(net.backward(y=np.ones((2, 3)))["x"], through * slope(y), atol=1e-6)


def test_batch_norm_moves_its_blobs_once_a_pass(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    text = "force_backward: true\n" + one_input(8, 2, 3, 3)
    text += 'layer { name: "bn" type: "BatchNorm" bottom: "x" top: "x" }'
    net = net_of(tmp_path, text)
    x = np.random.default_rng(0).standard_normal((8, 2, 3, 3)).astype(np.float32) + 3
    for passes in (1, 2):
        net.forward(x=x)
        moved = [blob.data.copy() for blob in net.params["bn"]]
        net.backward(x=x)
        assert all(np.array_equal(blob.data, want) for blob, want in zip(net.params["bn"], moved, strict=True))
        assert moved[2] == pytest.approx(sum(0.999**i for i in range(passes)))
        assert np.allclose(moved[0] / moved[2], x.mean(axis=(0, 2, 3)), rtol=1e-4)


def test_a_recurrent_layer_goes_on_where_it_ended(tmp_path: Path) -> None:
    text = one_input(2, 1, 3) + one_input(2, 1, name="cont")
    text += """layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "h"
      recurrent_param { num_output: 4 weight_filler { type: "gaussian" std: 1 } } }"""
    net = net_of(tmp_path, text, caffe.TEST)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 1, 3)).astype(np.float32)
    longer = caffe.Net(written(tmp_path, text.replace("dim: 2", "dim: 4"), "four.prototxt"), caffe.TEST)
    longer.share_with(net)
    want = longer.forward(x=x, cont=[[0], [1], [1], [1]])["h"]
    first = net.forward(x=x[:2], cont=[[0], [1]])["h"].copy()
    second = net.forward(x=x[2:], cont=[[1], [1]])["h"]
    assert np.allclose(np.concatenate([first, second]), want, atol=1e-6)
    assert np.allclose(net.forward(x=x[:2], cont=[[0], [1]])["h"], first, atol=1e-6)


def test_labels_get_no_gradient(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    text = one_input(2, 3) + one_input(2, 1, name="y")
    text += """layer { name: "fc" type: "InnerProduct" bottom: "y" top: "label" inner_product_param { num_output: 1 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" top: "loss" }"""
    net = net_of(tmp_path, text)
    net.forward()
    with pytest.raises(GraphError, match="'loss': SoftmaxWithLoss cannot go backward to bottom 1"):
        net.backward()


# Data layers

MEMORY = """
layer { name: "data" type: "MemoryData" top: "data" top: "label"
  memory_data_param { batch_size: 2 channels: 1 height: 1 width: 2 } }
layer { name: "twice" type: "Power" bottom: "data" top: "twice" power_param { scale: 2 } }
"""


def test_memory_data(tmp_path: Path) -> None:
    net = net_of(tmp_path, MEMORY, caffe.TEST)
    assert net.inputs == [] and net.blobs["label"].shape == (2,)
    with pytest.raises(RuntimeError, match="'data': MemoryData needs set_input_arrays first"):
        net.forward()
    data = np.arange(8, dtype=np.float32).reshape(4, 1, 1, 2)
    labels = np.arange(4, dtype=np.float32)
    net.set_input_arrays(data, labels)
    for first in (0, 2, 0):
        assert np.array_equal(net.forward()["twice"], 2 * data[first : first + 2])
        assert net.blobs["label"].data.reshape(-1).tolist() == [first, first + 1]
        assert net.blobs["label"].shape == (2, 1, 1, 1)
    for wrong in ((data[:3], labels[:3]), (data[:, 0], labels), (data, labels[:2]), (data.astype(float), labels)):
        with pytest.raises(RuntimeError, match=r"multiple of batch size 2|takes n x|float32"):
            net.set_input_arrays(*wrong)
    with pytest.raises(RuntimeError, match="first layer is a MemoryDataLayer"):
        net_of(tmp_path, one_input(1), caffe.TEST).set_input_arrays(data, labels)


def test_data_layers_read_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x"] = values
    (tmp_path / "list.txt").write_text("data.h5\n")
    text = """layer { name: "d" type: "HDF5Data" top: "x" hdf5_data_param { source: "list.txt" batch_size: 3 } }
layer { name: "p" type: "Power" bottom: "x" top: "p" power_param { shift: 1 } }"""
    file = written(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    net = caffe.Net(file, caffe.TEST)
    assert net.blobs["p"].shape == (3, 3)
    assert np.array_equal(net.forward()["p"], values[:3] + 1)
    assert np.array_equal(net.forward()["p"], values[[3, 0, 1]] + 1)
    (tmp_path / "data.h5").unlink()
    with pytest.raises(DataError, match=r"data\.h5"):
        caffe.Net(file, caffe.TEST)


def test_hdf5_output_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    text = one_input(2, 3) + one_input(2, name="y")
    text += 'layer { name: "o" type: "HDF5Output" bottom: "x" bottom: "y" hdf5_output_param { file_name: "out.h5" } }'
    monkeypatch.chdir(tmp_path)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert net_of(tmp_path, text, caffe.TEST).forward(x=x, y=[4, 5]) == {}
    with h5py.File(tmp_path / "out.h5") as file:
        assert np.array_equal(file["data"][:].reshape(2, 3), x) and file["label"][:].reshape(-1).tolist() == [4, 5]


# The released model


def test_open_nsfw_to_the_last_bit() -> None:
    try:
        files = fetch("open_nsfw")
    except CaffePortError as error:
        pytest.skip(f"the released model cannot be had: {error}")
    net = caffe.Net(str(files.prototxt), str(files.caffemodel), caffe.TEST)
    x = np.random.default_rng(0).uniform(-120, 140, (1, 3, 224, 224)).astype(np.float32)
    net.blobs["data"].data[...] = x
    out = net.forward()
    want = cp.run(cp.load(files.prototxt, files.caffemodel), {"data": x})
    assert list(net.blobs) == list(want) and len(net.layers) > 200
    assert all(np.array_equal(net.blobs[name].data, value) for name, value in want.items())
    assert set(out) == {"prob"}
