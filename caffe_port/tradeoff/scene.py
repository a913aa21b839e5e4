"""What the figure of a comparison shows, whatever draws it: the nets' places, the axes, the discs' areas."""

from __future__ import annotations

import math
from dataclasses import dataclass

from caffe_port.errors import GraphError
from caffe_port.tradeoff.comparison import Comparison, Row

__all__ = ["UNKNOWN_ACCURACY", "X_LABEL", "Y_LABEL", "Scene", "round_ticks"]

X_LABEL = "multiply-accumulates of one picture, in billions"
Y_LABEL = "top-1 accuracy"
UNKNOWN_ACCURACY = ("not", "known")
"""Beside the strip of nets without a top-1 accuracy, in two lines."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What is drawn, in the units of the axes, whatever draws it.

    `x` and `y` are the ends of the axes (billions, logarithmic; shares). Nets without a top-1 accuracy stand in a strip
    below `floor`, which is `y[0]` where there are none. `rows` has larger discs before smaller ones, which are drawn
    over them, each with its number in the comparison, which gives its colour.
    """

    rows: tuple[tuple[int, Row], ...]
    x: tuple[float, float]
    y: tuple[float, float]
    floor: float
    sizes: tuple[int, ...]
    """Round numbers of parameters for the legend of areas, the largest first."""

    @classmethod
    def of(cls, comparison: Comparison) -> Scene:
        """Raises: GraphError where no net has a top-1 accuracy, or one has no parameters or multiply-accumulates."""
        rows = comparison.rows
        shares = [row.top1 for row in rows if row.top1 is not None]
        if not shares:
            names = ", ".join(row.name for row in rows)
            raise GraphError(f"no top-1 accuracy is known of {names}: give one with --accuracy NAME=0.71")
        empty = [row.name for row in rows if not (row.cost.macs and row.cost.parameters)]
        if empty:
            raise GraphError(f"{', '.join(empty)}: without learned layers there is nothing to draw")
        giga = [row.cost.macs / 1e9 for row in rows]
        span = max(max(shares) - min(shares), 0.05)
        floor, top = min(shares) - 0.22 * span, min(max(shares) + 0.2 * span, 1.02)
        strip = 0.3 * (top - floor) if len(shares) < len(rows) else 0.0
        most = max(row.cost.parameters for row in rows)
        # The largest discs need room on either side, more the fewer decades there are.
        room = 2.2 * (max(giga) / min(giga)) ** 0.04
        largest = round_ticks(most / 10, most)[-1]
        return cls(
            tuple(sorted(enumerate(rows), key=lambda one: -one[1].cost.parameters)),
            (min(giga) / room, max(giga) * room),
            (floor - strip, top),
            floor,
            tuple(int(size) for size in (largest, largest / 5, largest / 20) if size >= 1),
        )

    @property
    def most(self) -> int:
        """The parameters of the largest disc."""
        return self.rows[0][1].cost.parameters

    def at(self, row: Row) -> tuple[float, float]:
        """Where a net stands."""
        height = (self.y[0] + self.floor) / 2 if row.top1 is None else row.top1
        return row.cost.macs / 1e9, height

    def radius(self, parameters: int, largest: float) -> float:
        """Of a disc, where `largest` is that of the disc with the most parameters: areas are as parameters are."""
        return largest * math.sqrt(parameters / self.most)


def round_ticks(low: float, high: float) -> list[float]:
    """The numbers 1, 2 and 5 times a power of ten from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    ticks = [float(f"{step}e{power}") for power in powers for step in (1, 2, 5)]
    return [tick for tick in ticks if low <= tick <= high]
