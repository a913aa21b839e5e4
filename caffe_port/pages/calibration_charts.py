"""The charts of a calibration's page: ROC, precision and recall, scores. Their marks are moved by the page's script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from caffe_port.calibration.report import Calibration
from caffe_port.layers.base import Array
from caffe_port.pages.charts_svg import BOTTOM, TOP, Chart, dot
from caffe_port.pages.document import tag

__all__ = ["precision", "roc", "scores"]

_CLASSES = ("negatives", "positives")
_ROC = Chart("false positive rate", "true positive rate", percent=(True, True))
_PRECISION = Chart("recall (true positive rate)", "precision", percent=(True, True))


def roc(calibration: Calibration, points: Sequence[Mapping[str, Array]]) -> Element:
    """The ROC curves with their bands, on a linear and a logarithmic axis; scripts show one of them."""

    def chart(frame: Chart) -> Element:
        bands, lines = [], []
        for i, (model, of_model) in enumerate(zip(calibration.models, points, strict=True)):
            fpr = of_model["false_positives"] / model.curves.negatives
            tpr = of_model["true_positives"] / model.curves.positives
            xs = [*of_model["fpr_lower"], *of_model["fpr_upper"][::-1]]
            ys = [*of_model["tpr_upper"], *of_model["tpr_lower"][::-1]]
            bands.append(tag("g", frame.area(xs, ys, class_="band"), class_=f"c{i % 8}", **_only(i)))
            lines.append(tag("g", frame.line(fpr, tpr, class_="curve"), class_=f"c{i % 8}"))
        t = calibration.models[0].chosen.threshold
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

    least = 10.0 ** np.floor(np.log10(1 / calibration.data.negatives))
    log = Chart("false positive rate", "true positive rate", (float(least), 1.0), log_x=True, percent=(True, True))
    linear, logarithmic = chart(_ROC), chart(log)
    for one in (linear, logarithmic):
        one.set("class", "chart live")
    return tag(
        "article",
        tag("h3", "ROC"),
        tag("figure", linear, data_twin="linear"),
        tag("figure", logarithmic, data_twin="log", hidden=True),
        _legend(calibration, [f"AUC {model.auc.estimate:.4f}" for model in calibration.models]),
        tag(
            "label",
            tag("input", type="checkbox", id="logarithmic"),
            "logarithmic false positive rate",
            class_="aside",
            hidden=True,
            data_needs_script=True,
        ),
    )


def precision(calibration: Calibration, points: Sequence[Mapping[str, Array]]) -> Element:
    """Precision over recall, with bands."""
    frame = _PRECISION
    bands, lines = [], []
    for i, (model, of_model) in enumerate(zip(calibration.models, points, strict=True)):
        tp, flagged = of_model["true_positives"], of_model["true_positives"] + of_model["false_positives"]
        some = flagged > 0
        recall = tp[some] / model.curves.positives
        xs = [*recall, *recall[::-1]]
        ys = [*of_model["precision_upper"][some], *of_model["precision_lower"][some][::-1]]
        bands.append(tag("g", frame.area(xs, ys, class_="band"), class_=f"c{i % 8}", **_only(i)))
        line = frame.line(recall, tp[some] / flagged[some], class_="curve")
        lines.append(tag("g", line, class_=f"c{i % 8}"))
    rates = calibration.models[0].chosen.confusion.rates(calibration.confidence)
    x, y = rates["recall"], rates["precision"]
    height = y.estimate if y.total else 1.0
    base = calibration.data.positives / len(calibration.data.labels)
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
    words = [f"average precision {model.average_precision.estimate:.4f}" for model in calibration.models]
    return tag("article", tag("h3", "Precision and recall"), tag("figure", svg), _legend(calibration, words))


def scores(calibration: Calibration) -> Element:
    """How the scores of each class are spread, and the threshold."""
    models = calibration.models
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
            tag("g", [_bars(chart, ends, share[k], name) for k, name in enumerate(_CLASSES)], **_only(i))
            for i, share in enumerate(shares)
        ]
        place = f"translate({chart.at_x(models[0].chosen.threshold.value):.1f} 0)"
        cut = tag("path", d=f"M0 {TOP:g}V{chart.height - BOTTOM:g}", transform=place, class_="cut")
        svg = chart.svg("how the scores of each class are spread, and the threshold", groups, cut, data_kind="scores")
        svg.set("class", f"chart live {kind}")
        drawn.append(svg)
    legend = tag(
        "div",
        [tag("span", tag("i", class_=name), name, class_="key") for name in _CLASSES],
        class_="legend",
    )
    return tag("article", tag("h3", "Scores"), tag("figure", drawn), legend)


def _only(i: int) -> dict[str, Any]:
    """What is shown of one model at a time."""
    return {"data_model": i, "visibility": None if i == 0 else "hidden"}


def _legend(calibration: Calibration, words: Sequence[str]) -> Element:
    several = len(calibration.models) > 1
    keys = [
        tag(
            "span",
            tag("svg", tag("path", d="M0 8H16", class_="curve"), viewBox="0 0 16 16", class_=f"swatch c{i % 8}"),
            f"{model.name}, {word}" if several else word,
            class_="key",
        )
        for i, (model, word) in enumerate(zip(calibration.models, words, strict=True))
    ]
    return tag("div", keys, class_="legend")


def _bars(chart: Chart, ends: Array, shares: Array, name: str) -> Element:
    bars = (chart.bar(a, b, v) for (a, b), v in zip(pairwise(ends.tolist()), shares.tolist(), strict=True) if v)
    return tag("path", d="".join(bars), class_=f"bars {name}")


def _cross(chart: Chart, x: float, y: float, xs: tuple[float, float], ys: tuple[float, float]) -> Element:
    across = f"M{chart.at_x(xs[0]):.1f} {chart.at_y(y):.1f}H{chart.at_x(xs[1]):.1f}"
    return tag(
        "path", d=f"{across}M{chart.at_x(x):.1f} {chart.at_y(ys[0]):.1f}V{chart.at_y(ys[1]):.1f}", class_="cross"
    )
