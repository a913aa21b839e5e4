"""Recordings of what NumPy computes: they show what verification does, not that a net is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from small import inputs_of

from caffe_port import recording
from caffe_port.net import Net
from caffe_port.recording import RecordedLayer, Recording
from caffe_port.runtime import run_layers

__all__ = ["recorded", "recorded_as"]


def recorded(
    net: Net,
    inputs: dict[str, Any],
    change: Callable[[str, Any], Any] = lambda layer, value: value,
    limit: int | None = 256,
) -> Recording:
    """A recording of our own float32 run, with changes, in the place of Caffe's.

    limit: of the values of a blob; None records all.
    """
    layers = []
    for layer, tops in run_layers(net, inputs):
        if layer.definition.is_input or layer.type == "Split":
            continue
        for blob, value in tops.items():
            changed = np.asarray(change(layer.name, value.copy()), np.float32)
            flat = changed.reshape(-1)
            sample = flat[recording.sample_indices(flat.size, limit or flat.size)]
            exact = flat.astype(np.float64)
            stats = np.array([exact.min(), exact.max(), exact.mean(), np.sqrt(exact @ exact)])
            layers.append(RecordedLayer(layer.index, layer.name, layer.type, blob.name, changed.shape, sample, stats))
    last = {entry.top: entry for entry in layers}
    finals = {name: last[name].sample.reshape(last[name].shape) for name in net.outputs}
    return Recording(
        layers=layers,
        inputs=inputs,
        input_shapes={name: value.shape for name, value in inputs.items()},
        finals=finals,
        input_names=net.inputs,
        output_names=net.outputs,
        limit=limit or max(entry.sample.size for entry in layers),
    )


def recorded_as(net: Net, path: Path) -> Path:
    """A recording of every value, as a file."""
    recording.write(path, recorded(net, inputs_of(net), limit=None))
    return path
