"""Images → the score of a released classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from caffe_port import models, runtime
from caffe_port.backends import make_session
from caffe_port.errors import GraphError, MissingDependency
from caffe_port.layers.base import Array
from caffe_port.models import ReleasedModel
from caffe_port.models.fetch import Progress
from caffe_port.net import Net
from caffe_port.scoring.preprocess import Source, tensor
from caffe_port.sources import locate

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["BACKENDS", "Scorer"]

BACKENDS = ("onnxruntime", "torch", "numpy")
"""What a Scorer can compute with; the first that is installed is the default."""


class Scorer:
    """Scores images with a released model: from 0 (safe for work) to 1, as the original script gives them.

    `model`: a released model's name. `net`: the same net, loaded already. `backend`: one of BACKENDS; None takes the
    first installed. Also a context manager.
    Raises: FetchError if the model cannot be had; MissingDependency for a backend that is not installed.
    """

    def __init__(
        self,
        model: str = "open_nsfw",
        *,
        backend: str | None = None,
        net: Net | None = None,
        offline: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.model: ReleasedModel = models.get(model)
        self.net = locate(model, offline=offline, progress=progress).load() if net is None else net
        self.backend, self._run = _runner(self.net, self.model, backend)

    def score(self, image: Source) -> float:
        """The score of one image: a path, bytes, a binary file object, or a PIL image. Raises ImageError."""
        return float(self.probabilities(image)[self.model.score_index])

    def probabilities(self, image: Source) -> Array:
        """The probability of each of `model.labels`, float32. Raises ImageError."""
        batch = self.classify(tensor(image, self.model.preprocessing)[np.newaxis])
        return np.asarray(batch[0])

    def classify(self, batch: Array) -> Array:
        """Probabilities (N, labels) of preprocessed images (N, C, H, W), float32."""
        return self._run(batch)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def _runner(net: Net, model: ReleasedModel, backend: str | None) -> tuple[str, Callable[[Array], Array]]:
    if backend is not None:
        if backend not in BACKENDS:
            raise GraphError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
        return backend, _MAKERS[backend](net, model)
    for name in BACKENDS[:-1]:
        try:
            return name, _MAKERS[name](net, model)
        except MissingDependency:
            continue
    return "numpy", _numpy(net, model)


def _numpy(net: Net, model: ReleasedModel) -> Callable[[Array], Array]:
    return lambda batch: runtime.run(net, {model.input_blob: batch}, outputs=[model.score_blob])[model.score_blob]


def _onnxruntime(net: Net, model: ReleasedModel) -> Callable[[Array], Array]:
    from caffe_port.converters.to_onnx import to_onnx
    from caffe_port.passes.fold_linear import fold_linear

    # Fewer layers, so faster, and fewer roundings.
    session = make_session(to_onnx(fold_linear(net).net).SerializeToString())

    def run(batch: Array) -> Array:
        return np.asarray(session.run([model.score_blob], {model.input_blob: batch})[0])

    return run


def _torch(net: Net, model: ReleasedModel) -> Callable[[Array], Array]:
    from caffe_port.converters.to_pytorch import to_pytorch

    # In float64: PyTorch's float32 kernels round differently with every number of threads, which moves a score by up to
    # 7e-7; in float64 it is the exact result, from which Caffe itself is 1.7e-7 away.
    module = to_pytorch(net).double()
    import torch

    def run(batch: Array) -> Array:
        with torch.no_grad():
            result = module(torch.from_numpy(batch.astype(np.float64)))
        return np.asarray(result.numpy(), dtype=np.float32)

    return run


_MAKERS: Mapping[str, Callable[[Net, ReleasedModel], Callable[[Array], Array]]] = {
    "onnxruntime": _onnxruntime,
    "torch": _torch,
    "numpy": _numpy,
}
