"""A certificate as one HTML page: what became of what, and how exactly each layer agrees."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import Element

from caffe_port.budget import BudgetReport
from caffe_port.certificate import Certificate
from caffe_port.compare import BlobComparison, ParityReport
from caffe_port.pages.document import Child, document, number, ratio, size, tag
from caffe_port.pages.graph_svg import graph_svg
from caffe_port.pages.plot_svg import Point, Series, error_plot, swatch
from caffe_port.shapes import format_shape
from caffe_port.summary import summarize

__all__ = ["page"]

STYLES = ("page.css", "figures.css")
SCRIPTS = ("page.js", "certificate.js")

MOST_NAMED = 20
"""Blobs that are missing or too many, named in the page; the JSON document has all."""


def page(certificate: Certificate) -> str:
    """The page, to be written as UTF-8. The same for the same certificate: nothing of the time is in it.

    Raises what `Certificate.as_json` raises: the files it names are read for their hashes.
    """
    return _Page(certificate).text()


@dataclass(slots=True)
class _Row:
    """One top of one layer, and its comparisons by the index of their report."""

    index: int
    layer: str
    type: str
    top: str
    shape: str
    found: dict[int, BlobComparison] = field(default_factory=dict)

    def worst(self) -> tuple[int, BlobComparison] | None:
        """The comparison that is worst, and whose it is: the first of a failed one, or of the largest share."""
        return max(self.found.items(), key=lambda item: _badness(item[1]), default=None)


def _badness(comparison: BlobComparison) -> tuple[bool, float]:
    share = comparison.of_bound
    return not comparison.agrees, math.inf if math.isnan(share) else share


@dataclass(slots=True)
class _Page:
    certificate: Certificate
    reports: tuple[ParityReport, ...] = ()
    document: dict[str, Any] = field(default_factory=dict)
    backends: list[str] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)
    """For each report, which backend against which reference."""
    rows: list[_Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reports = self.certificate.reports
        self.document = self.certificate.as_json()
        times: Counter[tuple[str, str]] = Counter()
        names = []
        for report in self.reports:
            # Recordings of one name in two folders are two references.
            times[report.backend, report.reference] += 1
            again = times[report.backend, report.reference]
            names.append((report.backend, report.reference if again == 1 else f"{report.reference} ({again})"))
        self.backends = list(dict.fromkeys(backend for backend, _ in names))
        self.references = list(dict.fromkeys(reference for _, reference in names))
        self.pairs = [(self.backends.index(backend), self.references.index(reference)) for backend, reference in names]
        self.rows = self._rows()

    def _rows(self) -> list[_Row]:
        """Every top that is computed, in Caffe's order; then what reports have and the net has not."""
        rows = [
            _Row(layer.index, layer.name, layer.type, top.name, format_shape(top.shape))
            for layer in self.certificate.net.layers
            if not layer.definition.is_input and layer.type != "Split"
            for top in layer.tops
        ]
        by_place = {(row.index, row.layer, row.top): row for row in rows}
        by_name = {(row.layer, row.top): row for row in rows}
        for i, report in enumerate(self.reports):
            for one in report.comparisons:
                # A net that was changed for its target counts its layers otherwise.
                row = by_place.get((one.index, one.layer, one.top)) or by_name.get((one.layer, one.top))
                if row is None:
                    row = _Row(one.index, one.layer, one.type, one.top, format_shape(one.shape))
                    rows.append(row)
                    by_name[one.layer, one.top] = row
                if i not in row.found or _badness(one) > _badness(row.found[i]):
                    row.found[i] = one
        return rows

    @property
    def mood(self) -> str:
        """The class of the page: `failed`, `unverified`, `caffe` or `float64`."""
        certificate = self.certificate
        if not all([*(report.ok for report in certificate.reports), *(one.ok for one in certificate.budgets)]):
            return "failed"
        if not certificate.ok:
            return "unverified"
        return "caffe" if certificate.verdict.startswith("verified against Caffe") else "float64"

    def text(self) -> str:
        name = self.certificate.net.name or "net without a name"
        sections = [
            ("files", "Files", self._files()),
            ("made", "How it was made", self._made()),
            ("checks", "Checks", self._checks()),
            ("errors", "Errors by layer", self._plots()),
            ("layers", "Layers", self._layers()),
            ("graph", "Graph", self._graph()),
        ]
        shown = [(key, heading, body) for key, heading, body in sections if body]
        body = [
            tag(
                "header",
                tag(
                    "p",
                    f"Certificate of {'conversion' if self.certificate.artifacts else 'verification'}",
                    class_="kind",
                ),
                tag("h1", name),
                self._banner(),
                tag("nav", [tag("a", heading, href=f"#{key}") for key, heading, _ in shown], aria_label="On this page"),
            ),
            tag("main", [tag("section", tag("h2", heading), body, id=key) for key, heading, body in shown]),
            tag(
                "footer",
                tag("p", f"Made by caffe_port {self.document['tool']['caffe_port']} as {self.document['format']}."),
            ),
        ]
        title = f"{self.certificate.verdict}: {name}"
        data = self._data() if self.reports else None
        return document(title, body, styles=STYLES, scripts=SCRIPTS, data=data, mood=self.mood)

    # The verdict

    def _banner(self) -> Element:
        mood = self.mood
        return tag(
            "div",
            _icon(mood),
            tag(
                "div",
                tag("p", _sentence(self.certificate.verdict), class_="verdict"),
                [tag("p", text) for text in self._in_words(mood)],
            ),
            class_="banner",
            role="status" if mood in ("caffe", "float64") else "alert",
        )

    def _in_words(self, mood: str) -> Iterator[str]:
        comparisons = [comparison for report in self.reports for comparison in report.comparisons]
        failed = sum(not comparison.agrees for comparison in comparisons)
        if mood == "unverified":
            yield (
                "Nothing was compared. Nothing here says that these files compute what the Caffe model computes."
                if not self.reports
                else "What was compared agrees, and still this is no verification."
            )
        elif mood == "failed":
            passed = [*(report.ok for report in self.reports), *(budget.ok for budget in self.certificate.budgets)]
            yield f"{passed.count(False)} of {_counted(len(passed), 'check')} failed. Do not use what was made."
            if failed:
                first = min((one for one in comparisons if not one.agrees), key=lambda one: one.index)
                yield (
                    f"{failed:,} of {_counted(len(comparisons), 'comparison')} are out of bounds, the first at layer "
                    f"{first.layer!r} ({first.type})."
                )
        else:
            against = (
                f"what Caffe computed on {_counted(len(self.certificate.recordings), 'recorded input')}"
                if mood == "caffe"
                else "this package's own run in float64"
            )
            largest = max(comparison.of_bound for comparison in comparisons)
            yield (
                f"{_counted(len(comparisons), 'comparison')} of {_counted(len(self.backends), 'backend')} with "
                f"{against}: all agree. The nearest to its bound used {largest:.0%} of it."
            )
            if mood == "float64" and self.certificate.recordings:
                yield "The files could not be run on the recordings of Caffe; that run was, and agrees with them."
            elif mood == "float64":
                yield "There was no recording of Caffe, so this does not show that Caffe computes the same."

    # Files

    def _files(self) -> Child:
        net = self.certificate.net
        totals = summarize(net)
        facts = [
            ("Phase", net.phase),
            ("Layers", f"{len(net.layers):,}"),
            ("Parameters", f"{totals.parameters:,}"),
            ("Multiply-accumulates", f"{totals.macs:,}"),
            ("Inputs", _list(f"{name}  {format_shape(shape)}" for name, shape in totals.inputs.items())),
            ("Outputs", _list(f"{name}  {format_shape(shape)}" for name, shape in totals.outputs.items())),
            ("Dialects", _list(map(str, net.dialects))),
            ("Upgrades", _list(net.upgrades)),
            ("Notes", _list(map(str, net.notes))),
        ]
        sources = [_file(s["role"], s["name"], s["bytes"], s["sha256"], {}) for s in self.document["sources"]]
        made = [
            _file(artifact.kind, artifact.name, artifact.size, artifact.sha256, artifact.details)
            for artifact in self.certificate.artifacts
        ]
        return tag(
            "div",
            tag(
                "article",
                tag("h3", "From"),
                sources or tag("p", "No file: the net was built in memory.", class_="muted"),
                _definitions(facts),
            ),
            tag(
                "article",
                tag("h3", "To"),
                made or tag("p", "No file was made: this is a verification of the net itself.", class_="muted"),
            ),
            class_="pair",
        )

    def _made(self) -> Child:
        command = self.certificate.command
        return [
            tag(
                "div",
                tag(
                    "article",
                    tag("h3", "Form and changes"),
                    _definitions([(_sentence(key), _told(value)) for key, value in self.certificate.form.items()])
                    if self.certificate.form
                    else tag("p", "In Caffe's own form."),
                    _list(self.certificate.changes)
                    if self.certificate.changes
                    else tag("p", "The net was not changed.", class_="muted"),
                ),
                tag(
                    "article",
                    tag("h3", "Versions"),
                    _definitions(list(self.document["tool"].items())),
                ),
                class_="pair",
            ),
            (
                tag(
                    "article",
                    tag("h3", "The command that repeats it"),
                    tag(
                        "div",
                        tag("pre", tag("code", command), id="command", tabindex=0),
                        tag("button", "Copy", type="button", data_copies="command", hidden=True),
                        class_="copyable",
                    ),
                )
                if command
                else None
            ),
        ]

    # Checks

    def _checks(self) -> Child:
        if not self.reports and not self.certificate.budgets:
            return [tag("p", "No check was run.", class_="muted")]
        recordings = self.document["reference"]["recordings"]
        return [
            self._method() if self.reports else None,
            _reports_table(self.reports) if self.reports else None,
            tag("h3", "What failed") if not all(report.ok for report in self.reports) else None,
            [_fault(report) for report in self.reports if not report.ok],
            (
                [
                    tag("h3", "Recordings of Caffe"),
                    [
                        (tag("p", "Computed by ", one["caffe"]), _hashed(one["name"], one["sha256"]))
                        for one in recordings
                    ],
                ]
                if recordings
                else None
            ),
            [tag("h3", "Held to a budget"), _budgets_table(self.certificate.budgets)]
            if self.certificate.budgets
            else None,
        ]

    def _method(self) -> Element:
        tolerance = self.document["tolerance"]
        floor = (
            "Caffe computes in float32 and so has rounding errors of its own: the largest distance of a recorded blob "
            "from the same blob computed in float64 is that blob's noise floor. "
            if self.certificate.recordings
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

    # Errors by layer

    def _plots(self) -> Child:
        if not any(row.found for row in self.rows):
            return None
        legend = tag(
            "div",
            [
                tag(
                    "label",
                    tag("input", type="checkbox", checked=True, value=i, hidden=True, data_needs_script=True),
                    swatch(i),
                    tag("span", name),
                )
                for i, name in enumerate(self.backends)
            ],
            tag("span", tag("i", class_="key floor"), "noise floor", class_="key"),
            tag("span", tag("i", class_="key bound"), "bound", class_="key"),
            class_="legend",
            id="legend",
        )
        return [
            tag(
                "p",
                "Distance from the reference over the blob's largest magnitude. A cross is a blob that does not agree; "
                "where values that decided differ between backends, the largest floor and bound are drawn.",
            ),
            _picker("plot-reference", "Reference", self.references) if len(self.references) > 1 else None,
            legend,
            [self._plot(i) for i in range(len(self.references))],
            tag("div", id="readout", aria_live="polite", hidden=True, data_needs_script=True),
        ]

    def _plot(self, reference: int) -> Element:
        mine = {i: backend for i, (backend, against) in enumerate(self.pairs) if against == reference}
        floor: dict[int, float] = {}
        bound: dict[int, float] = {}
        points: dict[int, list[Point]] = {backend: [] for backend in mine.values()}
        for row in self.rows:
            for i, backend in mine.items():
                one = row.found.get(i)
                if one is None:
                    continue
                points[backend].append(Point(row.index, _relative(one.distance, one.scale), not one.agrees))
                for values, value in ((floor, one.floor), (bound, one.bound)):
                    share = _relative(value, one.scale)
                    if not math.isnan(share) and share >= values.get(row.index, 0.0):
                        values[row.index] = share
        series = [Series(backend, found) for backend, found in sorted(points.items())]
        indices = [row.index for row in self.rows]
        failed = sum(point.fails for one in series for point in one.points)
        total = sum(len(one.points) for one in series)
        label = f"{self.references[reference]}: {failed} of {total} blobs out of bounds" if failed else (
            f"{self.references[reference]}: all {total} blobs within their bounds"
        )  # fmt: skip
        plot = error_plot(series, floor, bound, (min(indices), max(indices)), label)
        return tag(
            "figure",
            tag("figcaption", "Against ", tag("b", self.references[reference])),
            tag("div", plot, class_="scroll"),
            data_reference=reference,
        )

    # Layers

    def _layers(self) -> Child:
        if not self.rows:
            return [tag("p", "The net computes nothing.", class_="muted")]
        compared = any(row.found for row in self.rows)
        columns = [("#", "number"), ("Layer", ""), ("Type", ""), ("Top", ""), ("Shape", "")]
        if compared:
            columns += [(name, "number") for name in ("Distance", "Floor", "x floor", "Of bound")]
            columns += [("Worst of", ""), ("Agrees", "")]
        table = tag(
            "table",
            tag("caption", "Every output of every layer that computes; inputs and Split layers do not."),
            tag(
                "thead",
                tag("tr", [tag("th", name, scope="col", data_sort=kind or "text") for name, kind in columns]),
            ),
            tag("tbody", [self._layer(row, compared) for row in self.rows]),
            id="layer-table",
            class_="layers",
            data_sortable=True,
        )
        controls = tag(
            "div",
            tag(
                "label",
                "Filter",
                tag("input", type="search", data_filters="layer-table", placeholder="layer, type, top"),
            ),
            [
                _picker("table-reference", "Reference", self.references, "worst of all"),
                _picker("table-backend", "Backend", self.backends, "worst of all"),
                tag(
                    "label",
                    tag("input", type="checkbox", data_failing="layer-table"),
                    "only what fails",
                    class_="check",
                ),
            ]
            if compared
            else None,
            tag("output", f"{len(self.rows):,} of {len(self.rows):,}", data_counts="layer-table"),
            class_="controls",
            hidden=True,
            data_needs_script=True,
        )
        return [controls, _scrolling(table, "Layers")]

    def _layer(self, row: _Row, compared: bool) -> Element:
        known = (
            row.index < len(self.certificate.net.layers) and self.certificate.net.layers[row.index].name == row.layer
        )
        name: Child = tag("a", row.layer, href=f"#layer-{row.index}") if known else row.layer
        cells: list[Element] = []
        worst = row.worst()
        if worst is not None:
            report, one = worst
            cells = [tag("td", text, class_="n") for text in _numbers(one)]
            cells += [tag("td", self._whose(report), class_="whose"), _agrees(one.reason)]
        elif compared:
            cells = [tag("td", class_="n") for _ in range(4)] + [tag("td", class_="whose"), tag("td", "not compared")]
        return tag(
            "tr",
            tag("td", str(row.index), class_="n"),
            tag("th", name, scope="row"),
            tag("td", row.type),
            tag("td", row.top),
            tag("td", row.shape if worst is None else format_shape(worst[1].shape), class_="shape"),
            cells,
            class_="bad" if worst is not None and not worst[1].agrees else None,
        )

    def _whose(self, report: int) -> str:
        backend, reference = (
            names[i] for names, i in zip((self.backends, self.references), self.pairs[report], strict=True)
        )
        return f"{backend}, {reference}" if len(self.references) > 1 else backend

    def _data(self) -> dict[str, Any]:
        """What the scripts need beyond the table: the numbers of each report, as the page writes them."""
        return {
            "backends": self.backends,
            "references": self.references,
            "reports": [self._numbers_of(i) for i in range(len(self.reports))],
        }

    def _numbers_of(self, report: int) -> dict[str, Any]:
        found = {i: row.found[report] for i, row in enumerate(self.rows) if report in row.found}
        columns = zip(*map(_numbers, found.values()), strict=True)
        shapes = [format_shape(one.shape) for one in found.values()]
        usual = [self.rows[i].shape for i in found]
        backend, reference = self.pairs[report]
        return {
            "backend": backend,
            "reference": reference,
            **({} if len(found) == len(self.rows) else {"rows": list(found)}),
            "columns": [" ".join(column) for column in columns],
            **({} if shapes == usual else {"shapes": " ".join(shapes)}),
            "reasons": {str(i): one.reason for i, one in found.items() if one.reason},
        }

    # The graph

    def _graph(self) -> Child:
        layers = self.certificate.net.layers
        failing: dict[int, str] = {}
        for row in self.rows:
            worst = row.worst()
            known = row.index < len(layers) and layers[row.index].name == row.layer
            if known and worst is not None and not worst[1].agrees:
                failing.setdefault(row.index, worst[1].reason)
        strips = graph_svg(self.certificate.net, failing)
        if not strips:
            return None
        return [
            tag(
                "p",
                "A box is a layer and those that work in place on its output; its last line is the shape. "
                "Blue boxes have weights",
                ", red lines do not agree." if failing else ".",
            ),
            tag(
                "div",
                strips,
                class_="graph scroll",
                tabindex=0,
                role="region",
                aria_label="Graph of the net",
                data_centred=True,
            ),
        ]


# Pieces


def _reports_table(reports: Sequence[ParityReport]) -> Element:
    rows = []
    for report in reports:
        worst = max(report.comparisons, key=_badness, default=None)
        rows.append(
            tag(
                "tr",
                tag("th", report.backend, scope="row"),
                tag("td", report.reference),
                _agrees("" if report.ok else "failed"),
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
    return _scrolling(_table([*head, ("at layer", "")], rows), "Reports")


def _budgets_table(budgets: Sequence[BudgetReport]) -> Element:
    rows = []
    for budget in budgets:
        allowed = f"{budget.budget:.3%}"
        if not budget.outputs:
            cells = [tag("td", "nothing was compared", colspan=6), tag("td", allowed, class_="n")]
            rows.append(tag("tr", tag("th", budget.artifact, scope="row"), cells, _agrees("no"), class_="bad"))
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
                    _agrees("" if good else "beyond the budget"),
                    class_=None if good else "bad",
                )
            )
    head = [("File", ""), ("Output", ""), ("Inputs", "n"), ("Values", "n"), ("Largest error", "n"), ("Mean error", "n")]
    table = _table([*head, ("Of magnitude", "n"), ("Budget", "n"), ("Within", "")], rows)
    return tag(
        "div",
        tag(
            "p",
            "Files of half or 8-bit precision cannot meet the noise floor. They are held to a budget on the outputs: "
            "the largest error as a share of the output's largest magnitude.",
        ),
        _scrolling(table, "Budgets"),
    )


def _table(head: Sequence[tuple[str, str]], rows: Sequence[Element]) -> Element:
    columns = [tag("th", name, scope="col", class_=kind or None) for name, kind in head]
    return tag("table", tag("thead", tag("tr", columns)), tag("tbody", rows))


def _scrolling(table: Element, label: str) -> Element:
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=label)


def _fault(report: ParityReport) -> Element:
    first = report.first_divergence
    return tag(
        "div",
        tag("p", report.explanation()),
        tag("p", "In the graph: ", tag("a", first.layer, href=f"#layer-{first.index}")) if first is not None else None,
        [
            [tag("p", f"{title} ({len(names):,}):"), _list(_some(names))]
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


def _agrees(reason: str) -> Element:
    return tag("td", "✗ ", tag("span", reason), class_="no") if reason else tag("td", "✓", class_="yes")


def _numbers(one: BlobComparison) -> tuple[str, str, str, str]:
    """Distance, floor, distance in floors, share of the bound."""
    return number(one.distance), number(one.floor), ratio(one.multiple), ratio(one.of_bound)


def _relative(value: float, scale: float) -> float:
    if value == 0 or math.isnan(value):
        return value
    return value / scale if scale else math.inf


def _file(kind: str, name: str, bytes_: int, sha256: str, details: Mapping[str, Any]) -> Element:
    return tag(
        "div",
        tag("p", tag("b", name), " ", tag("span", kind, class_="chip")),
        tag("p", size(bytes_), class_="muted"),
        tag("p", tag("span", "SHA-256 ", class_="muted"), tag("code", sha256), class_="hash"),
        _definitions([(_sentence(key), _told(value)) for key, value in details.items()]),
        class_="file",
    )


def _hashed(name: str, sha256: str) -> Element:
    return tag("p", tag("b", name), " ", tag("code", sha256), class_="hash")


def _definitions(pairs: Sequence[tuple[str, Child]]) -> Element | None:
    shown = [(key, value) for key, value in pairs if value]
    if not shown:
        return None
    return tag("dl", [[tag("dt", key), tag("dd", value)] for key, value in shown])


def _list(items: Iterable[str]) -> Element | None:
    found = list(items)
    return tag("ul", [tag("li", item) for item in found], class_="long") if found else None


def _picker(identity: str, label: str, names: Sequence[str], everything: str | None = None) -> Element:
    """A choice of one name, or of all."""
    options = [] if everything is None else [tag("option", everything, value="")]
    options += [tag("option", name, value=i) for i, name in enumerate(names)]
    return tag(
        "label", label, tag("select", options, id=identity), hidden=True, data_needs_script=True, class_="picker"
    )


def _told(value: Any) -> str:
    """A value of `form` or `details` in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_told(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_told, value))
    return str(value)


def _sentence(text: str) -> str:
    return (text[:1].upper() + text[1:]).replace("_", " ")


def _counted(many: int, what: str) -> str:
    return f"{many:,} {what}{'' if many == 1 else 's'}"


_ICONS = {
    "caffe": "M20 33l8 8 16-18",
    "float64": "M20 33l8 8 16-18",
    "failed": "M22 22l20 20m0-20L22 42",
    "unverified": "M32 25v15m0 9v.5",
}


def _icon(mood: str) -> Element:
    outline = {"failed": "M21 5h22l16 16v22L43 59H21L5 43V21z", "unverified": "M32 5l29 52H3z"}
    round_ = "M32 4a28 28 0 1 1 0 56a28 28 0 1 1 0-56z"
    return tag(
        "svg",
        tag("path", d=outline.get(mood, round_)),
        tag("path", d=_ICONS[mood]),
        viewBox="0 0 64 64",
        class_="icon",
        aria_hidden="true",
    )
