"""What computes a classifier's probabilities: onnxruntime, PyTorch or NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from caffe_port import runtime
from caffe_port.errors import MissingDependency
from caffe_port.layers.base import Array
from caffe_port.net import Net
from caffe_port.sessions import make_session

if TYPE_CHECKING:
    import onnx

__all__ = [
    "BACKENDS",
    "PRECISIONS",
    "Runner",
    "float_runner",
    "folded",
    "folded_model",
    "in_batches_of",
    "session_runner",
]

BACKENDS = ("onnxruntime", "torch", "numpy")
"""What a classifier can be run with; the first that is installed is the default."""

PRECISIONS = ("float32", "int8")
"""What a net can be computed in; an ONNX file has its own."""

Runner = Callable[[Array], Array]
"""float32 (N, channels, height, width) → float32 (N, labels)."""


def in_batches_of(size: int, run: Runner, labels: int) -> Runner:
    """Any number of pictures through a model of a fixed batch; the last one is filled up with zeros."""

    def parts(batch: Array) -> Iterator[Array]:
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            full = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), np.float32)])
            yield run(full).reshape(size, labels)[: len(part)]

    return lambda batch: np.concatenate([*parts(batch), np.empty((0, labels), np.float32)])


def float_runner(net: Net, blob: str, output: str, backend: str | None, threads: int | None) -> Runner:
    """Runs a net in float32 with `backend`, or the first of BACKENDS that is installed. Raises: MissingDependency."""
    for name in BACKENDS if backend is None else (backend,):
        try:
            return _MAKERS[name](net, blob, output, threads)
        except MissingDependency:
            if name in (backend, BACKENDS[-1]):
                raise
    raise AssertionError("NumPy is always there")


def _numpy(net: Net, blob: str, output: str, threads: int | None) -> Runner:
    return lambda batch: np.asarray(runtime.run(net, {blob: batch}, outputs=[output])[output])


def _torch(net: Net, blob: str, output: str, threads: int | None) -> Runner:
    from caffe_port.converters.to_pytorch import to_pytorch

    # In float64: PyTorch's float32 kernels round differently with every number of threads, which moves a score by up to
    # 7e-7; in float64 it is the exact result, from which Caffe itself is 1.7e-7 away.
    module = to_pytorch(net).double()
    import torch

    if threads is not None:
        torch.set_num_threads(threads)

    def run(batch: Array) -> Array:
        with torch.no_grad():
            result = module(torch.from_numpy(batch.astype(np.float64)))
        found = result[output] if isinstance(result, dict) else result
        return np.asarray(found.numpy(), dtype=np.float32)

    return run


def _onnxruntime(net: Net, blob: str, output: str, threads: int | None) -> Runner:
    return session_runner(folded(net), blob, output, threads)


def folded(net: Net) -> bytes:
    """`folded_model` as bytes."""
    made: bytes = folded_model(net).SerializeToString()
    return made


def folded_model(net: Net) -> onnx.ModelProto:
    """The net in ONNX as it is run: with linear layers folded."""
    from caffe_port.converters.to_onnx import to_onnx
    from caffe_port.passes.fold_linear import fold_linear

    # Fewer layers, so faster, and fewer roundings.
    return to_onnx(fold_linear(net).net)


_MAKERS: Mapping[str, Callable[[Net, str, str, int | None], Runner]] = {
    "onnxruntime": _onnxruntime,
    "torch": _torch,
    "numpy": _numpy,
}


def session_runner(model: bytes | Path, blob: str, output: str, threads: int | None) -> Runner:
    """Runs an ONNX model, in memory or as a file. Raises: MissingDependency; ArtifactError."""
    opened = make_session(model, threads)

    def run(batch: Array) -> Array:
        return np.asarray(opened.run([output], {blob: batch})[0], np.float32)

    return run
