"""A Datum, the item of Caffe's databases: out of a database that has it alone."""

from __future__ import annotations

from caffe_port.datasets.lmdb_data import datum_of
from caffe_port.layers.data import Transform
from caffe_port.limits import limits
from fuzzing.inputs import refused

READS = ("caffe_port.datasets.lmdb_data",)


def once(data: bytes) -> None:
    with limits.adjusted(image_pixels=10**6):
        for transform in (Transform(), Transform(force_color=True)):
            with refused:
                datum_of(data, transform, "item")
