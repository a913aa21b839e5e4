"""Forks' recurrent layers and their companions, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cases import assert_agrees, run_onnx
from everywhere import TOLERANCE, everywhere, layer
from small import THROUGH, filled, inputs_of, one_input

import caffe_port as cp
from caffe_port.converters.to_onnx import to_onnx


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def by_hand(values: list[float], goes_on: list[float], carried: list[float]) -> list[float]:
    """caffe-lstm with one cell, gates i, f, o, g = x + (1, 2, 3, 4) / 10 * h: the outputs."""
    hidden = cell = 0.0
    outputs = []
    for x, forgets, kept in zip(values, goes_on, carried, strict=True):
        i, f, o, g = (x + factor / 10 * hidden * kept for factor in (1, 2, 3, 4))
        cell = (sigmoid(f) if forgets else 0.0) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        outputs.append(hidden)
    return outputs


LSTM = "lstm_param { num_output: 1 batch_size: 1 clipping_threshold: 1 }"

WEIGHTS = [[1, 1, 1, 1], [0.1, 0.2, 0.3, 0.4], [0, 0, 0, 0]]


def test_lstm_of_caffe_lstm() -> None:
    x = [1.0, -0.5, 2.0, 0.25]
    (y,) = everywhere(one_input(4, 1) + layer("Lstm", LSTM), {"x": x}, WEIGHTS).values()
    assert y.shape == (4, 1)
    assert np.allclose(y.ravel(), by_hand(x, [1] * 4, [1] * 4), atol=1e-7)
    clip = [0.0, 1.0, 0.5, 0.0]
    net = one_input(4, 1) + one_input(4, 1, name="clip") + layer("Lstm", LSTM, "x clip")
    (y,) = everywhere(net, {"x": x, "clip": clip}, WEIGHTS).values()
    assert np.allclose(y.ravel(), by_hand(x, clip, clip), atol=1e-7)


def test_lstm_of_ctpn(tmp_path: Path) -> None:
    x = [1.0, -0.5, 2.0, 0.25]
    clip = [0.0, 1.0, 0.5, 0.0]
    file = tmp_path / "net.prototxt"
    inputs = one_input(4, 1, 1) + one_input(4, name="clip")
    file.write_text(inputs + layer("Lstm", "lstm_param { num_output: 1 }", "x clip"))
    net = cp.load(file, dialect="tianzhi0549/CTPN").with_weights(
        {
            "L": [
                np.array(WEIGHTS[0], np.float32)[:, None],
                np.array(WEIGHTS[1], np.float32)[:, None],
                np.zeros(4, np.float32),
            ]
        }
    )
    given = {"x": np.array(x, np.float32).reshape(4, 1, 1), "clip": np.array(clip, np.float32)}
    for through in THROUGH.values():
        (y,) = through(net, given).values()
        assert y.shape == (4, 1, 1)
        assert np.allclose(y.ravel(), by_hand(x, clip, [0, 1, 1, 0]), atol=1e-6)


def test_several_streams_of_an_lstm() -> None:
    """Rows of axis 0 are time steps, each with its streams."""
    parameters = LSTM.replace("batch_size: 1", "batch_size: 2")
    net = one_input(4, 1) + layer("Lstm", parameters)
    (y,) = everywhere(net, {"x": [1.0, 3.0, -0.5, 0.5]}, WEIGHTS).values()
    assert np.allclose(y[::2].ravel(), by_hand([1.0, -0.5], [1] * 2, [1] * 2), atol=1e-7)
    assert np.allclose(y[1::2].ravel(), by_hand([3.0, 0.5], [1] * 2, [1] * 2), atol=1e-7)


def test_continuation_indicator() -> None:
    indicator = layer(
        "ContinuationIndicator", "continuation_indicator_param { time_step: 3 batch_size: 2 }", "", "cont"
    )
    added = layer("Eltwise", "", "x cont").replace('"L"', '"M"')
    (y,) = everywhere(one_input(3, 2) + indicator + added, {"x": [10, 20, 30, 40, 50, 60]}).values()
    assert y.tolist() == [[10, 20], [31, 41], [51, 61]]


def test_a_batch_may_stay_open() -> None:
    pytest.importorskip("onnxruntime")
    parts = [
        layer("Normalize", "norm_param { across_spatial: false channel_shared: false }", "x", "a"),
        layer("ShuffleChannel", "shuffle_channel_param { group: 2 }", "a", "b").replace('"L"', '"M"'),
        layer("Interp", "interp_param { height: 5 width: 3 }", "b", "c").replace('"L"', '"N"'),
        layer("Unpooling", "unpooling_param { kernel_size: 1 unpool_size: 6 }", "c", "d").replace('"L"', '"O"'),
        layer("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }", "d", "e").replace('"L"', '"P"'),
    ]
    net = filled(one_input(1, 4, 3, 2) + "".join(parts))
    model = to_onnx(net)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    three = net.with_input_shapes({"x": (3, 4, 3, 2)})
    given = inputs_of(three)
    assert_agrees(run_onnx(model, given)["e"], cp.run(three, given)["e"], "e", TOLERANCE)
