"""A table of labels and scores in CSV."""

from __future__ import annotations

from caffe_port.calibration.data import read_tables
from fuzzing.inputs import as_file, refused

READS = ("caffe_port.calibration.data",)


def once(data: bytes) -> None:
    path = as_file(data, "scores.csv")
    with refused:
        read_tables([path])
    with refused:
        read_tables([path, path], key="image", positive_label="yes", skip_unscored=True)
