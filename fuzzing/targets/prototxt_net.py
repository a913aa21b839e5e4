"""A net's prototxt: parsed, upgraded and built into a net, with what nobody understands let in."""

from __future__ import annotations

from caffe_port.loading import load
from fuzzing.inputs import as_file, refused

READS = ("caffe_port.proto.text", "caffe_port.loading")


def once(data: bytes) -> None:
    path = as_file(data, "net.prototxt")
    with refused:
        load(path, allow_unknown=True)
