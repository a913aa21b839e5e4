"""What every threshold does: counts by threshold, their rates and intervals, and a choice of them that can be drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from caffe_port.calibration.libraries import metrics, special
from caffe_port.calibration.threshold import Rate
from caffe_port.layers.base import Array

__all__ = ["Confusion", "Curves", "clopper_pearson", "rate"]


def clopper_pearson(count: Any, total: Any, confidence: float) -> tuple[Array, Array]:
    """The exact two-sided interval of a binomial rate, elementwise: `count` of `total` (whole numbers).

    Of nothing (total 0) it is 0 to 1. The same as `scipy.stats.binomtest(…).proportion_ci(method="exact")`, for arrays.
    """
    count, total = np.broadcast_arrays(np.asarray(count, np.float64), np.asarray(total, np.float64))
    alpha = (1 - confidence) / 2
    lower, upper = np.zeros(count.shape), np.ones(count.shape)
    some, short = count > 0, count < total
    lower[some] = special.betaincinv(count[some], (total - count + 1)[some], alpha)
    upper[short] = special.betainccinv((count + 1)[short], (total - count)[short], alpha)
    return lower, upper


def rate(count: int, total: int, confidence: float) -> Rate:
    """A rate with its interval."""
    lower, upper = clopper_pearson(count, total, confidence)
    return Rate(int(count), int(total), float(lower), float(upper))


@dataclass(frozen=True, slots=True)
class Confusion:
    """How many of which class are flagged (positive) and not, at one threshold."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    def rates(self, confidence: float) -> dict[str, Rate]:
        """The rates that have an exact interval, by name."""
        tp, fp, fn, tn = self.true_positives, self.false_positives, self.false_negatives, self.true_negatives
        return {
            "false_positive_rate": rate(fp, fp + tn, confidence),
            "false_negative_rate": rate(fn, tp + fn, confidence),
            "recall": rate(tp, tp + fn, confidence),
            "precision": rate(tp, tp + fp, confidence),
            "accuracy": rate(tp + tn, tp + fp + fn + tn, confidence),
        }

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN)."""
        return 2 * self.true_positives / (2 * self.true_positives + self.false_positives + self.false_negatives)

    def as_json(self) -> dict[str, int]:
        """The four counts."""
        return {
            "true_positives": self.true_positives,
            "false_positives": self.false_positives,
            "false_negatives": self.false_negatives,
            "true_negatives": self.true_negatives,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """ROC and precision-recall curve as counts.

    `thresholds` (K,): infinity, which flags nothing, then every distinct score, falling. `false_positives` and
    `true_positives` (K,), int64: what a threshold flags, that is, everything scored that much or more.
    """

    thresholds: Array
    false_positives: Array
    true_positives: Array

    @classmethod
    def of(cls, labels: Array, scores: Array) -> Curves:
        """Of labels (N,), bool, and finite scores (N,); both classes must be there."""
        fpr, tpr, thresholds = metrics.roc_curve(labels, scores, drop_intermediate=False)
        positives = int(np.count_nonzero(labels))
        counts = (np.rint(fpr * (len(labels) - positives)), np.rint(tpr * positives))
        return cls(thresholds, *(count.astype(np.int64) for count in counts))

    @property
    def positives(self) -> int:
        """How many are positive."""
        return int(self.true_positives[-1])

    @property
    def negatives(self) -> int:
        """How many are negative."""
        return int(self.false_positives[-1])

    @property
    def fpr(self) -> Array:
        """False positive rate at each threshold (K,)."""
        return self.false_positives / self.negatives

    @property
    def tpr(self) -> Array:
        """True positive rate (recall) at each threshold (K,)."""
        return self.true_positives / self.positives

    @property
    def precision(self) -> Array:
        """Share of positives among what is flagged (K,); 1 where nothing is, as in scikit-learn."""
        flagged = self.false_positives + self.true_positives
        return np.where(flagged == 0, 1.0, self.true_positives / np.maximum(flagged, 1))

    def index(self, value: float) -> int:
        """The entry that flags what a threshold of `value` flags."""
        return int(np.searchsorted(-self.thresholds, -value, side="right")) - 1

    def at(self, index: int) -> Confusion:
        """The counts of one entry."""
        fp, tp = int(self.false_positives[index]), int(self.true_positives[index])
        return Confusion(tp, fp, self.positives - tp, self.negatives - fp)

    def value(self, index: int) -> float:
        """A finite threshold that does what entry `index` does: a score, or the number after the largest."""
        return float(self.thresholds[index]) if index else float(np.nextafter(self.thresholds[1], np.inf))

    def thinned(self, most: int, keep: tuple[int, ...] = ()) -> Array:
        """Which entries stand for all of them where `most` or so are enough: all, if there are no more.

        Evenly spread over both classes' counts, and denser towards the ends, where rates are compared by their ratio.
        The first, the last and those of `keep` are always there.
        """
        size = len(self.thresholds)
        if size <= most:
            return np.arange(size)
        chosen = [np.array([0, 1, size - 1, *keep], np.int64)]
        share = most // 6
        for counts in (self.false_positives, self.true_positives):
            total = counts[-1]
            steps = np.geomspace(1, total, share)
            for wanted in (np.linspace(0, total, share), steps, total - steps):
                chosen.append(np.minimum(np.searchsorted(counts, wanted), size - 1))
        return np.unique(np.concatenate(chosen))
