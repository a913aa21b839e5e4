"""A CSV file of images and labels to finetune with."""

from __future__ import annotations

from caffe_port.finetuning.data import read_dataset
from fuzzing.inputs import as_file, refused

READS = ("caffe_port.finetuning.data",)


def once(data: bytes) -> None:
    with refused:
        read_dataset(as_file(data, "images.csv"), threads=1)
