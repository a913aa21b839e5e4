"""Every recorded layer case through every backend, and every layer type through the registry."""

from __future__ import annotations

import numpy as np
import pytest
from cases import all_cases, assert_agrees, load_case, run_onnx, run_torch

import caffe_port as cp
from caffe_port import registry
from caffe_port.converters.to_onnx import to_onnx, value_names
from caffe_port.errors import UnsupportedLayer
from caffe_port.layer_cases import LayerCase
from caffe_port.runtime import run_layers

CASES = sorted(all_cases())
TOLERANCE = 2e-5
"""Of a blob's scale: Caffe's own rounding and that of a backend."""
TOLERANCE_OF_FLOAT64 = 1e-5
"""Of a blob's scale: Caffe's own rounding alone."""


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> LayerCase:
    return all_cases()[request.param]


def expressible(net: cp.Net, backend: str) -> bool:
    """Whether `backend` has an emitter for each layer; if not, there must be a reason."""
    missing = [
        layer.type
        for layer in net.layers
        if not layer.definition.is_input and layer.type != "Split" and not registry.find_emitter(backend, layer.type)
    ]
    assert all(registry.reason_inexpressible(backend, type_name) for type_name in missing)
    return not missing


def test_all_cases_are_there() -> None:
    assert len(CASES) == 319
    assert all(case.info["status"] in ("ok", "rejected") for case in all_cases().values())


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", TOLERANCE), ("float64", TOLERANCE_OF_FLOAT64)])
def test_numpy(case: LayerCase, dtype: str, tolerance: float) -> None:
    if case.rejected:
        with pytest.raises(cp.CaffePortError):
            load_case(case)
        return
    blobs = cp.run(load_case(case), case.inputs, dtype)
    assert set(case.outputs) <= set(blobs)
    for name, want in case.outputs.items():
        assert blobs[name].dtype == np.dtype(dtype)
        assert_agrees(blobs[name], want, name, tolerance)


def test_pytorch(case: LayerCase) -> None:
    pytest.importorskip("torch")
    if case.rejected:
        return
    net = load_case(case)
    if not expressible(net, "pytorch"):
        with pytest.raises(UnsupportedLayer):
            cp.to_pytorch(net)
        return
    outputs = run_torch(net, case.inputs)
    assert sorted(outputs) == sorted(case.info["outputs"])
    for name, value in outputs.items():
        assert_agrees(value, case.outputs[name], name, TOLERANCE)


def test_onnx(case: LayerCase) -> None:
    """An output that overwrites an input has a name of its own in ONNX: `value_names` tells it."""
    pytest.importorskip("onnxruntime")
    if case.rejected:
        return
    net = load_case(case)
    if not expressible(net, "onnx"):
        with pytest.raises(UnsupportedLayer):
            to_onnx(net)
        return
    outputs = run_onnx(to_onnx(net), case.inputs)
    names = value_names(net)
    assert sorted(outputs) == sorted(names[blob] for blob in net.output_blobs)
    assert sorted(blob.name for blob in net.output_blobs) == sorted(case.info["outputs"])
    for blob in net.output_blobs:
        assert_agrees(outputs[names[blob]], case.outputs[blob.name], blob.name, TOLERANCE)


@pytest.mark.parametrize("name", sorted(name for name, case in all_cases().items() if case.params_after))
def test_learned_blobs_after_a_pass_in_train(name: str) -> None:
    """BatchNorm moves its averages, in NumPy and in PyTorch."""
    torch = pytest.importorskip("torch")
    from caffe_port.converters.to_pytorch import child_names
    from caffe_port.converters.to_pytorch.modules.graph import blob_names

    case = all_cases()[name]
    net = load_case(case)
    moved: dict[str, dict[int, np.ndarray]] = {}
    for _ in run_layers(net, case.inputs, new_weights=moved):
        pass
    module = cp.to_pytorch(net)
    module(*[torch.from_numpy(case.inputs[blob]) for blob in net.inputs])
    children = child_names(net)
    compared = 0
    for layer in net.layers:
        for i, weight in enumerate(layer.weights):
            want = (case.params_after or {})[f"{layer.name}/{i}"]
            got = moved.get(layer.name, {}).get(i, weight.data)
            assert got is not None
            assert_agrees(got, want, weight.label, TOLERANCE)
            child = getattr(module, children[layer])
            tensor = getattr(child, blob_names(child)[i])
            assert_agrees(tensor.detach().numpy().reshape(want.shape), want, weight.label, TOLERANCE)
            compared += 1
    assert compared == len(case.params_after or {}) > 0


@pytest.mark.parametrize("backend", registry.BACKENDS)
def test_every_type_has_an_emitter_or_a_reason(backend: str) -> None:
    for definition in registry.layer_types():
        if definition.is_input or definition.type == "Split":
            continue
        emitter = registry.find_emitter(backend, definition.type)
        reason = registry.reason_inexpressible(backend, definition.type)
        assert (emitter is None) != (reason is None), definition.type
