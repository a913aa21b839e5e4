"""The recorded layer cases the project ships, unpacked once, and what a test needs to run one."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import caffe_port as cp
from caffe_port.layer_cases import LayerCase, layer_cases, read_layer_cases

Arrays = dict[str, NDArray[Any]]


@functools.cache
def all_cases() -> dict[str, LayerCase]:
    """The cases by name."""
    path = layer_cases()
    assert path is not None, "reference_outputs/layers.zip is not there"
    return {case.name: case for case in read_layer_cases(path)}


@functools.cache
def fork_cases() -> dict[str, LayerCase]:
    """The cases of forks' layers by name."""
    path = layer_cases("fork_layers")
    assert path is not None, "reference_outputs/fork_layers.zip is not there"
    return {case.name: case for case in read_layer_cases(path)}


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Where the cases are unpacked; goes away with the process."""
    return tempfile.TemporaryDirectory(prefix="caffe_port_cases_")


@functools.cache
def load_case(case: LayerCase) -> cp.Net:
    """The case's net with its weights. The files stay: an exporter looks at them again."""
    folder = Path(_folder().name, case.name)
    folder.mkdir(exist_ok=True)
    prototxt, weights = folder / "net.prototxt", folder / "weights.caffemodel"
    prototxt.write_text(case.prototxt, encoding="utf-8")
    if case.weights is not None:
        weights.write_bytes(case.weights)
    return cp.load(prototxt, weights if case.weights is not None else None, phase=case.phase)


def assert_agrees(got: NDArray[Any], want: NDArray[Any], name: str, tolerance: float) -> None:
    """Equal shapes, the same values finite, all within `tolerance` of the largest magnitude of `want` (at least 1)."""
    assert got.shape == want.shape, f"{name}: shape {got.shape}, Caffe has {want.shape}"
    finite = np.isfinite(want)
    assert np.array_equal(np.isfinite(got), finite), f"{name}: other values are finite"
    scale = max(1.0, float(np.abs(want[finite]).max(initial=0)))
    worst = float(np.abs(got.astype(np.float64) - want)[finite].max(initial=0))
    assert worst <= tolerance * scale, f"{name}: off by {worst:.3g} at scale {scale:.3g}"


def run_onnx(model: Any, inputs: Arrays) -> Arrays:
    """The outputs of an ONNX model under onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()}), strict=True))


def run_torch(net: cp.Net, inputs: Arrays) -> Arrays:
    """The outputs of the net's module."""
    import torch

    with torch.no_grad():
        result = cp.to_pytorch(net)(*[torch.from_numpy(np.array(inputs[name], np.float32)) for name in net.inputs])
    outputs = result if isinstance(result, dict) else {net.outputs[0]: result}
    return {name: value.numpy() for name, value in outputs.items()}
