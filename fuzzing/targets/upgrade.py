"""A file of any generation, text or binary, net or solver: told what it is, and written in today's form."""

from __future__ import annotations

from caffe_port.upgrading import kind_of, upgrade_file
from fuzzing.inputs import as_file, folder, refused

READS = ("caffe_port.upgrading", "caffe_port.proto.text", "caffe_port.proto.wire")


def once(data: bytes) -> None:
    path = as_file(data, "old")
    with refused:
        kind_of(path)
    with refused:
        upgrade_file(path, folder() / "new")
