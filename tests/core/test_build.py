"""NetParameter → Net: layers, outputs, and what is refused."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from layer_text import layer, power
from places import CONFORMANCE
from small import CONV_NET, FILE, built, one_input, placed

from caffe_port import build, loading
from caffe_port.errors import (
    CaffePortError,
    GraphError,
    ShapeError,
    UnsupportedLayer,
    UnsupportedParameter,
)
from caffe_port.frontend import PlacedLayer
from caffe_port.layer_plans import AUTOMATIC_TOP
from caffe_port.runtime import run

REJECTED = CONFORMANCE / "rejected"


def test_layer_by_name_is_the_last_of_that_name() -> None:
    net = built(one_input(2) + power("a", "x", "y") + power("a", "y", "z"))
    assert net.layer("a") is net.layers[2]
    with pytest.raises(GraphError, match="no layer 'b'"):
        net.layer("b")


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

RECORDED = REJECTED.parent


def test_real_nets_are_built_as_caffe_builds_them() -> None:
    """Layers in order, learned blobs, every blob's shape, and the outputs, of every net that Caffe takes."""
    if not (RECORDED / "shapes.json").exists():
        pytest.skip("the real nets belong to others and lie beside the checkout; they are not here")
    recorded = json.loads((RECORDED / "shapes.json").read_text())
    compared = 0
    for name, phases in recorded.items():
        for phase, caffe in phases.items():
            if "rejected" in caffe or (phase == "TRAIN" and caffe == phases.get("TEST")):
                continue
            net = loading.load(RECORDED / "prototxt" / name, phase=phase)
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
