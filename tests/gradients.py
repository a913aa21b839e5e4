"""Gradients of a recorded case by PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import assert_agrees, load_case
from numpy.typing import NDArray

import caffe_port as cp
from caffe_port.layer_cases import LayerCase

torch = pytest.importorskip("torch")

__all__ = ["assert_gradients", "gradients", "seed"]


def gradients(case: LayerCase) -> dict[str, NDArray[Any] | None]:
    """`bottom:<blob>` and `param:<layer>/<index>`, as the recording names them; None where autograd has none."""
    from caffe_port.converters.to_pytorch import child_names
    from caffe_port.converters.to_pytorch.modules.graph import blob_names

    net = load_case(case)
    module = cp.to_pytorch(net)
    inputs = {name: torch.from_numpy(case.inputs[name].copy()).requires_grad_() for name in net.inputs}
    result = module(*inputs.values())
    outputs = result if isinstance(result, dict) else {net.outputs[0]: result}
    total = sum((torch.from_numpy(seed(case, net, name)) * value).sum() for name, value in outputs.items())
    if total.requires_grad:
        total.backward()
    found = {f"bottom:{name}": tensor.grad for name, tensor in inputs.items()}
    children = child_names(net)
    for layer in net.layers:
        if layer.weights:
            child = getattr(module, children[layer])
            for i, name in enumerate(blob_names(child)):
                found[f"param:{layer.name}/{i}"] = getattr(child, name).grad
    return {key: None if grad is None else grad.numpy() for key, grad in found.items()}


def seed(case: LayerCase, net: cp.Net, top: str) -> NDArray[np.float32]:
    """d(loss)/d(top): recorded, or of a loss layer its loss_weight."""
    assert case.grads is not None
    if f"seed:{top}" in case.grads:
        return case.grads[f"seed:{top}"]
    (layer,) = [layer for layer in net.layers if any(blob.name == top for blob in layer.tops)]
    assert layer.definition.auto_top, f"{top} has no seed and is no loss"
    return np.array(layer.loss_weights[0] if layer.loss_weights else 1.0, np.float32)


def assert_gradients(case: LayerCase, tolerance: float) -> None:
    """Holds every recorded gradient of a case against PyTorch's."""
    assert case.grads is not None
    wanted = {key: value for key, value in case.grads.items() if not key.startswith("seed:")}
    found = gradients(case)
    assert wanted and set(wanted) <= set(found)
    for key, want in wanted.items():
        got = found[key]
        # No gradient at all is one of zero: Caffe has a diff for every blob.
        value = np.zeros_like(want) if got is None else got.reshape(want.shape)
        assert_agrees(value, want, key, tolerance)
