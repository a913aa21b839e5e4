"""Small nets for tests: from text, filled with weights, written as files, and run through every backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fill
import numpy as np
import pytest
from numpy.typing import NDArray

from caffe_port import build
from caffe_port.frontend import NetState, PlacedLayer
from caffe_port.net import Net
from caffe_port.proto import text, upgrade, wire
from caffe_port.proto.blobs import BlobData
from caffe_port.runtime import run

FILE = "net.prototxt"

CONV_NET = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 7 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
        pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool1" top: "fc" inner_product_param { num_output: 5 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
"""Learned: conv1 4x3x3x3 and 4 (112 values); pool1 is 4x4x3, so fc is 5x48 and 5 (245 values)."""


def placed(prototxt: str) -> list[PlacedLayer]:
    """The layers of a prototxt."""
    message, source = text.parse(prototxt, file=FILE)
    upgraded = upgrade.upgrade_net(message, source, None)
    return [
        PlacedLayer(layer, source.location(origin), i)
        for i, (layer, origin) in enumerate(zip(upgraded.net.layer, upgraded.origin, strict=True))
    ]


def built(prototxt: str, *, input_shapes: Mapping[str, Sequence[int]] | None = None, **state: Any) -> Net:
    """The net of a prototxt, without weights; `state` as NetState has it."""
    return build.build(placed(prototxt), name="small", state=NetState(**state), input_shapes=input_shapes)[0]


def weights_of(net: Net) -> dict[str, list[NDArray[np.float32]]]:
    """Deterministic values for every learned blob."""
    return {
        layer.name: [fill.fill(layer.name, layer.type, i, weight.shape) for i, weight in enumerate(layer.weights)]
        for layer in net.layers
        if layer.weights
    }


def filled(prototxt: str, **options: Any) -> Net:
    """The net of a prototxt, with deterministic weights."""
    net = built(prototxt, **options)
    return net.with_weights(weights_of(net))


def one_input(*dims: int, name: str = "x") -> str:
    """The text of an Input layer."""
    shape = " ".join(f"dim: {dim}" for dim in dims)
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {shape} }} }} }}\n'


def inputs_of(net: Net, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Normal inputs for a net; integer labels would not do."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in net.input_shapes.items()}


def blob(values: Any, shape: Sequence[int] | None = None, *, legacy: bool = False, dtype: Any = np.float32) -> Any:
    """A learned blob for `wire.write`: of the array's own shape, or the shape given."""
    array = np.asarray(values, dtype=dtype)
    return BlobData(tuple(array.shape if shape is None else shape), legacy, array.reshape(-1))


def write_caffemodel(path: Path, prototxt: str, blobs: Mapping[str, Sequence[Any]]) -> Path:
    """Writes a caffemodel: the layers of a prototxt as they stand, and blobs (arrays, or BlobData) by layer name."""
    message, _ = text.parse(prototxt, file=FILE)
    own = [
        [entry if isinstance(entry, BlobData) else blob(entry) for entry in blobs.get(layer.name, ())]
        for layer in message.layer
    ]
    wire.write(path, message, own)
    return path


def write_model(folder: Path, prototxt: str = CONV_NET, name: str = "small") -> tuple[Path, Path]:
    """Writes a prototxt and the caffemodel with the weights of `filled`."""
    folder.mkdir(parents=True, exist_ok=True)
    definition = folder / f"{name}.prototxt"
    definition.write_text(prototxt)
    return definition, write_caffemodel(folder / f"{name}.caffemodel", prototxt, weights_of(built(prototxt)))


def through_numpy(net: Net, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    return run(net, inputs, outputs=net.outputs)


def through_torch(net: Net, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    torch = pytest.importorskip("torch")
    from caffe_port.converters.to_pytorch import to_pytorch

    with torch.no_grad():
        result = to_pytorch(net)(*[torch.from_numpy(np.array(inputs[name], np.float32)) for name in net.inputs])
    tensors = result if isinstance(result, dict) else {net.outputs[0]: result}
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def through_onnx(net: Net, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """By the exported file alone: what onnxruntime gives for the model's outputs, by their names in the file."""
    onnxruntime = pytest.importorskip("onnxruntime")
    import onnx

    from caffe_port.converters.to_onnx import to_onnx

    model = to_onnx(net)
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = {value.name: np.asarray(inputs[value.name], np.float32) for value in session.get_inputs()}
    values = session.run(None, given)
    # In the order of the net's outputs; one that is an input overwritten in place has a name of its own.
    return dict(zip(net.outputs, values, strict=True))


THROUGH = {"numpy": through_numpy, "torch": through_torch, "onnx": through_onnx}
