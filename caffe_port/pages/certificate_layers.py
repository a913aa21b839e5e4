"""The parts of a certificate's page that go by layer: plots of errors, the table, the graph, and what scripts need."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import Element

from caffe_port.compare import BlobComparison, ParityReport
from caffe_port.net import Net
from caffe_port.pages.document import Child, number, ratio, tag
from caffe_port.pages.elements import agrees, picker, scrolling
from caffe_port.pages.graph_svg import graph_svg
from caffe_port.pages.plot_svg import Point, Series, error_plot, swatch
from caffe_port.shapes import format_shape

__all__ = ["LayerResults", "badness"]


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
        return max(self.found.items(), key=lambda item: badness(item[1]), default=None)


def badness(comparison: BlobComparison) -> tuple[bool, float]:
    """To be compared: whether it disagrees, then its share of the bound; NaN is worst."""
    share = comparison.of_bound
    return not comparison.agrees, math.inf if math.isnan(share) else share


@dataclass(slots=True)
class LayerResults:
    """The reports on a net by its layers, and the parts of the page that show them."""

    net: Net
    reports: Sequence[ParityReport]
    backends: list[str] = field(init=False)
    references: list[str] = field(init=False)
    pairs: list[tuple[int, int]] = field(init=False)
    """For each report, which backend against which reference."""
    rows: list[_Row] = field(init=False)

    def __post_init__(self) -> None:
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
            for layer in self.net.layers
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
                if i not in row.found or badness(one) > badness(row.found[i]):
                    row.found[i] = one
        return rows

    # Errors by layer

    def plots(self) -> Child:
        """The errors over the layers, a plot for each reference; None where nothing was compared."""
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
            picker("plot-reference", "Reference", self.references) if len(self.references) > 1 else None,
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

    # The table

    def layers(self) -> Child:
        """The table of every output of every layer."""
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
                picker("table-reference", "Reference", self.references, "worst of all"),
                picker("table-backend", "Backend", self.backends, "worst of all"),
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
        return [controls, scrolling(table, "Layers")]

    def _layer(self, row: _Row, compared: bool) -> Element:
        known = row.index < len(self.net.layers) and self.net.layers[row.index].name == row.layer
        name: Child = tag("a", row.layer, href=f"#layer-{row.index}") if known else row.layer
        cells: list[Element] = []
        worst = row.worst()
        if worst is not None:
            report, one = worst
            cells = [tag("td", text, class_="n") for text in _numbers(one)]
            cells += [tag("td", self._whose(report), class_="whose"), agrees(one.reason)]
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

    def data(self) -> dict[str, Any]:
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

    def graph(self) -> Child:
        """The net as a picture, what does not agree marked in it."""
        layers = self.net.layers
        failing: dict[int, str] = {}
        for row in self.rows:
            worst = row.worst()
            known = row.index < len(layers) and layers[row.index].name == row.layer
            if known and worst is not None and not worst[1].agrees:
                failing.setdefault(row.index, worst[1].reason)
        strips = graph_svg(self.net, failing)
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


def _relative(value: float, scale: float) -> float:
    if value == 0 or math.isnan(value):
        return value
    return value / scale if scale else math.inf


def _numbers(one: BlobComparison) -> tuple[str, str, str, str]:
    """Distance, floor, distance in floors, share of the bound."""
    return number(one.distance), number(one.floor), ratio(one.multiple), ratio(one.of_bound)
