"""What goes into scoring and what comes out: an image that can be read, and a row about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Item", "Row"]


@dataclass(frozen=True, slots=True)
class Item:
    """An image to be scored. `read` gives the bytes of its file when they are wanted; it may raise OSError, ImageError.

    `name` is what the row will be called: a path, or `archive.zip!member`.
    """

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Row:
    """What became of an item: its probabilities in the order of the model's labels, or why there are none."""

    name: str
    probabilities: tuple[float, ...] = ()
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.error
