"""An HDF5 file of data and labels, as an HDF5Data layer reads it. Slow, as HDF5 is."""

from __future__ import annotations

from caffe_port.datasets import open_source
from caffe_port.layers.data import HDF5Data
from fuzzing.inputs import as_file, folder, refused

READS = ("caffe_port.datasets.hdf5_data",)
MAX_LENGTH = 1 << 15


def once(data: bytes) -> None:
    path = as_file(data, "data.h5")
    listed = as_file(path.name.encode(), "files.txt")
    with refused:
        next(open_source(HDF5Data(batch_size=2, source=listed.name), ["data", "label"], root=folder()))
