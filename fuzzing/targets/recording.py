"""A recording of a net, and what record.py says of itself in it."""

from __future__ import annotations

from caffe_port import recording
from fuzzing.inputs import as_file, refused

READS = ("caffe_port.recording", "caffe_port.arrays", "caffe_port.reading")
MAX_LENGTH = 1 << 14


def once(data: bytes) -> None:
    path = as_file(data, "recording.npz")
    with refused:
        recording.read(path)
    with refused:
        recording.made_by(path)
