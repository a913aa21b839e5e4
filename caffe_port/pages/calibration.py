"""A calibration as one HTML page: the threshold, what it does, and the curves it is from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from caffe_port._version import __version__
from caffe_port.calibration.auc import REPLICATES, Interval
from caffe_port.calibration.report import FORMAT, Calibration, Choice, Model, percent, shown, small, told
from caffe_port.layers.base import Array
from caffe_port.pages.charts_svg import BOTTOM, TOP, Chart, dot
from caffe_port.pages.document import Child, document, number, tag

__all__ = ["page"]

STYLES = ("page.css", "figures.css", "calibration.css")
SCRIPTS = ("page.js", "calibration.js")

_CLASSES = ("negatives", "positives")
_ROC = Chart("false positive rate", "true positive rate", percent=(True, True))
_PRECISION = Chart("recall (true positive rate)", "precision", percent=(True, True))


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
            ("rules", "Thresholds by rule", self._rules()),
            ("check", "Checked on these data", self._checks()),
            ("models", "Models" if several else "Model", self._models()),
            ("bins", "Score bins", self._bins()),
            ("compared", "Compared on the same data", self._comparisons()),
            ("data-and-method", "Data and method", self._method()),
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
            f"With {self._sure()} confidence the {what} rate is at most {percent(t.bound)}, within the target of "
            f"{100 * (t.target or 0):g} %. {done}"
        )

    def _sure(self) -> str:
        return f"{100 * self.calibration.confidence:.4g} %"

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
            tag("div", self._roc(), self._precision(), class_="pair"),
            self._scores(),
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
        head = [("", ""), ("In these data", "n"), (f"{self._sure()} interval", ""), ("Counts", "")]
        return _scrolling(_table(head, rows, "rates"), "Rates")

    def _roc(self) -> Element:
        def chart(frame: Chart) -> Element:
            bands, lines = [], []
            for i, (model, points) in enumerate(zip(self.calibration.models, self.points, strict=True)):
                fpr = points["false_positives"] / model.curves.negatives
                tpr = points["true_positives"] / model.curves.positives
                xs = [*points["fpr_lower"], *points["fpr_upper"][::-1]]
                ys = [*points["tpr_upper"], *points["tpr_lower"][::-1]]
                bands.append(tag("g", frame.area(xs, ys, class_="band"), class_=f"c{i % 8}", **self._only(i)))
                lines.append(tag("g", frame.line(fpr, tpr, class_="curve"), class_=f"c{i % 8}"))
            t = self.calibration.models[0].chosen.threshold
            x, y = t.false_positive_rate, t.false_negative_rate
            diagonal = np.geomspace(frame.x[0], 1, 60) if frame.log_x else np.array([0, 1])
            cross = _cross(frame, x.estimate, 1 - y.estimate, (x.lower, x.upper), (1 - y.upper, 1 - y.lower))
            label = "ROC curve with its confidence band and the point of the threshold"
            return frame.svg(
                label,
                frame.line(diagonal, diagonal, class_="chance"),
                bands,
                lines,
                cross,
                dot(frame, x.estimate, 1 - y.estimate),
                data_kind="roc",
            )

        least = 10.0 ** np.floor(np.log10(1 / self.calibration.data.negatives))
        log = Chart("false positive rate", "true positive rate", (float(least), 1.0), log_x=True, percent=(True, True))
        linear, logarithmic = chart(_ROC), chart(log)
        for one in (linear, logarithmic):
            one.set("class", "chart live")
        return tag(
            "article",
            tag("h3", "ROC"),
            tag("figure", linear, data_twin="linear"),
            tag("figure", logarithmic, data_twin="log", hidden=True),
            self._legend([f"AUC {model.auc.estimate:.4f}" for model in self.calibration.models]),
            tag(
                "label",
                tag("input", type="checkbox", id="logarithmic"),
                "logarithmic false positive rate",
                class_="aside",
                hidden=True,
                data_needs_script=True,
            ),
        )

    def _precision(self) -> Element:
        frame = _PRECISION
        bands, lines = [], []
        for i, (model, points) in enumerate(zip(self.calibration.models, self.points, strict=True)):
            tp, flagged = points["true_positives"], points["true_positives"] + points["false_positives"]
            some = flagged > 0
            recall = tp[some] / model.curves.positives
            xs = [*recall, *recall[::-1]]
            ys = [*points["precision_upper"][some], *points["precision_lower"][some][::-1]]
            bands.append(tag("g", frame.area(xs, ys, class_="band"), class_=f"c{i % 8}", **self._only(i)))
            line = frame.line(recall, tp[some] / flagged[some], class_="curve")
            lines.append(tag("g", line, class_=f"c{i % 8}"))
        rates = self.calibration.models[0].chosen.confusion.rates(self.calibration.confidence)
        x, y = rates["recall"], rates["precision"]
        height = y.estimate if y.total else 1.0
        base = self.calibration.data.positives / len(self.calibration.data.labels)
        svg = frame.svg(
            "precision-recall curve with its confidence band and the point of the threshold",
            frame.line([0, 1], [base, base], class_="chance"),
            bands,
            lines,
            _cross(frame, x.estimate, height, (x.lower, x.upper), (y.lower, y.upper)),
            dot(frame, x.estimate, height),
            data_kind="precision",
        )
        svg.set("class", "chart live")
        words = [f"average precision {model.average_precision.estimate:.4f}" for model in self.calibration.models]
        return tag("article", tag("h3", "Precision and recall"), tag("figure", svg), self._legend(words))

    def _only(self, i: int) -> dict[str, Any]:
        """What is shown of one model at a time."""
        return {"data_model": i, "visibility": None if i == 0 else "hidden"}

    def _legend(self, words: Sequence[str]) -> Element:
        several = len(self.calibration.models) > 1
        keys = [
            tag(
                "span",
                tag("svg", tag("path", d="M0 8H16", class_="curve"), viewBox="0 0 16 16", class_=f"swatch c{i % 8}"),
                f"{model.name}, {word}" if several else word,
                class_="key",
            )
            for i, (model, word) in enumerate(zip(self.calibration.models, words, strict=True))
        ]
        return tag("div", keys, class_="legend")

    def _scores(self) -> Element:
        models = self.calibration.models
        ends = models[0].histogram[0]
        shares = [model.histogram[1] / model.histogram[1].sum(axis=1, keepdims=True) for model in models]
        top = max(float(share.max()) for share in shares)
        drawn = []
        # A phone gets the same in other proportions, so that it can be read.
        for width, height, kind in ((900, 250, "wide"), (440, 280, "narrow")):
            chart = Chart(
                "score",
                "share of the class",
                (float(ends[0]), float(ends[-1])),
                (0.0, top * 1.04),
                percent=(False, True),
                width=width,
                height=height,
            )
            groups = [
                tag("g", [_bars(chart, ends, share[k], name) for k, name in enumerate(_CLASSES)], **self._only(i))
                for i, share in enumerate(shares)
            ]
            place = f"translate({chart.at_x(models[0].chosen.threshold.value):.1f} 0)"
            cut = tag("path", d=f"M0 {TOP:g}V{chart.height - BOTTOM:g}", transform=place, class_="cut")
            svg = chart.svg(
                "how the scores of each class are spread, and the threshold", groups, cut, data_kind="scores"
            )
            svg.set("class", f"chart live {kind}")
            drawn.append(svg)
        legend = tag(
            "div",
            [tag("span", tag("i", class_=name), name, class_="key") for name in _CLASSES],
            class_="legend",
        )
        return tag("article", tag("h3", "Scores"), tag("figure", drawn), legend)

    def _thinned(self, i: int) -> str:
        drawn, distinct = len(self.points[i]["threshold"]), len(self.calibration.models[i].curves.thresholds)
        every = (
            f"The slider has all {distinct:,} thresholds that differ"
            if drawn == distinct
            else f"The slider has {drawn:,} of the {distinct:,} thresholds that differ, denser where a rate is small"
        )
        return f"{every}. The counts at each are exact."

    # Tables

    def _rules(self) -> Child:
        several = len(self.calibration.models) > 1
        rows = []
        for model in self.calibration.models:
            for choice in (model.chosen, *model.others):
                t = choice.threshold
                precision = choice.confusion.rates(self.calibration.confidence)["precision"]
                rows.append(
                    tag(
                        "tr",
                        tag("td", model.name) if several else None,
                        tag(
                            "th",
                            str(choice.rule),
                            " ",
                            tag("span", "chosen", class_="chip") if choice is model.chosen else None,
                            scope="row",
                        ),
                        tag("td", f"{t.value:.7g}", class_="n"),
                        tag("td", shown(t.false_positive_rate), class_="n"),
                        tag("td", shown(t.false_negative_rate), class_="n"),
                        tag("td", percent(precision.estimate) if precision.total else "none flagged", class_="n"),
                        tag("td", f"{choice.confusion.f1:.4f}", class_="n"),
                        class_="picked" if choice is model.chosen else None,
                    )
                )
        head = [
            *([("Model", "")] if several else []),
            ("Rule", ""),
            ("Threshold", "n"),
            ("False positive rate", "n"),
            ("False negative rate", "n"),
            ("Precision", "n"),
            ("F1", "n"),
        ]
        return _scrolling(_table(head, rows), "Thresholds by rule")

    def _checks(self) -> Child:
        return [
            tag(
                "p",
                tag("b", check.source),
                f", model {check.model}: {told(check)}.",
                class_="fault" if not check.ok else "warned",
            )
            for check in self.calibration.checks
        ]

    def _models(self) -> Child:
        rows = []
        for model in self.calibration.models:
            brier = "" if model.brier is None else f"{model.brier:.4f}"
            rows.append(
                tag(
                    "tr",
                    tag("th", model.name, scope="row"),
                    tag("td", _interval(model.auc), class_="n"),
                    tag("td", _interval(model.average_precision), class_="n"),
                    tag("td", brier, class_="n"),
                    tag("td", "" if model.ece is None else f"{model.ece:.4f}", class_="n"),
                    tag("td", f"{len(model.curves.thresholds) - 1:,}", class_="n"),
                )
            )
        head = [
            ("Model", ""),
            ("AUC", "n"),
            ("Average precision", "n"),
            ("Brier score", "n"),
            ("Calibration error", "n"),
            ("Distinct scores", "n"),
        ]
        return _scrolling(_table(head, rows), "Models")

    def _bins(self) -> Child:
        return [
            tag(
                "p",
                "The observed rate is the share of positives among what scored in the bin. It depends on how frequent "
                "positives are in these data.",
            ),
            [self._bins_of(i, model) for i, model in enumerate(self.calibration.models)],
        ]

    def _bins_of(self, i: int, model: Model) -> Child:
        rows = []
        for one in model.bins:
            rate = one.observed
            svg = (
                tag(
                    "svg",
                    tag("rect", width=100, height=14),
                    tag("path", d=f"M0 0H{100 * rate.estimate:.1f}V14H0z"),
                    tag("path", d=f"M{100 * rate.lower:.1f} 7H{100 * rate.upper:.1f}", class_="ends"),
                    viewBox="0 0 100 14",
                    preserveAspectRatio="none",
                    class_="bar",
                    aria_hidden="true",
                )
                if rate.total
                else None
            )
            rows.append(
                tag(
                    "tr",
                    tag("th", f"{number(one.low)} to {number(one.high)}", scope="row", class_="span"),
                    tag("td", f"{rate.total:,}", class_="n"),
                    tag("td", f"{one.mean_score:.4f}" if rate.total else "", class_="n"),
                    tag("td", shown(rate) if rate.total else "no scores", class_="n"),
                    tag("td", svg),
                )
            )
        head = [("Score", ""), ("Rows", "n"), ("Mean score", "n"), ("Positive", "n"), ("", "")]
        used = [one for one in model.bins if one.observed.total]
        low, high = model.bins[0].low, model.bins[-1].high
        chart = Chart("mean score of the bin", "observed rate of positives", (low, high), percent=(False, True))
        marks = [
            [
                chart.line([one.mean_score] * 2, [one.observed.lower, one.observed.upper], class_="whisker"),
                tag(
                    "circle",
                    cx=f"{chart.at_x(one.mean_score):.1f}",
                    cy=f"{chart.at_y(one.observed.estimate):.1f}",
                    r=4,
                    class_="spot",
                ),
            ]
            for one in used
        ]
        perfect = chart.line([0, 1], [0, 1], class_="chance") if model.brier is not None else None
        line = chart.line([one.mean_score for one in used], [one.observed.estimate for one in used], class_="curve")
        svg = chart.svg(
            "reliability: observed rate of positives by mean score", perfect, tag("g", line, marks, class_=f"c{i % 8}")
        )
        return [
            tag("h3", model.name) if len(self.calibration.models) > 1 else None,
            tag(
                "div",
                tag("article", _scrolling(_table(head, rows), f"Score bins of {model.name}")),
                tag("article", tag("figure", tag("figcaption", "Reliability", class_="muted"), svg)),
                class_="pair",
            ),
        ]

    def _comparisons(self) -> Child:
        tests, decisions = self.calibration.auc_tests, self.calibration.decisions
        aucs = [
            tag(
                "tr",
                tag("th", f"{test.first} less {test.second}", scope="row"),
                tag("td", _interval(test.difference), class_="n"),
                tag("td", f"{test.z:.3f}", class_="n"),
                tag("td", small(test.p), class_="n"),
            )
            for test in tests
        ]
        pairs = [
            tag(
                "tr",
                tag("th", f"{one.first} and {one.second}", scope="row"),
                tag("td", one.among),
                tag("td", f"{one.total:,}", class_="n"),
                tag("td", f"{one.only_first:,}", class_="n"),
                tag("td", f"{one.only_second:,}", class_="n"),
                tag("td", small(one.p), class_="n"),
            )
            for one in decisions
        ]
        auc_head = [("Models", ""), ("Difference of AUC", "n"), ("z", "n"), ("p", "n")]
        head = [
            ("Decisions", ""),
            ("Among", ""),
            ("Rows", "n"),
            ("Only first right", "n"),
            ("Only second right", "n"),
            ("p", "n"),
        ]
        parts: list[Child] = []
        if aucs:
            parts += [tag("h3", "AUC (DeLong's test)"), _scrolling(_table(auc_head, aucs), "AUCs compared")]
        if pairs:
            parts += [
                tag("h3", "Decisions (McNemar's exact test)"),
                _scrolling(_table(head, pairs), "Decisions compared"),
            ]
        return parts

    def _method(self) -> Child:
        calibration, data = self.calibration, self.calibration.data
        sure = self._sure()
        facts = [
            ("Rows", f"{len(data.labels):,}"),
            ("Positive", f"{data.positives:,} ({percent(data.positives / len(data.labels))})"),
            ("Negative", f"{data.negatives:,}"),
            ("Left out, without a score", f"{data.left_out:,}" if data.left_out else "none"),
            ("Seed", str(calibration.seed)),
        ]
        sums = [
            (f"SHA-256 of {model.name}", tag("code", model.chosen.threshold.data_sha256))
            for model in calibration.models
        ]
        return [
            [tag("p", note, class_="warned") for note in calibration.notes],
            tag("dl", [[tag("dt", key), tag("dd", value)] for key, value in (*facts, *sums)], class_="hash"),
            tag("h3", "How the numbers are made"),
            [
                tag("p", text, class_="method")
                for text in (
                    "What scores the threshold or more is flagged. A threshold for a largest rate goes as far as the "
                    f"one-sided {sure} Clopper-Pearson bound of that rate allows; as the rate only grows on the way, "
                    f"the true rate is within the target for at least {sure} of data sets drawn like this one.",
                    f"Intervals of rates are Clopper-Pearson's, two-sided, {sure}. Bands around curves are these "
                    "intervals at each threshold by itself (pointwise): of a rate in both directions in the ROC, of "
                    "precision among what is flagged.",
                    "The interval of an AUC and the test of two are DeLong's; that of average precision is a bootstrap "
                    f"within each class ({REPLICATES:,} times). The calibration error is the distance of observed rate "
                    "and mean score over the bins, weighted by their rows.",
                    "All of it holds for images drawn like these. It says nothing of images of another kind.",
                )
            ],
        ]

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


def _bars(chart: Chart, ends: Array, shares: Array, name: str) -> Element:
    bars = (chart.bar(a, b, v) for (a, b), v in zip(pairwise(ends.tolist()), shares.tolist(), strict=True) if v)
    return tag("path", d="".join(bars), class_=f"bars {name}")


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
    return _table([("", ""), ("Flagged", "n"), ("Not flagged", "n")], rows, "matrix")


def _cross(chart: Chart, x: float, y: float, xs: tuple[float, float], ys: tuple[float, float]) -> Element:
    across = f"M{chart.at_x(xs[0]):.1f} {chart.at_y(y):.1f}H{chart.at_x(xs[1]):.1f}"
    return tag(
        "path", d=f"{across}M{chart.at_x(x):.1f} {chart.at_y(ys[0]):.1f}V{chart.at_y(ys[1]):.1f}", class_="cross"
    )


def _table(head: Sequence[tuple[str, str]], rows: Sequence[Element], kind: str | None = None) -> Element:
    columns = [tag("th", name, scope="col", class_=style or None) for name, style in head]
    return tag("table", tag("thead", tag("tr", columns)), tag("tbody", rows), class_=kind)


def _scrolling(table: Element, label: str) -> Element:
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=label)


def _interval(found: Interval) -> str:
    return f"{found.estimate:.4f} ({found.lower:.4f} to {found.upper:.4f})"
