"""NetParameter → Net: versions, aliases, outputs, sharing, and what is refused."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from small import CONV_NET, FILE, THROUGH, built, filled, inputs_of, one_input, placed, through_numpy, weights_of

from caffe_port import build, loading
from caffe_port.build import AUTOMATIC_TOP
from caffe_port.errors import (
    CaffePortError,
    GraphError,
    ShapeError,
    UnsupportedLayer,
    UnsupportedParameter,
    WeightsError,
)
from caffe_port.frontend import PlacedLayer
from caffe_port.runtime import run

REJECTED = Path(__file__).parents[2] / "shared" / "conformance" / "rejected"


def layer(name: str, kind: str, bottoms: str = "", tops: str = "", more: str = "") -> str:
    words = [f'bottom: "{b}"' for b in bottoms.split()] + [f'top: "{t}"' for t in tops.split()]
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(words)} {more} }}\n'


def power(name: str, bottom: str, top: str, scale: float = 1, shift: float = 0) -> str:
    return layer(name, "Power", bottom, top, f"power_param {{ scale: {scale} shift: {shift} }}")


# Blobs and their versions


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


def test_layer_by_name_is_the_last_of_that_name() -> None:
    net = built(one_input(2) + power("a", "x", "y") + power("a", "y", "z"))
    assert net.layer("a") is net.layers[2]
    with pytest.raises(GraphError, match="no layer 'b'"):
        net.layer("b")


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


# Outputs


def test_outputs_are_sorted_by_bytes() -> None:
    """std::set<string> compares bytes: upper case before lower, digits before both, ü (two bytes from 195 on) last."""
    names = ["b", "a", "B", "ü", "a10", "a9", "Z", "_"]
    net = built(one_input(2) + "".join(power(f"l{i}", "x", name) for i, name in enumerate(names)))
    assert net.outputs == ("B", "Z", "_", "a", "a10", "a9", "b", "ü")


def test_a_consumed_blob_is_no_output_and_an_in_place_layer_makes_it_one_again() -> None:
    assert built(one_input(2) + power("a", "x", "y") + power("b", "y", "z")).outputs == ("z",)
    assert built(one_input(2) + layer("r", "ReLU", "x", "x")).outputs == ("x",)
    assert built(one_input(2) + power("a", "x", "y") + layer("s", "Silence", "y")).outputs == ()


def test_an_input_nobody_uses_is_an_output() -> None:
    net = built(one_input(2) + one_input(3, name="label") + power("a", "x", "y"))
    assert net.inputs == ("x", "label") and net.outputs == ("label", "y")


def test_automatic_tops() -> None:
    """A loss without a top gets one that has no name, is no output, and can stand there twice."""
    text = one_input(2, 3) + one_input(2, name="label")
    net = built(
        text
        + layer("one", "SoftmaxWithLoss", "x label")
        + layer("two", "SoftmaxWithLoss", "x label")
        + power("a", "x", "y")
    )
    losses = [entry for entry in net.layers if entry.type == "SoftmaxWithLoss"]
    assert [[top.name for top in entry.tops] for entry in losses] == [[AUTOMATIC_TOP]] * 2
    assert losses[0].tops[0] is not losses[1].tops[0] and losses[0].tops[0].shape == ()
    assert net.outputs == ("y",) and AUTOMATIC_TOP not in net.blobs
    values = run(net, {"x": np.eye(2, 3, dtype=np.float32), "label": np.float32([0, 1])})
    assert set(values) == set(net.blobs)


def test_a_layer_without_automatic_tops_needs_its_top() -> None:
    with pytest.raises(GraphError, match=r"layer 'a': ReLU takes 1 tops, 0 are given"):
        built(one_input(2) + layer("a", "ReLU", "x"))


# Learned blobs


def fc(name: str, bottom: str, outputs: int, more: str = "", param: str = "") -> str:
    return layer(
        name,
        "InnerProduct",
        bottom,
        name,
        f"inner_product_param {{ num_output: {outputs} bias_term: false {param} }} {more}",
    )


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


# What is refused


def test_all_problems_in_one_report_with_layer_and_place() -> None:
    text = (
        one_input(2, 3, 8, 7)
        + layer("conv", "Convolution", "x", "c", "convolution_param { num_output: 4 kernel_size: 9 }")
        + layer("relu", "Relu", "x", "r")
        + layer("pool", "Pooling", "x nowhere", "p", "pooling_param { kernel_size: 2 }")
        + layer("fc", "InnerProduct", "x", "f", "inner_product_param { num_output: 2 axis: 5 }")
        + layer("both", "ReLU", "x", "q", "include { } exclude { }")
    )
    with pytest.raises(CaffePortError) as caught:
        built(text)
    report = str(caught.value)
    # The pool has two: a bottom too many, and one that nobody makes.
    assert report.startswith("6 problems:\n") and len(report.splitlines()) == 7, report
    for line, name in [(2, "conv"), (3, "relu"), (4, "pool"), (5, "fc"), (6, "both")]:
        assert f"{FILE}:{line}:1: layer {name!r}: " in report
    assert "Traceback" not in report


def test_what_follows_from_a_problem_is_not_reported() -> None:
    """Layers behind a broken one have no shapes; saying so of each would bury the one line that helps."""
    text = one_input(2, 3) + layer("a", "Rellu", "x", "y") + layer("b", "ReLU", "y", "z") + power("c", "z", "w")
    with pytest.raises(UnsupportedLayer) as caught:
        built(text)
    assert "\n" not in str(caught.value) and "layer 'a'" in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("Convolutionn", "Convolution"), ("relu", "ReLU"), ("InnerProdcut", "InnerProduct"), ("SoftMax", "Softmax")],
)
def test_unknown_type_suggests_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(UnsupportedLayer, match=rf"layer 'a': unknown layer type '{wrong}' \(did you mean '{nearest}'"):
        built(one_input(2, 3) + layer("a", wrong, "x", "y"))


def test_unknown_type_like_no_other() -> None:
    with pytest.raises(UnsupportedLayer, match=r"unknown layer type 'Xyzzy' \(`caffe-port layers` lists"):
        built(one_input(2, 3) + layer("a", "Xyzzy", "x", "y"))


def test_a_parameter_nobody_reads_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flatten forgets to look at end_axis: the net is refused instead of computed wrongly."""
    from caffe_port.layers.structure import Flatten

    def parse(cls: type[Flatten], spec: object) -> Flatten:
        return cls(spec.params("flatten_param").integer("axis"))  # type: ignore[attr-defined]

    text = one_input(2, 3, 5, 7) + layer("f", "Flatten", "x", "y", "flatten_param { axis: 1 end_axis: 2 }")
    assert built(text).blobs["y"].shape == (2, 15, 7)
    monkeypatch.setattr(Flatten, "parse", classmethod(parse))
    with pytest.raises(
        UnsupportedParameter, match=r"net.prototxt:2:1: layer 'f': flatten_param.end_axis is set, and nothing"
    ):
        built(text)


def test_a_parameter_of_another_type_is_a_note() -> None:
    """Caffe parses it and looks away."""
    net = built(one_input(2, 3) + layer("r", "ReLU", "x", "y", "convolution_param { num_output: 3 }"))
    (note,) = net.notes
    assert note.layer == "r" and "convolution_param means nothing to a ReLU layer" in str(note)
    assert str(note).startswith(f"{FILE}:2:1: ")
    assert built(one_input(2, 3) + layer("r", "ReLU", "x", "y")).notes == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (layer("a", "Eltwise", "x", "y"), r"Eltwise takes at least 2 bottoms, 1 are given"),
        (layer("a", "Softmax", "x", "y z"), r"Softmax takes 1 tops, 2 are given"),
        (layer("a", "Input", "x", "y", "input_param { shape { dim: 1 } }"), r"Input takes 0 bottoms, 1 are given"),
        (layer("a", "ReLU", "x", "y", "propagate_down: true propagate_down: true"), r"2 propagate_down entries for 1"),
        (layer("a", "ReLU", "x", "y", "loss_weight: 1 loss_weight: 2"), r"2 loss_weight entries for 1 tops"),
        (
            layer("a", "Convolution", "x x", "y", "convolution_param { num_output: 2 kernel_size: 1 }"),
            r"as many tops as",
        ),
    ],
)
def test_counts(text: str, message: str) -> None:
    with pytest.raises(GraphError, match=rf"{FILE}:2:1: layer 'a': .*{message}"):
        built(one_input(2, 3, 5, 7) + text)


def test_a_top_made_twice() -> None:
    with pytest.raises(GraphError, match="layer 'b': top 'y' is already made"):
        built(one_input(2) + power("a", "x", "y") + power("b", "x", "y"))
    with pytest.raises(GraphError, match="layer 'a': top 'y' is already made"):
        built(layer("a", "Input", "", "y y", "input_param { shape { dim: 2 } }"))


def test_in_place_is_by_position() -> None:
    """top[0] may be bottom[0] or a new blob, not bottom[1]."""
    two = one_input(2) + one_input(2, name="z")
    assert built(two + layer("e", "Eltwise", "x z", "x")).outputs == ("x",)
    with pytest.raises(GraphError, match="top 'z' is already made"):
        built(two + layer("e", "Eltwise", "x z", "z"))


def test_a_blob_used_before_its_layer_in_place_says_why() -> None:
    with pytest.raises(GraphError, match=r"top 'x' is already made.*Caffe splits it"):
        built(one_input(2) + power("a", "x", "y") + layer("r", "ReLU", "x", "x"))


@pytest.mark.parametrize("kind", ["Split", "Flatten", "Reshape", "Pooling", "Convolution", "Concat"])
def test_layers_that_cannot_work_in_place(kind: str) -> None:
    more = {
        "Pooling": "pooling_param { kernel_size: 1 }",
        "Convolution": "convolution_param { num_output: 3 kernel_size: 1 }",
        "Reshape": "reshape_param { shape { dim: -1 } }",
    }.get(kind, "")
    with pytest.raises(GraphError, match=f"{kind} cannot work in place"):
        built(one_input(2, 3, 5, 7) + layer("a", kind, "x", "x", more))


def test_impossible_shapes() -> None:
    with pytest.raises(ShapeError, match="layer 'x': shape 65536x65536 has more than"):
        built(one_input(65536, 65536))
    with pytest.raises(ShapeError, match="layer 'x': shape 2x-3 has a negative dim"):
        built(one_input(2, -3))
    with pytest.raises(ShapeError, match="layer 'x': the shape of 'x' is not in the file"):
        built('layer { name: "x" type: "Input" top: "x" }')


# Input shapes


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


# Nets that Caffe rejects


@pytest.mark.parametrize("path", sorted(REJECTED.glob("*.prototxt")), ids=lambda path: path.stem)
def test_what_caffe_rejects_is_rejected(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# Caffe: ")
    with pytest.raises(CaffePortError) as caught:
        loading.load(path)
    message = str(caught.value)
    assert f"{path.name}:" in message
    if "Error parsing" in text or "inconsistent NetParameter" in text:
        return  # these are no layer's fault
    names = re.findall(r'layer \{ name: "(\w+)"', text)
    # The input layers are not to blame, but for the net that consists of one.
    blamed = [name for name in names if name in ("A", "B", "L")] or names
    assert any(f"layer {name!r}: " in message for name in blamed), message
    assert not re.search(rf"^\s*layer '(?!{'|'.join(blamed)})", message, re.MULTILINE)


def test_there_are_rejected_nets() -> None:
    if not REJECTED.exists():
        pytest.skip("the nets that Caffe rejects lie beside the checkout, and are not here")
    assert len(list(REJECTED.glob("*.prototxt"))) == 32


def test_no_parameter_makes_a_traceback() -> None:
    """Values that crash Caffe (division by zero, negative sizes) are errors with a layer's name, or a net."""
    numbers = (-1, 0, 1, 3, 1000)
    templates = [
        ("Convolution", "convolution_param {{ num_output: {0} kernel_size: {1} stride: {2} group: {0} }}"),
        ("Convolution", "convolution_param {{ num_output: 2 kernel_h: {0} kernel_w: {1} stride_h: {2} }}"),
        ("Convolution", "convolution_param {{ num_output: 2 kernel_size: {0} pad: {1} dilation: {2} }}"),
        ("Pooling", "pooling_param {{ kernel_size: {0} stride: {1} pad: {2} }}"),
        ("Pooling", "pooling_param {{ kernel_h: {0} stride_h: {1} pad_w: {2} }}"),
        ("LRN", "lrn_param {{ local_size: {0} norm_region: WITHIN_CHANNEL }}"),
        ("InnerProduct", "inner_product_param {{ num_output: {0} axis: {1} }}"),
        ("Reshape", "reshape_param {{ shape {{ dim: {0} dim: {1} }} axis: {2} num_axes: {0} }}"),
        ("Flatten", "flatten_param {{ axis: {0} end_axis: {1} }}"),
        ("Concat", "concat_param {{ axis: {0} }}"),
        ("Softmax", "softmax_param {{ axis: {0} }}"),
        ("Scale", "scale_param {{ axis: {0} num_axes: {1} }}"),
        ("Power", "power_param {{ power: {0} scale: {1} }}"),
    ]
    refused = taken = 0
    for shape in [(2, 3, 5, 7), (0, 3, 5, 7), (2, 0, 5, 7), (2, 3, 0, 7), (2, 3), ()]:
        for kind, template in templates:
            for values in itertools.product(numbers, repeat=3):
                if "{2}" not in template and values[2] != 1:
                    continue
                text = (
                    one_input(*shape)
                    if shape
                    else 'layer { name: "x" type: "Input" top: "x" input_param { shape { } } }'
                )
                try:
                    built(text + layer("L", kind, "x", "y", template.format(*values)))
                    taken += 1
                except CaffePortError as error:
                    refused += 1
                    assert "layer 'L'" in str(error) or "negative" in str(error)
    assert refused > 100 and taken > 100


def test_placed_layers_may_come_from_a_program() -> None:
    """Without a text file there is no place, and all else is the same."""
    layers = [PlacedLayer(entry.message, None, entry.source_index) for entry in placed(CONV_NET)]
    net, origin = build.build(layers, name="here")
    assert net.name == "here" and origin == [0, 1, 2, 3, 4, 5] and net.layers[0].location is None
    with pytest.raises(UnsupportedLayer, match=r"^layer 'a': unknown"):
        build.build([PlacedLayer(placed(layer("a", "Xyzzy"))[0].message, None, 0)])


# Real nets of public repositories, as Caffe built them

CONFORMANCE = REJECTED.parent


def test_real_nets_are_built_as_caffe_builds_them() -> None:
    """Layers in order, learned blobs, every blob's shape, and the outputs, of every net that Caffe takes."""
    if not (CONFORMANCE / "shapes.json").exists():
        pytest.skip("the real nets belong to others and lie beside the checkout; they are not here")
    recorded = json.loads((CONFORMANCE / "shapes.json").read_text())
    compared = 0
    for name, phases in recorded.items():
        for phase, caffe in phases.items():
            if "rejected" in caffe or (phase == "TRAIN" and caffe == phases.get("TEST")):
                continue
            net = loading.load(CONFORMANCE / "prototxt" / name, phase=phase)
            where = f"{name} {phase}"
            written = [entry for entry in net.layers if entry.type != "Split"]
            assert [[entry.name, entry.type] for entry in written] == caffe["layers"], where
            # Data layers make no inputs in Caffe; here they do.
            inputs = [top.name for entry in written if entry.type == "Input" for top in entry.tops]
            assert inputs == caffe["inputs"], where
            assert list(net.outputs) == caffe["outputs"], where
            learned = {entry.name: [list(w.shape) for w in entry.weights] for entry in written if entry.weights}
            assert learned == {layer: shapes for layer, shapes in caffe["params"].items() if shapes}, where
            blobs = {top.name: list(top.shape) for entry in written for top in entry.tops}
            assert blobs == caffe["blobs"], where
            compared += 1
    assert compared > 150
