"""Batches for a net's data layers, made in worker processes.

A worker makes whole batches: it reads, decodes, resizes and transforms. Which items a batch has and the random numbers
for each are decided here, in order, so the batches are the same however many workers there are.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from caffe_port.datasets import Batch, FoundSource, find_sources, together
from caffe_port.datasets.hdf5_data import hdf5_column
from caffe_port.datasets.image_data import ImageItems
from caffe_port.datasets.items import Items, Ticket
from caffe_port.datasets.lmdb_data import LMDBItems
from caffe_port.errors import CaffePortError, DataError
from caffe_port.layers import data as layers
from caffe_port.layers.base import Array
from caffe_port.training.parquet import ParquetItems, is_parquet
from caffe_port.training.settings import NetFile

__all__ = ["default_workers", "feed", "known_labels", "made_batches", "require_classes", "sources_of"]


def default_workers() -> int:
    """How many processes prepare batches where nobody says it: the processors but one, at most 4."""
    return max(1, min(4, (os.cpu_count() or 1) - 1))


def sources_of(net: NetFile, seed: int) -> list[FoundSource]:
    """The data layers of a net that read files. Raises: as `caffe_port.datasets.find_sources`."""
    with net.opened() as path:
        return find_sources(path, phase=net.phase, level=net.level, stages=net.stages, seed=seed)


def feed(
    sources: Sequence[FoundSource],
    root: str | os.PathLike[str] = ".",
    *,
    workers: int = 0,
    skip: int = 0,
    part: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """The batches of these data layers together, float32, without end.

    workers: processes for each layer whose items are prepared one by one (Data, ImageData); 0 for none. skip: batches
    to pass over, which costs next to nothing for those layers. part: (r, n) for every n-th batch from batch r on, n
    that share the data being (0, n) to (n - 1, n); `skip` then counts one's own.
    Raises, at the first batch or where it comes up: DataError, ImageError, MissingDependency, with the layer's name.
    """
    return together([_batches(source, Path(root), workers, skip, part) for source in sources])


def _batches(source: FoundSource, root: Path, workers: int, skip: int, part: tuple[int, int]) -> Iterator[Batch]:
    with source.naming():
        items = _items(source, root)
        if items is None:
            yield from islice(source.batches(root), part[0] + skip * part[1], None, part[1])
        else:
            for arrays in made_batches(items, workers=workers, skip=skip, part=part):
                yield dict(zip(source.tops, arrays, strict=False))


def _items(source: FoundSource, root: Path) -> Items | None:
    """The layer taken apart, where it can be."""
    definition = source.definition
    if isinstance(definition, layers.ImageData):
        if is_parquet(definition.source):
            return ParquetItems(definition, phase=source.phase, root=root, seed=source.seed)
        return ImageItems(definition, phase=source.phase, root=root, seed=source.seed)
    if isinstance(definition, layers.Data):
        return LMDBItems(definition, phase=source.phase, root=root, seed=source.seed)
    return None


def made_batches(
    items: Items, *, workers: int = 0, skip: int = 0, part: tuple[int, int] = (0, 1)
) -> Iterator[list[Array]]:
    """The batches of a data layer that is taken apart; `workers` processes make them. skip, part: as for `feed`.

    Raises: DataError, ImageError, MissingDependency, as they come up.
    """
    wanted = _in_batches(items, part[0] + skip * part[1], part[1])
    return _by_workers(items, workers, wanted) if workers else map(items.batch, wanted)


def _in_batches(items: Items, first: int, step: int) -> Iterator[list[Ticket]]:
    """The tickets of batch `first`, and of every step-th after it."""
    tickets = items.tickets(first * items.batch_size)
    return islice(iter(lambda: list(islice(tickets, items.batch_size)), []), 0, None, step)


class _Workshop(Dataset[Ticket]):
    """What a worker has: it makes batches of tickets. An error is a result too, so that it arrives as it was."""

    def __init__(self, items: Items) -> None:
        self._items = items

    def __getitems__(self, tickets: list[Ticket]) -> list[Array] | CaffePortError:
        try:
            return self._items.batch(tickets)
        except CaffePortError as error:
            return error


def _collate(made: list[Array] | CaffePortError) -> list[torch.Tensor] | CaffePortError:
    # Tensors, because these travel in shared memory.
    return made if isinstance(made, CaffePortError) else [torch.from_numpy(array) for array in made]


def _begin_worker(_: int) -> None:
    # Ctrl-C reaches every process of a terminal; the solver decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _by_workers(items: Items, workers: int, wanted: Iterator[list[Ticket]]) -> Iterator[list[Array]]:
    loader: DataLoader[Ticket] = DataLoader(
        _Workshop(items),
        batch_sampler=wanted,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_begin_worker,
    )
    for made in loader:
        if isinstance(made, CaffePortError):
            raise made
        yield [tensor.numpy() for tensor in made]


def known_labels(source: FoundSource, top: str, root: str | os.PathLike[str] = ".") -> Iterator[Array]:
    """All labels that a data layer gives as `top`, in pieces, where they stand in a list or in HDF5; none where only
    reading every item would tell.

    Raises: DataError and others as reading the data.
    """
    definition = source.definition
    with source.naming():
        if isinstance(definition, layers.ImageData) and top == source.tops[1]:
            items = _items(source, Path(root))
            if isinstance(items, ParquetItems):
                yield from items.labels()
            elif isinstance(items, ImageItems):
                yield np.array([label for _, label in items.listed], np.float32)
        elif isinstance(definition, layers.HDF5Data):
            yield from hdf5_column(definition, top, root=root)


def require_classes(source: FoundSource, top: str, root: str | os.PathLike[str] = ".") -> None:
    """Raises DataError where all labels are known and are one and the same: nothing can be learned from them."""
    count, only = 0, None
    for labels in known_labels(source, top, root):
        count += labels.size
        only = labels.flat[0] if only is None else only
        if (labels != only).any():
            return
    if count > 1:
        raise DataError(
            f"layer {source.name!r}: all {count} labels are {only:g}: one class only, "
            "from which no loss learns to tell classes apart"
        )
