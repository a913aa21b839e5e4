"""What stands in a net for a layer that nobody here understands, so that the rest can be looked at."""

from __future__ import annotations

from dataclasses import dataclass

from caffe_port.errors import Problem
from caffe_port.layers.base import Count, LayerDef

__all__ = ["UnknownLayer"]


@dataclass(frozen=True, slots=True)
class UnknownLayer(LayerDef):
    """A layer of a type nobody here implements, with a fork's field that no code looks at, or without known shapes.

    It stands in no registry and comes only from `load(..., allow_unknown=True)`. Its tops' shapes are UNKNOWN.
    `problems` is what is wrong with it; nothing where it is only that its bottoms' shapes are unknown.
    """

    bottoms = Count(0, None)
    tops = Count(0, None)
    in_place = "ok"

    type: str  # type: ignore[misc]  # of the instance here, not of the class
    problems: tuple[Problem, ...] = ()
    is_input: bool = False  # type: ignore[misc]
