"""A mean in an .npy file (or, by its content, a binaryproto)."""

from __future__ import annotations

from caffe_port.scoring.mean import Mean
from fuzzing.inputs import as_file, refused

READS = ("caffe_port.arrays", "caffe_port.scoring.mean")


def once(data: bytes) -> None:
    with refused:
        Mean.read(as_file(data, "mean.npy"))
