"""Several models, or several thresholds, on the same data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from caffe_port.calibration.auc import Interval
from caffe_port.calibration.libraries import stats
from caffe_port.layers.base import Array

__all__ = ["AucTest", "McNemar", "compare_aucs", "mcnemar"]


@dataclass(frozen=True, slots=True)
class AucTest:
    """DeLong's test of whether two AUCs of the same data are equal: first less second, z, two-sided p.

    z and p are NaN where the difference has no variance and is not 0.
    """

    first: str
    second: str
    difference: Interval
    z: float
    p: float

    def as_json(self) -> dict[str, Any]:
        """All of it, NaN as null."""
        numbers = {"z": self.z, "p": self.p}
        return {
            "models": [self.first, self.second],
            "difference": self.difference.as_json(),
            **{key: None if math.isnan(value) else value for key, value in numbers.items()},
        }


def compare_aucs(names: tuple[str, str], aucs: Array, covariance: Array, confidence: float) -> AucTest:
    """From two AUCs (2,) and their covariance (2, 2), as `auc.delong` gives them."""
    difference = float(aucs[0] - aucs[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    # Where every pair is ranked alike, rounding leaves some 1e-19.
    deviation = math.sqrt(variance) if variance > 1e-15 * float(np.trace(covariance)) else 0.0
    if deviation:
        z = difference / deviation
    else:
        z = 0.0 if difference == 0 else math.nan
    half = float(stats.norm.isf((1 - confidence) / 2)) * deviation
    return AucTest(
        *names, Interval(difference, difference - half, difference + half), z, float(2 * stats.norm.sf(abs(z)))
    )


@dataclass(frozen=True, slots=True)
class McNemar:
    """McNemar's test of two decisions on the same data: `among` all, the positives or the negatives.

    `only_first`, `only_second`: where only the one is right; `p`: exact (binomial), two-sided.
    """

    first: str
    second: str
    among: str
    total: int
    only_first: int
    only_second: int
    p: float

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "decisions": [self.first, self.second],
            "among": self.among,
            "total": self.total,
            "only_first_right": self.only_first,
            "only_second_right": self.only_second,
            "p": self.p,
        }


def mcnemar(names: tuple[str, str], labels: Array, first: Array, second: Array) -> list[McNemar]:
    """Of labels and two decisions (N,), bool: over all, among positives (recall), and negatives (false alarms)."""
    tests = []
    for among, chosen in (("all", np.ones_like(labels)), ("positives", labels), ("negatives", ~labels)):
        right = first[chosen] == labels[chosen], second[chosen] == labels[chosen]
        ours, theirs = int(np.count_nonzero(right[0] & ~right[1])), int(np.count_nonzero(right[1] & ~right[0]))
        p = float(stats.binomtest(ours, ours + theirs).pvalue) if ours + theirs else 1.0
        tests.append(McNemar(*names, among, int(np.count_nonzero(chosen)), ours, theirs, p))
    return tests
