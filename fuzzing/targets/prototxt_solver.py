"""A solver's prototxt: read, upgraded, made into the settings of a training, and shown."""

from __future__ import annotations

from caffe_port.training.settings import read_settings
from caffe_port.upgrading import read_solver
from fuzzing.inputs import as_file, refused

READS = ("caffe_port.proto.text", "caffe_port.upgrading", "caffe_port.training.settings")


def once(data: bytes) -> None:
    path = as_file(data, "solver.prototxt")
    with refused:
        solver = read_solver(path)
        solver.table()
        solver.as_json()
    with refused:
        read_settings(path)
