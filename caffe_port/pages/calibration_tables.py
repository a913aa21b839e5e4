"""The tables of a calibration's page, and how its numbers are made."""

from __future__ import annotations

from caffe_port.calibration.auc import REPLICATES
from caffe_port.calibration.report import Calibration, Model
from caffe_port.calibration.words import interval, percent, shown, small, told
from caffe_port.pages.charts_svg import Chart
from caffe_port.pages.document import Child, number, tag
from caffe_port.pages.elements import scrolling, table

__all__ = ["bins", "checks", "comparisons", "confidence_of", "method", "models", "rules"]


def confidence_of(calibration: Calibration) -> str:
    """The confidence in per cent: `95 %`."""
    return f"{100 * calibration.confidence:.4g} %"


def rules(calibration: Calibration) -> Child:
    """The thresholds by every rule, and what they do."""
    several = len(calibration.models) > 1
    rows = []
    for model in calibration.models:
        for choice in (model.chosen, *model.others):
            t = choice.threshold
            precision = choice.confusion.rates(calibration.confidence)["precision"]
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
    return scrolling(table(head, rows), "Thresholds by rule")


def checks(calibration: Calibration) -> Child:
    """How thresholds from files do on these data."""
    return [
        tag(
            "p",
            tag("b", check.source),
            f", model {check.model}: {told(check)}.",
            class_="fault" if not check.ok else "warned",
        )
        for check in calibration.checks
    ]


def models(calibration: Calibration) -> Child:
    """What the scores of each model are worth."""
    rows = []
    for model in calibration.models:
        brier = "" if model.brier is None else f"{model.brier:.4f}"
        rows.append(
            tag(
                "tr",
                tag("th", model.name, scope="row"),
                tag("td", interval(model.auc), class_="n"),
                tag("td", interval(model.average_precision), class_="n"),
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
    return scrolling(table(head, rows), "Models")


def bins(calibration: Calibration) -> Child:
    """How often what scores in a bin is positive."""
    return [
        tag(
            "p",
            "The observed rate is the share of positives among what scored in the bin. It depends on how frequent "
            "positives are in these data.",
        ),
        [_bins_of(calibration, i, model) for i, model in enumerate(calibration.models)],
    ]


def _bins_of(calibration: Calibration, i: int, model: Model) -> Child:
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
        tag("h3", model.name) if len(calibration.models) > 1 else None,
        tag(
            "div",
            tag("article", scrolling(table(head, rows), f"Score bins of {model.name}")),
            tag("article", tag("figure", tag("figcaption", "Reliability", class_="muted"), svg)),
            class_="pair",
        ),
    ]


def comparisons(calibration: Calibration) -> Child:
    """Models and decisions compared on the same rows; nothing where there is one."""
    tests, decisions = calibration.auc_tests, calibration.decisions
    aucs = [
        tag(
            "tr",
            tag("th", f"{test.first} less {test.second}", scope="row"),
            tag("td", interval(test.difference), class_="n"),
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
        parts += [tag("h3", "AUC (DeLong's test)"), scrolling(table(auc_head, aucs), "AUCs compared")]
    if pairs:
        parts += [
            tag("h3", "Decisions (McNemar's exact test)"),
            scrolling(table(head, pairs), "Decisions compared"),
        ]
    return parts


def method(calibration: Calibration) -> Child:
    """Notes, the data, and how the numbers are made."""
    data = calibration.data
    sure = confidence_of(calibration)
    facts = [
        ("Rows", f"{len(data.labels):,}"),
        ("Positive", f"{data.positives:,} ({percent(data.positives / len(data.labels))})"),
        ("Negative", f"{data.negatives:,}"),
        ("Left out, without a score", f"{data.left_out:,}" if data.left_out else "none"),
        ("Seed", str(calibration.seed)),
    ]
    sums = [
        (f"SHA-256 of {model.name}", tag("code", model.chosen.threshold.data_sha256)) for model in calibration.models
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
