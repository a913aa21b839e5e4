"""The JSON in a recording that lists its layers; whether the arrays beside it fit is checked against it."""

from __future__ import annotations

import io

import numpy as np

from caffe_port import recording
from fuzzing.inputs import as_file, refused

READS = ("caffe_port.recording", "caffe_port.reading")


def once(data: bytes) -> None:
    arrays = {
        "meta": np.frombuffer(data, np.uint8),
        "in:data": np.zeros((1, 2), np.float32),
        "sample:0:a:x": np.zeros(2, np.float32),
        "stats:0:a:x": np.zeros(4),
        "final:x": np.zeros((1, 2), np.float32),
    }
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    path = as_file(packed.getvalue(), "recording.npz")
    with refused:
        recording.read(path)
    with refused:
        recording.made_by(path)
