"""A calibration as one HTML page: the threshold, what it does, and the curves it is from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from caffe_port._version import __version__
from caffe_port.calibration.report import FORMAT, Calibration, Choice, Model
from caffe_port.calibration.words import percent
from caffe_port.layers.base import Array
from caffe_port.pages.calibration_charts import precision, roc, scores
from caffe_port.pages.calibration_tables import bins, checks, comparisons, confidence_of, method, models, rules
from caffe_port.pages.document import Child, document, tag
from caffe_port.pages.elements import scrolling, table

__all__ = ["page"]

STYLES = ("page.css", "figures.css", "calibration.css")
SCRIPTS = ("page.js", "calibration.js")


def page(calibration: Calibration) -> str:
    """The page, to be written as UTF-8. The same for the same calibration: nothing of the time is in it."""
    return _Page(calibration).text()


@dataclass(slots=True)
class _Page:
    calibration: Calibration
    points: list[dict[str, Array]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.points = [model.points(self.calibration.confidence) for model in self.calibration.models]

    def text(self) -> str:
        calibration = self.calibration
        several = len(calibration.models) > 1
        sections = [
            ("at", "Threshold", self._threshold()),
            ("rules", "Thresholds by rule", rules(calibration)),
            ("check", "Checked on these data", checks(calibration)),
            ("models", "Models" if several else "Model", models(calibration)),
            ("bins", "Score bins", bins(calibration)),
            ("compared", "Compared on the same data", comparisons(calibration)),
            ("data-and-method", "Data and method", method(calibration)),
        ]
        parts = [(key, heading, body) for key, heading, body in sections if body]
        body = [
            tag(
                "header",
                tag("p", "Calibration", class_="kind"),
                tag("h1", calibration.data.source),
                self._banner(),
                tag("nav", [tag("a", heading, href=f"#{key}") for key, heading, _ in parts], aria_label="On this page"),
            ),
            tag("main", [tag("section", tag("h2", heading), body, id=key) for key, heading, body in parts]),
            tag("footer", tag("p", f"Made by caffe_port {__version__} as {FORMAT}.")),
        ]
        mood = "chosen" if calibration.ok else "failed"
        title = f"Calibration: {calibration.data.source}"
        return document(title, body, styles=STYLES, scripts=SCRIPTS, data=self._data(), mood=mood)

    def _banner(self) -> Element:
        lines: list[Child] = []
        for model in self.calibration.models:
            chosen = model.chosen
            prefix = f"{model.name}: " if len(self.calibration.models) > 1 else ""
            lines.append(tag("p", f"{prefix}flag scores from {chosen.threshold.value:.7g}", class_="verdict"))
            lines.append(tag("p", self._promise(chosen)))
        if not self.calibration.ok:
            lines.append(tag("p", tag("b", "A threshold that was checked does not hold on these data."), " See below."))
        return tag("div", lines, class_="banner", role="status" if self.calibration.ok else "alert")

    def _promise(self, chosen: Choice) -> str:
        t = chosen.threshold
        flags = percent(1 - t.false_negative_rate.estimate)
        alarms = percent(t.false_positive_rate.estimate)
        done = f"In these data it flags {flags} of the positives and {alarms} of the negatives."
        if t.bound is None:
            return f"Chosen for: {chosen.rule}. {done}"
        what = "false positive" if t.rule == "max-fpr" else "false negative"
        return (
            f"With {confidence_of(self.calibration)} confidence the {what} rate is at most {percent(t.bound)}, within "
            f"the target of {100 * (t.target or 0):g} %. {done}"
        )

    # The threshold

    def _threshold(self) -> Child:
        models = self.calibration.models
        first = models[0]
        t = first.chosen.threshold
        shown_points = self.points[0]
        chosen = int(np.searchsorted(-shown_points["threshold"], -t.value, side="right")) - 1
        last = len(shown_points["threshold"]) - 1
        pick = (
            tag(
                "select", [tag("option", m.name, value=i) for i, m in enumerate(models)], id="model", aria_label="model"
            )
            if len(models) > 1
            else None
        )
        slider = tag(
            "div",
            tag(
                "div",
                tag("span", "score ≥ ", tag("span", f"{t.value:.7g}", data_cell="value"), class_="value"),
                tag(
                    "input",
                    type="range",
                    id="threshold",
                    min=0,
                    max=last,
                    value=last - chosen,
                    step=1,
                    hidden=True,
                    data_needs_script=True,
                    aria_label="threshold",
                ),
                tag("span", pick, hidden=True, data_needs_script=True) if pick is not None else None,
                class_="row",
            ),
            tag("div", id="picks", class_="picks"),
            class_="slider",
        )
        return [
            tag("noscript", tag("p", f"Shown for {first.name}; the others are in the tables.", class_="muted"))
            if len(models) > 1
            else None,
            slider,
            tag(
                "div",
                tag("article", tag("h3", "Confusion matrix"), _matrix(first), self._meant(first)),
                tag("article", tag("h3", "Rates"), self._rates(first)),
                class_="pair",
            ),
            tag("div", roc(self.calibration, self.points), precision(self.calibration, self.points), class_="pair"),
            scores(self.calibration),
            tag("p", self._thinned(0), id="thinned", class_="muted"),
        ]

    def _meant(self, model: Model) -> Child:
        """Precision where positives are rarer, or more frequent, than in the data."""
        data = self.calibration.data
        prevalence = self.calibration.prevalence or data.positives / len(data.labels)
        tpr = 1 - model.chosen.threshold.false_negative_rate.estimate
        fpr = model.chosen.threshold.false_positive_rate.estimate
        flagged = tpr * prevalence + fpr * (1 - prevalence)
        return [
            tag("h3", "Where it is used"),
            tag(
                "dl",
                tag("dt", tag("label", "Share of positives there", for_="prevalence")),
                tag(
                    "dd",
                    tag(
                        "input",
                        type="number",
                        id="prevalence",
                        min=0,
                        max=100,
                        step="any",
                        value=f"{100 * prevalence:.4g}",
                        hidden=True,
                        data_needs_script=True,
                    ),
                    tag("noscript", percent(prevalence)),
                    tag(
                        "span",
                        f"{100 * prevalence:.4g}",
                        data_cell="share",
                        class_="printed",
                        hidden=True,
                        data_needs_script=True,
                    ),
                    tag("span", " %", hidden=True, data_needs_script=True),
                ),
                tag("dt", "Flagged of all"),
                tag("dd", percent(flagged), data_cell="flags"),
                tag("dt", "Precision there"),
                tag("dd", percent(tpr * prevalence / flagged) if flagged else "none flagged", data_cell="meant"),
            ),
        ]

    def _rates(self, model: Model) -> Element:
        rates = model.chosen.confusion.rates(self.calibration.confidence)
        rows = []
        for key, name, what in (
            ("fpr", "false_positive_rate", "False positive rate"),
            ("fnr", "false_negative_rate", "False negative rate"),
            ("tpr", "recall", "Recall"),
            ("precision", "precision", "Precision"),
        ):
            rate = rates[name]
            rows.append(
                tag(
                    "tr",
                    tag("th", what, scope="row"),
                    tag("td", percent(rate.estimate) if rate.total else "none flagged", class_="n", data_cell=key),
                    tag(
                        "td",
                        f"{percent(rate.lower)} to {percent(rate.upper)}" if rate.total else "",
                        class_="muted",
                        data_cell=f"{key}-ends",
                    ),
                    tag("td", f"{rate.count:,} of {rate.total:,}", class_="muted", data_cell=f"{key}-of"),
                )
            )
        for key, what, text in (
            ("accuracy", "Accuracy", percent(rates["accuracy"].estimate)),
            ("f1", "F1", f"{model.chosen.confusion.f1:.4f}"),
        ):
            rows.append(
                tag(
                    "tr", tag("th", what, scope="row"), tag("td", text, class_="n", data_cell=key), tag("td"), tag("td")
                )
            )
        head = [("", ""), ("In these data", "n"), (f"{confidence_of(self.calibration)} interval", ""), ("Counts", "")]
        return scrolling(table(head, rows, "rates"), "Rates")

    def _thinned(self, i: int) -> str:
        drawn, distinct = len(self.points[i]["threshold"]), len(self.calibration.models[i].curves.thresholds)
        every = (
            f"The slider has all {distinct:,} thresholds that differ"
            if drawn == distinct
            else f"The slider has {drawn:,} of the {distinct:,} thresholds that differ, denser where a rate is small"
        )
        return f"{every}. The counts at each are exact."

    def _data(self) -> dict[str, Any]:
        models = []
        for i, (model, points) in enumerate(zip(self.calibration.models, self.points, strict=True)):
            thresholds = points["threshold"]

            def place(value: float, among: Array = thresholds) -> int:
                return int(np.searchsorted(-among, -value, side="right")) - 1

            picks: dict[int, tuple[str, float]] = {}
            for choice in (model.chosen, *model.others):
                words, at = "chosen" if choice is model.chosen else str(choice.rule), place(choice.threshold.value)
                earlier = picks.get(at)
                picks[at] = (f"{earlier[0]}, {words}", earlier[1]) if earlier else (words, choice.threshold.value)
            models.append(
                {
                    "positives": model.curves.positives,
                    "negatives": model.curves.negatives,
                    "threshold": thresholds.tolist(),
                    "tp": points["true_positives"].tolist(),
                    "fp": points["false_positives"].tolist(),
                    **{
                        name: [_rounded(points[f"{name}_{end}"]) for end in ("lower", "upper")]
                        for name in ("fpr", "tpr", "precision")
                    },
                    "chosen": place(model.chosen.threshold.value),
                    "picks": [[at, *pick] for at, pick in picks.items()],
                    "thinned": self._thinned(i),
                }
            )
        return {"models": models}


def _rounded(values: Array) -> list[float]:
    return [float(f"{value:.6f}") for value in values.tolist()]


def _matrix(model: Model) -> Element:
    counts = model.chosen.confusion
    cells = (
        ("Positive", ("tp", counts.true_positives, "right"), ("fn", counts.false_negatives, "wrong")),
        ("Negative", ("fp", counts.false_positives, "wrong"), ("tn", counts.true_negatives, "right")),
    )
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            [tag("td", f"{count:,}", class_=kind, data_cell=key) for key, count, kind in columns],
        )
        for name, *columns in cells
    ]
    return table([("", ""), ("Flagged", "n"), ("Not flagged", "n")], rows, "matrix")
