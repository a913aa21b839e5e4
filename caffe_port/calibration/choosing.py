"""Rules that choose a threshold."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from caffe_port.calibration.curves import Curves
from caffe_port.calibration.libraries import special, stats
from caffe_port.calibration.threshold import RULES, Costs, Threshold
from caffe_port.errors import DataError, GraphError
from caffe_port.layers.base import Array

__all__ = ["Rule", "choose", "most_errors"]


@dataclass(frozen=True, slots=True)
class Rule:
    """How to choose: `name` is one of `threshold.RULES`.

    `max-fpr`, `max-fnr`: `target` is the largest rate; `cost`: `costs`; `given`: `target` is the threshold itself.
    Raises: GraphError for what cannot be meant.
    """

    name: str
    target: float | None = None
    costs: Costs | None = None

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise GraphError(f"unknown rule {self.name!r}; known: {', '.join(RULES)}")
        if self.name in ("max-fpr", "max-fnr") and not (self.target is not None and 0 < self.target < 1):
            raise GraphError(f"{self.name}: the largest rate lies between 0 and 1, not {self.target}")
        if self.name == "given" and not (self.target is not None and math.isfinite(self.target)):
            raise GraphError(f"a threshold is a finite number, not {self.target}")
        if self.name == "cost":
            costs = self.costs
            if costs is None or not all(
                math.isfinite(c) and c > 0 for c in (costs.false_positive, costs.false_negative)
            ):
                raise GraphError("costs are numbers above 0, of a false positive and of a false negative")
            if not 0 < costs.prevalence < 1:
                raise GraphError(f"a prevalence lies between 0 and 1, not {costs.prevalence:g}")

    def __str__(self) -> str:
        if self.name == "cost" and self.costs is not None:
            c = self.costs
            return (
                f"least cost (false positive {c.false_positive:g}, false negative {c.false_negative:g}, "
                f"prevalence {c.prevalence:.4g})"
            )
        return {
            "max-fpr": f"false positive rate at most {self.target}",
            "max-fnr": f"false negative rate at most {self.target}",
            "f1": "largest F1",
            "youden": "largest Youden index",
            "given": f"given: {self.target}",
        }[self.name]


def most_errors(total: int, target: float, confidence: float) -> int:
    """How many errors of `total` still show, with this confidence, that their rate is at most `target`; -1 if none do.

    The largest count whose one-sided Clopper-Pearson bound is at most the target.
    """
    # The bound of k is at most the target where that rate gives k errors or fewer with probability 1 - confidence.
    least = int(stats.binom.ppf(1 - confidence, total, target))
    return least if _bound(least, total, confidence) <= target else least - 1


def _bound(count: int, total: int, confidence: float) -> float:
    """The one-sided upper Clopper-Pearson bound."""
    if count < 0:
        return math.inf
    return float(special.betaincinv(count + 1, total - count, confidence)) if count < total else 1.0


def choose(curves: Curves, rule: Rule, *, model: str, confidence: float, data_sha256: str) -> Threshold:
    """The threshold that a rule chooses; of several as good, the highest.

    A threshold for a largest rate is as far as one can go while the upper confidence bound of that rate is at most the
    target. Since a rate only grows on the way, a bound for each threshold by itself is enough for the chosen one: in a
    share `confidence` of all data sets drawn like this one, the true rate at the threshold is at most the target.

    Raises: DataError where the data are too few for the target, or no threshold does what the rule asks.
    """
    index, bound = _INDEX[rule.name](curves, rule, confidence)
    value = rule.target if rule.name == "given" and rule.target is not None else curves.value(index)
    rates = curves.at(index).rates(confidence)
    return Threshold(
        value=value,
        model=model,
        rule=rule.name,
        confidence=confidence,
        false_positive_rate=rates["false_positive_rate"],
        false_negative_rate=rates["false_negative_rate"],
        data_sha256=data_sha256,
        target=rule.target if bound is not None else None,
        bound=bound,
        costs=rule.costs if rule.name == "cost" else None,
    )


def _max_fpr(curves: Curves, rule: Rule, confidence: float) -> tuple[int, float]:
    allowed = _allowed(curves.negatives, rule, confidence, "negatives")
    index = int(np.searchsorted(curves.false_positives, allowed, side="right")) - 1
    if index == 0:
        raise DataError(
            f"{rule}: only a threshold that flags nothing holds this: at most {allowed:,} of {curves.negatives:,} "
            f"negatives may be flagged, and {curves.at(1).false_positives:,} have the highest score of all"
        )
    return index, _bound(curves.at(index).false_positives, curves.negatives, confidence)


def _max_fnr(curves: Curves, rule: Rule, confidence: float) -> tuple[int, float]:
    allowed = _allowed(curves.positives, rule, confidence, "positives")
    index = int(np.searchsorted(curves.true_positives, curves.positives - allowed))
    return index, _bound(curves.at(index).false_negatives, curves.positives, confidence)


def _allowed(total: int, rule: Rule, confidence: float, what: str) -> int:
    assert rule.target is not None
    allowed = most_errors(total, rule.target, confidence)
    if allowed < 0:
        needed = math.ceil(math.log(1 - confidence) / math.log1p(-rule.target))
        raise DataError(
            f"{rule}: {total:,} {what} are too few to show this with {confidence:g} confidence: without a single error "
            f"the rate could still be {_bound(0, total, confidence):.3g}; it takes at least {needed:,}"
        )
    return allowed


def _cost(curves: Curves, rule: Rule, confidence: float) -> tuple[int, None]:
    assert rule.costs is not None
    share = rule.costs.prevalence
    false_alarms = rule.costs.false_positive * (1 - share) * curves.fpr
    return int(np.argmin(false_alarms + rule.costs.false_negative * share * (1 - curves.tpr))), None


def _largest(merit: Callable[[Curves], Array]) -> Callable[[Curves, Rule, float], tuple[int, None]]:
    def index(curves: Curves, rule: Rule, confidence: float) -> tuple[int, None]:
        found = int(np.argmax(merit(curves)))
        if found == 0:
            raise DataError(
                f"{rule}: no threshold is better than flagging nothing; are the labels the wrong way round?"
            )
        return found, None

    return index


def _f1(curves: Curves) -> Array:
    flagged = curves.true_positives + curves.false_positives
    return np.asarray(2 * curves.true_positives / (curves.positives + flagged))


_INDEX: dict[str, Callable[[Curves, Rule, float], tuple[int, float | None]]] = {
    "max-fpr": _max_fpr,
    "max-fnr": _max_fnr,
    "cost": _cost,
    "f1": _largest(_f1),
    "youden": _largest(lambda curves: curves.tpr - curves.fpr),
    "given": lambda curves, rule, confidence: (curves.index(float(rule.target or 0)), None),
}
