"""A threshold's file."""

from __future__ import annotations

from caffe_port.calibration.threshold import read
from fuzzing.inputs import as_file, refused

READS = ("caffe_port.calibration.threshold", "caffe_port.reading")


def once(data: bytes) -> None:
    with refused:
        read(as_file(data, "threshold.json")).as_json()
