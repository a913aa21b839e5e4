"""An LMDB database: its keys, and the value of each."""

from __future__ import annotations

from caffe_port.datasets.lmdb_file import LMDBFile
from fuzzing.inputs import as_file, refused

READS = ("caffe_port.datasets.lmdb_file",)
MAX_LENGTH = 1 << 16


def once(data: bytes) -> None:
    with refused:
        database = LMDBFile(as_file(data, "data.mdb"))
        for key in database.keys():  # noqa: SIM118 - it is no dict
            database.get(key)
