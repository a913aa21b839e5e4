"""Score bins with their observed rates, and how far scores are from being probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from caffe_port.calibration.curves import rate
from caffe_port.calibration.threshold import Rate
from caffe_port.errors import GraphError
from caffe_port.layers.base import Array

__all__ = ["Bin", "bins", "edges", "expected_calibration_error"]


@dataclass(frozen=True, slots=True)
class Bin:
    """Scores from `low` to below `high` (the last bin has its upper end too): the observed rate of positives."""

    low: float
    high: float
    mean_score: float
    observed: Rate

    def as_json(self) -> dict[str, Any]:
        """All of it; the mean score of an empty bin is null."""
        mean = self.mean_score if self.observed.total else None
        return {"low": self.low, "high": self.high, "mean_score": mean, "observed": self.observed.as_json()}


def edges(wanted: int | Sequence[float], scores: Sequence[Array]) -> list[float]:
    """The ends of bins: that many of one width, from 0 to 1 if all scores lie there; or those given, rising, inside.

    Raises: GraphError for numbers that do not rise or are none.
    """
    low = min(float(score.min()) for score in scores)
    high = max(float(score.max()) for score in scores)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    if isinstance(wanted, int):
        if not 1 <= wanted <= 1000:
            raise GraphError(f"there can be 1 to 1000 bins, not {wanted}")
        # 0.3, not 0.30000000000000004.
        return [float(f"{edge:.12g}") for edge in np.linspace(low, high, wanted + 1)]
    inner = [float(edge) for edge in wanted]
    ends = ([low] if inner and low < inner[0] else []) + inner + ([high] if inner and high > inner[-1] else [])
    if len(ends) < 2 or not all(np.isfinite(ends)) or not all(a < b for a, b in pairwise(ends)):
        raise GraphError(f"the ends of bins are numbers that rise, not {', '.join(f'{edge:g}' for edge in inner)}")
    return ends


def bins(labels: Array, scores: Array, ends: Sequence[float], confidence: float) -> list[Bin]:
    """Labels (N,), bool, and scores (N,) by bin."""
    number = np.clip(np.searchsorted(ends, scores, side="right") - 1, 0, len(ends) - 2)
    totals = np.bincount(number, minlength=len(ends) - 1)
    hits = np.bincount(number, weights=labels, minlength=len(ends) - 1)
    sums = np.bincount(number, weights=scores, minlength=len(ends) - 1)
    return [
        Bin(low, high, float(total and mass / total), rate(int(hit), int(total), confidence))
        for low, high, total, hit, mass in zip(ends, ends[1:], totals, hits, sums, strict=False)
    ]


def expected_calibration_error(found: Sequence[Bin]) -> float:
    """The distance of observed rate and mean score, averaged over the data."""
    total = sum(one.observed.total for one in found)
    used = [one for one in found if one.observed.total]
    return sum(one.observed.total * abs(one.observed.estimate - one.mean_score) for one in used) / total
