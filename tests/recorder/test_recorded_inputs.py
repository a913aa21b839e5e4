"""The inputs of a recording: pictures, means, data layers, other shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small
from recorders import TRAINED, Recorder, agrees_everywhere, meta_of, picture

import caffe_port as cp
from caffe_port import recording
from caffe_port.proto import wire
from caffe_port.proto.blobs import BlobData
from caffe_port.recorder import check

TWO_INPUTS = """
name: "two"
input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 7 }
input: "scale" input_shape { dim: 1 }
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "flat" type: "Flatten" bottom: "pool" top: "flat" }
layer { name: "relu" type: "ReLU" bottom: "flat" top: "flat" }
layer { name: "again" type: "Power" bottom: "pool" top: "again" power_param { shift: 1 } }
layer { name: "times" type: "Scale" bottom: "again" bottom: "scale" top: "times" scale_param { axis: 0 } }
layer { name: "quiet" type: "Silence" bottom: "flat" }
"""
"""`flat` shares memory with `pool`'s Split, and is overwritten in place before `again` reads it."""

GRAY = small.one_input(1, 1, 6, 5, name="data") + 'layer { name: "p" type: "Power" bottom: "data" top: "p" }'


@pytest.mark.parametrize("age", ["", "2015"])
def test_shared_memory_and_several_inputs(
    made: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: str
) -> None:
    monkeypatch.setenv("FAKE_PYCAFFE", age)
    path = made(TWO_INPUTS, "--full", weights=False)
    assert check(path, tmp_path / "model" / "small.prototxt").ok
    recorded = recording.read(path)
    assert not recorded.inputs["scale"].any()  # one axis: zeros, as labels need
    np.savez(tmp_path / "in.npz", data=-recorded.inputs["data"], scale=np.array([2.5]))
    recorded = recording.read(made(TWO_INPUTS, "--full", "--input", str(tmp_path / "in.npz"), weights=False))
    values = {entry.layer: entry.value for entry in recorded.layers}
    assert values["pool"].min() < 0 and values["again"].min() >= 1  # type: ignore[union-attr]
    assert [entry.layer for entry in recorded.layers] == ["pool", "flat", "relu", "again", "times"]
    agrees_everywhere(cp.load(tmp_path / "model" / "small.prototxt"), recorded)


def test_other_shapes_than_the_prototxt_has(made: Recorder, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", data=np.ones((3, 3, 8, 7), np.float64))
    recorded = recording.read(made(small.CONV_NET, "--input", str(tmp_path / "in.npz")))
    assert recorded.input_shapes == {"data": (3, 3, 8, 7)} and recorded.finals["prob"].shape == (3, 5)
    assert check(tmp_path / "recording.npz", small.built(small.CONV_NET)).ok
    recorded = recording.read(made(small.CONV_NET, "--input-shape", "data=1,3,8,7"))
    assert recorded.finals["prob"].shape == (1, 5)


def test_what_data_layers_read_becomes_the_inputs(made: Recorder, tmp_path: Path) -> None:
    path = made(TRAINED)
    recorded = recording.read(path)
    assert recorded.input_names == ("data", "label") and recorded.output_names == ("loss",)
    assert recorded.inputs["label"].tolist() == [0, 1, 2, 3]
    assert [entry.layer for entry in recorded.layers] == ["dummy", "fc", "sum", "loss"]
    assert meta_of(path)["recorder"]["inputs"] == ["read by data layers"]
    assert check(path, tmp_path / "model" / "small.prototxt").ok
    net = cp.load(tmp_path / "model" / "small.prototxt", tmp_path / "model" / "small.caffemodel")
    agrees_everywhere(net, recorded)


def prepared(pixels: np.ndarray) -> np.ndarray:
    """BGR, (1, 3, H, W), 0 to 255 as caffe.io makes it in float32."""
    return ((pixels / 255.0).astype(np.float32).transpose(2, 0, 1)[::-1] * np.float32(255))[None]


CONV_NET_1 = small.CONV_NET.replace("dim: 2 dim: 3", "dim: 1 dim: 3")


def test_pictures_go_through_the_transformer(made: Recorder, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    want = prepared(picture(file, 8, 7))
    got = recording.read(made(CONV_NET_1, "--images", str(file))).inputs["data"]
    assert got.tobytes() == want.tobytes()
    mean = np.array([104, 117, 123], np.float64)[None, :, None, None]
    path = made(CONV_NET_1, "--images", str(file), str(file), "--mean", "104,117,123", "--input-scale", "0.5")
    got = recording.read(path).inputs["data"]
    assert got.shape == (2, 3, 8, 7) and np.array_equal(got[0], got[1])
    assert np.allclose(got[:1], (want - mean) * 0.5, atol=1e-5)
    assert check(path).made_by["inputs"] == ["--images"]
    options = ["--raw-scale", "1", "--channel-swap", "0,1,2"]
    got = recording.read(made(CONV_NET_1, "--images", str(file), *options)).inputs["data"]
    assert np.allclose(got, want[:, ::-1] / 255, atol=1e-6)


def test_resized_pictures_are_cut_to_their_centre(made: Recorder, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    pixels = picture(file, 13, 11)
    got = recording.read(made(CONV_NET_1, "--images", str(file), "--resize", "13,11")).inputs["data"]
    assert got.tobytes() == prepared(pixels[2:10, 2:9]).tobytes()


def test_gray_pictures(made: Recorder, tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png", 6, 5, "L")
    path = made(GRAY, "--images", str(tmp_path / "a.png"), weights=False)
    assert np.allclose(recording.read(path).inputs["data"][0, 0], pixels, atol=1e-4)


def test_means_in_files(made: Recorder, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    want = prepared(picture(file, 8, 7))
    mean = np.random.default_rng(1).random((3, 8, 7)).astype(np.float32) * 200
    np.save(tmp_path / "mean.npy", mean)
    wire.write_blob(tmp_path / "mean.binaryproto", BlobData((1, 3, 8, 7), True, mean.reshape(-1)))
    for name in ("mean.npy", "mean.binaryproto"):
        path = made(CONV_NET_1, "--images", str(file), "--mean", str(tmp_path / name))
        assert np.allclose(recording.read(path).inputs["data"], want - mean, atol=1e-4)
