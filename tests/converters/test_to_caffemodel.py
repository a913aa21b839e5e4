"""Nets back to caffemodels: byte for byte where nothing changed, and only what changed where something did."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import all_cases, load_case
from numpy.typing import NDArray
from places import CONFORMANCE
from small import CONV_NET, blob, filled, inputs_of, one_input, weights_of, write_caffemodel, write_model

import caffe_port as cp
from caffe_port.converters.to_caffemodel import to_caffemodel
from caffe_port.converters.to_caffemodel import write_caffemodel as write_net
from caffe_port.errors import ArtifactError, FetchError, WeightsError
from caffe_port.models.fetch import fetch
from caffe_port.proto import dialects, schema, text, wire
from caffe_port.weights import write_hdf5

RELEASED = "74b7c0374425c2b324f73b134f8a7254eab9bbddc9e452a22d934b8c17015ad2"
FC = (
    one_input(1, 3)
    + 'layer { name: "fc" type: "InnerProduct" bottom: "x" top: "y" '
    + ("%s inner_product_param { num_output: 2 } }\n")
)
WEIGHT, BIAS = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([7, 8], np.float32)


def without_file(net: cp.Net) -> cp.Net:
    """The net as if it had come from nowhere."""
    return dataclasses.replace(net, sources=())


def changed(net: cp.Net, name: str, index: int = 0) -> cp.Net:
    """The net with one value of a learned blob doubled."""
    values = [np.array(weight.data) for weight in net.layer(name).weights]
    values[index].reshape(-1)[1] *= 2
    return net.with_weights({name: values}, partial=True)


def differing(a: bytes, b: bytes) -> NDArray[np.intp]:
    """Where two strings of bytes of one length differ."""
    assert len(a) == len(b)
    return np.flatnonzero(np.frombuffer(a, np.uint8) != np.frombuffer(b, np.uint8))


def data(net: cp.Net, name: str, index: int = 0) -> NDArray[Any]:
    value = net.layer(name).weights[index].data
    assert value is not None
    return value


# The file it came from


def test_the_released_model_is_byte_identical_and_changes_where_it_should(tmp_path: Path) -> None:
    try:
        files = fetch("open_nsfw")
    except FetchError as error:
        pytest.skip(f"the released model cannot be had: {error}")
    net = cp.load(files.prototxt, files.caffemodel)
    assert hashlib.sha256(to_caffemodel(net)).hexdigest() == RELEASED
    # Alone it has fields of a fork, but its weights are found all the same.
    assert hashlib.sha256(to_caffemodel(cp.load(files.caffemodel, allow_unknown=True))).hexdigest() == RELEASED
    original = files.caffemodel.read_bytes()
    (tmp_path / "new.caffemodel").write_bytes(to_caffemodel(changed(net, "fc_nsfw")))
    new = (tmp_path / "new.caffemodel").read_bytes()
    assert 1 <= differing(new, original).size <= 4
    again = cp.load(files.prototxt, tmp_path / "new.caffemodel")
    for before, after in zip(net.weights(), again.weights(), strict=True):
        assert np.array_equal(np.asarray(before.data), np.asarray(after.data)) == (before.label != "fc_nsfw/0")


@pytest.mark.parametrize("name", ["lenet", "mtcnn_det1", "mtcnn_det2", "mtcnn_det3"])
def test_trained_models_of_public_repositories_are_byte_identical(name: str) -> None:
    folder = CONFORMANCE / "models" / name
    if not folder.exists():
        pytest.skip("the recordings are not here")
    original = (folder / "weights.caffemodel").read_bytes()
    net = cp.load(folder / "net.prototxt", folder / "weights.caffemodel")
    alone = cp.load(folder / "weights.caffemodel", allow_unknown=True)
    assert to_caffemodel(net) == to_caffemodel(alone) == original
    # Reshaped it is the same file still.
    shape = net.input_shapes[net.inputs[0]]
    assert to_caffemodel(net.with_input_shapes({net.inputs[0]: (3, *shape[1:])})) == original


def bytes_of(*layers: Any, field: str = "layer", unknown: bytes = b"") -> bytes:
    """A caffemodel by protobuf itself, with what `wire.write` would not write."""
    net = schema.message("NetParameter")
    net.name = "odd"
    getattr(net, field).extend(layers)
    return bytes(net.SerializeToString()) + unknown


def fc_layer(*blobs: Any, kind: str = "LayerParameter", **fields: Any) -> Any:
    layer = schema.message(kind)
    for name, value in {"name": "fc", **fields}.items():
        setattr(layer, name, value)
    layer.blobs.extend(blobs)
    return layer


def blob_proto(values: Any, *, legacy: bool = False, double: bool = False, diff: bool = False) -> Any:
    array = np.asarray(values)
    proto = schema.message("BlobProto")
    if legacy:
        dims = (1,) * (4 - array.ndim) + array.shape
        proto.num, proto.channels, proto.height, proto.width = dims
    else:
        proto.shape.dim.extend(array.shape)
    (proto.double_data if double else proto.data).extend(array.ravel().tolist())
    if diff:
        (proto.double_diff if double else proto.diff).extend((array.ravel() + 100).tolist())
    return proto


def field(number: int, payload: bytes) -> bytes:
    """A field of wire type 2 and of less than 128 bytes."""
    tag = number << 3 | 2
    return (bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])) + bytes([len(payload)]) + payload


def unpacked() -> bytes:
    """Values as fields of their own, and in two pieces around the shape: to be taken, though hardly any file has it."""
    one_by_one = b"".join(b"\x2d" + value.tobytes() for value in WEIGHT.ravel())
    weight = field(7, one_by_one + field(7, field(1, b"\x02\x03")))
    bias = field(7, field(5, BIAS[:1].tobytes()) + field(7, field(1, b"\x02")) + field(5, BIAS[1:].tobytes()))
    return field(100, field(1, b"fc") + weight + bias)


ODD_FILES = {
    "V1": bytes_of(
        fc_layer(blob_proto(WEIGHT), blob_proto(BIAS), kind="V1LayerParameter", type=14),
        field="layers",
    ),
    "legacy": bytes_of(fc_layer(blob_proto(WEIGHT, legacy=True), blob_proto(BIAS, legacy=True), type="InnerProduct")),
    "double": bytes_of(
        fc_layer(blob_proto(WEIGHT / 3.0, double=True), blob_proto(BIAS, double=True), type="InnerProduct")
    ),
    "diffs": bytes_of(fc_layer(blob_proto(WEIGHT, diff=True), blob_proto(BIAS, diff=True), type="InnerProduct")),
    "unknown fields, unused layers": bytes_of(
        fc_layer(blob_proto(BIAS), name="gone", type="Whatever"),
        fc_layer(blob_proto(WEIGHT), blob_proto(BIAS), type="InnerProduct"),
        fc_layer(name="x_x_0_split", type="Split"),
        unknown=b"\xa2\xf1\x04\x03abc",
    ),
    "unpacked, in pieces": unpacked(),
}


@pytest.mark.parametrize("kind", sorted(ODD_FILES))
def test_whatever_is_in_the_file_survives(tmp_path: Path, kind: str) -> None:
    path, definition = tmp_path / "odd.caffemodel", tmp_path / "net.prototxt"
    path.write_bytes(ODD_FILES[kind])
    definition.write_text(FC % "")
    net = cp.load(definition, path)
    assert np.array_equal(data(net, "fc", 1), BIAS)
    assert to_caffemodel(net) == ODD_FILES[kind]
    new = to_caffemodel(changed(net, "fc"))
    width = data(net, "fc").itemsize
    where = differing(new, ODD_FILES[kind])
    assert where.size and np.ptp(where) < width
    path.with_name("new.caffemodel").write_bytes(new)
    again = data(cp.load(definition, path.with_name("new.caffemodel")), "fc")
    want = data(net, "fc").copy()
    want[0, 1] *= 2
    assert again.dtype == want.dtype and np.array_equal(again, want)


def test_the_file_keeps_its_own_precision(tmp_path: Path) -> None:
    """float32 values into a file of doubles, doubles into one of floats."""
    definition = tmp_path / "net.prototxt"
    definition.write_text(FC % "")
    third = np.full((2, 3), 1 / 3)
    for kind, dtype in (("double", np.float64), ("legacy", np.float32)):
        path = tmp_path / f"{kind}.caffemodel"
        path.write_bytes(ODD_FILES[kind])
        net = cp.load(definition, path)
        for given in (third, third.astype(np.float32)):
            path.with_name("new").write_bytes(to_caffemodel(net.with_weights({"fc": [given, BIAS]})))
            stored = wire.read(path.with_name("new")).blobs[0][0].data
            assert stored.dtype == dtype and np.array_equal(stored, given.astype(dtype).ravel())


TIED = (
    one_input(1, 3)
    + 'layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" } '
    + "inner_product_param { num_output: 3 bias_term: false } }\n"
    + 'layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" } '
    + "inner_product_param { num_output: 3 bias_term: false } }\n"
)
SQUARE = np.arange(9, dtype=np.float32).reshape(3, 3)


def test_shared_blobs_are_updated_in_every_copy(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(TIED)
    path = write_caffemodel(tmp_path / "w.caffemodel", TIED, {"a": [SQUARE + 50], "b": [SQUARE]})
    net = cp.load(tmp_path / "net.prototxt", path)
    # The file's copies differ; Caffe takes the last, and an unchanged net leaves both as they are.
    assert np.array_equal(data(net, "a"), SQUARE) and to_caffemodel(net) == path.read_bytes()
    write_net(net.with_weights({"a": [SQUARE * 2]}), tmp_path / "new.caffemodel")
    copies = [layer[0].data.reshape(3, 3) for layer in wire.read(tmp_path / "new.caffemodel").blobs[1:]]
    assert len(copies) == 2 and all(np.array_equal(copy, SQUARE * 2) for copy in copies)
    # Without the file: with each layer too, as Caffe does.
    fresh = without_file(net)
    write_net(fresh, tmp_path / "fresh.caffemodel")
    assert [len(layer) for layer in wire.read(tmp_path / "fresh.caffemodel").blobs] == [0, 1, 1]
    assert np.array_equal(data(cp.load(tmp_path / "fresh.caffemodel"), "b"), SQUARE)


def test_two_layers_of_one_name_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(FC % "")
    path = tmp_path / "w.caffemodel"
    twice = [fc_layer(blob_proto(WEIGHT + i), blob_proto(BIAS), type="InnerProduct") for i in range(2)]
    path.write_bytes(bytes_of(*twice))
    net = cp.load(tmp_path / "net.prototxt", path)
    assert np.array_equal(data(net, "fc"), WEIGHT + 1) and to_caffemodel(net) == path.read_bytes()
    path.with_name("new").write_bytes(to_caffemodel(net.with_weights({"fc": [WEIGHT * 5, BIAS]})))
    assert np.array_equal(data(cp.load(tmp_path / "net.prototxt", path.with_name("new")), "fc"), WEIGHT * 5)


def test_a_file_that_was_written_into_is_refused(tmp_path: Path) -> None:
    definition, weights = write_model(tmp_path)
    net = cp.load(definition, weights)
    original = weights.read_bytes()
    with weights.open("r+b") as stream:
        stream.seek(len(original) - 4)
        stream.write(b"\0\0\0\0")
    with pytest.raises(WeightsError, match=r"small\.caffemodel: was changed after the net was loaded from it; load"):
        to_caffemodel(net)
    weights.write_bytes(original + original)
    with pytest.raises(WeightsError, match="was changed"):
        write_net(net, tmp_path / "out.caffemodel")
    assert not (tmp_path / "out.caffemodel").exists()
    # Cut short, the first look at its values would end the process.
    weights.write_bytes(b"")
    with pytest.raises(WeightsError, match="was changed"):
        to_caffemodel(net)


def test_a_file_that_was_replaced_or_deleted_is_still_there(tmp_path: Path) -> None:
    """Training writes over the file it began with, again and again."""
    definition, weights = write_model(tmp_path)
    net, original = cp.load(definition, weights), weights.read_bytes()
    for _ in range(2):
        write_net(changed(net, "fc"), weights)
        assert differing(weights.read_bytes(), original).size
    assert to_caffemodel(net) == original
    weights.unlink()
    assert to_caffemodel(net) == original


# A file of its own


@pytest.mark.parametrize(
    "name", sorted(name for name, case in all_cases().items() if case.weights and not case.rejected)
)
def test_a_fresh_file_is_what_caffe_wrote(name: str) -> None:
    """Caffe's own file of the same net and weights, byte for byte."""
    case = all_cases()[name]
    net = load_case(case)
    assert to_caffemodel(without_file(net)) == case.weights == to_caffemodel(net)


def test_a_fresh_file_is_what_caffe_saved_after_training() -> None:
    """42 training runs: Split, BatchNorm's multipliers, loss weights, the phase."""
    if not (CONFORMANCE / "solver").exists():
        pytest.skip("the recordings are not here")
    h5py = pytest.importorskip("h5py")
    snapshots = sorted((CONFORMANCE / "solver").glob("*/snap_iter_12.caffemodel"))
    assert len(snapshots) == 42
    for path in snapshots:
        with h5py.File(path.parent / "data.h5") as stored:
            shapes = {name: (6, *stored[name].shape[1:]) for name in stored}
        net = cp.load(path.parent / "net.prototxt", path, phase="TRAIN", input_shapes=shapes)
        assert to_caffemodel(without_file(net)) == path.read_bytes(), path


FRESH = (
    one_input(2, 3, 6, 6)
    + 'layer { name: "conv" type: "Convolution" bottom: "x" top: "c" '
    + "convolution_param { num_output: 4 kernel_size: 3 } }\n"
    + 'layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" }\n'
    + 'layer { name: "one" type: "PReLU" bottom: "c" top: "p" }\n'
    + 'layer { name: "two" type: "InnerProduct" bottom: "c" top: "ip" param { name: "w" } '
    + "inner_product_param { num_output: 2 } }\n"
    + 'layer { name: "three" type: "InnerProduct" bottom: "p" top: "ip3" param { name: "w" } '
    + "inner_product_param { num_output: 2 } }\n"
)


def assert_same_net(a: cp.Net, b: cp.Net) -> None:
    assert [(one.name, one.type, one.phase) for one in a.layers] == [
        (one.name, one.type, one.phase) for one in b.layers
    ]
    assert a.outputs == b.outputs and a.input_shapes == b.input_shapes
    for one, other in zip(a.layers, b.layers, strict=True):
        assert [top.name for top in one.tops] == [top.name for top in other.tops]
        for mine, theirs in zip(one.weights, other.weights, strict=True):
            assert np.array_equal(np.asarray(mine.data), np.asarray(theirs.data))
            assert (mine.owner and mine.owner.label) == (theirs.owner and theirs.owner.label)
            assert np.asarray(mine.data).dtype == np.asarray(theirs.data).dtype
    x = inputs_of(a)
    before, after = cp.run(a, x), cp.run(b, x)
    assert all(np.array_equal(before[name], after[name]) for name in a.outputs)


def test_a_net_without_a_file_and_back(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(FRESH)
    net = cp.load(tmp_path / "net.prototxt", allow_missing_weights=True).filled(seed=3)
    net = net.with_weights({"bn": [np.ones(4), np.ones(4) / 3, np.ones(1)]}, partial=True)
    path = tmp_path / "fresh.caffemodel"
    write_net(net, path)
    saved = wire.read(path)
    assert [layer.name for layer in saved.net.layer] == [layer.name for layer in net.layers]
    assert saved.net.layer[3].type == "Split" and not saved.net.layers
    assert all(layer.phase == 1 and layer.HasField("phase") for layer in saved.net.layer)
    assert_same_net(net, cp.load(path))
    assert_same_net(net, cp.load(tmp_path / "net.prototxt", path))
    # What was written is now the file that it came from.
    assert to_caffemodel(cp.load(path)) == path.read_bytes()


def test_old_definitions_are_written_as_of_today(tmp_path: Path) -> None:
    v1 = (
        'name: "old" input: "x" input_dim: 1 input_dim: 3 input_dim: 1 input_dim: 1\n'
        'layers { name: "fc" type: INNER_PRODUCT bottom: "x" top: "y" blobs_lr: 1 blobs_lr: 2 '
        "inner_product_param { num_output: 2 } }"
    )
    (tmp_path / "net.prototxt").write_text(v1)
    net = cp.load(tmp_path / "net.prototxt", allow_missing_weights=True).filled()
    write_net(net, tmp_path / "w.caffemodel")
    saved = wire.read(tmp_path / "w.caffemodel").net
    assert [(layer.name, layer.type) for layer in saved.layer] == [("input", "Input"), ("fc", "InnerProduct")]
    assert not saved.input and not saved.layers and saved.layer[1].param[1].lr_mult == 2
    assert_same_net(net, cp.load(tmp_path / "w.caffemodel"))


def test_several_files_and_blobs_of_the_prototxt_make_a_new_file(tmp_path: Path) -> None:
    definition, weights = write_model(tmp_path)
    both = cp.load(definition, [weights, weights])
    assert to_caffemodel(both) != weights.read_bytes()
    assert b"".join(wire.serialized(*_message_of(CONV_NET), "w")) == weights.read_bytes()
    (tmp_path / "both.caffemodel").write_bytes(to_caffemodel(both))
    assert_same_net(both, cp.load(tmp_path / "both.caffemodel"))
    # A file that lacks a layer of the net is no template for it either: the layer would be lost.
    lines = [line for line in CONV_NET.splitlines() if '"fc"' not in line]
    values = {"conv1": weights_of(filled(CONV_NET))["conv1"]}
    part = write_caffemodel(tmp_path / "part.caffemodel", "\n".join(lines), values)
    partly = cp.load(definition, part, allow_missing_weights=True)
    with pytest.raises(WeightsError, match="layer 'fc': learned blob 0 of shape 5x48 has no values"):
        to_caffemodel(partly)
    (tmp_path / "whole.caffemodel").write_bytes(to_caffemodel(partly.filled()))
    assert_same_net(partly.filled(), cp.load(definition, tmp_path / "whole.caffemodel"))


def test_blobs_of_the_prototxt_itself(tmp_path: Path) -> None:
    bias = "blobs { shape { dim: 2 } data: 7 data: 8 }"
    weight = "blobs { shape { dim: 2 dim: 3 } " + " ".join(f"data: {v}" for v in WEIGHT.ravel()) + " }"
    (tmp_path / "net.prototxt").write_text(FC % f"{weight} {bias}")
    net = cp.load(tmp_path / "net.prototxt")
    write_net(net, tmp_path / "w.caffemodel")
    assert [len(layer) for layer in wire.read(tmp_path / "w.caffemodel").blobs] == [0, 2]
    assert_same_net(net, cp.load(tmp_path / "w.caffemodel"))


def _message_of(prototxt: str) -> tuple[Any, Sequence[Any]]:
    message, _ = text.parse(prototxt, file="net.prototxt")
    values = weights_of(filled(prototxt))
    return message, [[blob(value) for value in values.get(layer.name, ())] for layer in message.layer]


def test_hdf5_round_trip(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    definition, weights = write_model(tmp_path)
    net = cp.load(definition, weights)
    write_hdf5(net, tmp_path / "w.caffemodel.h5")
    again = cp.load(definition, tmp_path / "w.caffemodel.h5")
    assert_same_net(net, again)
    # By way of HDF5 it is a file of its own; by way of that, HDF5 the same again.
    write_net(again, tmp_path / "fresh.caffemodel")
    fresh = cp.load(definition, tmp_path / "fresh.caffemodel")
    assert_same_net(net, fresh)
    write_hdf5(fresh, tmp_path / "again.caffemodel.h5")
    assert_same_net(net, cp.load(definition, tmp_path / "again.caffemodel.h5"))


def test_fields_of_forks_are_refused_by_name_unless_the_file_is_there(tmp_path: Path) -> None:
    """Their numbers in a union message are invented, and must not be written."""
    definition, weights = write_model(tmp_path)

    def of_fork(net: cp.Net, ceil_mode: bool) -> cp.Net:
        layers = []
        for layer in net.layers:
            message = dialects.union_message("LayerParameter")
            message.MergeFromString(layer.message.SerializeToString())
            if layer.type == "Pooling" and ceil_mode:
                message.pooling_param.ceil_mode = False
            layers.append(dataclasses.replace(layer, message=message))
        return dataclasses.replace(net, layers=tuple(layers))

    net = cp.load(definition, weights)
    with pytest.raises(WeightsError, match=r"layer 'pool1': pooling_param\.ceil_mode \(.*\): what only forks of Caffe"):
        to_caffemodel(without_file(of_fork(net, ceil_mode=True)))
    assert to_caffemodel(of_fork(net, ceil_mode=True)) == weights.read_bytes()
    assert to_caffemodel(without_file(of_fork(net, ceil_mode=False))) == to_caffemodel(without_file(net))


def test_what_cannot_be_written(tmp_path: Path) -> None:
    net = filled(CONV_NET)
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_net(net, tmp_path / "none" / "w.caffemodel")
    assert not list(tmp_path.iterdir())
