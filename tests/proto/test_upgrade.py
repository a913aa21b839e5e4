from __future__ import annotations

import re

import numpy as np
import pytest
from places import CONFORMANCE

from caffe_port.errors import GraphError, PrototxtError
from caffe_port.proto import schema, text, upgrade
from caffe_port.proto.blobs import BlobData

UPGRADED = CONFORMANCE / "upgraded"


def upgraded(source: str) -> upgrade.UpgradedNet:
    net, where = text.parse(source, file="f")
    before = net.SerializeToString()
    made = upgrade.upgrade_net(net, where)
    assert net.SerializeToString() == before, "the given message was changed"
    assert len(made.origin) == len(made.blobs) == len(made.net.layer)
    return made


def same(made: upgrade.UpgradedNet, want: str) -> None:
    assert text.dumps(made.net) == text.dumps(text.parse(want)[0])


def test_a_net_of_today_is_left_alone() -> None:
    net, where = text.parse('name: "n" layer { name: "a" type: "ReLU" bottom: "x" top: "y" }')
    made = upgrade.upgrade_net(net, where)
    assert made.net is net
    assert (made.origin, made.blobs, made.steps, made.warnings) == ([("layer", 0)], [[]], [], [])
    with pytest.raises(AttributeError):
        made.warning = []  # type: ignore[attr-defined]


def test_v0() -> None:
    made = upgraded("""
        name: "old" input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8 force_backward: true
        layers { layer { name: "pad1" type: "padding" pad: 2 } bottom: "data" top: "pad1" }
        layers { layer { name: "conv1" type: "conv" num_output: 4 kernelsize: 3 stride: 2 group: 2 biasterm: false
            weight_filler { type: "gaussian" std: 0.5 } bias_filler { value: 1 } blobs_lr: 1 blobs_lr: 2
            weight_decay: 0 weight_decay: 1 new_num: 3 } bottom: "pad1" top: "conv1" }
        layers { layer { name: "pool1" type: "pool" pool: AVE kernelsize: 2 stride: 2 pad: 1 }
            bottom: "conv1" top: "pool1" }
        layers { layer { name: "norm" type: "lrn" local_size: 3 alpha: 0.5 beta: 0.25 k: 2 } bottom: "pool1" top: "n" }
        layers { layer { name: "drop" type: "dropout" dropout_ratio: 0.25 } bottom: "n" top: "n" }
        layers { layer { name: "fc" type: "innerproduct" num_output: 2 biasterm: true } bottom: "n" top: "fc" }
        layers { layer { name: "cat" type: "concat" concat_dim: 0 } bottom: "fc" bottom: "fc" top: "cat" }
        layers { layer { name: "loss" type: "softmax_loss" } bottom: "cat" }
    """)
    same(made, """
        name: "old" force_backward: true
        layer { name: "input" type: "Input" top: "data" input_param { shape { dim: [1, 3, 8, 8] } } }
        layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" param { lr_mult: 1 decay_mult: 0 }
            param { lr_mult: 2 decay_mult: 1 } convolution_param { num_output: 4 pad: 2 kernel_size: 3 stride: 2
            group: 2 bias_term: false weight_filler { type: "gaussian" std: 0.5 } bias_filler { value: 1 } } }
        layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
            pooling_param { pool: AVE kernel_size: 2 stride: 2 pad: 1 } }
        layer { name: "norm" type: "LRN" bottom: "pool1" top: "n"
            lrn_param { local_size: 3 alpha: 0.5 beta: 0.25 k: 2 } }
        layer { name: "drop" type: "Dropout" bottom: "n" top: "n" dropout_param { dropout_ratio: 0.25 } }
        layer { name: "fc" type: "InnerProduct" bottom: "n" top: "fc"
            inner_product_param { num_output: 2 bias_term: true } }
        layer { name: "cat" type: "Concat" bottom: "fc" bottom: "fc" top: "cat" concat_param { concat_dim: 0 } }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "cat" }
    """)  # fmt: skip
    assert made.origin == [("input", 0), *(("layers", index) for index in range(1, 8))]
    assert made.steps == ["V0 to V1 layers", "V1 to V2 layers", "input fields to an Input layer"]
    assert made.warnings == []


def test_v0_data_layers() -> None:
    made = upgraded("""
        layers { layer { name: "d" type: "data" source: "s" batchsize: 3 rand_skip: 5 scale: 0.5 meanfile: "m"
            cropsize: 7 mirror: true } top: "d" }
        layers { layer { name: "h" type: "hdf5_data" source: "s" batchsize: 3 } top: "h" }
        layers { layer { name: "i" type: "images" source: "s" batchsize: 3 rand_skip: 5 shuffle_images: true
            new_height: 1 new_width: 2 } top: "i" }
        layers { layer { name: "w" type: "window_data" source: "s" batchsize: 3 det_fg_threshold: 0.25
            det_bg_threshold: 0.5 det_fg_fraction: 0.75 det_context_pad: 1 det_crop_mode: "square" } top: "w" }
        layers { layer { name: "l" type: "infogain_loss" source: "s" } bottom: "w" }
        layers { layer { name: "o" type: "hdf5_output" hdf5_output_param { file_name: "f" } } bottom: "h" }
    """)
    same(made, """
        layer { name: "d" type: "Data" top: "d" data_param { source: "s" batch_size: 3 rand_skip: 5 }
            transform_param { scale: 0.5 mean_file: "m" crop_size: 7 mirror: true } }
        layer { name: "h" type: "HDF5Data" top: "h" hdf5_data_param { source: "s" batch_size: 3 } }
        layer { name: "i" type: "ImageData" top: "i"
            image_data_param { source: "s" batch_size: 3 rand_skip: 5 shuffle: true new_height: 1 new_width: 2 } }
        layer { name: "w" type: "WindowData" top: "w" window_data_param { source: "s" batch_size: 3 fg_threshold: 0.25
            bg_threshold: 0.5 fg_fraction: 0.75 context_pad: 1 crop_mode: "square" } }
        layer { name: "l" type: "InfogainLoss" bottom: "w" infogain_loss_param { source: "s" } }
        layer { name: "o" type: "HDF5Output" bottom: "h" hdf5_output_param { file_name: "f" } }
    """)  # fmt: skip


def test_v0_warnings() -> None:
    made = upgraded("""
        state { phase: TRAIN } debug_info: true
        layers { layer { name: "r" type: "relu" kernelsize: 3 scale: 2 } include { phase: TEST } top: "r" }
    """)
    same(made, 'layer { name: "r" type: "ReLU" top: "r" transform_param { scale: 2 } }')
    assert [re.sub(" as .*|, as .*", "", str(one)) for one in made.warnings] == [
        "f:2:9: 'state' is dropped from a V0 net",
        "f:2:32: 'debug_info' is dropped from a V0 net",
        "f:3:74: layer 'r': 'include' beside a V0 layer is ignored",
        "f:3:49: layer 'r': 'kernelsize' means nothing to the V0 type 'relu'; it is ignored",
    ]


@pytest.mark.parametrize(
    ("source", "kind", "want"),
    [
        ("layers { layer { name: 'a' type: 'power' } }\nlayers { layer { name: 'b' type: 'hinge_loss' } }",
         PrototxtError, ["f:1:28: layer 'a': unknown V0 layer type 'power'",
                         "f:2:28: layer 'b': unknown V0 layer type 'hinge_loss'"]),
        ("layers { layer { name: 'a' type: 'relu' } }\nlayers { name: 'b' type: RELU }", PrototxtError,
         ["f:2:1: layer 'b': has no `layer` inside"]),
        ("layers { layer { name: 'a' type: 'relu' } bottom: 'x' }", GraphError,
         ["f:1:43: layer 'a': bottom 'x' is no input of the net"]),
        ("layers { layer { name: 'a' type: 'concat' } bottom: 'x' bottom: 'y' }", GraphError,
         ["f:1:45: layer 'a': bottom 'x' is no input of the net", "f:1:57: layer 'a': bottom 'y' is no input"]),
        ("input: 'x' layers { layer { name: 'p' type: 'padding' } bottom: 'x' top: 'p' }\n"
         "layers { layer { name: 'a' type: 'relu' } bottom: 'p' }", PrototxtError,
         ["f:2:43: layer 'a': of type 'relu' takes a padding layer"]),
        ("input: 'x' layers { layer { name: 'p' type: 'padding' } bottom: 'x' top: 'p' }\n"
         "layers { layer { name: 'a' type: 'conv' } bottom: 'x' bottom: 'p' }", PrototxtError,
         ["f:2:55: layer 'a': takes a padding layer and other bottoms"]),
        ("input: 'x' layers { layer { name: 'p' type: 'padding' } bottom: 'x' bottom: 'x' top: 'p' }\n"
         "layers { layer { name: 'a' type: 'conv' } bottom: 'p' }", PrototxtError,
         ["f:1:12: layer 'p': a padding layer needs one bottom and one top"]),
        ("layers { layer { name: 'p' type: 'padding' } top: 'p' }\n"
         "layers { layer { name: 'a' type: 'conv' } bottom: 'p' }", PrototxtError,
         ["f:1:1: layer 'p': a padding layer needs one bottom and one top"]),
        ("input: 'x' layers { layer { name: 'p' type: 'padding' } bottom: 'x' top: 'p' }\n"
         "layers { layer { name: 'a' type: 'conv' } bottom: 'p' bottom: 'x' }", PrototxtError,
         ["f:2:43: layer 'a': takes a padding layer and other bottoms"]),
        ("input: 'x' layers { layer { name: 'p' type: 'padding' } bottom: 'x' top: 'p' top: 'q' }\n"
         "layers { layer { name: 'a' type: 'conv' } bottom: 'p' }", PrototxtError,
         ["f:1:12: layer 'p': a padding layer needs one bottom and one top"]),
        ("layer { name: 'a' }\nlayers { name: 'b' }", PrototxtError, ["f:2:1: the net has both `layer`"]),
        ("input: 'a' input: 'b' input_dim: [1, 2, 3, 4]", PrototxtError,
         ["f:1:44: 2 `input` need 8 `input_dim`, found 4"]),
        ("input: 'a' input: 'b' input_shape { dim: 1 }", PrototxtError,
         ["f:1:23: 2 `input` need 2 `input_shape`, found 1"]),
    ],
)  # fmt: skip
def test_refused(source: str, kind: type[Exception], want: list[str]) -> None:
    with pytest.raises(kind) as caught:
        upgraded(source)
    lines = [line.strip() for line in str(caught.value).splitlines() if "f:" in line]
    assert len(lines) == len(want)
    for line, start in zip(lines, want, strict=True):
        assert line.startswith(start), line


def test_v0_padding_anywhere() -> None:
    """Between other layers it is merged into those that read it, and no others; one that nobody reads goes."""
    made = upgraded("""
        input: "x"
        layers { layer { name: "a" type: "relu" } bottom: "x" top: "a" }
        layers { layer { name: "p" type: "padding" pad: 3 } bottom: "a" top: "p" }
        layers { layer { name: "b" type: "tanh" } bottom: "x" top: "b" }
        layers { layer { name: "c" type: "conv" } bottom: "p" top: "c" }
        layers { layer { name: "d" type: "pool" } bottom: "p" top: "d" }
        layers { layer { name: "q" type: "padding" pad: 1 } bottom: "c" top: "q" }
    """)
    same(
        made,
        """
        layer { name: "a" type: "ReLU" bottom: "x" top: "a" }
        layer { name: "b" type: "TanH" bottom: "x" top: "b" }
        layer { name: "c" type: "Convolution" bottom: "a" top: "c" convolution_param { pad: 3 } }
        layer { name: "d" type: "Pooling" bottom: "a" top: "d" pooling_param { pad: 3 } }
    """,
    )
    assert made.origin == [("layers", index) for index in (0, 2, 3, 4)]


def test_v1_params_are_merged_by_index() -> None:
    made = upgraded("""
        layers { name: "a" type: CONVOLUTION bottom: "x" top: "y" param: "w" param: "" param: "c" blobs_lr: 1
            weight_decay: 0.5 weight_decay: 2 blob_share_mode: PERMISSIVE loss_weight: 3 include { stage: "s" }
            exclude { phase: TEST } convolution_param { num_output: 3 } blobs { num: 1 data: 5 } }
        layers { name: "b" }
    """)
    same(made, """
        layer { name: "a" type: "Convolution" bottom: "x" top: "y" loss_weight: 3 include { stage: "s" }
            param { name: "w" share_mode: PERMISSIVE lr_mult: 1 decay_mult: 0.5 }
            param { name: "" decay_mult: 2 } param { name: "c" } exclude { phase: TEST }
            convolution_param { num_output: 3 } blobs { num: 1 data: 5 } }
        layer { name: "b" }
    """)  # fmt: skip
    assert made.steps == ["V1 to V2 layers"]
    made = upgraded("layers { " + "blobs_lr: 1 " * 300 + "}")
    assert [param.lr_mult for param in made.net.layer[0].param] == [1] * 300


def test_every_v1_type_has_a_name() -> None:
    values = schema.descriptor("V1LayerParameter").fields_by_name["type"].enum_type.values
    made = upgraded("".join(f"layers {{ type: {value.name} }}" for value in values))
    names = [layer.type for layer in made.net.layer]
    assert len(set(names)) == len(names) == 40
    assert [re.sub("_", "", value.name).lower() for value in values] == [
        {"": "none", "softmaxwithloss": "softmaxloss"}.get(name.lower(), name.lower()) for name in names
    ]


def test_every_v1_parameter_is_carried_over() -> None:
    names = [spec.name for spec in schema.descriptor("V1LayerParameter").fields if spec.name.endswith("_param")]
    made = upgraded("layers {" + " ".join(f"{name} {{ }}" for name in names) + "}")
    assert {spec.name for spec, _ in made.net.layer[0].ListFields()} == set(names)


def test_what_a_fork_added_to_v1_is_carried_over() -> None:
    """Whatever its name; the first of the invented numbers counts as well."""
    fields = "DepthwiseConvolution_parameter { } strict_dim: false"
    made = upgraded(f'layers {{ name: "a" type: CONCAT {fields} }}')
    same(made, f'layer {{ name: "a" type: "Concat" {fields} }}')
    layer = made.net.layer[0]
    assert {spec.name for spec, _ in layer.ListFields()} == {"name", "type", *re.findall(r"[a-zA-Z]+_\w+", fields)}


def test_fork_types_of_a_binary_v1_net() -> None:
    entry = schema.message("V1LayerParameter")
    entry.name = "bn"
    entry.MergeFromString(b"\x28\x2d")  # type: 45
    net = schema.message("NetParameter")
    net.layers.add().CopyFrom(entry)
    with pytest.raises(PrototxtError, match="layer 'bn': layer type 45 is a fork's"):
        upgrade.upgrade_net(net)
    net.layers[0].type = 18
    net.layers[0].MergeFromString(b"\xc0\x3e\x01")
    made = upgrade.upgrade_net(net)
    assert made.net.layer[0].type == "ReLU"
    assert "layer 'bn': unknown fields" in str(made.warnings[0])
    # Of two types the last one counts.
    net.layers[0].ClearField("type")
    net.layers[0].MergeFromString(b"\x28\x2d\x28\x2e")
    with pytest.raises(PrototxtError, match="layer type 46 is a fork's"):
        upgrade.upgrade_net(net)


def test_unknown_fields_are_no_type() -> None:
    """A layer without a type, `name` as a number, and fields that a fork added."""
    net = schema.message("NetParameter")
    net.layers.add().MergeFromString(b"\x22\x01a\x20\x01\xc8\x3e\x01\xc0\x3e\x01\xc0\x3e\x01")
    made = upgrade.upgrade_net(net)
    assert not made.net.layer[0].HasField("type")
    assert [str(one) for one in made.warnings] == [
        "layer 'a': unknown fields 4, 1000, 1001, maybe a fork's, are dropped"
    ]


def test_data_transformation() -> None:
    made = upgraded("""
        layers { name: "d" type: DATA data_param { source: "s" scale: 0.5 mean_file: "m" crop_size: 3 mirror: true } }
        layers { name: "i" type: IMAGE_DATA image_data_param { source: "s" } }
        layers { name: "r" type: RELU }
        layers { name: "w" type: WINDOW_DATA window_data_param { scale: 2 } transform_param { mirror: true } }
    """)
    same(made, """
        layer { name: "d" type: "Data" data_param { source: "s" }
            transform_param { scale: 0.5 mean_file: "m" crop_size: 3 mirror: true } }
        layer { name: "i" type: "ImageData" image_data_param { source: "s" } transform_param { } }
        layer { name: "r" type: "ReLU" }
        layer { name: "w" type: "WindowData" window_data_param { } transform_param { scale: 2 mirror: true } }
    """)  # fmt: skip
    assert made.steps == ["data transformation parameters", "V1 to V2 layers"]
    # A net of today says it in transform_param; the old fields are then without effect.
    same(upgraded('layer { type: "Data" data_param { scale: 2 } }'), 'layer { type: "Data" data_param { scale: 2 } }')


def test_inputs() -> None:
    made = upgraded('input: "a" input: "b" input_dim: [1, 2, 3, 4, 5, 6, 7, 8, 9] layer { name: "r" }')
    same(
        made,
        """layer { name: "input" type: "Input" top: "a" top: "b" input_param { shape { dim: [1, 2, 3, 4] }
        shape { dim: [5, 6, 7, 8] } } } layer { name: "r" }""",
    )
    assert made.origin == [("input", 0), ("layer", 0)]
    assert ["need 8 `input_dim`, found 9; the rest is ignored" in str(one) for one in made.warnings] == [True]
    made = upgraded('input: "a" input_shape { dim: [1, 2] } input_dim: 7 layer { name: "r" }')
    same(
        made,
        """layer { name: "input" type: "Input" top: "a" input_param { shape { dim: [1, 2] } } }
        layer { name: "r" }""",
    )
    made = upgraded('name: "n" input: "a" layer { name: "r" bottom: "a" }')
    same(made, 'name: "n" layer { name: "r" bottom: "a" }')
    assert made.steps == ["inputs without dims removed"]
    made = upgraded('input: "x" ' * 100 + "input_dim: 7 " * 400)
    assert len(made.net.layer[0].input_param.shape) == 100 and made.warnings == []
    same(upgraded('input_dim: 3 layer { name: "r" }'), 'input_dim: 3 layer { name: "r" }')


def test_batch_norm() -> None:
    made = upgraded("""
        layer { name: "a" type: "BatchNorm" param { lr_mult: 1 } param { name: "m" } param { } }
        layer { name: "b" type: "BatchNorm" param { lr_mult: 1 } param { lr_mult: 1 } }
        layer { name: "c" type: "Scale" param { lr_mult: 1 } param { lr_mult: 1 } param { lr_mult: 1 } }
        layer { name: "d" type: "AbsVal" param { } param { } param { } }
        layer { name: "e" type: "BatchNorm" param { } param { } param { } param { lr_mult: 1 } }
    """)
    same(made, """
        layer { name: "a" type: "BatchNorm" param { lr_mult: 0 decay_mult: 0 }
            param { name: "m" lr_mult: 0 decay_mult: 0 } param { lr_mult: 0 decay_mult: 0 } }
        layer { name: "b" type: "BatchNorm" param { lr_mult: 1 } param { lr_mult: 1 } }
        layer { name: "c" type: "Scale" param { lr_mult: 1 } param { lr_mult: 1 } param { lr_mult: 1 } }
        layer { name: "d" type: "AbsVal" param { } param { } param { } }
        layer { name: "e" type: "BatchNorm" param { } param { } param { } param { lr_mult: 1 } }
    """)  # fmt: skip
    assert made.steps == ["BatchNorm parameters fixed"]


def test_blobs_follow_their_layers() -> None:
    net, _ = text.parse("""
        input: "x" input_dim: [1, 1, 1, 1]
        layers { layer { name: "p" type: "padding" pad: 1 } bottom: "x" top: "p" }
        layers { layer { name: "c" type: "conv" } bottom: "p" top: "c" }
        layers { layer { name: "r" type: "relu" } bottom: "c" top: "r" }
    """)
    blob = BlobData((1,), False, np.ones(1, "f4"))
    made = upgrade.upgrade_net(net, None, [[], [blob], []])
    assert [layer.name for layer in made.net.layer] == ["input", "c", "r"]
    assert made.blobs == [[], [blob], []]
    with pytest.raises(ValueError, match="blobs of 1 layers are given with a net of 3"):
        upgrade.upgrade_net(net, None, [[blob]])
    with pytest.raises(ValueError, match="blobs of 4 layers are given with a net of 3"):
        upgrade.upgrade_net(net, None, [[], [blob], [], []])


def test_solver() -> None:
    names = schema.descriptor("SolverParameter").fields_by_name["solver_type"].enum_type.values
    types = {}
    for value in names:
        old, _ = text.parse(f"base_lr: 1 solver_type: {value.name}", "SolverParameter")
        new = upgrade.upgrade_solver(old)
        assert old.HasField("solver_type") and not new.HasField("solver_type") and new.base_lr == 1
        types[value.name] = new.type
    assert list(types.values()) == ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"]
    today, _ = text.parse("type: 'Adam'", "SolverParameter")
    assert upgrade.upgrade_solver(today) is today
    both, where = text.parse("type: 'Adam'\nsolver_type: SGD", "SolverParameter", file="f")
    with pytest.raises(PrototxtError, match=r"f:2:1: the solver has both `type` and the old `solver_type`"):
        upgrade.upgrade_solver(both, where)


@pytest.mark.skipif(not UPGRADED.exists(), reason="what Caffe's own upgrade tool made is not here")
def test_as_caffe_upgrades() -> None:
    compared = 0
    for path in sorted(UPGRADED.glob("*.prototxt")):
        want, _ = text.read(path)
        made = upgrade.upgrade_net(*text.read(CONFORMANCE / "prototxt" / path.name))
        assert text.dumps(made.net) == text.dumps(want), path.name
        assert made.net == want, path.name
        assert made.steps
        compared += 1
    assert compared >= 130


@pytest.mark.skipif(not UPGRADED.exists(), reason="what Caffe's own upgrade tool made is not here")
def test_printed_as_caffe_prints() -> None:
    """Token for token; only of numbers that need more than six digits Caffe prints nine, and we no more than needed."""
    for path in sorted(UPGRADED.glob("*.prototxt")):
        ours = text.dumps(text.read(path)[0])
        theirs = path.read_text()
        pairs = zip(ours.split("\n"), theirs.split("\n"), strict=True)
        for our, their in pairs:
            if our != their:
                (name, ours_number), (same_name, theirs_number) = our.split(": "), their.split(": ")
                assert name == same_name and np.float32(ours_number) == np.float32(theirs_number), path.name
                assert len(ours_number) < len(theirs_number)
