"""Learned blobs that layers share, and what `param` says of them."""

from __future__ import annotations

import numpy as np
import pytest
from layer_text import fc, layer
from small import THROUGH, built, one_input

from caffe_port.errors import (
    GraphError,
    ShapeError,
    WeightsError,
)
from caffe_port.runtime import run


def test_a_shared_blob_is_the_first_owners() -> None:
    net = built(one_input(2, 3) + fc("a", "x", 5, 'param { name: "w" }') + fc("b", "x", 5, 'param { name: "w" }'))
    a, b = net.layer("a").weights[0], net.layer("b").weights[0]
    assert a.owner is None and b.owner is a
    assert list(net.weights()) == [a]
    values = np.arange(15, dtype=np.float32).reshape(5, 3)
    net = net.with_weights({"a": [values]})
    a, b = net.layer("a").weights[0], net.layer("b").weights[0]
    assert b.owner is a and a.data is not None and b.data is not None and np.shares_memory(a.data, b.data)
    result = run(net, {"x": np.float32([[1, 0, 0], [0, 1, 1]])})
    # Rows of x pick column 0, and columns 1 + 2, of the 5x3 weights.
    assert np.array_equal(result["b"], [[0, 3, 6, 9, 12], [3, 9, 15, 21, 27]])
    assert np.array_equal(result["a"], result["b"])


def test_a_shared_blob_may_be_given_with_any_of_its_layers() -> None:
    net = built(one_input(2, 3) + fc("a", "x", 5, 'param { name: "w" }') + fc("b", "x", 5, 'param { name: "w" }'))
    values = np.arange(15, dtype=np.float32).reshape(5, 3)
    for given in ({"b": [values]}, {"a": [values], "b": [values]}):
        data = net.with_weights(given).layer("a").weights[0].data
        assert data is not None and np.array_equal(data, values)
    with pytest.raises(WeightsError, match=r"layer 'b': learned blob 0 is shared as 'w'"):
        net.with_weights({"a": [values], "b": [values + 1]})


def test_strict_sharing_needs_the_same_shape() -> None:
    transposed = fc("b", "y", 3, 'param { name: "w" }')
    with pytest.raises(ShapeError, match=r"layer 'b': shares param 'w' with a/0: shape 3x5 here, 5x3 there"):
        built(one_input(2, 3) + one_input(2, 5, name="y") + fc("a", "x", 5, 'param { name: "w" }') + transposed)


def test_permissive_sharing_reinterprets() -> None:
    """The sharer says PERMISSIVE; its 3x5 are the owner's 5x3 in the same order, not transposed."""
    net = built(
        one_input(2, 3)
        + one_input(2, 5, name="y")
        + fc("a", "x", 5, 'param { name: "w" }')
        + fc("b", "y", 3, 'param { name: "w" share_mode: PERMISSIVE }')
    )
    net = net.with_weights({"a": [np.arange(15).reshape(5, 3)]})
    x, y = np.float32([[1, 0, 0], [0, 0, 1]]), np.float32([[1, 0, 0, 0, 0], [0, 0, 0, 0, 1]])
    for name, through in THROUGH.items():
        values = through(net, {"x": x, "y": y})
        assert np.array_equal(values["a"], [[0, 3, 6, 9, 12], [2, 5, 8, 11, 14]]), name
        assert np.array_equal(values["b"], [[0, 5, 10], [4, 9, 14]]), name


def test_the_sharers_mode_decides_not_the_owners() -> None:
    with pytest.raises(ShapeError, match="shares param 'w'"):
        built(
            one_input(2, 3)
            + one_input(2, 5, name="y")
            + fc("a", "x", 5, 'param { name: "w" share_mode: PERMISSIVE }')
            + fc("b", "y", 3, 'param { name: "w" }')
        )


def test_permissive_sharing_needs_the_same_count() -> None:
    with pytest.raises(ShapeError, match=r"layer 'b': shares param 'w' with a/0: 12 elements here, 15 there"):
        built(
            one_input(2, 3)
            + fc("a", "x", 5, 'param { name: "w" }')
            + fc("b", "x", 4, 'param { name: "w" share_mode: PERMISSIVE }')
        )


@pytest.mark.parametrize("what", ["lr_mult", "decay_mult"])
def test_shared_blobs_agree_in_their_multipliers(what: str) -> None:
    def net(first: str, second: str) -> None:
        built(
            one_input(2, 3)
            + fc("a", "x", 5, f'param {{ name: "w" {first} }}')
            + fc("b", "x", 5, f'param {{ name: "w" {second} }}')
        )

    net(f"{what}: 2", f"{what}: 2")
    net("", f"{what}: 2")
    net(f"{what}: 2", "")
    with pytest.raises(GraphError, match=f"another {what}: 3, not 2"):
        net(f"{what}: 2", f"{what}: 3")


def test_two_blobs_of_one_layer_may_share() -> None:
    """A Scale's factor and bias under one name."""
    net = built(
        one_input(2, 3)
        + layer("s", "Scale", "x", "s", 'scale_param { bias_term: true } param { name: "w" } param { name: "w" }')
    )
    first, second = net.layer("s").weights
    assert second.owner is first


def test_more_param_entries_than_blobs() -> None:
    with pytest.raises(GraphError, match="layer 'a': 2 param entries for 1 learned blobs"):
        built(one_input(2, 3) + fc("a", "x", 5, "param { } param { }"))
    with pytest.raises(GraphError, match="layer 'r': 1 param entries for 0 learned blobs"):
        built(one_input(2, 3) + layer("r", "ReLU", "x", "y", "param { lr_mult: 1 }"))


def test_missing_param_entries_have_defaults() -> None:
    net = built(
        one_input(2, 3)
        + layer("a", "InnerProduct", "x", "a", "inner_product_param { num_output: 5 } param { lr_mult: 7 }")
    )
    weight, bias = net.layer("a").weights
    assert (weight.lr_mult, weight.decay_mult, bias.lr_mult, bias.decay_mult) == (7, 1, 1, 1)
    assert (weight.shape, bias.shape) == ((5, 3), (5,))
