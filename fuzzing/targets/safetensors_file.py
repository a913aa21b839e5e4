"""A safetensors file: read, and its tensors given to a small net."""

from __future__ import annotations

import functools

from caffe_port.converters.from_pytorch import read_safetensors, with_state_dict
from caffe_port.loading import load
from caffe_port.net import Net
from fuzzing.inputs import as_file, refused
from fuzzing.nets import CONV_NET

READS = ("caffe_port.converters.from_pytorch",)


@functools.cache
def _net() -> Net:
    return load(as_file(CONV_NET.encode(), "small.prototxt"))


def once(data: bytes) -> None:
    net = _net()
    with refused:
        state, table = read_safetensors(as_file(data, "weights.safetensors"))
        with refused:
            with_state_dict(net, state)
        if table is not None:
            with_state_dict(net, state, table)
