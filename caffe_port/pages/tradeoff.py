"""A comparison of nets as one HTML page: the figure, and the table that sorts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

from caffe_port._version import __version__
from caffe_port.pages.charts_svg import BOTTOM, LEFT, RIGHT, TOP, Chart
from caffe_port.pages.document import Child, document, tag
from caffe_port.printing import printable
from caffe_port.shapes import format_shape
from caffe_port.tradeoff.comparison import Comparison, Row, megabytes, milliseconds, percent, told
from caffe_port.tradeoff.labels import Disc, place_labels
from caffe_port.tradeoff.scene import UNKNOWN_ACCURACY, X_LABEL, Y_LABEL, Scene, round_ticks

__all__ = ["page"]

STYLES = ("page.css", "figures.css", "tradeoff.css")
SCRIPTS = ("page.js", "tradeoff.js")

_SIZES = (("wide", 900, 520, 44.0), ("narrow", 360, 460, 28.0))
"""The figure twice, so that a phone can read it: class, width, least height, radius of the largest disc."""

_TYPE = 13.0
"""Size of type in the figure, as in the style."""


@dataclass(frozen=True, slots=True)
class _Axes(Chart):
    """Axes with 1, 2 and 5 of each power of ten below, and shares above `floor` at the side."""

    floor: float = 0.0

    def _grid(self) -> Iterable[Element]:
        bottom, right = self.height - BOTTOM, self.width - RIGHT
        for value in round_ticks(*self.x):
            x = f"{self.at_x(value):.1f}"
            yield tag("path", d=f"M{x} {TOP:g}V{bottom:g}", class_="grid")
            yield tag("text", f"{value:g}", x=x, y=f"{bottom + 17:g}", class_="axis middle")
        step = next(s for s in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if (self.y[1] - self.floor) / s <= 8)
        for i in range(round(self.floor / step), round(self.y[1] / step) + 1):
            if self.floor <= i * step <= min(1.0, self.y[1]):
                y = self.at_y(i * step)
                yield tag("path", d=f"M{LEFT:g} {y:.1f}H{right:g}", class_="grid")
                yield tag("text", f"{100 * i * step:.4g} %", x=f"{LEFT - 6:g}", y=f"{y + 4:.1f}", class_="axis end")


def page(comparison: Comparison) -> str:
    """The page, to be written as UTF-8; the same for the same comparison. Raises: as `Scene.of`."""
    scene = Scene.of(comparison)
    rows = comparison.rows
    sections: list[tuple[str, str, Child]] = [
        ("figure", "Accuracy against computation", _figure(scene)),
        ("table", "Table", _table(comparison)),
        ("sources", "Accuracies and their sources", _sources(rows)),
        ("meaning", "What the numbers mean", [tag("p", text, class_="method") for text in comparison.remarks()]),
    ]
    body = [
        tag(
            "header",
            tag("p", "Comparison", class_="kind"),
            tag("h1", f"{len(rows)} nets compared" if len(rows) > 1 else rows[0].title),
            tag("nav", [tag("a", heading, href=f"#{key}") for key, heading, _ in sections], aria_label="On this page"),
        ),
        tag("main", [tag("section", tag("h2", heading), content, id=key) for key, heading, content in sections]),
        tag("footer", tag("p", f"Made by caffe_port {__version__}.")),
    ]
    data = {"nets": [_facts(row) for row in rows]}
    return document(
        f"Comparison of {len(rows)} nets", body, styles=STYLES, scripts=SCRIPTS, data=data, mood="comparison"
    )


def _facts(row: Row) -> dict[str, Any]:
    """What a disc tells when it is touched."""
    cost = row.cost
    facts = [
        ["Parameters", f"{cost.parameters:,}"],
        ["Multiply-accumulates", f"{cost.macs:,}"],
        ["Blobs", megabytes(cost.activation_bytes)],
        ["Caffemodel", megabytes(cost.model_bytes)],
        ["Time", milliseconds(row.timing)],
        ["Top-1", percent(row.top1)],
        ["Top-5", percent(row.top5)],
        ["Source", "" if row.accuracy is None else f"{row.accuracy.source}, {row.accuracy.protocol}"],
    ]
    return {"title": row.title, "facts": [[what, text] for what, text in facts if text]}


def _figure(scene: Scene) -> Child:
    drawn = [_chart(scene, *size) for size in _SIZES]
    return [
        tag("p", "The area of a disc is in proportion to the net's parameters.", class_="muted"),
        tag("figure", drawn),
        tag(
            "div",
            tag("p", "Point at a disc, or touch it, for its numbers."),
            id="readout",
            aria_live="polite",
            hidden=True,
            data_needs_script=True,
        ),
    ]


def _chart(scene: Scene, kind: str, width: int, height: int, largest: float) -> Element:
    # Names of many nets need room.
    height = max(height, 36 * len(scene.rows))
    # The legend of areas stands above the axes.
    above = 2 * scene.radius(scene.sizes[0], largest) + 14
    axes = _Axes(X_LABEL, Y_LABEL, scene.x, scene.y, True, (False, True), width, height, scene.floor)
    discs, marks = [], []
    for i, row in scene.rows:
        x, y = scene.at(row)
        radius = scene.radius(row.cost.parameters, largest)
        # Upward, as labels are placed.
        disc = Disc(axes.at_x(x), -axes.at_y(y), radius, _width(row.title), _TYPE)
        discs.append(disc)
        marks.append(
            tag(
                "g",
                tag("title", f"{row.title}: {'; '.join(f'{what} {text}' for what, text in _facts(row)['facts'])}"),
                tag("circle", cx=f"{disc.x:.1f}", cy=f"{-disc.y:.1f}", r=f"{radius:.2f}"),
                # What a finger can hit.
                tag("circle", cx=f"{disc.x:.1f}", cy=f"{-disc.y:.1f}", r=f"{max(radius, 14):.1f}", class_="touch"),
                class_=f"disc c{i % 8}{' open' if row.top1 is None else ''}",
                data_net=i,
                tabindex=0,
                role="button",
                aria_label=row.title,
            )
        )
    frame = (LEFT, BOTTOM - height, width - RIGHT, -TOP)
    names = []
    for disc, place, (_, row) in zip(discs, place_labels(discs, frame), scene.rows, strict=True):
        if place.apart:
            names.append(tag("path", d=f"M{disc.x:.1f} {-disc.y:.1f}L{place.x:.1f} {-place.y:.1f}", class_="leader"))
        names.append(
            tag(
                "text",
                _short(row.title),
                x=f"{place.x:.1f}",
                y=f"{_TYPE * 0.35 - place.y:.1f}",
                class_="name middle",
            )
        )
    strip: list[Child] = []
    if scene.floor > scene.y[0]:
        y = axes.at_y(scene.floor)
        middle = axes.at_y((scene.y[0] + scene.floor) / 2) - 3
        strip = [
            tag("path", d=f"M{LEFT:g} {y:.1f}H{width - RIGHT:g}", class_="floor-line"),
            [
                tag("text", word, x=f"{LEFT - 6:g}", y=f"{middle + 16 * i:.1f}", class_="axis end")
                for i, word in enumerate(UNKNOWN_ACCURACY)
            ],
        ]
    told = ", ".join(f"{row.title} {percent(row.top1) or 'unknown'}" for _, row in scene.rows)
    svg = axes.svg(f"Top-1 accuracy against multiply-accumulates: {told}", strip, marks, names)
    # A group of controls, not one picture.
    svg.set("role", "group")
    svg.set("class", f"chart tradeoff {kind}")
    svg.set("viewBox", f"0 {-above:g} {width} {height + above:g}")
    svg.append(tag("g", list(_legend(scene, width, above, largest)), class_="sizes"))
    return svg


def _legend(scene: Scene, width: int, above: float, largest: float) -> Iterable[Element]:
    """The discs of round numbers, in a row above the axes, from the right."""
    at = float(width - RIGHT)
    middle = -above + scene.radius(scene.sizes[0], largest) + 2
    for parameters in reversed(scene.sizes):
        text, radius = f"{parameters / 1e6:g} M", scene.radius(parameters, largest)
        at -= _width(text)
        yield tag("text", text, x=f"{at:.1f}", y=f"{middle + _TYPE * 0.35:.1f}", class_="axis")
        at -= 6 + radius
        yield tag("circle", cx=f"{at:.1f}", cy=f"{middle:.1f}", r=f"{radius:.2f}")
        at -= radius + 14
    yield tag("text", "parameters", x=f"{at:.1f}", y=f"{middle + _TYPE * 0.35:.1f}", class_="axis end")


def _width(text: str) -> float:
    """About how wide a text is; fonts differ."""
    return 0.6 * _TYPE * len(_short(text))


def _short(title: str) -> str:
    title = printable(title)
    return title if len(title) <= 30 else f"{title[:29]}…"


def _table(comparison: Comparison) -> Child:
    timed = any(row.timing for row in comparison.rows)
    head = [
        ("Net", ""),
        ("Input", ""),
        ("Parameters", "number"),
        ("MACs", "number"),
        ("Blobs, MB", "number"),
        ("At once, MB", "number"),
        ("Caffemodel, MB", "number"),
        *([("Time, ms", "number"), ("Ratio", "number")] if timed else []),
        ("Top-1, %", "number"),
        ("Top-5, %", "number"),
    ]
    rows = []
    for i, row in enumerate(comparison.rows):
        cost, timing = row.cost, row.timing
        cells = [
            f"{cost.parameters:,}",
            f"{cost.macs:,}",
            *(f"{size / 1e6:.1f}" for size in (cost.activation_bytes, cost.peak_activation_bytes, cost.model_bytes)),
            *([f"{1000 * timing.seconds:.1f}" if timing else "", f"{timing.ratio:.2f}" if timing else ""] * timed),
            *(percent(share).removesuffix(" %") for share in (row.top1, row.top5)),
        ]
        inputs = ", ".join(format_shape(shape) for shape in row.net.input_shapes.values())
        rows.append(
            tag(
                "tr",
                tag("th", tag("i", class_=f"dot c{i % 8}", aria_hidden="true"), row.title, scope="row"),
                tag("td", inputs, class_="shape"),
                [tag("td", cell, class_="n") for cell in cells],
                data_net=i,
            )
        )
    table = tag(
        "table",
        tag("thead", tag("tr", [tag("th", name, scope="col", data_sort=sort or None) for name, sort in head])),
        tag("tbody", rows),
        id="nets",
        data_sortable=True,
    )
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label="Table of nets")


def _sources(rows: Iterable[Row]) -> Child:
    terms: list[Child] = []
    for row in rows:
        terms.append(tag("dt", row.title))
        if not row.accuracies:
            terms.append(tag("dd", "none published that we know of"))
        for one in row.accuracies:
            text = told(one).removesuffix(f" <{one.url}>")
            link: Child = (
                [" (", tag("a", "link", href=one.url, aria_label=f"source: {one.source}"), ")"] if one.url else None
            )
            terms.append(tag("dd", text, link))
    return tag("dl", terms)
