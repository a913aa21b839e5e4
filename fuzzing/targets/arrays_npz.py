"""An npz file of arrays by name, as `run --input` and calibration take it."""

from __future__ import annotations

from caffe_port.arrays import read_npz
from fuzzing.inputs import as_file, refused

READS = ("caffe_port.arrays",)


def once(data: bytes) -> None:
    with refused:
        read_npz(as_file(data, "arrays.npz"))
