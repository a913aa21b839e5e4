"""Boxes and what chooses among them: overlaps and greedy non-maximum suppression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caffe_port.layers.base import Array

__all__ = ["NO_SCORE", "Suppression", "not_found", "ranked"]

NO_SCORE = -float(np.finfo(np.float32).max)
"""Where a fork gives no confidence threshold: every finite score is above it."""


@dataclass(frozen=True, slots=True)
class Suppression:
    """Greedy non-maximum suppression: a box is kept unless it overlaps one kept before it too much.

    Overlap is intersection over union. A pair whose quotient is no number (areas that round to 0) counts as disjoint,
    or with `nan_suppresses` as the same box.
    """

    threshold: float
    eta: float = 1.0
    """Below 1, each box that is kept multiplies the threshold by it, as long as that is above 0.5."""
    pixel: int = 0
    """What is added to the sides of an intersection: 1 where coordinates are those of pixels, both ends included."""
    apart: bool = False
    """With `pixel`: boxes that do not touch have no intersection, though their sides plus 1 would give one."""
    inclusive: bool = False
    """An overlap that equals the threshold suppresses."""
    nan_suppresses: bool = False

    def overlaps(self, box: Array, size: Array, boxes: Array, sizes: Array) -> Array:
        """Overlap of one box (4,) with others (K, 4); areas are given, since forks compute them in different ways."""
        low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
        # Boxes may be infinite.
        with np.errstate(all="ignore"):
            sides = high - low
            meets = sides >= 0 if self.apart else sides + self.pixel > 0
            sides = sides + boxes.dtype.type(self.pixel)
            shared = sides[:, 0] * sides[:, 1]
            overlap = shared / (size + sizes - shared)
        overlap = np.where(np.isnan(overlap), boxes.dtype.type(2 if self.nan_suppresses else 0), overlap)
        return np.asarray(np.where(meets.all(axis=1), overlap, boxes.dtype.type(0)))

    def keeps(self, overlap: Array, threshold: Array) -> Array:
        """Whether a box is kept whose largest overlap with those kept before it is `overlap`."""
        return np.asarray(overlap < threshold if self.inclusive else overlap <= threshold)

    def kept(self, boxes: Array, sizes: Array, limit: int | None = None) -> list[int]:
        """Indices of the boxes that are kept, (K, 4) in the order of preference; at most `limit`."""
        chosen: list[int] = []
        largest = np.full(len(boxes), -1, boxes.dtype)
        threshold, start = boxes.dtype.type(self.threshold), 0
        while limit is None or len(chosen) < limit:
            alive = self.keeps(largest[start:], threshold)
            if not alive.any():
                break
            best = start + int(np.argmax(alive))
            chosen.append(best)
            start = best + 1
            overlap = self.overlaps(boxes[best], sizes[best], boxes[start:], sizes[start:])
            largest[start:] = np.maximum(largest[start:], overlap)
            if self.eta < 1 and threshold > 0.5:
                threshold = threshold * boxes.dtype.type(self.eta)
        return chosen


def ranked(scores: Array, most: int | None = None) -> Array:
    """Indices of the scores from the highest on, the lower index first among equals; at most `most`."""
    order: Array = np.argsort(-scores, kind="stable")
    return order if most is None else order[:most]


def not_found(images: int, dtype: np.dtype[np.generic]) -> Array:
    """The rows that stand for no detection at all: one an image, its index and six times -1."""
    rows = np.full((images, 7), -1, dtype)
    rows[:, 0] = np.arange(images)
    return rows
