"""The loop that scripts wrote without a solver (forward, backward, params -= rate * diff) against Caffe's own runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from places import CONFORMANCE

import caffe_port.pycaffe as caffe

RUNS = CONFORMANCE / "solver"
NAMES = sorted(folder.name for folder in RUNS.glob("*_SGD_fixed"))
"""None where the recorded runs are absent; then pytest skips."""


@pytest.mark.parametrize("name", NAMES)
def test_sgd(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every learned blob after each of 12 iterations: data from HDF5, TRAIN phase, momentum, decay, clipping."""
    pytest.importorskip("torch")
    pytest.importorskip("h5py")
    folder = RUNS / name
    text = (folder / "solver.prototxt").read_text()

    def setting(key: str, default: float) -> float:
        found = re.search(rf"^{key}: (\S+)", text, re.MULTILINE)
        return float(found[1]) if found else default

    rate, momentum, decay = setting("base_lr", 0), setting("momentum", 0), setting("weight_decay", 0)
    clip, passes = setting("clip_gradients", -1), int(setting("iter_size", 1))
    shrink = np.sign if '"L1"' in text else np.asarray
    recorded = np.load(folder / "run.npz")
    monkeypatch.chdir(folder)
    net = caffe.Net("net.prototxt", "initial.caffemodel", caffe.TRAIN)
    layers = caffe_layers(folder / "net.prototxt")
    history = {key: np.zeros_like(blob.data) for key, blob in learned(net).items()}
    for iteration in range(1, 13):
        net.clear_param_diffs()
        for _ in range(passes):
            loss = net.forward()["loss"]
            net.backward()
        assert np.isclose(loss, recorded["loss_last_pass"][iteration - 1], rtol=1e-5)
        blobs = learned(net)
        norm = np.sqrt(sum(float(np.square(blob.diff.astype(np.float64)).sum()) for blob in blobs.values()))
        scale = clip / norm if 0 <= clip < norm else 1
        for key, blob in blobs.items():
            lr_mult, decay_mult = multipliers(layers, key)
            gradient = blob.diff * scale / passes + decay * decay_mult * shrink(blob.data)
            history[key] = momentum * history[key] + rate * lr_mult * gradient
            blob.data[...] -= history[key]
            want = recorded[f"{iteration}:{key}"]
            assert np.abs(blob.data - want).max() <= 1e-5 * max(1, np.abs(want).max()), f"{iteration}:{key}"


def learned(net: caffe.Net) -> dict[str, caffe.Blob]:
    return {f"{name}/{i}": blob for name, blobs in net.params.items() for i, blob in enumerate(blobs)}


def caffe_layers(path: Path) -> dict[str, object]:
    from google.protobuf import text_format

    from caffe_port.pycaffe.proto import caffe_pb2

    return {layer.name: layer for layer in text_format.Parse(path.read_text(), caffe_pb2.NetParameter()).layer}


def multipliers(layers: dict[str, object], key: str) -> tuple[float, float]:
    name, _, index = key.rpartition("/")
    layer = layers[name]
    if layer.type == "BatchNorm":
        return 0, 0
    if int(index) < len(layer.param):
        return layer.param[int(index)].lr_mult, layer.param[int(index)].decay_mult
    return 1, 1
