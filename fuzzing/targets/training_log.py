"""The log of a training, Caffe's or ours."""

from __future__ import annotations

from caffe_port.training.log import read_log
from fuzzing.inputs import as_file, refused

READS = ("caffe_port.training.log",)


def once(data: bytes) -> None:
    with refused:
        read_log(as_file(data, "caffe.log"))
