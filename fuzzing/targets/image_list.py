"""A list of images and labels, and a file of R-CNN's windows; a batch of what they name."""

from __future__ import annotations

from caffe_port.datasets import open_source
from caffe_port.layers.data import ImageData, Transform, WindowData
from fuzzing.inputs import as_file, folder, refused

READS = ("caffe_port.datasets.image_data", "caffe_port.datasets.items", "caffe_port.datasets.transform")


def once(data: bytes) -> None:
    path = as_file(data, "list.txt")
    layers = (
        ImageData(batch_size=2, channels=3, height=4, width=4, source=path.name, new_size=(4, 4)),
        WindowData(batch_size=2, crop_size=4, transform=Transform(), source=path.name),
    )
    for layer in layers:
        with refused:
            next(open_source(layer, ["data", "label"], root=folder()))
