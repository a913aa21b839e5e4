"""MemoryData: arrays that are given."""

from __future__ import annotations

import numpy as np

from caffe_port.datasets.items import Batches
from caffe_port.errors import DataError
from caffe_port.layers import data as layers
from caffe_port.layers.base import Array
from caffe_port.shapes import format_shape

__all__ = ["memory_batches"]


def memory_batches(layer: layers.MemoryData, data: Array, labels: Array) -> Batches:
    """Batches of arrays that are given: data (n, channels, height, width), labels of n values. They are not
    transformed.

    The label is (batch_size, 1, 1, 1), as it is in Caffe from the first pass on.
    Raises: DataError unless the arrays fit the layer and n is a multiple of batch_size.
    Source: BVLC/caffe @ 9b89154, memory_data_layer.cpp.
    """
    size = layer.shape[0]
    if data.shape[1:] != layer.shape[1:] or labels.size != len(data):
        raise DataError(
            f"MemoryData takes n x {format_shape(layer.shape[1:])} and n labels, "
            f"given are {format_shape(data.shape)} and {labels.size}"
        )
    if not len(data) or len(data) % size:
        raise DataError(f"{len(data)} items are no multiple of batch_size {size}")
    items, values = data.astype(np.float32, copy=False), labels.astype(np.float32, copy=False).reshape(-1, 1, 1, 1)
    while True:
        for start in range(0, len(items), size):
            yield [items[start : start + size], values[start : start + size]]
