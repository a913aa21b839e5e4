"""`caffe.Net` as scripts use it: names, passes, values in and out, files."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted_nets import net_of, written
from small import CONV_NET, write_model

import caffe_port as cp
import caffe_port.pycaffe as caffe
from caffe_port.errors import ShapeError, WeightsError

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
