"""Areas under ROC curves of several scores of the same data, with DeLong's covariance of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from caffe_port.calibration.curves import Curves
from caffe_port.calibration.libraries import metrics, stats
from caffe_port.layers.base import Array

__all__ = ["REPLICATES", "Interval", "auc_interval", "average_precision", "delong"]

REPLICATES = 1000
"""Of the bootstrap of the average precision."""

_GROUPS = 1000


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its two-sided confidence interval."""

    estimate: float
    lower: float
    upper: float

    def as_json(self) -> dict[str, Any]:
        """The three numbers."""
        return {"estimate": self.estimate, "lower": self.lower, "upper": self.upper}


def delong(labels: Array, scores: Sequence[Array]) -> tuple[Array, Array]:
    """AUC (M,) of each score, and the covariance (M, M) of these estimates.

    `labels` (N,), bool, with at least two of each class; `scores`: M arrays (N,). The estimator is that of DeLong,
    DeLong and Clarke-Pearson (Biometrics 44, 1988), computed from ranks as Sun and Xu showed (IEEE Signal Processing
    Letters 21, 2014), so in N log N.
    """
    positives, negatives = np.count_nonzero(labels), np.count_nonzero(~labels)
    of_positives, of_negatives = [], []
    for score in scores:
        ranks = stats.rankdata(score)
        # How large a share of the other class each one is above, ties counted half.
        of_positives.append((ranks[labels] - stats.rankdata(score[labels])) / negatives)
        of_negatives.append(1 - (ranks[~labels] - stats.rankdata(score[~labels])) / positives)
    covariance = np.cov(of_positives) / positives + np.cov(of_negatives) / negatives
    return np.mean(of_positives, axis=1), np.atleast_2d(covariance)


def auc_interval(auc: float, variance: float, confidence: float) -> Interval:
    """DeLong's interval: normal, cut off at 0 and 1."""
    half = stats.norm.isf((1 - confidence) / 2) * np.sqrt(variance)
    return Interval(float(auc), float(max(0.0, auc - half)), float(min(1.0, auc + half)))


def average_precision(labels: Array, scores: Array, curves: Curves, confidence: float, seed: int) -> Interval:
    """scikit-learn's average precision, with a bootstrap interval.

    Positives and negatives are resampled apart, REPLICATES times. Where there are very many distinct scores, neighbours
    are resampled as one group: the interval is that of the grouped curve, moved to the estimate.
    """
    estimate = float(metrics.average_precision_score(labels, scores))
    entries = curves.thinned(_GROUPS)
    hits, alarms = (np.diff(counts[entries]) for counts in (curves.true_positives, curves.false_positives))
    random = np.random.default_rng(seed)
    drawn = [
        random.multinomial(counts.sum(), counts / counts.sum(), size=REPLICATES).cumsum(axis=1)
        for counts in (hits, alarms)
    ]
    grouped = _average_precision(np.cumsum(hits)[np.newaxis], np.cumsum(alarms)[np.newaxis])[0]
    ends = np.quantile(_average_precision(*drawn), [(1 - confidence) / 2, (1 + confidence) / 2])
    lower, upper = np.clip(estimate + ends - grouped, 0, 1)
    return Interval(estimate, float(lower), float(upper))


def _average_precision(hits: Array, alarms: Array) -> Array:
    """Of cumulative counts (R, groups)."""
    recall = hits / hits[:, -1:]
    precision = hits / np.maximum(hits + alarms, 1)
    return np.asarray((np.diff(recall, axis=1, prepend=0) * precision).sum(axis=1))
