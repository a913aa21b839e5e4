"""ONNX files written from weights that stay where they lie, and files run without being read here."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
from cases import all_cases, load_case

import caffe_port as cp
from caffe_port.backends import OnnxBackend
from caffe_port.converters.to_onnx import to_onnx
from caffe_port.converters.to_onnx.export import model_and_values
from caffe_port.converters.to_onnx.files import write_onnx
from caffe_port.errors import ArtifactError, UnsupportedLayer
from caffe_port.net import Source

onnx = pytest.importorskip("onnx")


def serialized(net: cp.Net) -> Any:
    return to_onnx(net).SerializeToString(deterministic=True)


def test_the_bytes_are_protobufs_own(tmp_path: Path) -> None:
    """Of every recorded case that ONNX can express: 1-D and empty constants, int64 and bool ones, no constants."""
    path = tmp_path / "case.onnx"
    elements: set[int] = set()
    written = 0
    for name, recorded in sorted(all_cases().items()):
        if recorded.rejected:
            continue
        net = load_case(recorded)
        try:
            model, values = model_and_values(net)
        except UnsupportedLayer:
            continue
        assert write_onnx(model, path, values=values) == [path]
        assert path.read_bytes() == serialized(net), name
        elements |= {tensor.data_type for tensor in model.graph.initializer}
        written += 1
    assert written > 200 or not all_cases()
    if written:
        assert {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64} <= elements


def test_metadata_behind_the_graph(tmp_path: Path) -> None:
    """Fields on both sides of the graph in the model, and of the initializers in the graph."""
    net = small.filled(small.CONV_NET)
    model, values = model_and_values(net)
    whole = to_onnx(net)
    for one in (model, whole):
        one.doc_string = "in front"
        one.graph.doc_string = "behind the initializers"
        one.metadata_props.add(key="note", value="x" * 300)
    path = tmp_path / "m.onnx"
    write_onnx(model, path, values=values)
    assert path.read_bytes() == whole.SerializeToString(deterministic=True)
    onnx.checker.check_model(str(path), full_check=True)


def test_which_file_the_values_go_to(tmp_path: Path) -> None:
    net = small.filled(small.CONV_NET)
    model, values = model_and_values(net)
    size = len(serialized(net))
    one, two = tmp_path / "one.onnx", tmp_path / "two.onnx"
    assert write_onnx(model, one, values=values, largest=size) == [one]
    assert write_onnx(model, two, values=values, largest=size - 1) == [two, tmp_path / "two.onnx.data"]
    assert write_onnx(to_onnx(net), one, external_data=True) == [one, tmp_path / "one.onnx.data"]
    assert (tmp_path / "one.onnx.data").read_bytes() == (tmp_path / "two.onnx.data").read_bytes()
    loaded = onnx.load(two).graph.initializer
    assert [tensor.name for tensor in loaded] == list(values)
    assert all(np.array_equal(onnx.numpy_helper.to_array(tensor), values[tensor.name]) for tensor in loaded)
    with pytest.raises(ArtifactError, match="larger than the 100 bytes"):
        write_onnx(model, one, values=values, external_data=False, largest=100)


def test_the_model_given_stays_as_it_was(tmp_path: Path) -> None:
    model, values = model_and_values(small.filled(small.CONV_NET))
    before = model.SerializeToString(deterministic=True)
    for external in (False, True):
        write_onnx(model, tmp_path / "m.onnx", values=values, external_data=external)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("external", [False, True])
def test_writing_takes_no_memory(tmp_path: Path, external: bool) -> None:
    """32 MiB of weights in a caffemodel, one value in from where a float could be aligned."""
    wide = (
        'name: "n" layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 4096 } } }'
        'layer { name: "fc" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 2048 } }'
    )
    rng = np.random.default_rng(0)
    blobs = {"fc": [small.blob(rng.random((2048, 4096), np.float32)), small.blob(np.zeros(2048, np.float32))]}
    prototxt = tmp_path / "n.prototxt"
    prototxt.write_text(wide)
    net = cp.load(prototxt, small.write_caffemodel(tmp_path / "n.caffemodel", wide, blobs))
    del blobs
    path = tmp_path / "n.onnx"
    model_and_values(net)
    tracemalloc.start()
    try:
        model, values = model_and_values(net)
        write_onnx(model, path, values=values, external_data=external)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
    written = path.with_name("n.onnx.data") if external else path
    assert written.stat().st_size > 32 << 20
    fc = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}["fc.weight"]
    assert np.array_equal(fc, net.layer("fc").weights[0].data)


@pytest.mark.parametrize("external", [False, True])
def test_a_file_shows_the_same_values_as_its_model(tmp_path: Path, external: bool) -> None:
    pytest.importorskip("onnxruntime")
    net = small.filled(small.CONV_NET)
    path = tmp_path / "m.onnx"
    write_onnx(to_onnx(net), path, external_data=external)
    before = sorted(tmp_path.iterdir())
    inputs = small.inputs_of(net)
    of_file, of_model = (list(OnnxBackend(one).trace(net, inputs)) for one in (path, to_onnx(net)))
    assert [layer.name for layer, _ in of_file] == [layer.name for layer, _ in of_model]
    assert len(of_file) > len(net.outputs)
    for (_, got), (layer, want) in zip(of_file, of_model, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True)), layer.name
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_of_another_net_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    net = small.filled(small.CONV_NET)
    path = tmp_path / "m.onnx"
    write_onnx(to_onnx(net), path)
    other = small.filled(small.CONV_NET.replace('"pool1"', '"pool9"'))
    with pytest.raises(ArtifactError, match="pool9"):
        list(OnnxBackend(path).trace(other, small.inputs_of(other)))
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    with pytest.raises(ArtifactError, match=r"absent.onnx: cannot be copied"):
        list(OnnxBackend(tmp_path / "absent.onnx").trace(net, small.inputs_of(net)))


def test_a_source_is_hashed_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    source = Source("weights", path)
    digests = set()
    for text in (b"one", b"three", b"five!"):
        path.write_bytes(text)
        digests |= {source.sha256(), source.sha256()}
    assert len(digests) == 3
    path.unlink()
    with pytest.raises(FileNotFoundError):
        source.sha256()
