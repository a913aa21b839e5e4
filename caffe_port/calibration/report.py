"""Everything that labels and scores say, in one object: as a table for people, as JSON, and for the page."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from caffe_port._version import __version__
from caffe_port.calibration.auc import Interval, auc_interval, average_precision, delong
from caffe_port.calibration.bins import Bin, edges, expected_calibration_error
from caffe_port.calibration.bins import bins as binned
from caffe_port.calibration.choosing import Rule, choose
from caffe_port.calibration.comparison import AucTest, McNemar, compare_aucs, mcnemar
from caffe_port.calibration.curves import Confusion, Curves, clopper_pearson
from caffe_port.calibration.data import Labelled
from caffe_port.calibration.libraries import metrics, stats
from caffe_port.calibration.threshold import Rate, Threshold
from caffe_port.calibration.words import interval, percent, shown, small, told
from caffe_port.errors import DataError, GraphError
from caffe_port.layers.base import Array
from caffe_port.proto.files import replacing

__all__ = [
    "FORMAT",
    "POINTS",
    "Calibration",
    "Check",
    "Choice",
    "Model",
    "calibrate",
]

FORMAT = "caffe_port calibration 1"
"""What the key `format` of the JSON report says."""

POINTS = 500
"""About how many thresholds of a curve are drawn and reported."""

FEW = 100
"""Of a class: fewer are warned of."""

_DEFAULT = Rule("youden")


@dataclass(frozen=True, slots=True)
class Choice:
    """A threshold, the rule it is from, and what it does to the data."""

    rule: Rule
    threshold: Threshold
    confusion: Confusion

    def as_json(self) -> dict[str, Any]:
        """The threshold as its file has it, the counts, and the rates with their intervals."""
        rates = self.confusion.rates(self.threshold.confidence)
        return {
            "threshold": self.threshold.as_json(),
            "confusion": self.confusion.as_json(),
            "rates": {name: rate.as_json() for name, rate in rates.items()},
            "f1": self.confusion.f1,
        }


@dataclass(frozen=True, slots=True)
class Check:
    """A threshold chosen on other data, held to its target on these.

    `rate`: what its target is about, in these data; `p`: how probable as many errors or more are where the true rate is
    the target. `ok` unless that is improbable: less than 1 - confidence.
    """

    source: str
    threshold: Threshold
    model: str
    confusion: Confusion
    rate: Rate | None = None
    p: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the data agree with the target; true without one."""
        return self.p is None or self.p >= 1 - self.threshold.confidence

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "source": self.source,
            "model": self.model,
            "threshold": self.threshold.as_json(),
            "confusion": self.confusion.as_json(),
            "rate": None if self.rate is None else self.rate.as_json(),
            "p": self.p,
            "ok": self.ok,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """What the scores of one model say.

    `chosen` is by the rule that was asked for; `others` by further rules and at given thresholds. `brier`, `ece` are
    None where scores are no probabilities (not from 0 to 1). `histogram`: ends of bins (B + 1,), and counts (2, B) of
    negatives and positives.
    """

    name: str
    curves: Curves
    auc: Interval
    average_precision: Interval
    brier: float | None
    ece: float | None
    bins: tuple[Bin, ...]
    histogram: tuple[Array, Array]
    chosen: Choice
    others: tuple[Choice, ...]

    def points(self, confidence: float) -> dict[str, Array]:
        """The curve in about POINTS points, each of them exact: columns by name, with pointwise intervals."""
        curves = self.curves
        keep = [curves.index(choice.threshold.value) for choice in (self.chosen, *self.others)]
        entries = curves.thinned(POINTS, tuple(keep))
        fp, tp = curves.false_positives[entries], curves.true_positives[entries]
        found = {
            "threshold": np.array([curves.value(int(entry)) for entry in entries]),
            "false_positives": fp,
            "true_positives": tp,
        }
        for name, count, total in (
            ("fpr", fp, curves.negatives),
            ("tpr", tp, curves.positives),
            ("precision", tp, tp + fp),
        ):
            found[f"{name}_lower"], found[f"{name}_upper"] = clopper_pearson(count, total, confidence)
        return found

    def as_json(self, confidence: float) -> dict[str, Any]:
        """All of it; the curve in about POINTS points."""
        ends, counts = self.histogram
        return {
            "name": self.name,
            "auc": self.auc.as_json(),
            "average_precision": self.average_precision.as_json(),
            "brier_score": self.brier,
            "expected_calibration_error": self.ece,
            "chosen": self.chosen.as_json(),
            "others": [choice.as_json() for choice in self.others],
            "bins": [one.as_json() for one in self.bins],
            "histogram": {
                "edges": ends.tolist(),
                "negatives": counts[0].tolist(),
                "positives": counts[1].tolist(),
            },
            "curve": {
                "distinct_scores": len(self.curves.thresholds) - 1,
                **{name: column.tolist() for name, column in self.points(confidence).items()},
            },
        }


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """The whole result. `prevalence`: the share of positives where the scores will be used, if it was told."""

    data: Labelled
    confidence: float
    seed: int
    prevalence: float | None
    models: tuple[Model, ...]
    auc_tests: tuple[AucTest, ...]
    decisions: tuple[McNemar, ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether no threshold that was checked is contradicted."""
        return all(check.ok for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """The report for programs; `docs/calibration.md` has the keys."""
        return {
            "format": FORMAT,
            "tool": {"caffe_port": __version__},
            "data": {
                "source": self.data.source,
                "rows": len(self.data.labels),
                "positives": self.data.positives,
                "negatives": self.data.negatives,
                "left_out": self.data.left_out,
            },
            "confidence": self.confidence,
            "seed": self.seed,
            "prevalence": self.prevalence,
            "notes": list(self.notes),
            "models": [model.as_json(self.confidence) for model in self.models],
            "auc_tests": [test.as_json() for test in self.auc_tests],
            "decisions": [test.as_json() for test in self.decisions],
            "checks": [check.as_json() for check in self.checks],
        }

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """Writes the report, whole or not at all."""
        with replacing(path) as stream:
            stream.write(f"{json.dumps(self.as_json(), indent=1, allow_nan=False)}\n".encode())

    def write_thresholds(self, folder: Path) -> list[Path]:
        """Writes the chosen threshold of each model: `threshold.json`, of several `threshold-1.json` and so on."""
        single = len(self.models) == 1
        names = ["threshold.json"] if single else [f"threshold-{i}.json" for i in range(1, len(self.models) + 1)]
        for name, model in zip(names, self.models, strict=True):
            model.chosen.threshold.write(folder / name)
        return [folder / name for name in names]

    def table(self) -> Iterator[str]:
        """Lines for people."""
        data = self.data
        yield f"{data.source}: {len(data.labels):,} rows, {data.positives:,} positive, {data.negatives:,} negative"
        yield f"Intervals: {self.confidence:.4g} confidence"
        for model in self.models:
            yield ""
            yield model.name
            yield f"  AUC                {interval(model.auc)}"
            yield f"  average precision  {interval(model.average_precision)}"
            if model.brier is not None and model.ece is not None:
                yield f"  Brier score        {model.brier:.4f}   expected calibration error {model.ece:.4f}"
            yield ""
            yield f"  {'threshold':<12}{'flags negatives':>28}{'misses positives':>28}{'precision':>11}  rule"
            for choice in (model.chosen, *model.others):
                yield f"  {choice.threshold.value:<12.7g}{self._rates(choice)}  {choice.rule}"
            chosen = model.chosen
            if chosen.threshold.bound is not None:
                yield (
                    f"  {chosen.threshold.value!r}: {chosen.rule}, with {self.confidence:.4g} confidence "
                    f"(upper bound {percent(chosen.threshold.bound)})"
                )
            counts = chosen.confusion
            yield ""
            yield f"  at {chosen.threshold.value:.7g}   flagged      not flagged"
            yield f"    positive   {counts.true_positives:>10,}  {counts.false_negatives:>12,}"
            yield f"    negative   {counts.false_positives:>10,}  {counts.true_negatives:>12,}"
            yield ""
            yield f"  {'scores':<20}{'rows':>10}  {'mean score':>10}  {'positive':>28}"
            for one in model.bins:
                seen = f"{one.mean_score:>10.4f}  {shown(one.observed):>28}" if one.observed.total else ""
                yield f"  {f'{one.low:.4g} to {one.high:.4g}':<20}{one.observed.total:>10,}  {seen}".rstrip()
        if self.auc_tests:
            yield ""
            yield "AUCs compared (DeLong)"
        for test in self.auc_tests:
            yield f"  {test.first} less {test.second}: {interval(test.difference)}, z {test.z:.3f}, p {small(test.p)}"
        if self.decisions:
            yield ""
            yield "Decisions compared (McNemar, exact): rows that only the first or only the second has right"
        for pair in self.decisions:
            right = f"{pair.only_first:,} and {pair.only_second:,} of {pair.total:,}"
            yield f"  {pair.first} and {pair.second}, {pair.among}: {right}, p {small(pair.p)}"
        for check in self.checks:
            yield ""
            yield f"{check.source}: {told(check)}"

    def _rates(self, choice: Choice) -> str:
        t = choice.threshold
        precision = choice.confusion.rates(self.confidence)["precision"]
        flagged = percent(precision.estimate) if precision.total else "none"
        return f"{shown(t.false_positive_rate):>28}{shown(t.false_negative_rate):>28}{flagged:>11}"


def calibrate(
    data: Labelled,
    *,
    rule: Rule = _DEFAULT,
    thresholds: Sequence[float] = (),
    checked: Sequence[tuple[str, Threshold]] = (),
    confidence: float = 0.95,
    bins: int | Sequence[float] = 10,
    prevalence: float | None = None,
    seed: int = 0,
) -> Calibration:
    """Everything about the data. The same for the same data and options.

    `rule` chooses each model's threshold; `thresholds` are compared with it. `checked`: thresholds from files, with the
    files' names, held to their targets on these data. `bins`: a number, or their ends. `seed`: of the bootstrap.

    Raises: DataError, all models' together, where a threshold cannot be chosen; GraphError for options that cannot be
    meant.
    """
    if not 0.5 <= confidence < 1:
        raise GraphError(f"a confidence lies from 0.5 to below 1, not {confidence:g}")
    if prevalence is not None and not 0 < prevalence < 1:
        raise GraphError(f"a prevalence lies between 0 and 1, not {prevalence:g}")
    if seed < 0:
        raise GraphError(f"a seed is a whole number from 0, not {seed}")
    scores = list(data.scores.values())
    areas, covariance = delong(data.labels, scores)
    ends = edges(bins, scores)
    further = [Rule("given", value) for value in thresholds]
    further += [other for name in ("f1", "youden") if (other := Rule(name)) != rule]
    models, problems = [], []
    for i, name in enumerate(data.scores):
        curves = Curves.of(data.labels, scores[i])
        area = auc_interval(areas[i], covariance[i, i], confidence)
        try:
            models.append(_model(data, name, curves, area, rule, further, confidence, ends, seed))
        except DataError as error:
            problems.append(f"{data.source}: model {name!r}: {error}")
    if problems:
        raise DataError("\n".join([f"{len(problems)} problems:", *problems] if len(problems) > 1 else problems))
    pairs = list(combinations(range(len(models)), 2))
    tests = [
        compare_aucs((models[i].name, models[j].name), areas[[i, j]], covariance[np.ix_([i, j], [i, j])], confidence)
        for i, j in pairs
    ]
    checks = [_check(data, models, source, threshold) for source, threshold in checked]
    return Calibration(
        data,
        confidence,
        seed,
        prevalence,
        tuple(models),
        tuple(tests),
        tuple(_decisions(data, models, pairs)),
        tuple(checks),
        tuple(_notes(data, models, checks, confidence, len(tests))),
    )


def _model(
    data: Labelled,
    name: str,
    curves: Curves,
    area: Interval,
    rule: Rule,
    further: Sequence[Rule],
    confidence: float,
    ends: Sequence[float],
    seed: int,
) -> Model:
    scores, digest = data.scores[name], data.sha256(name)

    def chosen(by: Rule) -> Choice:
        threshold = choose(curves, by, model=name, confidence=confidence, data_sha256=digest)
        return Choice(by, threshold, curves.at(curves.index(threshold.value)))

    others = []
    first = chosen(rule)
    for other in further:
        try:
            others.append(chosen(other))
        except DataError:
            # F1 and Youden come along unasked; a model worse than chance has neither, and a note says so.
            if other.name == "given":
                raise
    found = binned(data.labels, scores, ends, confidence)
    probabilities = scores.min() >= 0 and scores.max() <= 1
    fine = np.asarray(edges(40, list(data.scores.values())))
    counts = np.stack([np.histogram(scores[chosen_], fine)[0] for chosen_ in (~data.labels, data.labels)])
    return Model(
        name,
        curves,
        area,
        average_precision(data.labels, scores, curves, confidence, seed),
        float(metrics.brier_score_loss(data.labels, scores)) if probabilities else None,
        expected_calibration_error(found) if probabilities else None,
        tuple(found),
        (fine, counts),
        first,
        tuple(others),
    )


def _decisions(data: Labelled, models: Sequence[Model], pairs: Sequence[tuple[int, int]]) -> Iterator[McNemar]:
    """Models at their chosen thresholds with each other, and each model's chosen threshold with the given ones."""

    def flagged(model: Model, choice: Choice) -> Array:
        return np.asarray(data.scores[model.name] >= choice.threshold.value)

    for i, j in pairs:
        both = models[i].name, models[j].name
        yield from mcnemar(both, data.labels, *(flagged(models[k], models[k].chosen) for k in (i, j)))
    for model in models:
        prefix = f"{model.name} " if len(models) > 1 else ""
        for other in model.others:
            if other.rule.name == "given":
                first, second = (f"{prefix}at {one.threshold.value:.7g}" for one in (model.chosen, other))
                decisions = (flagged(model, one) for one in (model.chosen, other))
                yield from mcnemar((first, second), data.labels, *decisions)


def _check(data: Labelled, models: Sequence[Model], source: str, threshold: Threshold) -> Check:
    named = [model for model in models if model.name == threshold.model] or (list(models) if len(models) == 1 else [])
    if not named:
        raise DataError(
            f"{source}: the threshold is of model {threshold.model!r}; the data are of "
            + ", ".join(repr(model.name) for model in models)
        )
    model = named[0]
    confusion = model.curves.at(model.curves.index(threshold.value))
    if threshold.target is None:
        return Check(source, threshold, model.name, confusion)
    which = "false_positive_rate" if threshold.rule == "max-fpr" else "false_negative_rate"
    rate = confusion.rates(threshold.confidence)[which]
    return Check(
        source,
        threshold,
        model.name,
        confusion,
        rate,
        float(stats.binom.sf(rate.count - 1, rate.total, threshold.target)),
    )


def _notes(
    data: Labelled, models: Sequence[Model], checks: Sequence[Check], confidence: float, tests: int
) -> Iterator[str]:
    """What whoever reads the numbers has to know."""
    if data.left_out:
        yield (
            f"{data.left_out:,} of {len(data.labels) + data.left_out:,} rows have no score and are left out. The rates "
            "are of images that can be scored."
        )
    for count, what in ((data.positives, "positives"), (data.negatives, "negatives")):
        if count < FEW:
            unseen = float(clopper_pearson(0, count, confidence)[1])
            yield (
                f"Only {count} {what}: even a rate that is 0 in these data could be {percent(unseen)}. Intervals that "
                "are made for large numbers (AUC, average precision) are rough."
            )
    for model in models:
        if model.auc.estimate < 0.5:
            yield f"{model.name}: AUC {model.auc.estimate:.3g}, worse than chance. Are labels or scores the wrong way?"
        elif model.auc.estimate == 1:
            yield (
                f"{model.name}: every positive scores higher than every negative. DeLong's interval of the AUC has no "
                "width then, which says nothing of other data."
            )
        if model.brier is None:
            yield f"{model.name}: scores are not from 0 to 1, so there is no Brier score and no calibration error."
        if model.chosen.rule.name in ("f1", "youden", "cost"):
            yield (
                f"{model.name}: the threshold was chosen and measured on the same data without a bound; its rates look "
                "a little better than they are. Check it on other data (--check)."
            )
        if not sum((model.chosen.confusion.true_positives, model.chosen.confusion.false_positives)):
            yield f"{model.name}: the chosen threshold flags nothing in these data."
        elif not sum((model.chosen.confusion.true_negatives, model.chosen.confusion.false_negatives)):
            yield f"{model.name}: the chosen threshold flags everything in these data."
    if tests > 1:
        yield f"{tests} pairs of models are compared; the p-values are not adjusted for that."
    digests = {data.sha256(model.name) for model in models}
    for check in checks:
        if check.threshold.data_sha256 in digests:
            yield f"{check.source}: the threshold was chosen on these very data, so checking it on them proves nothing."
