"""Deterministic weights for a Caffe net that has none: the same numbers wherever NumPy runs.

Every learned blob is drawn from numpy.random.RandomState (a frozen stream) seeded by its layer's name and its index, so
a reference recorded from Caffe on one machine can be reproduced on another without shipping the weights.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray


def fill(layer_name: str, layer_type: str, index: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Weights of learned blob `index` of a layer: float32, shape `shape`."""
    seed = zlib.crc32(f"{layer_name}/{index}".encode()) & 0x7FFFFFFF
    v = np.random.RandomState(seed).randn(*shape)
    if layer_type in ("Convolution", "InnerProduct", "Deconvolution"):
        if index == 0:
            v = v * np.sqrt(2.0 / max(1, int(np.prod(shape[1:]))))
        else:
            v = v * 0.1
    elif layer_type == "BatchNorm":
        v = (v, v * v + 1.0, np.full(shape, 2.0))[index]
    elif layer_type == "Scale":
        v = 0.5 + 0.1 * v if index == 0 else 0.1 * v
    elif layer_type == "PReLU":
        v = 0.25 + 0.1 * v
    else:
        v = 0.1 * v
    return v.astype(np.float32)


def input_data(blob_name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The recorded input of blob `blob_name`: float32, standard normal times 40."""
    seed = zlib.crc32(f"input/{blob_name}".encode()) & 0x7FFFFFFF
    return (np.random.RandomState(seed).randn(*shape) * 40).astype(np.float32)
