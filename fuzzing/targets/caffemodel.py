"""A caffemodel of any generation: read whole, and its blobs given to a small net by the names of its layers."""

from __future__ import annotations

import functools

from caffe_port.loading import load, with_weight_file
from caffe_port.net import Net
from caffe_port.proto import wire
from fuzzing.inputs import as_file, refused
from fuzzing.nets import CONV_NET

READS = ("caffe_port.proto.wire", "caffe_port.loading")


@functools.cache
def _net() -> Net:
    return load(as_file(CONV_NET.encode(), "small.prototxt"))


def once(data: bytes) -> None:
    net = _net()
    path = as_file(data, "weights.caffemodel")
    with refused:
        wire.read(path)
    with refused:
        with_weight_file(net, path, allow_missing=True)
