"""What the data layers share: batches, and layers whose items can be made one by one, in any process."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from caffe_port.datasets.transform import Transformer
from caffe_port.errors import DataError
from caffe_port.layers.base import Array
from caffe_port.reading import text_of
from caffe_port.shapes import format_shape

__all__ = ["LARGEST_LABEL", "Batches", "Items", "Root", "Ticket", "list_lines", "positive", "stacked", "transformed"]


Batches = Iterator[list[Array]]
"""A list of arrays for each batch, float32, one a top."""

Root = str | os.PathLike[str]


def positive(batch_size: int) -> int:
    """The batch size itself. Raises: DataError unless it is positive."""
    if batch_size <= 0:
        raise DataError("batch_size must be positive")
    return batch_size


def list_lines(path: Path) -> list[str]:
    """The lines of a list; bytes that are no UTF-8 are kept as Python keeps them in paths. Raises: DataError."""
    try:
        return text_of(path, errors="surrogateescape").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def stacked(items: Sequence[Array], where: str) -> Array:
    """The items as one array, axis 0 first. Raises: DataError where their shapes differ."""
    other = next((item for item in items if item.shape != items[0].shape), None)
    if other is not None:
        raise DataError(
            f"{where}: items of one batch differ: {format_shape(items[0].shape)} and {format_shape(other.shape)}"
        )
    return np.stack(items)


Ticket = tuple[Any, tuple[int, ...]]
"""Which item, and its random numbers: all that `load` needs, in this process or another."""


class Items(ABC):
    """A data layer taken apart, so that several processes can share the work and the result is the same.

    `tickets` is quick, and goes through the data in order; `load` does the work for one ticket and remembers nothing.
    """

    def __init__(self, batch_size: int, source: Path, transformer: Transformer) -> None:
        self.batch_size, self.source, self.transformer = positive(batch_size), source, transformer

    @abstractmethod
    def tickets(self, skip: int = 0) -> Iterator[Ticket]:
        """The items without end, but for the first `skip`. Raises: DataError; MissingDependency."""

    @abstractmethod
    def load(self, ticket: Ticket) -> tuple[Array, int]:
        """An item, transformed, and its label. Raises: DataError, ImageError."""

    def batch(self, tickets: Iterable[Ticket]) -> list[Array]:
        """The items of these tickets as one batch: (n, C, H, W), and labels (n,). Raises: as `load`."""
        loaded = [self.load(ticket) for ticket in tickets]
        return [
            stacked([item for item, _ in loaded], str(self.source)),
            np.array([label for _, label in loaded], np.float32),
        ]

    def batches(self) -> Batches:
        """The batches without end, made here."""
        tickets = self.tickets()
        while True:
            yield self.batch(islice(tickets, self.batch_size))


def transformed(transformer: Transformer, item: Array, where: str, numbers: Sequence[int]) -> Array:
    """The item, transformed; errors name it `where`. Raises: DataError."""
    try:
        return transformer(item, numbers)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


LARGEST_LABEL = 2**31 - 1
"""Caffe keeps labels in an int."""
