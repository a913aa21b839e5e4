"""A zip file of layer cases."""

from __future__ import annotations

from caffe_port.layer_cases import read_layer_cases
from fuzzing.inputs import as_file, refused

READS = ("caffe_port.layer_cases", "caffe_port.recording")


def once(data: bytes) -> None:
    with refused:
        list(read_layer_cases(as_file(data, "cases.zip")))
