"""What an older opset of ONNX cannot say is an error that names the node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import pytest

from caffe_port.converters.to_onnx import OPSET
from caffe_port.converters.to_onnx.opset import NEWEST_OPSET, at_opset
from caffe_port.errors import ArtifactError


def model(nodes: Sequence[Any], opset: int = OPSET, **constants: tuple[list[int], Any]) -> Any:
    """A model of float x, (2, 3), to y of unknown shape; constants by name: their dims and values."""
    value = onnx.helper.make_tensor_value_info
    tensors = [
        onnx.helper.make_tensor(
            name, onnx.TensorProto.INT64 if isinstance(first, int) else onnx.TensorProto.FLOAT, dims, values
        )
        for name, (dims, values) in constants.items()
        for first in values[:1]
    ]
    graph = onnx.helper.make_graph(
        list(nodes),
        "g",
        [value("x", onnx.TensorProto.FLOAT, [2, 3])],
        [value("y", onnx.TensorProto.FLOAT, None)],
        tensors,
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


def node(kind: str, *inputs: str, **attributes: Any) -> Any:
    return onnx.helper.make_node(kind, inputs, ["y"], name="N", **attributes)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: model([node("Reshape", "x", "to", allowzero=1)], to=([2], [3, 2])), "dims of size 0"),
        (lambda: model([node("ReduceSum", "x", noop_with_empty_axes=1)]), "noop_with_empty_axes is not there yet"),
        (
            lambda: model(
                [node("BatchNormalization", "x", "s", "s", "s", "s", training_mode=1)], s=([3], [1.0, 1.0, 1.0])
            ),
            "training_mode is not there yet",
        ),
    ],
)
def test_what_has_no_word_there(made: Any, reason: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        at_opset(made(), 11)
    assert str(caught.value).startswith("node 'N' (") and f"cannot be at opset 11: {reason}" in str(caught.value)


def test_a_model_newer_than_what_is_known_is_not_lowered() -> None:
    with pytest.raises(ArtifactError, match=f"a model of opset {OPSET + 1} cannot be lowered: {OPSET} and older can"):
        at_opset(model([node("Relu", "x")], OPSET + 1), OPSET - 1)


def test_what_onnx_itself_cannot_raise_is_said_in_a_line() -> None:
    with pytest.raises(ArtifactError, match=f"the model cannot be raised to opset {NEWEST_OPSET}: ") as caught:
        at_opset(model([node("NoSuchOperator", "x")], 11), NEWEST_OPSET)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_not_valid_there() -> None:
    with pytest.raises(ArtifactError, match=f"the model is not valid at opset {OPSET - 1}: "):
        at_opset(model([node("Relu", "nothing")]), OPSET - 1)


def test_an_operator_of_a_domain_that_nobody_knows() -> None:
    pytest.importorskip("onnxruntime")
    made = model([node("Foo", "x", domain="a.plugin")])
    made.graph.output[0].type.CopyFrom(made.graph.input[0].type)
    made.opset_import.append(onnx.helper.make_opsetid("a.plugin", 1))
    with pytest.raises(ArtifactError, match=r"a\.plugin"):
        at_opset(made, OPSET + 1)
