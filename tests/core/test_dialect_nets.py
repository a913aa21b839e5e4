"""Nets of forks: what is not understood is named, or looked at with unknown shapes; binary files of forks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small import CONV_NET, built, one_input, weights_of

import caffe_port as cp
from caffe_port.cli import main
from caffe_port.errors import (
    PrototxtError,
    ShapeError,
    UnsupportedLayer,
    UnsupportedParameter,
    WeightsError,
)
from caffe_port.net import Net
from caffe_port.proto import text, wire
from caffe_port.proto.blobs import BlobData
from caffe_port.shapes import UNKNOWN
from caffe_port.summary import summarize

NET = (
    one_input(1, 3, 8, 8)
    + 'layer { name: "conv" type: "Convolution" bottom: "x" top: "conv" '
    + """convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "sideways" type: "Sideways" bottom: "conv" top: "n" }
layer { name: "other" type: "Upwards" bottom: "conv" top: "u" }
layer { name: "fc" type: "InnerProduct" bottom: "n" top: "fc" inner_product_param { num_output: 5 } }
layer { name: "relu" type: "ReLU" bottom: "fc" top: "fc" }
"""
)


def write(folder: Path, prototxt: str) -> Path:
    path = folder / "net.prototxt"
    path.write_text(prototxt)
    return path


def test_all_missing_types_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedLayer, match="2 problems") as caught:
        cp.load(write(tmp_path, NET))
    assert "net.prototxt:3:1: layer 'sideways': unknown layer type 'Sideways'" in str(caught.value)
    assert "net.prototxt:4:1: layer 'other': unknown layer type 'Upwards'" in str(caught.value)


def test_an_unknown_layer_is_looked_at_without_shapes(tmp_path: Path) -> None:
    net = cp.load(write(tmp_path, NET), allow_unknown=True)
    assert [layer.name for layer in net.unknown_layers()] == ["sideways", "other", "fc", "relu"]
    assert net.blobs["conv"].shape == (1, 4, 6, 6)
    assert net.blobs["n"].shape is UNKNOWN and net.blobs["fc"].shape is UNKNOWN
    assert net.outputs == ("fc", "u")
    rows = {line.split()[0]: line.split()[1:] for line in summarize(net).table() if line and line[0].isalpha()}
    assert rows["fc"] == ["InnerProduct", "?"] and rows["conv"][:2] == ["Convolution", "1x4x6x6"]
    assert summarize(net).as_json()["outputs"] == {"fc": None, "u": None}


def test_nothing_but_looking_is_done_with_an_unknown_layer(tmp_path: Path) -> None:
    net = cp.load(write(tmp_path, NET), allow_unknown=True)
    x = np.zeros((1, 3, 8, 8), np.float32)
    for act in (
        lambda: cp.run(net, {"x": x}),
        lambda: cp.to_onnx(net),
        lambda: net.with_input_shapes({"x": (2, 3, 8, 8)}),
        net.require_known,
    ):
        with pytest.raises(UnsupportedLayer, match=r"(?s)'sideways'.*'other'"):
            act()


def test_unknown_layers_take_what_the_weight_file_has(tmp_path: Path) -> None:
    """Their parameters are counted: 4 x 3 x 3 x 3 + 4 of the convolution, 7 + 3 x 2 of what nobody knows."""
    path = write(tmp_path, NET)
    message, _ = text.parse(NET)
    blobs = {"conv": [(4, 3, 3, 3), (4,)], "sideways": [(7,)], "fc": [(3, 2)]}
    stored = [
        [BlobData(shape, False, np.ones(int(np.prod(shape)), np.float32)) for shape in blobs.get(layer.name, [])]
        for layer in message.layer
    ]
    wire.write(tmp_path / "w.caffemodel", message, stored)
    net = cp.load(path, tmp_path / "w.caffemodel", allow_unknown=True)
    assert summarize(net).parameters == 112 + 13
    assert not net.missing_weights()


def test_a_net_without_a_known_input_shape(tmp_path: Path) -> None:
    prototxt = 'layer { name: "d" type: "HDF5Data" top: "x" hdf5_data_param { source: "s" batch_size: 2 } }'
    prototxt += 'layer { name: "r" type: "ReLU" bottom: "x" top: "y" }'
    net = cp.load(write(tmp_path, prototxt), allow_unknown=True)
    assert net.inputs == ("x",) and net.blobs["y"].shape is UNKNOWN
    with pytest.raises(ShapeError, match="the shape of 'x' is not in the file"):
        net.require_known()
    assert not cp.load(tmp_path / "net.prototxt", allow_unknown=True, input_shapes={"x": (2, 3)}).unknown_layers()


FORK_FIELDS = {
    "pooling_param { kernel_size: 2 fused_eltwise: true }": r"pooling_param\.fused_eltwise is set.* of cwlacewe",
    "pooling_param { kernel_size: 2 pool: LOWRES }": "pool: LOWRES is not upstream's but of",
    "pooling_param { kernel_size: 2 } phase: QUAN": "phase: QUAN is set.* of ",
    "pooling_param { kernel_size: 2 } norm_param { }": r"norm_param is set.* of SSD",
    "pooling_param { kernel_size: 2 } param { force_mult: 2 }": r"param\[0\]\.force_mult is set.* of SkimCaffe",
}


@pytest.mark.parametrize("fields", FORK_FIELDS)
def test_a_forks_field_that_no_code_looks_at_is_an_error(tmp_path: Path, fields: str) -> None:
    prototxt = one_input(1, 3, 8, 8) + f'layer {{ name: "p" type: "Pooling" bottom: "x" top: "y" {fields} }}'
    path = write(tmp_path, prototxt)
    with pytest.raises(UnsupportedParameter, match=rf"net.prototxt:2:1: layer 'p': .*{FORK_FIELDS[fields]}") as caught:
        cp.load(path)
    assert "problems" not in str(caught.value)
    net = cp.load(path, allow_unknown=True)
    assert [layer.name for layer in net.unknown_layers()] == ["p"] and net.dialects


def test_a_forks_field_in_a_filler_is_an_error(tmp_path: Path) -> None:
    fields = 'convolution_param { num_output: 2 kernel_size: 1 weight_filler { type: "xavier" scale: 2 } }'
    path = write(
        tmp_path, one_input(1, 3, 4, 4) + f'layer {{ name: "c" type: "Convolution" bottom: "x" top: "y" {fields} }}'
    )
    with pytest.raises(UnsupportedParameter, match=r"convolution_param\.weight_filler\.scale is set"):
        cp.load(path)


def test_an_engine_of_a_fork_changes_nothing(tmp_path: Path) -> None:
    prototxt = CONV_NET.replace("pad: 1 }", "pad: 1 engine: MKL2017 }")
    net = cp.load(write(tmp_path, prototxt))
    assert not net.unknown_layers() and "engine: MKL2017" in str(net.dialects[0])


def test_a_forks_field_of_the_net_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, "default_forward_type: FLOAT16\n" + CONV_NET)
    with pytest.raises(UnsupportedParameter, match=r"default_forward_type is set in the net.* of NVIDIA"):
        cp.load(path)
    net = cp.load(path, allow_unknown=True)
    assert any("default_forward_type" in str(note) for note in net.notes)


def test_inspect_tells_the_dialect_and_what_is_not_understood(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, NET.replace('"Sideways"', '"Sideways" norm_param { }'))
    assert main(["inspect", str(path)]) == 0
    told = capsys.readouterr()
    assert "note: in the dialect of SSD (weiliu89 ssd): norm_param" in told.err
    assert "note: not understood: " in told.err and "outputs: fc ?, u ?" in told.out
    assert main(["convert", str(path), "-o", str(tmp_path / "out")]) == 2
    assert "layer 'sideways': unknown layer type 'Sideways'" in capsys.readouterr().err


# Binary


def filled_net(prototxt: str = CONV_NET) -> Net:
    net = built(prototxt)
    return net.with_weights(weights_of(net))


def write_weights(folder: Path, changed: dict[str, bytes]) -> tuple[Path, Path]:
    """CONV_NET and its caffemodel, with bytes appended to the messages of some layers."""
    message, _ = text.parse(CONV_NET)
    net = filled_net()
    for layer in message.layer:
        layer.MergeFromString(changed.get(layer.name, b""))
    blobs = []
    for layer in message.layer:
        own = net.layer(layer.name).weights
        blobs.append([BlobData(w.shape, False, np.ravel(np.asarray(w.data))) for w in own])
    wire.write(folder / "w.caffemodel", message, blobs)
    return write(folder, CONV_NET), folder / "w.caffemodel"


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field, as the wire has it."""
    tag = number << 3 | 2
    return bytes([tag & 0x7F | 0x80, tag >> 7, len(payload)]) + payload


# PSPNet's field 143 is interp_param, whose field 1 is a number: upstream has input_param there, which has a message.
# Field 206 is nobody's upstream. Field 146 is recurrent_param upstream, whose field 2 is a message: not this.
CLASHES = {
    "interp": field(143, b"\x08\x21"),
    "norm": field(206, b"\x08\x01"),
    "broken": field(146, b"\x12\x03\xff\xff\xff"),
}


@pytest.mark.parametrize("clash", CLASHES)
def test_clashing_numbers_do_not_matter_beside_a_prototxt(tmp_path: Path, clash: str) -> None:
    message, _ = text.parse(CONV_NET)
    definition, weights = write_weights(tmp_path, {})
    # protobuf would not hand on what it cannot read, so the bytes are put in by hand, at the end of the last layer.
    raw = weights.read_bytes()
    last = message.layer[5].SerializeToString()
    assert raw.endswith(last)
    longer = last + CLASHES[clash]
    weights.write_bytes(raw[: -len(last) - 1] + bytes([len(longer)]) + longer)
    net = cp.load(definition, weights)
    assert not net.missing_weights()
    for one in net.weights():
        assert np.array_equal(np.asarray(one.data), filled_net().layer(one.layer).weights[one.index].data)
    with pytest.raises((UnsupportedParameter, WeightsError), match=r"'prob'.*(PSPNet|SSD|a fork's)"):
        cp.load(weights)


def test_a_forks_field_deep_in_a_binary_net_is_found(tmp_path: Path) -> None:
    """Field 13 of pooling_param would be round_mode; 40 is none."""
    _, weights = write_weights(tmp_path, {"pool1": field(121, b"\xc0\x02\x01")})
    with pytest.raises(UnsupportedParameter, match=r"layer 'pool1': field 40 of pooling_param is none of upstream's"):
        cp.load(weights)


def test_a_caffemodel_alone_with_a_forks_type(tmp_path: Path) -> None:
    message, _ = text.parse(CONV_NET)
    message.layer[2].type = "MnActivation"
    wire.write(tmp_path / "w.caffemodel", message, [[] for _ in message.layer])
    with pytest.raises(UnsupportedLayer, match=r"unknown layer type 'MnActivation' \(it may be of BVLC intel"):
        cp.load(tmp_path / "w.caffemodel", allow_missing_weights=True)


def test_templates_are_no_prototxt(tmp_path: Path) -> None:
    with pytest.raises(PrototxtError):
        cp.load(write(tmp_path, "layer { inner_product_param { num_output: ${N} } }"), allow_unknown=True)


# Front end: state, weight files in a row, fine-tuning, fillers

STAGES = one_input(1, 2) + "\n".join(
    f'layer {{ name: "{name}" type: "ReLU" bottom: "x" top: "{name}" include {{ {rule} }} }}'
    for name, rule in {"deep": "min_level: 2", "staged": 'stage: "a" stage: "b"', "not": 'not_stage: "a"'}.items()
)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ([], ["x", "not"]),
        (["--level", "2"], ["x", "deep", "not"]),
        (["--stage", "a"], ["x"]),
        (["--stage", "a", "--stage", "b"], ["x", "staged"]),
        (["--level", "3", "--stage", "b", "--stage", "a"], ["x", "deep", "staged"]),
    ],
)
def test_level_and_stages_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], kept: list[str]
) -> None:
    assert main(["inspect", str(write(tmp_path, STAGES)), *options]) == 0
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:] if " " in line]
    assert rows[: len(kept)] == kept and rows[len(kept)] == "total"


def test_a_state_in_the_file_adds_to_the_one_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, 'state { level: 2 stage: "a" }\n' + STAGES)
    assert [layer.name for layer in cp.load(path, stages=["b"]).layers if not layer.automatic] == [
        "x",
        "deep",
        "staged",
    ]


FINE = CONV_NET.replace('name: "fc"', 'name: "fc_new"').replace(
    "num_output: 5", 'num_output: 5 weight_filler { type: "xavier" } bias_filler { value: 0.5 }'
)


def test_a_renamed_last_layer_keeps_its_fillers(tmp_path: Path) -> None:
    _, weights = write_weights(tmp_path, {})
    path = write(tmp_path, FINE)
    net = cp.load(path, weights, allow_missing_weights=True)
    assert [weight.label for weight in net.missing_weights()] == ["fc_new/0", "fc_new/1"]
    filled = net.filled(seed=3)
    assert not filled.missing_weights() and len(net.missing_weights()) == 2
    weight, bias = (np.asarray(one.data) for one in filled.layer("fc_new").weights)
    # xavier: uniform within sqrt(3 / fan_in), and the fan_in is 4 * 4 * 3 = 48; 240 values come near to the bound.
    assert weight.shape == (5, 48) and 0.23 < np.abs(weight).max() <= 0.25
    assert np.all(bias == 0.5)
    assert filled.layer("conv1").weights[0].data is net.layer("conv1").weights[0].data
    again, other = net.filled(seed=3), net.filled(seed=4)
    assert np.array_equal(weight, np.asarray(again.layer("fc_new").weights[0].data))
    assert not np.array_equal(weight, np.asarray(other.layer("fc_new").weights[0].data))


def test_later_weight_files_win_and_earlier_ones_fill_up(tmp_path: Path) -> None:
    """Each file brings what it has, as Caffe's --weights a,b: the first both layers, the second conv1 alone."""
    definition, first = write_weights(tmp_path, {})
    message, _ = text.parse(CONV_NET)
    ones = [
        BlobData((4, 3, 3, 3), False, np.ones(108, np.float32)),
        BlobData((4,), False, np.ones(4, np.float32)),
    ]
    second = tmp_path / "second.caffemodel"
    # A layer that is in a file without its blobs is an error, in Caffe as here.
    del message.layer[2:], message.layer[0]
    wire.write(second, message, [ones])
    net = cp.load(definition, [first, second], allow_missing_weights=True)
    assert np.all(np.asarray(net.layer("conv1").weights[0].data) == 1)
    assert np.array_equal(np.asarray(net.layer("fc").weights[0].data), filled_net().layer("fc").weights[0].data)
    net = cp.load(definition, [second, first])
    assert not np.all(np.asarray(net.layer("conv1").weights[0].data) == 1)


@pytest.mark.parametrize(
    ("filler", "words"),
    [
        ('weight_filler { type: "sideways" }', "layer 'c': unknown filler 'sideways'"),
        ('bias_filler { type: "sideways" }', "layer 'c': unknown filler 'sideways'"),
        ('weight_filler { type: "xavier" sparse: 3 }', "layer 'c': sparse is for the gaussian filler"),
    ],
)
def test_an_unknown_filler_is_refused_at_build(filler: str, words: str) -> None:
    fields = f"convolution_param {{ num_output: 2 kernel_size: 1 {filler} }}"
    with pytest.raises(UnsupportedParameter, match=words):
        built(one_input(1, 3, 4, 4) + f'layer {{ name: "c" type: "Convolution" bottom: "x" top: "y" {fields} }}')


def test_propagate_down_is_accepted_one_a_bottom() -> None:
    """It says where gradients stop, so no value and no shape depends on it."""
    net = built(
        one_input(1, 2)
        + 'layer { name: "s" type: "Eltwise" bottom: "x" bottom: "x" top: "s" propagate_down: [true, false] }'
    )
    assert net.blobs["s"].shape == (1, 2)
