"""The net that `caffe.Net` starts from: read, its Python layers set up, its learned blobs filled."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_port import datasets
from caffe_port.errors import ShapeError
from caffe_port.layers.python import making_python_layers
from caffe_port.loading import load
from caffe_port.net import Net as BuiltNet
from caffe_port.proto import text, wire
from caffe_port.pycaffe.layer import LivePythonLayer
from caffe_port.pycaffe.settings import next_seed

__all__ = ["Options", "PathLike", "forces_backward", "loaded", "started"]

PathLike = str | os.PathLike[str]
_PHASES = ("TRAIN", "TEST")
"""By the numbers of caffe.proto."""


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments of Net behind the first, in their order."""

    phase: int
    level: int = 0
    stages: Sequence[str] | None = None
    weights: PathLike | None = None

    def __post_init__(self) -> None:
        if self.phase not in (0, 1):
            raise TypeError(f"phase must be caffe.TRAIN or caffe.TEST, not {self.phase!r}")

    @property
    def state(self) -> dict[str, Any]:
        """What include and exclude rules are held against."""
        return {"phase": _PHASES[self.phase], "level": self.level, "stages": list(self.stages or ())}


def loaded(prototxt: PathLike, given: Options) -> BuiltNet:
    """The net, its Python layers set up, its data layers' shapes from their files."""
    from caffe_port.pycaffe.install import stand_in

    weights, state = given.weights, given.state
    options: dict[str, Any] = {**state, "allow_missing_weights": True, "allow_python_layers": True}
    with stand_in(), making_python_layers(LivePythonLayer.make):
        try:
            net = load(prototxt, weights, **options)
        except ShapeError:
            # A data layer may have its shape from its file alone.
            net = load(prototxt, allow_unknown=True, **options)
            if not _reads_data(net):
                raise
        if not _reads_data(net):
            return net
        batch = next(datasets.open_sources(prototxt, **state))
        shapes = {name: array.shape for name, array in batch.items()}
        return load(prototxt, weights, input_shapes=shapes, **options)


def _reads_data(net: BuiltNet) -> bool:
    return any(layer.definition.is_input and layer.type not in ("Input", "MemoryData") for layer in net.layers)


def started(net: BuiltNet) -> BuiltNet:
    """The net with values for all learned blobs: what files and Python layers have not set is filled."""
    values = {
        id(weight): blob.data
        for layer in net.layers
        if isinstance(layer.definition, LivePythonLayer)
        for weight, blob in zip(layer.weights, layer.definition.instance.blobs, strict=True)
        if weight.data is None
    }
    return net.with_values(values).filled(next_seed())


def forces_backward(prototxt: PathLike) -> bool:
    path = Path(prototxt)
    if wire.looks_binary(path):
        return bool(wire.read(path).net.force_backward)
    return b"force_backward" in path.read_bytes() and bool(text.read(path)[0].force_backward)
