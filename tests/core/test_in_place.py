"""Layers that work in place: versions of blobs, and other names for the same memory."""

from __future__ import annotations

import time

import numpy as np
from layer_text import layer, power
from small import FILE, THROUGH, built, one_input

from caffe_port.runtime import run


def test_in_place_layers_make_versions() -> None:
    net = built(one_input(2, 3) + power("a", "x", "y") + layer("r", "ReLU", "y", "y") + layer("s", "TanH", "y", "y"))
    a, r, s = net.layers[1:]
    assert [top.version for (top,) in (a.tops, r.tops, s.tops)] == [0, 1, 2]
    assert {top.name for (top,) in (a.tops, r.tops, s.tops)} == {"y"}
    assert r.bottoms == a.tops and s.bottoms == r.tops
    assert [a.is_in_place, r.is_in_place, s.is_in_place] == [False, True, True]
    assert net.blobs["y"] is s.tops[0] and net.output_blobs == s.tops


def test_layers_are_numbered_as_in_caffe_with_splits() -> None:
    net = built(one_input(2) + power("a", "x", "y") + power("b", "x", "z"))
    assert [(entry.index, entry.name, entry.automatic) for entry in net.layers] == [
        (0, "x", False),
        (1, "x_x_0_split", True),
        (2, "a", False),
        (3, "b", False),
    ]
    assert [str(entry.location) for entry in net.layers] == [f"{FILE}:{line}:1" for line in (1, 1, 2, 3)]


# Aliases: Split, Flatten and Reshape share memory, so an in-place layer behind one changes every name of it.


def test_in_place_behind_flatten_changes_the_other_name_too() -> None:
    """b = flatten(a), clipped at 0 in place. Caffe's a is the same memory, so c = 10 * a reads clipped values."""
    net = built(
        one_input(2, 2, 3)
        + power("a", "x", "a", shift=1)
        + layer("b", "Flatten", "a", "b")
        + layer("r", "ReLU", "b", "b")
        + power("c", "a", "c", scale=10)
    )
    x = np.float32([[[-4, 3, -2], [1, -6, 5]], [[7, -8, 9], [-10, 11, -12]]])
    # a = x + 1, clipped: -3 4 -1 / 2 -5 6 / 8 -7 10 / -9 12 -11
    b = np.float32([[0, 4, 0, 2, 0, 6], [8, 0, 10, 0, 12, 0]])
    assert net.outputs == ("b", "c")
    for name, through in THROUGH.items():
        values = through(net, {"x": x})
        assert np.array_equal(values["b"], b), name
        assert values["c"].shape == (2, 2, 3), name
        assert np.array_equal(values["c"], 10 * b.reshape(2, 2, 3)), name
    assert np.array_equal(run(net, {"x": x})["a"], b.reshape(2, 2, 3))


def test_the_value_read_before_the_overwriting_stays() -> None:
    """d reads a before the ReLU runs, c after it."""
    net = built(
        one_input(2, 3)
        + power("a", "x", "a", scale=2)
        + layer("b", "Reshape", "a", "b", "reshape_param { shape { dim: 0 dim: 1 dim: -1 } }")
        + power("d", "a", "d", shift=1)
        + layer("r", "ReLU", "b", "b")
        + power("c", "a", "c", shift=1)
    )
    x = np.float32([[-1, 2, -3], [4, -5, 6]])
    for name, through in THROUGH.items():
        values = through(net, {"x": x})
        assert np.array_equal(values["d"], [[-1, 5, -5], [9, -9, 13]]), name  # 2x + 1
        assert np.array_equal(values["c"], [[1, 5, 1], [9, 1, 13]]), name  # max(2x, 0) + 1
        assert np.array_equal(values["b"], [[[0, 4, 0]], [[8, 0, 12]]]), name


def test_in_place_on_one_top_of_a_written_split() -> None:
    """p is clipped in place; q, the Split's other top, is the same memory, and a net output nobody computes."""
    net = built(
        one_input(2, 3) + power("a", "x", "a", scale=3) + layer("s", "Split", "a", "p q") + layer("r", "ReLU", "p", "p")
    )
    x = np.float32([[-1, 2, -3], [4, -5, 6]])
    expected = np.float32([[0, 6, 0], [12, 0, 18]])
    assert net.outputs == ("p", "q")
    for name, through in THROUGH.items():
        values = through(net, {"x": x})
        assert np.array_equal(values["p"], expected) and np.array_equal(values["q"], expected), name


def test_an_output_of_another_shape_whose_memory_is_overwritten() -> None:
    net = built(
        one_input(2, 3, 2)
        + power("a", "x", "a", scale=3)
        + layer("s", "Split", "a", "p q")
        + layer("f", "Flatten", "p", "f")
        + layer("r", "ReLU", "f", "f")
    )
    x = np.float32([[[-1, 2], [-3, 4], [5, -6]], [[7, -8], [9, -10], [-11, 12]]])
    expected = np.maximum(3 * x, 0)
    assert net.outputs == ("f", "q")
    for name, through in THROUGH.items():
        values = through(net, {"x": x})
        assert np.array_equal(values["f"], expected.reshape(2, 6)), name
        assert values["q"].shape == (2, 3, 2) and np.array_equal(values["q"], expected), name


def test_a_split_of_an_overwritten_blob() -> None:
    """q, after f (its memory, flat) was clipped in place, is split by the file's own Split: q's shape, f's values."""
    net = built(
        one_input(2, 3, 2)
        + power("a", "x", "a", scale=3)
        + layer("s", "Split", "a", "p q")
        + layer("f", "Flatten", "p", "f")
        + layer("r", "ReLU", "f", "f")
        + layer("t", "Split", "q", "u v")
        + layer("c", "Concat", "u", "c", "concat_param { axis: 2 }")
        + power("d", "v", "d", shift=1)
    )
    x = np.float32([[[-1, 2], [-3, 4], [5, -6]], [[7, -8], [9, -10], [-11, 12]]])
    expected = np.maximum(3 * x, 0)
    for name, through in THROUGH.items():
        values = through(net, {"x": x})
        assert values["c"].shape == (2, 3, 2) and np.array_equal(values["c"], expected), name
        assert np.array_equal(values["d"], expected + 1), name


def test_in_place_on_an_alias_of_the_input() -> None:
    """f shares the input's memory; what reads x later sees the clipped values."""
    net = built(
        one_input(2, 2, 3)
        + layer("f", "Flatten", "x", "f")
        + layer("r", "ReLU", "f", "f")
        + power("c", "x", "c", shift=1)
    )
    x = np.float32([[[-4, 3, -2], [1, -6, 5]], [[7, -8, 9], [-10, 11, -12]]])
    kept = x.copy()
    for name, through in THROUGH.items():
        values = through(net, {"x": x})
        assert np.array_equal(values["c"], np.maximum(kept, 0) + 1), name
        assert np.array_equal(x, kept), f"{name} wrote into the caller's array"


def test_thousands_of_names_for_one_memory() -> None:
    """Each layer overwrites what all tops of the split share; time grows with their number, not with its square."""

    def overwritten(number: int) -> str:
        tops = " ".join(f"s{i}" for i in range(number))
        split = layer("split", "Split", "x", tops)
        return one_input(2, 1) + split + "".join(power(f"p{i}", f"s{i}", f"s{i}", shift=1) for i in range(number))

    net = built(overwritten(40))
    found = run(net, {"x": np.float32([[0], [5]])})
    assert len(net.outputs) == 40 and all(found[name].tolist() == [[40], [45]] for name in net.outputs)

    took = {}
    for number in (500, 2000):
        began = time.process_time()
        net = built(overwritten(number))
        took[number] = time.process_time() - began
    last = net.layers[-1].tops[0]
    assert {net.blobs[name].origin for name in net.outputs} == {last} and last.version == 2000
    assert took[2000] < 10 * took[500]
