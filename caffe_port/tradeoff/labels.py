"""Where names stand beside the discs of a figure, so that none covers another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Disc", "Place", "place_labels"]

GAP = 4.0
"""Between a disc and its label, and between labels, in the units of the figure."""


@dataclass(frozen=True, slots=True)
class Disc:
    """A disc and the size of its label, in one unit (points, say); y grows upward."""

    x: float
    y: float
    radius: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Place:
    """The middle of a label. `apart`: it stands so far from its disc that a line should join them."""

    x: float
    y: float
    apart: bool


def place_labels(discs: Sequence[Disc], frame: tuple[float, float, float, float]) -> list[Place]:
    """A place for each disc's label.

    `frame`: left, low, right and high end of where labels may be. Discs are served from the most crowded on; each takes
    the nearest free place around it. Where nothing is free it is the one that covers least.
    """
    places: dict[int, Place] = {}
    taken: list[tuple[float, float, float, float]] = []

    def crowd(i: int) -> float:
        others = (other for k, other in enumerate(discs) if k != i)
        return min((math.dist((o.x, o.y), (discs[i].x, discs[i].y)) - o.radius for o in others), default=math.inf)

    for i in sorted(range(len(discs)), key=crowd):
        disc = discs[i]

        def cost(candidate: tuple[float, Place], disc: Disc = disc) -> tuple[float, float]:
            distance, place = candidate
            box = _box(place, disc)
            covered = sum(_overlap(box, other) for other in taken)
            covered += sum(_on_disc(box, other) for other in discs)
            left, low, right, high = frame
            outside = max(0.0, left - box[0], low - box[1], box[2] - right, box[3] - high)
            return covered + 1000 * outside, distance

        places[i] = min(_around(disc), key=cost)[1]
        taken.append(_box(places[i], disc))
    return [places[i] for i in range(len(discs))]


def _around(disc: Disc) -> Iterator[tuple[float, Place]]:
    """Places around a disc with their distance, the preferred ones first: above, right, below, left, then farther."""
    # In a disc that is large enough nothing can be confused.
    if math.hypot(disc.width, disc.height) / 2 <= disc.radius - 1:
        yield -1.0, Place(disc.x, disc.y, False)
    for far, k in itertools.product((0.0, 10.0, 22.0, 36.0, 52.0), range(24)):
        angle = math.pi / 2 + 2 * math.pi * k / 24
        dx, dy = math.cos(angle), math.sin(angle)
        reach = disc.radius + GAP + far
        x = disc.x + dx * (reach + disc.width / 2)
        y = disc.y + dy * (reach + disc.height / 2)
        # Right, left and straight above or below read best.
        slant = abs(math.sin(4 * math.pi * k / 24))
        yield far + 2 * slant, Place(x, y, far > 0)


def _box(place: Place, disc: Disc) -> tuple[float, float, float, float]:
    half, tall = disc.width / 2 + GAP / 2, disc.height / 2 + GAP / 2
    return place.x - half, place.y - tall, place.x + half, place.y + tall


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _on_disc(box: tuple[float, float, float, float], disc: Disc) -> float:
    """How much of a box a disc covers, roughly; 0 exactly where they do not touch, or the box is within the disc."""
    near_x, near_y = min(max(disc.x, box[0]), box[2]), min(max(disc.y, box[1]), box[3])
    depth = disc.radius - math.dist((near_x, near_y), (disc.x, disc.y))
    if depth <= 0:
        return 0.0
    corners = itertools.product((box[0], box[2]), (box[1], box[3]))
    inside = all(math.dist(corner, (disc.x, disc.y)) <= disc.radius + GAP for corner in corners)
    return 0.0 if inside and (near_x, near_y) == (disc.x, disc.y) else depth * disc.radius
