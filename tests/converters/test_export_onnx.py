"""The ONNX model: valid, of any batch where the net allows it, with the blobs' names, and nothing foreign in it."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from layer_text import power
from onnx import shape_inference
from small import CONV_NET, built, filled, inputs_of, one_input, through_onnx, weights_of, write_model

import caffe_port as cp
from caffe_port._version import __version__
from caffe_port.converters.to_onnx import OPSET, to_onnx, value_names
from caffe_port.errors import ArtifactError, GraphError, UnsupportedLayer, WeightsError
from caffe_port.net import Net
from caffe_port.runtime import run

NETS = {
    "conv": CONV_NET,
    "branches": one_input(2, 4, 6, 9)
    + """
layer { name: "left" type: "Convolution" bottom: "x" top: "left" convolution_param { num_output: 3 kernel_size: 1 } }
layer { name: "right" type: "Pooling" bottom: "x" top: "right"
        pooling_param { pool: AVE kernel_size: 3 stride: 1 pad: 1 } }
layer { name: "bn" type: "BatchNorm" bottom: "left" top: "left" }
layer { name: "scale" type: "Scale" bottom: "left" top: "left" scale_param { bias_term: true } }
layer { name: "join" type: "Concat" bottom: "left" bottom: "right" top: "join" }
layer { name: "norm" type: "LRN" bottom: "join" top: "norm" lrn_param { local_size: 3 } }
layer { name: "sum" type: "Eltwise" bottom: "norm" bottom: "join" top: "sum" eltwise_param { coeff: 0.5 coeff: -1 } }
layer { name: "power" type: "Power" bottom: "sum" top: "power" power_param { power: 2 scale: 0.5 shift: 1 } }
""",
    "flat": one_input(2, 3, 4, 5)
    + """
layer { name: "flat" type: "Flatten" bottom: "x" top: "flat" }
layer { name: "back" type: "Reshape" bottom: "flat" top: "back"
        reshape_param { shape { dim: 0 dim: 5 dim: -1 dim: 3 } } }
layer { name: "drop" type: "Dropout" bottom: "back" top: "back" }
layer { name: "tail" type: "Reshape" bottom: "back" top: "tail" reshape_param { shape { dim: -1 dim: 6 } } }
""",
    "loss": one_input(4, 3)
    + one_input(4, name="label")
    + """
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "fc" inner_product_param { num_output: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy" }
""",
}


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def inputs(net: Net) -> dict[str, Any]:
    values: dict[str, Any] = dict(inputs_of(net))
    return {**values, "label": np.float32([0, 4, 2, 4])} if "label" in values else values


def session(model: onnx.ModelProto) -> Any:
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", NETS)
def test_the_checker_and_strict_shape_inference_agree(name: str) -> None:
    model = to_onnx(filled(NETS[name]))
    onnx.checker.check_model(model, full_check=True)
    inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    known = {value.name: dims(value) for value in (*inferred.graph.value_info, *inferred.graph.output)}
    net = filled(NETS[name])
    given = {value.name for value in model.graph.input}
    for blob, value in value_names(net).items():
        if value in given:
            continue
        assert len(known[value]) == len(blob.shape), value
        for dim, size in zip(known[value], blob.shape, strict=True):
            assert dim == size or isinstance(dim, str) or dim == 0, value


@pytest.mark.parametrize("name", NETS)
def test_the_file_computes_what_numpy_computes(name: str) -> None:
    net = filled(NETS[name])
    expected = run(net, inputs(net), dtype="float64")
    for output, value in through_onnx(net, inputs(net)).items():
        assert value.dtype == np.float32 and value.shape == expected[output].shape
        assert np.allclose(value, expected[output], rtol=1e-5, atol=1e-5), output


# Names


def test_inputs_and_outputs_are_the_nets_and_weights_are_none_of_them() -> None:
    model = to_onnx(filled(CONV_NET))
    assert [value.name for value in model.graph.input] == ["data"]
    assert [value.name for value in model.graph.output] == ["prob"]
    weights = {tensor.name for tensor in model.graph.initializer}
    assert {"conv1.weight", "conv1.bias", "fc.weight", "fc.bias"} <= weights
    assert not weights & {value.name for value in (*model.graph.input, *model.graph.output)}


def test_blob_names_are_kept() -> None:
    """The last version has the blob's name, one overwritten in place the name of its layer behind an @."""
    net = filled(CONV_NET)
    model = to_onnx(net)
    assert set(value_names(net).values()) == {"data", "conv1@conv1", "conv1", "pool1", "fc", "prob"}
    made = {output for node in model.graph.node for output in node.output}
    assert set(value_names(net).values()) - {"data"} <= made


def test_names_of_thousands_of_layers_of_one_name() -> None:
    """A value has a name of its own, whatever its layer is called; time grows with their number alone."""
    same = "".join(power("same", "x", "x", shift=1) for _ in range(3000))
    net = built(one_input(2, 1) + power("p", "x", "y") + same.replace('"x"', '"y"'))
    began = time.process_time()
    names = list(value_names(net).values())
    assert time.process_time() - began < 1
    assert len(set(names)) == len(names) == 3002
    assert names[:5] == ["x", "y@p", "y@same", "y@same'", "y@same'2"] and names[-1] == "y"
    assert max(map(len, names)) < 16


def test_nodes_have_their_layers_names() -> None:
    model = to_onnx(filled(CONV_NET))
    assert {node.name.split("/")[0] for node in model.graph.node} == {"conv1", "relu1", "pool1", "fc", "prob"}
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)


def test_several_outputs_are_in_the_nets_order() -> None:
    net = filled(NETS["loss"])
    assert [value.name for value in to_onnx(net).graph.output] == list(net.outputs) == ["accuracy", "loss"]


def test_extra_outputs() -> None:
    net = filled(CONV_NET)
    model = to_onnx(net, extra_outputs=["pool1", "conv1@conv1", "prob"])
    assert [value.name for value in model.graph.output] == ["prob", "pool1", "conv1@conv1"]
    onnx.checker.check_model(model, full_check=True)
    x = inputs_of(net)
    values = dict(zip(["prob", "pool1", "conv1@conv1"], session(model).run(None, x), strict=True))
    assert np.allclose(values["pool1"], run(net, x)["pool1"], atol=1e-5)
    assert values["conv1@conv1"].min() < 0


def test_extra_outputs_that_are_not_there() -> None:
    with pytest.raises(GraphError, match="no value 'pool9'"):
        to_onnx(filled(CONV_NET), extra_outputs=["pool9", "pool1"])


def test_in_place_on_the_nets_input() -> None:
    """ONNX gives a name once, and the input has it: the output has the layer's name too."""
    net = built(one_input(2, 3) + 'layer { name: "r" type: "ReLU" bottom: "x" top: "x" }')
    model = to_onnx(net)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["x"]
    assert [value.name for value in model.graph.output] == ["x@r"]
    x = np.float32([[-1, 2, -3], [4, -5, 6]])
    assert np.array_equal(through_onnx(net, {"x": x})["x"], np.maximum(x, 0))


def test_two_layers_of_one_name_in_place() -> None:
    net = built(
        one_input(2)
        + 'layer { name: "p" type: "Power" bottom: "x" top: "x" power_param { shift: 2 } }' * 2
        + 'layer { name: "p" type: "Power" bottom: "x" top: "y" power_param { scale: 3 } }'
    )
    assert np.array_equal(through_onnx(net, {"x": np.float32([1, -4])})["y"], [15, 0])


def test_names_that_emitters_would_take() -> None:
    """Blobs called as the exporter would call its own values and constants."""
    net = filled(
        one_input(2, 3, 5, 4)
        + """
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "fc.weight" inner_product_param { num_output: 5 } }
layer { name: "a" type: "Power" bottom: "fc.weight" top: "fc.bias" power_param { scale: 2 } }
layer { name: "b" type: "Power" bottom: "fc.bias" top: "a:Mul" power_param { power: 2 scale: 3 shift: 1 } }
layer { name: "a" type: "Power" bottom: "a:Mul" top: "a@b" power_param { shift: 1 } }
"""
    )
    x = inputs_of(net)
    expected = run(net, x, dtype="float64")["a@b"]
    assert np.allclose(through_onnx(net, x)["a@b"], expected, rtol=1e-5)


# Outputs that are another's value


def test_an_output_that_a_layer_uses_too() -> None:
    """Split tops that nobody consumes: each is an output of its own name, of the same value."""
    net = built(
        one_input(2, 3)
        + 'layer { name: "a" type: "Power" bottom: "x" top: "a" power_param { shift: 1 } }'
        + 'layer { name: "s" type: "Split" bottom: "a" top: "kept" top: "used" top: "more" }'
        + 'layer { name: "b" type: "Power" bottom: "used" top: "b" power_param { scale: 2 } }'
    )
    x = np.float32([[-1, 2, -3], [4, -5, 6]])
    assert [value.name for value in to_onnx(net).graph.output] == ["b", "kept", "more"]
    values = through_onnx(net, {"x": x})
    assert np.array_equal(values["kept"], x + 1) and np.array_equal(values["more"], x + 1)
    assert np.array_equal(values["b"], 2 * x + 2)


def test_a_blob_with_a_loss_weight_is_an_output_and_used() -> None:
    """Its extra use is a Split top that nobody consumes."""
    net = built(
        one_input(2, 3)
        + 'layer { name: "a" type: "Power" bottom: "x" top: "a" loss_weight: 1 power_param { shift: 1 } }'
        + 'layer { name: "b" type: "Power" bottom: "a" top: "b" power_param { scale: 2 } }'
    )
    x = np.float32([[-1, 2, -3], [4, -5, 6]])
    values = through_onnx(net, {"x": x})
    assert set(values) == {"a_a_0_split_0", "b"} and np.array_equal(values["a_a_0_split_0"], x + 1)


def test_split_outputs_of_the_input() -> None:
    net = built(one_input(2, 3) + 'layer { name: "s" type: "Split" bottom: "x" top: "p" top: "q" }')
    x = np.float32([[-1, 2, -3], [4, -5, 6]])
    values = through_onnx(net, {"x": x})
    assert np.array_equal(values["p"], x) and np.array_equal(values["q"], x)


def test_an_input_nobody_uses() -> None:
    net = built(one_input(2) + one_input(3, name="q") + 'layer { name: "r" type: "ReLU" bottom: "x" top: "y" }')
    assert net.outputs == ("q", "y")
    x, q = np.float32([-1, 2]), np.float32([3, 4, 5])
    values = through_onnx(net, {"x": x, "q": q})
    assert np.array_equal(values["q"], q) and np.array_equal(values["y"], [0, 2])


# Batch


def test_one_file_runs_at_any_batch() -> None:
    net = filled(CONV_NET)
    model = to_onnx(net)
    assert dims(model.graph.input[0]) == ["N", 3, 8, 7] and dims(model.graph.output[0]) == ["N", 5]
    runner = session(model)
    for batch in (1, 3, 5):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 8, 7)).astype(np.float32)
        (prob,) = runner.run(["prob"], {"data": x})
        assert prob.shape == (batch, 5)
        assert np.allclose(prob, run(net, {"data": x}, dtype="float64")["prob"], atol=1e-6)


def test_batch_in_a_product() -> None:
    """tail is (2 * 10, 6) for a batch of 2."""
    net = filled(NETS["flat"])
    model = to_onnx(net)
    assert dims(model.graph.input[0]) == ["N", 3, 4, 5]
    assert dims(model.graph.output[0]) == ["10*N", 6]
    runner = session(model)
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 4, 5)).astype(np.float32)
        assert np.array_equal(runner.run(None, {"x": x})[0], x.reshape(-1, 6))


@pytest.mark.parametrize(
    "reshape",
    [
        "shape { dim: 2 dim: 60 }",  # at another batch the counts differ
        "shape { dim: 2 dim: -1 }",  # at another batch the rows are longer: another net
        "shape { dim: -1 dim: 40 }",  # 3 rows of 40 at a batch of 2; 4.5 at 3
    ],
)
def test_literal_dims_fix_the_batch(reshape: str) -> None:
    net = built(
        one_input(2, 3, 4, 5)
        + f'layer {{ name: "r" type: "Reshape" bottom: "x" top: "y" reshape_param {{ {reshape} }} }}'
    )
    model = to_onnx(net)
    onnx.checker.check_model(model, full_check=True)
    assert dims(model.graph.input[0]) == [2, 3, 4, 5]
    assert dims(model.graph.output[0]) == list(net.blobs["y"].shape)
    x = inputs_of(net)
    assert np.array_equal(through_onnx(net, x)["y"], x["x"].reshape(net.blobs["y"].shape))


def test_an_inner_product_over_the_batch_fixes_it() -> None:
    net = filled(
        one_input(2, 3)
        + 'layer { name: "f" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 4 axis: 0 } }'
    )
    assert dims(to_onnx(net).graph.input[0]) == [2, 3]


def test_inputs_of_different_batches_fix_it() -> None:
    net = built(
        one_input(2, 3)
        + one_input(5, 3, name="z")
        + 'layer { name: "c" type: "Concat" bottom: "x" bottom: "z" top: "y" concat_param { axis: 0 } }'
    )
    model = to_onnx(net)
    assert [dims(value) for value in model.graph.input] == [[2, 3], [5, 3]] and dims(model.graph.output[0]) == [7, 3]


def test_several_inputs_grow_together() -> None:
    net = built(
        one_input(2, 3)
        + one_input(2, 3, name="z")
        + 'layer { name: "c" type: "Concat" bottom: "x" bottom: "z" top: "y" concat_param { axis: 0 } }'
    )
    model = to_onnx(net)
    assert [dims(value) for value in model.graph.input] == [["N", 3], ["N", 3]] and dims(model.graph.output[0]) == [
        "2*N",
        3,
    ]
    x = {name: np.arange(3 * 3, dtype=np.float32).reshape(3, 3) for name in "xz"}
    assert session(model).run(None, x)[0].shape == (6, 3)


def test_a_batch_that_is_given() -> None:
    net = filled(CONV_NET)
    model = to_onnx(net, batch=7)
    assert dims(model.graph.input[0]) == [7, 3, 8, 7] and dims(model.graph.output[0]) == [7, 5]
    onnx.checker.check_model(model, full_check=True)
    with pytest.raises(GraphError, match="batch must be 'symbolic' or a number"):
        to_onnx(net, batch="many")


def test_an_alias_at_another_batch() -> None:
    """A blob whose memory was overwritten through a Flatten is reshaped back without naming the batch."""
    net = built(
        one_input(2, 3, 4)
        + 'layer { name: "a" type: "Power" bottom: "x" top: "a" power_param { shift: 1 } }'
        + 'layer { name: "f" type: "Flatten" bottom: "a" top: "f" }'
        + 'layer { name: "r" type: "ReLU" bottom: "f" top: "f" }'
        + 'layer { name: "c" type: "Power" bottom: "a" top: "c" power_param { scale: 2 } }'
    )
    model = to_onnx(net)
    assert dims(model.graph.input[0]) == ["N", 3, 4]
    x = np.random.default_rng(0).standard_normal((5, 3, 4)).astype(np.float32)
    c, f = session(model).run(["c", "f"], {"x": x})
    assert np.array_equal(c, 2 * np.maximum(x + 1, 0)) and f.shape == (5, 12)


def test_scalars() -> None:
    """A loss has no axis; Reshape gives it one."""
    net = filled(
        NETS["loss"]
        + 'layer { name: "one" type: "Reshape" bottom: "loss" top: "one" reshape_param { shape { dim: 1 } } }'
    )
    expected = run(net, inputs(net))
    values = through_onnx(net, inputs(net))
    assert expected["one"].shape == values["one"].shape == (1,)
    assert np.allclose(values["one"], expected["one"], rtol=1e-5)


# What else is in the file


def test_versions_are_pinned() -> None:
    model = to_onnx(filled(CONV_NET))
    assert OPSET == 17 and [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert (model.producer_name, model.producer_version) == ("caffe_port", __version__)
    assert model.graph.name == "small"
    assert {node.domain for node in model.graph.node} == {""}


def test_metadata(tmp_path: Path) -> None:
    definition, weights = write_model(tmp_path)
    metadata = {entry.key: entry.value for entry in to_onnx(cp.load(definition, weights)).metadata_props}
    assert metadata == {
        "caffe_port.version": __version__,
        "caffe_port.phase": "TEST",
        "caffe_port.definition.name": "small.prototxt",
        "caffe_port.definition.sha256": hashlib.sha256(definition.read_bytes()).hexdigest(),
        "caffe_port.weights.name": "small.caffemodel",
        "caffe_port.weights.sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    assert str(tmp_path) not in str(to_onnx(cp.load(definition, weights)))


def test_metadata_of_several_weight_files(tmp_path: Path) -> None:
    """Each of them is named; none hides another."""
    definition, weights = write_model(tmp_path)
    other = tmp_path / "other.caffemodel"
    other.write_bytes(weights.read_bytes())
    model = to_onnx(cp.load(definition, [weights, other]))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert {value for key, value in metadata.items() if key.endswith(".name")} == {
        "small.prototxt",
        "small.caffemodel",
        "other.caffemodel",
    }
    onnx.checker.check_model(model)


def test_the_same_net_gives_the_same_bytes() -> None:
    first, second = (to_onnx(filled(NETS["branches"])).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_weights_are_stored_once_and_exactly() -> None:
    net = filled(CONV_NET)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in to_onnx(net).graph.initializer}
    values = weights_of(net)
    assert np.array_equal(stored["conv1.weight"], values["conv1"][0])
    assert stored["conv1.weight"].dtype == np.float32
    assert sum(array.size for array in stored.values() if array.dtype == np.float32) >= 112 + 245


# Refusals


def test_without_weights() -> None:
    with pytest.raises(WeightsError, match="4 problems"):
        to_onnx(built(CONV_NET))


def test_every_layer_that_onnx_cannot_express_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from caffe_port import registry

    monkeypatch.delitem(registry._emitters, ("onnx", "ReLU"))
    monkeypatch.delitem(registry._emitters, ("onnx", "Softmax"))
    monkeypatch.setitem(registry._reasons, ("onnx", "ReLU"), "it is too good for it")
    with pytest.raises(UnsupportedLayer) as caught:
        to_onnx(filled(CONV_NET))
    assert "layer 'relu1': ReLU cannot be written as ONNX: it is too good for it" in str(caught.value)
    assert "layer 'prob': Softmax cannot be written as ONNX: no emitter" in str(caught.value)


def test_a_model_of_another_net_is_told_apart() -> None:
    from caffe_port.backends import run_onnx

    pytest.importorskip("onnxruntime")
    net = filled(CONV_NET)
    with pytest.raises(ArtifactError, match="has no value 'pool7': not made from this net"):
        run_onnx(to_onnx(net), inputs_of(net), ["prob", "pool7"])
