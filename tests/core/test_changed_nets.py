"""`Net.with_input_shapes` and `Net.with_weights`."""

from __future__ import annotations

import numpy as np
import pytest
from layer_text import fc, layer, power
from small import CONV_NET, built, filled, inputs_of, one_input, through_numpy, weights_of

from caffe_port.errors import (
    GraphError,
    ShapeError,
    WeightsError,
)
from caffe_port.runtime import run


def test_input_shapes_given_from_outside() -> None:
    text = 'layer { name: "in" type: "Input" top: "x" top: "y" }' + layer("c", "Concat", "x y", "z")
    net = built(text, input_shapes={"x": [2, 3, 5], "y": (2, 7, 5)})
    assert net.input_shapes == {"x": (2, 3, 5), "y": (2, 7, 5)} and net.blobs["z"].shape == (2, 10, 5)
    with pytest.raises(GraphError, match="'q', which is no input"):
        built(text, input_shapes={"x": [2, 3], "y": [2, 3], "q": [1]})


def test_with_input_shapes() -> None:
    net = filled(CONV_NET)
    other = net.with_input_shapes({"data": (5, 3, 8, 7)})
    assert other.input_shapes == {"data": (5, 3, 8, 7)} and other.blobs["prob"].shape == (5, 5)
    assert net.blobs["prob"].shape == (2, 5), "the net itself stays"
    for mine, theirs in zip(net.weights(), other.weights(), strict=True):
        assert mine is theirs
    assert (other.name, other.phase) == (net.name, net.phase)
    assert [entry.location for entry in other.layers] == [entry.location for entry in net.layers]
    x = inputs_of(other)["data"]
    assert np.array_equal(run(other, {"data": x})["prob"], run(net, {"data": x})["prob"])


def test_with_input_shapes_that_do_not_fit_the_weights() -> None:
    """8 wider: pool1 is 4x4x7, so fc would need 5x112. 2 more channels: conv1 would need 4x5x3x3."""
    net = filled(CONV_NET)
    with pytest.raises(ShapeError, match=r"layer 'fc': learned blob 0 is 5x48; these inputs need 5x112"):
        net.with_input_shapes({"data": (2, 3, 8, 15)})
    with pytest.raises(ShapeError, match=r"layer 'conv1': learned blob 0 is 4x3x3x3; these inputs need 4x5x3x3"):
        net.with_input_shapes({"data": (2, 5, 8, 7)})
    with pytest.raises(GraphError, match="'dota': no input of net 'small'; it has data"):
        net.with_input_shapes({"dota": (1,)})


def test_with_input_shapes_keeps_sharing_and_aliases() -> None:
    net = built(
        one_input(2, 3)
        + fc("a", "x", 5, 'param { name: "w" }')
        + fc("b", "x", 5, 'param { name: "w" }')
        + layer("f", "Reshape", "a", "f", "reshape_param { shape { dim: 0 dim: 1 dim: 5 } }")
        + layer("r", "ReLU", "f", "f")
        + power("c", "a", "c")
    )
    net = net.with_weights({"a": [np.arange(15).reshape(5, 3) - 7]})
    x = np.float32([[1, -2, 3], [-1, 1, 0], [2, 0, -1], [0, 0, 1]])
    values = through_numpy(net, {"x": x})
    assert np.array_equal(values["c"], np.maximum(x @ (np.arange(15).reshape(5, 3) - 7).T, 0))
    other = net.with_input_shapes({"x": (4, 3)})
    assert other.layer("b").weights[0].owner is other.layer("a").weights[0]


# Weights given by a caller


def test_with_weights() -> None:
    empty = built(CONV_NET)
    assert [weight.label for weight in empty.missing_weights()] == ["conv1/0", "conv1/1", "fc/0", "fc/1"]
    values = weights_of(empty)
    net = empty.with_weights(values)
    assert not net.missing_weights() and len(empty.missing_weights()) == 4
    for entry in (net.layer("conv1"), net.layer("fc")):
        for weight, value in zip(entry.weights, values[entry.name], strict=True):
            assert weight.data is not None and np.array_equal(weight.data, value) and not weight.data.flags.writeable
    values["fc"][1][0] = 1e9
    kept = net.layer("fc").weights[1].data
    assert kept is not None and kept[0] != 1e9, "a caller's later change must not reach the net"


def test_with_weights_copies_no_array_that_cannot_change() -> None:
    values = weights_of(built(CONV_NET))
    values["fc"][0].flags.writeable = False
    net = built(CONV_NET).with_weights(values)
    kept, copied = net.layer("fc").weights[0].data, net.layer("fc").weights[1].data
    assert kept is not None and np.shares_memory(kept, values["fc"][0])
    assert copied is not None and not np.shares_memory(copied, values["fc"][1])


def test_with_weights_keeps_float64() -> None:
    values = {name: [a.astype(np.float64) for a in arrays] for name, arrays in weights_of(built(CONV_NET)).items()}
    assert {
        weight.data.dtype.name for weight in built(CONV_NET).with_weights(values).weights() if weight.data is not None
    } == {"float64"}
    integers = {name: [np.ones(a.shape, np.int64) for a in arrays] for name, arrays in values.items()}
    assert {
        weight.data.dtype.name for weight in built(CONV_NET).with_weights(integers).weights() if weight.data is not None
    } == {"float32"}


def test_with_weights_reports_everything() -> None:
    net = built(CONV_NET)
    with pytest.raises(WeightsError) as caught:
        net.with_weights(
            {
                "conv1": [np.zeros((4, 3, 3, 3)), np.zeros(5)],
                "fc": [np.zeros((5, 48))],
                "relu1": [],
                "nowhere": [np.zeros(1)],
            }
        )
    report = str(caught.value)
    assert report.startswith("4 problems:")
    assert "layer 'conv1': learned blob 1 has shape 4, 5 was given" in report
    assert "layer 'fc': has 2 learned blobs, 1 were given" in report
    assert "layer 'relu1': no layer of this name has learned blobs" in report
    assert "layer 'nowhere': no layer of this name has learned blobs" in report


def test_with_weights_partial() -> None:
    net = built(CONV_NET)
    conv = {"conv1": weights_of(net)["conv1"]}
    with pytest.raises(WeightsError) as caught:
        net.with_weights(conv)
    assert "layer 'fc': learned blob 0 of shape 5x48 has no values" in str(caught.value)
    assert "learned blob 1 of shape 5 has no values" in str(caught.value)
    assert [w.label for w in net.with_weights(conv, partial=True).missing_weights()] == ["fc/0", "fc/1"]
