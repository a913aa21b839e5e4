"""Data: items of an LMDB, in the order of their keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from caffe_port.datasets import images
from caffe_port.datasets.items import Batches, Items, Root, Ticket, transformed
from caffe_port.datasets.lmdb_file import LMDBFile
from caffe_port.datasets.transform import Transformer, resolved
from caffe_port.errors import DataError, ImageError
from caffe_port.layers import data as layers
from caffe_port.layers.base import Array
from caffe_port.proto import schema
from caffe_port.shapes import format_shape

__all__ = ["LMDBItems", "datum_of", "lmdb_batches"]


def lmdb_batches(
    layer: layers.Data, tops: Sequence[str], *, phase: str = "TEST", root: Root = ".", seed: int = 0
) -> Batches:
    """Items of an LMDB in the order of their keys, transformed, and their labels.

    Raises: DataError also for a LevelDB, which nothing here reads.
    """
    for batch in LMDBItems(layer, phase=phase, root=root, seed=seed).batches():
        yield batch[: len(tops)]


class LMDBItems(Items):
    """A Data layer. A ticket's item is its key. Source: BVLC/caffe @ 9b89154, data_layer.cpp, util/db_lmdb.cpp."""

    def __init__(self, layer: layers.Data, *, phase: str = "TEST", root: Root = ".", seed: int = 0) -> None:
        path = resolved(root, layer.source)
        if layer.backend != "LMDB":
            raise DataError(f"{path}: the layer's backend is {layer.backend}, which cannot be read here; LMDB can")
        super().__init__(layer.batch_size, path, Transformer(layer.transform, phase, seed=seed, root=root))
        self._transform = layer.transform
        self._opened: LMDBFile | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    @property
    def _database(self) -> LMDBFile:
        if self._opened is None:
            self._opened = LMDBFile(self.source)
        return self._opened

    def tickets(self, skip: int = 0) -> Iterator[Ticket]:
        count = self._database.entries
        if not count:
            raise DataError(f"{self.source}: the database is empty")
        self.transformer.skip(skip)
        start = skip % count
        while True:
            given = 0
            for key in self._database.keys(start):
                given += 1
                yield key, self.transformer.draw()
            if given != count - start:
                raise DataError(f"{self.source}: says it has {count} items, and has {given + start}")
            start = 0

    def load(self, ticket: Ticket) -> tuple[Array, int]:
        key, numbers = ticket
        where = f"{self.source}: item {key!r}"
        value = self._database.get(key)
        if value is None:
            raise DataError(f"{where}: is not there any more")
        item, label = datum_of(bytes(value), self._transform, where)
        return transformed(self.transformer, item, where, numbers), label


def datum_of(value: bytes, transform: layers.Transform, where: str) -> tuple[Array, int]:
    """A serialized Datum: (C, H, W) of uint8 or float32, and its label. `where`: what errors call it.

    Raises: DataError for what is no Datum, or whose image cannot be decoded.
    """
    datum: Any = schema.message("Datum")
    try:
        datum.ParseFromString(value)
    except DecodeError as error:
        raise DataError(f"{where}: is no Datum: {error}") from None
    if datum.encoded:
        color = True if transform.force_color else False if transform.force_gray else None
        try:
            return images.decode(datum.data, color), datum.label
        except ImageError as error:
            raise DataError(f"{where}: {error}") from None
    shape = (datum.channels, datum.height, datum.width)
    item = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    if min(shape) <= 0 or item.size != shape[0] * shape[1] * shape[2]:
        raise DataError(f"{where}: has {item.size} values for channels, height, width {format_shape(shape)}")
    return item.reshape(shape), datum.label
