"""A zip file of layer cases."""

from __future__ import annotations

from caffe_port import recording
from fuzzing.inputs import as_file, refused

READS = ("caffe_port.recording",)


def once(data: bytes) -> None:
    with refused:
        list(recording.read_layer_cases(as_file(data, "cases.zip")))
