"""The part of a certificate's page that says what was checked, by which rule, and how it went."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from caffe_port.budget import BudgetReport
from caffe_port.certificate import Certificate
from caffe_port.compare import ParityReport
from caffe_port.pages.certificate_layers import badness
from caffe_port.pages.document import Child, number, ratio, tag
from caffe_port.pages.elements import agrees, bullets, scrolling, table

__all__ = ["checks"]

MOST_NAMED = 20
"""Blobs that are missing or too many, named in the page; the JSON document has all."""


def checks(certificate: Certificate, document: Mapping[str, Any]) -> Child:
    """What was run and how it went: the method, reports, faults, recordings, budgets. `document`: its JSON."""
    if not certificate.reports and not certificate.budgets:
        return [tag("p", "No check was run.", class_="muted")]
    recordings = document["reference"]["recordings"]
    return [
        _method(document["tolerance"], bool(certificate.recordings)) if certificate.reports else None,
        _reports_table(certificate.reports) if certificate.reports else None,
        tag("h3", "What failed") if not all(report.ok for report in certificate.reports) else None,
        [_fault(report) for report in certificate.reports if not report.ok],
        (
            [
                tag("h3", "Recordings of Caffe"),
                [(tag("p", "Computed by ", one["caffe"]), _hashed(one["name"], one["sha256"])) for one in recordings],
            ]
            if recordings
            else None
        ),
        [tag("h3", "Held to a budget"), _budgets_table(certificate.budgets)] if certificate.budgets else None,
    ]


def _method(tolerance: Mapping[str, Any], by_caffe: bool) -> Element:
    floor = (
        "Caffe computes in float32 and so has rounding errors of its own: the largest distance of a recorded blob "
        "from the same blob computed in float64 is that blob's noise floor. "
        if by_caffe
        else "The reference is this package's own run in float64: the largest distance of a blob from it, when the "
        "net is run in float32, is that blob's noise floor. "
    )
    return tag(
        "p",
        floor,
        "A backend agrees if its own largest distance from the reference is at most "
        f"{tolerance['floors']:g} times that floor plus {tolerance['ulps']:g} ulps, the spacing of float32 at the "
        "blob's largest magnitude. "
        "Every output of every layer is held to this as it was right after the layer ran, by up to 1024 of its "
        "values and by the minimum, maximum, mean and L2 norm of all; whole numbers must be equal, and NaN never "
        "agrees.",
        class_="method",
    )


def _reports_table(reports: Sequence[ParityReport]) -> Element:
    rows = []
    for report in reports:
        worst = max(report.comparisons, key=badness, default=None)
        rows.append(
            tag(
                "tr",
                tag("th", report.backend, scope="row"),
                tag("td", report.reference),
                agrees("" if report.ok else "failed"),
                tag("td", f"{len(report.comparisons):,}", class_="n"),
                tag("td", ratio(report.median_multiple), class_="n"),
                tag("td", "" if worst is None else ratio(worst.of_bound), class_="n"),
                tag("td", "" if worst is None else worst.layer),
                class_=None if report.ok else "bad",
            )
        )
    head = [
        ("Backend", ""),
        ("Against", ""),
        ("Agrees", ""),
        ("Blobs", "n"),
        ("x floor, median", "n"),
        ("Of bound, most", "n"),
    ]
    return scrolling(table([*head, ("at layer", "")], rows), "Reports")


def _budgets_table(budgets: Sequence[BudgetReport]) -> Element:
    rows = []
    for budget in budgets:
        allowed = f"{budget.budget:.3%}"
        if not budget.outputs:
            cells = [tag("td", "nothing was compared", colspan=6), tag("td", allowed, class_="n")]
            rows.append(tag("tr", tag("th", budget.artifact, scope="row"), cells, agrees("no"), class_="bad"))
        for one in budget.outputs:
            good = bool(one.values) and one.share() <= budget.budget
            rows.append(
                tag(
                    "tr",
                    tag("th", budget.artifact, scope="row"),
                    tag("td", one.output),
                    tag("td", f"{len(budget.cases):,}", class_="n"),
                    tag("td", f"{one.values:,}", class_="n"),
                    tag("td", number(one.largest), class_="n"),
                    tag("td", number(one.mean), class_="n"),
                    tag("td", "∞" if math.isinf(one.share()) else f"{one.share():.3%}", class_="n"),
                    tag("td", allowed, class_="n"),
                    agrees("" if good else "beyond the budget"),
                    class_=None if good else "bad",
                )
            )
    head = [("File", ""), ("Output", ""), ("Inputs", "n"), ("Values", "n"), ("Largest error", "n"), ("Mean error", "n")]
    made = table([*head, ("Of magnitude", "n"), ("Budget", "n"), ("Within", "")], rows)
    return tag(
        "div",
        tag(
            "p",
            "Files of half or 8-bit precision cannot meet the noise floor. They are held to a budget on the outputs: "
            "the largest error as a share of the output's largest magnitude.",
        ),
        scrolling(made, "Budgets"),
    )


def _fault(report: ParityReport) -> Element:
    first = report.first_divergence
    return tag(
        "div",
        tag("p", report.explanation()),
        tag("p", "In the graph: ", tag("a", first.layer, href=f"#layer-{first.index}")) if first is not None else None,
        [
            [tag("p", f"{title} ({len(names):,}):"), bullets(_some(names))]
            for title, names in (
                ("Recorded, and not computed", report.missing),
                ("Computed, and not recorded", report.extra),
            )
            if names
        ],
        class_="fault",
    )


def _some(names: Sequence[str]) -> list[str]:
    more = len(names) - MOST_NAMED
    return [*names[:MOST_NAMED], *([f"and {more:,} more"] if more > 0 else [])]


def _hashed(name: str, sha256: str) -> Element:
    return tag("p", tag("b", name), " ", tag("code", sha256), class_="hash")
