"""What shares memory in a `caffe.Net`, where gradients go, and layers that read and write files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted_nets import net_of, written
from small import one_input

import caffe_port as cp
import caffe_port.pycaffe as caffe
from caffe_port.errors import CaffePortError, DataError, GraphError
from caffe_port.models.fetch import fetch


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
