"""Images and labels in Parquet, to train with."""

from __future__ import annotations

from itertools import islice

from caffe_port.layers.data import ImageData
from caffe_port.training.parquet import ParquetItems
from fuzzing.inputs import as_file, folder, refused

READS = ("caffe_port.training.parquet",)
MAX_LENGTH = 1 << 13


def once(data: bytes) -> None:
    path = as_file(data, "images.parquet")
    layer = ImageData(batch_size=2, channels=3, height=4, width=4, source=path.name, new_size=(4, 4))
    with refused:
        items = ParquetItems(layer, phase="TEST", root=folder())
        for ticket in islice(items.tickets(), 3):
            with refused:
                items.load(ticket)
        for _ in islice(items.labels(), 3):
            pass
