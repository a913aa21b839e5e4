"""A table of labels and scores in Parquet. Slow, as pyarrow opens files slowly."""

from __future__ import annotations

from caffe_port.calibration.data import read_tables
from fuzzing.inputs import as_file, refused

READS = ("caffe_port.calibration.data",)
MAX_LENGTH = 1 << 13


def once(data: bytes) -> None:
    with refused:
        read_tables([as_file(data, "scores.parquet")], positive_label="1", skip_unscored=True)
