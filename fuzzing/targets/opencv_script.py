"""A script that reads a Caffe model by OpenCV: what it does, and how it is changed."""

from __future__ import annotations

import warnings

from caffe_port.migration.plan import plan
from fuzzing.inputs import as_file, refused

READS = ("caffe_port.migration.opencv", "caffe_port.migration.plan")


def once(data: bytes) -> None:
    path = as_file(data, "script.py")
    with refused, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the script's own syntax
        plan(path)
