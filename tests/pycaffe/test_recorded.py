"""Every recorded layer case, forward and backward, through `caffe.Net`."""

from __future__ import annotations

from pathlib import Path

import pytest
from cases import all_cases, assert_agrees

import caffe_port.pycaffe as caffe
from caffe_port.layer_cases import LayerCase

TOLERANCE = 1e-4
PHASES = {"TRAIN": caffe.TRAIN, "TEST": caffe.TEST}
CASES = sorted(all_cases())
BACK = sorted(name for name, case in all_cases().items() if case.grads)


def made(case: LayerCase, folder: Path, *, force: bool = False) -> caffe.Net:
    definition, weights = folder / "net.prototxt", folder / "weights.caffemodel"
    definition.write_text("force_backward: true\n" * force + case.prototxt, encoding="utf-8")
    if case.weights is not None:
        weights.write_bytes(case.weights)
    net = caffe.Net(definition, PHASES[case.phase], weights=weights if case.weights is not None else None)
    for name, values in case.inputs.items():
        net.blobs[name].data[...] = values
    return net


@pytest.mark.parametrize("name", CASES)
def test_forward(name: str, tmp_path: Path) -> None:
    case = all_cases()[name]
    net = made(case, tmp_path)
    net.forward()
    assert set(net.blobs) >= set(case.outputs)
    for blob, want in case.outputs.items():
        assert_agrees(net.blobs[blob].data, want, blob, TOLERANCE)
    for key, want in (case.params_after or {}).items():
        layer, _, index = key.rpartition("/")
        assert_agrees(net.params[layer][int(index)].data, want, key, TOLERANCE)


@pytest.mark.parametrize("name", BACK)
def test_backward(name: str, tmp_path: Path) -> None:
    """Twice, since gradients of learned blobs add up and those of bottoms do not."""
    pytest.importorskip("torch")
    case = all_cases()[name]
    assert case.grads is not None
    net = made(case, tmp_path, force=True)
    types = {layer.type for layer in net.layers}
    # A recurrent layer goes on from its last states; the top of Parameter is the learned blob, so nothing adds up.
    for times in (1,) if types & {"LSTM", "RNN", "Parameter"} else (1, 2):
        for blob, values in case.inputs.items():
            net.blobs[blob].data[...] = values
        net.forward()
        for key, values in case.grads.items():
            kind, _, blob = key.partition(":")
            if kind == "seed":
                net.blobs[blob].diff[...] = values
        net.backward()
        for key, want in case.grads.items():
            kind, _, place = key.partition(":")
            if kind == "bottom":
                assert_agrees(net.blobs[place].diff, want, key, TOLERANCE)
            elif kind == "param":
                name, _, index = place.rpartition("/")
                assert_agrees(net.params[name][int(index)].diff, times * want, key, TOLERANCE)
