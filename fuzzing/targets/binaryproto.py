"""A binaryproto (a mean image): read as a blob."""

from __future__ import annotations

from caffe_port.proto import wire
from fuzzing.inputs import as_file, refused

READS = ("caffe_port.proto.wire",)


def once(data: bytes) -> None:
    path = as_file(data, "mean.binaryproto")
    with refused:
        wire.read_blob(path)
