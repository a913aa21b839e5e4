"""A threshold as a file: what is flagged, how that was decided, and how sure it is."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from caffe_port.errors import DataError, Location, Problems
from caffe_port.proto.files import replacing
from caffe_port.reading import parse_json, shown, text_of

__all__ = ["FORMAT", "RULES", "Costs", "Rate", "Threshold", "read"]

FORMAT = "caffe_port threshold 1"
"""What the key `format` of a threshold's file says."""

RULES = ("max-fpr", "max-fnr", "cost", "f1", "youden", "given")
"""How a threshold can have been chosen; `docs/calibration.md` says what each means."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` of `total`, with the two-sided confidence interval (Clopper-Pearson) of the rate."""

    count: int
    total: int
    lower: float
    upper: float

    @property
    def estimate(self) -> float:
        """The rate in the data; NaN of nothing."""
        return self.count / self.total if self.total else math.nan

    def as_json(self) -> dict[str, Any]:
        """All of it; the estimate of nothing is null."""
        estimate = self.estimate if self.total else None
        return {
            "count": self.count,
            "total": self.total,
            "estimate": estimate,
            "lower": self.lower,
            "upper": self.upper,
        }


@dataclass(frozen=True, slots=True)
class Costs:
    """What an error of each kind costs, in any one unit, and the share of positives where the threshold is used."""

    false_positive: float
    false_negative: float
    prevalence: float

    def as_json(self) -> dict[str, float]:
        """The three numbers."""
        return {
            "false_positive": self.false_positive,
            "false_negative": self.false_negative,
            "prevalence": self.prevalence,
        }


@dataclass(frozen=True, slots=True)
class Threshold:
    """What is scored `value` or more is flagged.

    - `model`: whose scores these are; `rule`: one of RULES.
    - `target`: the largest rate that `max-fpr` or `max-fnr` allows, and `bound` the one-sided upper confidence bound of
      that rate, which is at most the target; None for other rules. `costs`: of the rule `cost`.
    - `confidence`: of the bound and of the intervals.
    - `false_positive_rate`: of the negatives in the data; `false_negative_rate`: of the positives.
    - `data_sha256`: of the labels and scores it was chosen on (`Labelled.sha256`).
    """

    value: float
    model: str
    rule: str
    confidence: float
    false_positive_rate: Rate
    false_negative_rate: Rate
    data_sha256: str
    target: float | None = None
    bound: float | None = None
    costs: Costs | None = None

    def flag(self, score: float) -> bool:
        """Whether a score is flagged: `score >= value`. NaN is not."""
        return score >= self.value

    @property
    def positives(self) -> int:
        """How many of the data are positive."""
        return self.false_negative_rate.total

    @property
    def negatives(self) -> int:
        """How many of the data are negative."""
        return self.false_positive_rate.total

    def as_json(self) -> dict[str, Any]:
        """What the file holds: `format` and every field."""
        return {
            "format": FORMAT,
            "value": self.value,
            "model": self.model,
            "rule": self.rule,
            "target": self.target,
            "bound": self.bound,
            "costs": None if self.costs is None else self.costs.as_json(),
            "confidence": self.confidence,
            "false_positive_rate": self.false_positive_rate.as_json(),
            "false_negative_rate": self.false_negative_rate.as_json(),
            "data_sha256": self.data_sha256,
        }

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the file, whole or not at all. Raises: ArtifactError where the system refuses."""
        text = json.dumps(self.as_json(), indent=1, allow_nan=False)
        with replacing(path) as stream:
            stream.write(f"{text}\n".encode())


def read(path: str | os.PathLike[str]) -> Threshold:
    """Reads what `Threshold.write` wrote. Raises: DataError naming everything that is wrong with it."""
    name = os.fspath(path)
    try:
        document = parse_json(text_of(path))
    except FileNotFoundError:
        raise DataError(f"{name}: no such file") from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"{name}: no JSON that can be read: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise DataError(f"{name}: no threshold: a JSON object whose 'format' is {json.dumps(FORMAT)} is expected")
    reader = _Reader(Location(name), Problems())
    threshold = reader.threshold(document)
    reader.problems.raise_if_any()
    return threshold


@dataclass(slots=True)
class _Reader:
    """Takes values out of a document and notes what is wrong; what it returns then is of no use."""

    where: Location
    problems: Problems

    def threshold(self, document: Mapping[str, Any]) -> Threshold:
        self._keys(
            document,
            "",
            "format value model rule target bound costs confidence false_positive_rate false_negative_rate data_sha256",
        )
        rule = document.get("rule")
        self._require(isinstance(rule, str) and rule in RULES, "rule", f"one of {', '.join(RULES)}", rule)
        model = document.get("model")
        self._require(isinstance(model, str) and model != "", "model", "a name", model)
        digest = document.get("data_sha256")
        good = isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) is not None
        self._require(good, "data_sha256", "64 hexadecimal digits", digest)
        bounded, costed = rule in ("max-fpr", "max-fnr"), rule == "cost"
        # What a rule has nothing of is null.
        for key, belongs in (("target", bounded), ("bound", bounded), ("costs", costed)):
            if not belongs:
                self._require(document.get(key) is None, key, f"null with the rule {rule!r}", document.get(key))
        target = self._number(document, "target", 0, 1) if bounded else None
        bound = self._number(document, "bound", 0, 1) if bounded else None
        if target is not None and bound is not None and bound > target:
            self._add(f"'bound' {bound:g} is above 'target' {target:g}: the threshold does not hold it")
        return Threshold(
            value=self._number(document, "value", -math.inf, math.inf),
            model=str(model),
            rule=str(rule),
            confidence=self._number(document, "confidence", 0, 1, open_=True),
            false_positive_rate=self._rate(document, "false_positive_rate"),
            false_negative_rate=self._rate(document, "false_negative_rate"),
            data_sha256=str(digest),
            target=target,
            bound=bound,
            costs=self._costs(document) if costed else None,
        )

    def _rate(self, document: Mapping[str, Any], key: str) -> Rate:
        found = self._inner(document, key, "count total estimate lower upper")
        count, total = found.get("count"), found.get("total")
        good = type(count) is int and type(total) is int and 0 <= count <= total and total > 0
        self._require(good, key, "a 'count' out of a 'total' above 0, both whole numbers", (count, total))
        lower, upper = (self._number(found, end, 0, 1, within=f"{key}.") for end in ("lower", "upper"))
        estimate = self._number(found, "estimate", 0, 1, within=f"{key}.")
        if not good:
            return Rate(0, 0, 0, 0)
        rate = Rate(int(count or 0), int(total or 0), lower, upper)
        self._require(estimate == rate.estimate, f"{key}.estimate", "count / total", estimate)
        if not lower <= rate.estimate <= upper:
            self._add(f"{key!r}: the interval {lower:g} to {upper:g} does not hold {rate.estimate:g}")
        return rate

    def _costs(self, document: Mapping[str, Any]) -> Costs:
        found = self._inner(document, "costs", "false_positive false_negative prevalence")
        fp, fn = (self._number(found, k, 0, math.inf, within="costs.") for k in ("false_positive", "false_negative"))
        return Costs(fp, fn, self._number(found, "prevalence", 0, 1, within="costs."))

    def _inner(self, document: Mapping[str, Any], key: str, keys: str) -> Mapping[str, Any]:
        found = document.get(key)
        if not isinstance(found, dict):
            self._require(False, key, "an object", found)
            found = {}
        else:
            self._keys(found, f"{key}.", keys)
        return found

    def _keys(self, found: Mapping[str, Any], within: str, keys: str) -> None:
        known = keys.split()
        for key in found:
            if key not in known:
                self._add(f"unknown key {shown(within + key)}", hint=f"known: {', '.join(known)}")
        for key in known:
            if key not in found:
                self._add(f"{within + key!r} is missing")

    def _number(
        self, found: Mapping[str, Any], key: str, low: float, high: float, *, open_: bool = False, within: str = ""
    ) -> float:
        value = found.get(key)
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if good:
            try:
                number = float(value or 0)
            except OverflowError:
                number = math.inf
            good = math.isfinite(number) and (low < number < high if open_ else low <= number <= high)
            if good:
                return number
        span = "" if math.isinf(high) and low else f" from {low:g}" + ("" if math.isinf(high) else f" to {high:g}")
        what = f"between {low:g} and {high:g}" if open_ else f"a finite number{span}"
        self._require(False, within + key, what, value, missing=key not in found)
        return math.nan

    def _require(self, good: bool, key: str, what: str, value: object, *, missing: bool = False) -> None:
        # A missing key is reported as such already.
        if not good and not missing and value is not None:
            self._add(f"{key!r} must be {what}, not {shown(value)}")
        elif not good and not missing:
            self._add(f"{key!r} must be {what}")

    def _add(self, text: str, hint: str = "") -> None:
        self.problems.add(DataError, text, location=self.where, hint=hint)
