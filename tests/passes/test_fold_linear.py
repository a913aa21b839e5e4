"""Folding: a folded net is the net it was, in float64 nearly to the last digit."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small import THROUGH, built, filled, inputs_of, one_input, through_numpy

import caffe_port as cp
from caffe_port.backends import make_backend
from caffe_port.converters.to_caffemodel import to_caffemodel, write_caffemodel
from caffe_port.passes.fold_linear import FoldResult, _fold, fold_linear
from caffe_port.runtime import run_layers, value_of
from caffe_port.summary import summarize


def layer(name: str, kind: str, bottom: str, top: str, rest: str = "") -> str:
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top}" {rest} }}\n'


CONV = "convolution_param { num_output: 6 kernel_size: 3 %s }"
IP = "inner_product_param { num_output: %d %s }"
BIAS = "scale_param { bias_term: true %s }"


def exact_values(net: cp.Net, inputs: dict[str, NDArray[np.float32]]) -> dict[int, NDArray[np.float64]]:
    """Every value of a pass in float64, by id of its Blob."""
    given = {name: array.astype(np.float64) for name, array in inputs.items()}
    values: dict[int, NDArray[np.float64]] = {}
    for _ in run_layers(net, given, "float64", values=values):
        pass
    return values


def assert_same(net: cp.Net, result: FoldResult, tolerance: float) -> None:
    """Every top that is left is a Blob of the original, and has its value."""
    inputs = inputs_of(net, seed=5)
    before, after = exact_values(net, inputs), exact_values(result.net, inputs)
    assert result.net.outputs == net.outputs and result.net.inputs == net.inputs
    for top in [top for one in result.net.layers for top in one.tops]:
        want, got = before[id(top)], after[id(top)]
        assert got.shape == want.shape == top.shape
        assert np.abs(got - want).max() <= tolerance * max(np.abs(want).max(), 1e-30), top
    for name, blob in result.net.blobs.items():
        assert net.blobs[name] is blob
        assert np.allclose(value_of(blob, after), value_of(blob, before), rtol=1e-3, atol=1e-3)
    assert [one.index for one in result.net.layers] == list(range(len(result.net.layers)))


def drawn(prototxt: str, seed: int = 0) -> cp.Net:
    """The net with normal weights; those of scalars too, which `filled` cannot draw."""
    net, rng = built(prototxt), np.random.default_rng(seed)
    values = {}
    for one in net.layers:
        for weight in one.weights:
            value = np.asarray(rng.standard_normal(weight.shape) / 2, np.float32)
            values[id(weight)] = np.abs(value) + np.float32(0.5) if one.type == "BatchNorm" else value
    return net.with_values(values)


def checked(prototxt: str, **folded: tuple[str, ...]) -> FoldResult:
    """Folds the net; what was folded must be as said, and the net the same."""
    net = drawn(prototxt)
    assert_same(net, _fold(net, np.float64), 1e-12)
    result = fold_linear(net)
    assert result.folded == folded
    assert_same(net, result, 2e-6)
    names = [name for taken in folded.values() for name in taken]
    assert [one.name for one in result.net.layers] == [one.name for one in net.layers if one.name not in names]
    return result


X = one_input(2, 4, 7, 6)


def test_all_kinds_behind_a_convolution() -> None:
    result = checked(
        X
        + layer("conv", "Convolution", "x", "conv", CONV % "pad: 1 group: 2")
        + layer("bn", "BatchNorm", "conv", "bn")
        + layer("scale", "Scale", "bn", "bn", BIAS % "")
        + layer("bias", "Bias", "bn", "b")
        + layer("power", "Power", "b", "b", "power_param { scale: 0.5 shift: 2 }")
        + layer("drop", "Dropout", "b", "b")
        + layer("relu", "ReLU", "b", "b"),
        conv=("bn", "scale", "bias", "power", "drop"),
    )
    assert list(result.net.blobs) == ["x", "b"] and [one.type for one in result.net.layers[1:]] == [
        "Convolution",
        "ReLU",
    ]
    assert result.net.layer("conv").tops[0].name == "b"


@pytest.mark.parametrize("term", ["true", "false"])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_deconvolution(group: int, term: str) -> None:
    spec = f"convolution_param {{ num_output: 8 kernel_size: 3 stride: 2 group: {group} bias_term: {term} }}"
    checked(
        X
        + layer("up", "Deconvolution", "x", "up", spec)
        + layer("bn", "BatchNorm", "up", "up")
        + layer("scale", "Scale", "up", "up", BIAS % ""),
        up=("bn", "scale"),
    )


@pytest.mark.parametrize("options", ["", "transpose: true", "axis: 2", "axis: -1 transpose: true"])
def test_inner_product_with_layers_on_both_sides(options: str) -> None:
    """By the axis that its outputs are, and all that it takes for one vector."""
    outputs = 3 if "-1" in options else 2 if "2" in options else 1
    checked(
        X
        + layer("before", "Scale", "x", "x", BIAS % f"axis: {outputs} num_axes: -1")
        + layer("ip", "InnerProduct", "x", "ip", IP % (5, options))
        + layer("after", "Scale", "ip", "ip", BIAS % f"axis: {outputs}"),
        ip=("before", "after"),
    )


def test_before_an_unpadded_convolution() -> None:
    text = (
        X
        + layer("relu", "ReLU", "x", "r")
        + layer("bn", "BatchNorm", "r", "r")
        + layer("scale", "Scale", "r", "s", BIAS % "")
        + layer("conv", "Convolution", "s", "conv", CONV % "group: 2 bias_term: false")
    )
    result = checked(text, conv=("bn", "scale"))
    # The name stands for its last version; that one is gone.
    assert list(result.net.blobs) == ["x", "conv"]
    assert result.net.layer("conv").bottoms == result.net.layer("relu").tops


def test_before_a_padded_convolution_only_what_adds_nothing() -> None:
    """Zeros of the padding are not shifted; what is left becomes one Scale."""
    conv = layer("conv", "Convolution", "s", "conv", CONV % "pad: 1")
    bn, scale = layer("bn", "BatchNorm", "x", "s"), layer("scale", "Scale", "s", "s", BIAS % "")
    result = checked(X + bn + scale + conv, bn=("scale",))
    assert result.net.layer("bn").type == "Scale"
    checked(X + layer("scale", "Scale", "x", "s") + conv, conv=("scale",))
    # Caffe reads a row past this window's input, which is zeros here.
    past = layer(
        "conv", "Convolution", "s", "conv", "convolution_param { num_output: 2 kernel_h: 9 kernel_w: 3 stride: 9 }"
    )
    checked(X + bn + past)


def test_rows_without_a_matrix_become_one_scale() -> None:
    power = "power_param { scale: 3 shift: -1 }"
    text = (
        X
        + layer("a", "Power", "x", "a", power)
        + layer("bn", "BatchNorm", "a", "bn")
        + layer("b", "Power", "bn", "bn", power)
        + layer("whole", "Scale", "bn", "w", BIAS % "axis: 1 num_axes: 3")
        + layer("relu", "ReLU", "w", "w")
        + layer("p", "Power", "w", "p", power)
        + layer("q", "Power", "p", "q", power)
    )
    result = checked(text, a=("bn", "b", "whole"), p=("q",))
    assert [weight.shape for weight in result.net.layer("a").weights] == [(4, 7, 6)] * 2
    assert [weight.shape for weight in result.net.layer("p").weights] == [()] * 2


def test_dropout_alone_changes_no_weight() -> None:
    text = (
        X
        + layer("relu", "ReLU", "x", "r")
        + layer("drop", "Dropout", "r", "r")
        + layer("ip", "InnerProduct", "r", "ip", IP % (3, ""))
    )
    net = filled(text)
    checked(text, ip=("drop",))
    assert fold_linear(net).net.layer("ip").weights[0] is net.layer("ip").weights[0]
    # By itself between others it leaves a BatchNorm a BatchNorm.
    alone = (
        X + layer("bn", "BatchNorm", "x", "b") + layer("drop", "Dropout", "b", "b") + layer("relu", "ReLU", "b", "b")
    )
    assert checked(alone, bn=("drop",)).net.layer("bn").type == "BatchNorm"
    first = (
        X + layer("drop", "Dropout", "x", "d") + layer("bn", "BatchNorm", "d", "b") + layer("relu", "ReLU", "b", "b")
    )
    assert checked(first, bn=("drop",)).net.layer("bn").type == "BatchNorm"


def test_matrices_in_a_row_only_where_that_is_less_work() -> None:
    fc = layer("fc1", "InnerProduct", "x", "f", IP % (40, "transpose: true")) + layer(
        "fc2", "InnerProduct", "f", "g", IP % (3, "")
    )
    checked(X + fc, fc1=("fc2",))
    narrow = layer("fc1", "InnerProduct", "x", "f", IP % (2, "")) + layer(
        "fc2", "InnerProduct", "f", "g", IP % (90, "")
    )
    checked(X + narrow)
    one = "convolution_param { num_output: %d kernel_size: 1 %s }"
    conv = layer("c1", "Convolution", "x", "c", CONV % "pad: 1 stride: 2")
    checked(X + conv + layer("c2", "Convolution", "c", "d", one % (5, "")), c1=("c2",))
    checked(X + conv + layer("c2", "Convolution", "c", "d", one % (9, "")))
    for other in ("stride: 2", "pad: 1", "group: 2"):
        checked(X + conv + layer("c2", "Convolution", "c", "d", one % (4, other)))
    before, after = (summarize(net) for net in (filled(X + fc), fold_linear(filled(X + fc)).net))
    assert after.macs <= before.macs


def test_what_stays() -> None:
    """Blobs that others use, outputs, shared weights, statistics of the batch, what is no product and sum."""
    conv = layer("conv", "Convolution", "x", "c", CONV % "")
    bn = layer("bn", "BatchNorm", "c", "b")
    checked(X + conv + bn + layer("other", "ReLU", "c", "o"))
    checked(X + conv + layer("bn", "BatchNorm", "c", "c", "batch_norm_param { use_global_stats: false }"))
    for power in ("power: 2", "scale: 0", "power: 0"):
        checked(X + conv + layer("p", "Power", "c", "c", f"power_param {{ {power} }}"))
    checked(X + conv + layer("scale", "Scale", "c", "c", "scale_param { axis: 2 num_axes: 1 }"))
    shared = 'param { name: "w" } '
    checked(
        X
        + layer("c1", "Convolution", "x", "a", shared + CONV % "")
        + layer("s1", "Scale", "a", "a2")
        + layer("c2", "Convolution", "x", "b", shared + CONV % "")
        + layer("s2", "Scale", "b", "b2")
    )
    # A name that no other layer uses shares nothing.
    checked(X + layer("c1", "Convolution", "x", "a", shared + CONV % "") + layer("s1", "Scale", "a", "a2"), c1=("s1",))
    checked(X + conv + layer("scale", "Scale", "c", "s", "loss_weight: 2"))
    train = filled(X + conv + layer("drop", "Dropout", "c", "d"), phase="TRAIN")
    assert fold_linear(train).folded == {}
    # Without Split layers, as no net of Caffe's is, a blob has two readers.
    net = filled(X + conv + layer("other", "ReLU", "c", "o") + bn)
    (split,) = (one for one in net.layers if one.type == "Split")
    bottoms = dict.fromkeys(split.tops, split.bottoms)
    layers = [one for one in net.layers if one is not split]
    layers = [dataclasses.replace(one, bottoms=bottoms.get((*one.bottoms, None)[0], one.bottoms)) for one in layers]
    assert fold_linear(dataclasses.replace(net, layers=tuple(layers))).folded == {}
    two = one_input(2, 6, 5, 4, name="y")
    checked(
        X + two + conv + 'layer { name: "s" type: "Scale" bottom: "c" bottom: "y" top: "s" scale_param { axis: 0 } }'
    )


def test_memory_that_names_share() -> None:
    """The other name of what BatchNorm overwrites has its value too, so both layers stay."""
    text = (
        X
        + layer("conv", "Convolution", "x", "c", CONV % "")
        + layer("flat", "Flatten", "c", "f")
        + layer("sum", "Power", "f", "f", "power_param { shift: 1 }")
        + layer("ip", "InnerProduct", "f", "ip", IP % (2, ""))
        + layer("ip2", "InnerProduct", "c", "ip2", IP % (2, ""))
    )
    assert any(blob.alias_of is not None for blob in filled(text).layer("ip2").bottoms)
    checked(text)
    # Here the other name is an output.
    text = (
        X
        + layer("conv", "Convolution", "x", "c", CONV % "")
        + layer("one", "Flatten", "c", "f")
        + layer("other", "Flatten", "c", "g")
        + layer("sum", "Power", "f", "f", "power_param { shift: 1 }")
        + layer("ip", "InnerProduct", "f", "ip", IP % (2, ""))
    )
    assert [blob.alias_of is not None for blob in filled(text).output_blobs] == [True, False]
    checked(text)


def test_a_folded_net_reshapes_runs_everywhere_and_is_saved(tmp_path: Path) -> None:
    text = (
        X
        + layer("bn", "BatchNorm", "x", "b")
        + layer("conv", "Convolution", "b", "c", CONV % "")
        + layer("scale", "Scale", "c", "c", BIAS % "")
        + layer("relu", "ReLU", "c", "c")
        + layer("p", "Power", "c", "p", "power_param { scale: 2 }")
        + layer("q", "Bias", "p", "q")
        + layer("sig", "Sigmoid", "q", "q")
    )
    checked(text, conv=("bn", "scale"), p=("q",))
    net = drawn(text)
    result = fold_linear(net)
    inputs = inputs_of(net)
    want = through_numpy(net, inputs)["q"]
    for through in THROUGH.values():
        assert np.allclose(through(result.net, inputs)["q"], want, rtol=1e-5, atol=1e-5)
    assert set(cp.run(result.net, inputs)) == set(result.net.blobs)
    for one, tops in make_backend("numpy").trace(result.net, inputs):
        assert len(tops) == len(one.tops)
    big = {"x": np.ones((3, 4, 9, 9), np.float32)}
    assert np.allclose(cp.run(result.net, big)["q"], cp.run(net, big)["q"], rtol=1e-5, atol=1e-5)
    write_caffemodel(result.net, tmp_path / "folded.caffemodel")
    again = cp.load(tmp_path / "folded.caffemodel")
    assert [(one.name, one.type) for one in again.layers] == [(one.name, one.type) for one in result.net.layers]
    assert np.array_equal(cp.run(again, inputs)["q"], cp.run(result.net, inputs)["q"])


def test_a_folded_net_does_not_go_into_the_file_it_came_from(tmp_path: Path) -> None:
    text = X + layer("conv", "Convolution", "x", "c", CONV % "") + layer("scale", "Scale", "c", "c", BIAS % "")
    (tmp_path / "net.prototxt").write_text(text)
    write_caffemodel(filled(text), tmp_path / "w.caffemodel")
    net = cp.load(tmp_path / "net.prototxt", tmp_path / "w.caffemodel")
    folded = fold_linear(net).net
    (tmp_path / "folded.caffemodel").write_bytes(to_caffemodel(folded))
    x = inputs_of(net)
    assert np.array_equal(cp.run(cp.load(tmp_path / "folded.caffemodel"), x)["c"], cp.run(folded, x)["c"])
    assert to_caffemodel(net) == (tmp_path / "w.caffemodel").read_bytes()
    # One that takes nothing in is the net it was.
    nothing = filled(X + layer("relu", "ReLU", "x", "r"))
    assert fold_linear(nothing).folded == {}


def random_net(seed: int) -> str:
    """Layers of every kind that can be folded, in any order, in place or not, sometimes read twice."""
    draw = random.Random(seed)
    shape, current, text = [2, 4, 7, 6], "x", X
    loose: list[str] = []
    for i in range(draw.randint(3, 9)):
        flat = len(shape) == 2
        kinds = ["BatchNorm", "Scale", "Bias", "Power", "Dropout", "ReLU", "InnerProduct"]
        kind = draw.choice(kinds + ([] if flat else ["Convolution", "Convolution", "Deconvolution"]))
        matrix = kind in ("Convolution", "Deconvolution", "InnerProduct")
        top = f"t{i}" if matrix or draw.random() < 0.5 or current == "x" else current
        rest = ""
        if kind in ("Scale", "Bias"):
            axis = draw.choice([1, 1, 1, len(shape) - 1])
            rest = f"{kind.lower()}_param {{ axis: {axis} num_axes: {draw.choice([0, 1, 1])} "
            rest += f"bias_term: {draw.choice(['true', 'false'])} }}" if kind == "Scale" else "}"
        elif kind == "Power":
            rest = f"power_param {{ scale: {draw.choice([1, -2, 0.5])} shift: {draw.choice([0, 1.5])} }}"
        elif kind == "InnerProduct":
            rest = IP % (draw.choice([2, 6, 30]), f"transpose: {draw.choice(['true', 'false'])}")
            shape = [2, 0]
        elif matrix:
            outputs, kernel, pad = draw.choice([2, 4, 8]), draw.choice([1, 1, 3]), draw.choice([0, 0, 1])
            group = draw.choice([1, 1, 2])
            if kind == "Convolution" and min(shape[2:]) + 2 * pad < kernel:
                continue
            term = draw.choice(["true", "false"])
            rest = (
                f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} pad: {0 if kernel == 1 else pad} "
                f"group: {group} bias_term: {term} }}"
            )
            pad = 0 if kernel == 1 else pad
            change = 2 * pad - kernel + 1
            shape = [2, outputs, *(size + (change if kind == "Convolution" else -change) for size in shape[2:])]
            if min(shape[2:]) < 1:
                break
        text += layer(f"l{i}", kind, current, top, rest)
        if top != current and draw.random() < 0.15:
            loose.append(current)
        current = top
    return text + "".join(layer(f"tap{i}", "Power", name, f"tap{i}") for i, name in enumerate(dict.fromkeys(loose)))


def test_random_nets() -> None:
    taken: set[str] = set()
    for seed in range(250):
        net = drawn(random_net(seed), seed)
        exact = _fold(net, np.float64)
        assert_same(net, exact, 1e-11)
        assert_same(net, fold_linear(net), 2e-4)
        types = {one.name: one.type for one in net.layers}
        taken |= {types[name] for names in exact.folded.values() for name in names}
        assert summarize(exact.net).macs <= summarize(net).macs
    assert taken == {"BatchNorm", "Scale", "Bias", "Power", "Dropout", "InnerProduct", "Convolution"}


def test_weights_without_values_are_refused() -> None:
    net = filled(X + layer("conv", "Convolution", "x", "c", CONV % ""))
    empty = dataclasses.replace(
        net,
        layers=tuple(
            dataclasses.replace(one, weights=tuple(dataclasses.replace(w, data=None) for w in one.weights))
            for one in net.layers
        ),
    )
    with pytest.raises(cp.CaffePortError, match=r"layer .conv.: learned blob 0 .* has no values"):
        fold_linear(empty)
