"""HDF5 weights: the layers and every blob's values. Slow, as HDF5 is."""

from __future__ import annotations

from caffe_port.proto import hdf5
from fuzzing.inputs import as_file, refused

READS = ("caffe_port.proto.hdf5",)
MAX_LENGTH = 1 << 15


def once(data: bytes) -> None:
    path = as_file(data, "weights.caffemodel.h5")
    with refused:
        for _, blobs in hdf5.read(path):
            for blob in blobs:
                if blob is not None:
                    with refused:
                        blob.data  # noqa: B018 - it is read when it is looked at
