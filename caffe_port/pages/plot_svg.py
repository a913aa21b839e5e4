"""A plot of errors over the layers, on a logarithmic scale, as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.etree.ElementTree import Element

from caffe_port.pages.document import tag

__all__ = ["Point", "Series", "error_plot", "swatch"]

WIDTH, HEIGHT = 860.0, 360.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 8.0, 10.0, 40.0
LANE, LANE_GAP = 20.0, 10.0
"""Height of the lanes for what a logarithm cannot show (zero below, infinite and NaN above), and their distance."""

SMALLEST, LARGEST = -14, 6
"""Powers of ten beyond which values are drawn at the edge."""
FEWEST_DECADES = 3

COLOURS = 8
_SHAPES = ("h.01", "m-2.3-2.3h4.6v4.6h-4.6z", "m0-3.4 3.4 3.4-3.4 3.4-3.4-3.4z", "m0-3.4l3.4 5.9h-6.8z")
_CROSS = "m-4-4 8 8m0-8-8 8"


@dataclass(frozen=True, slots=True)
class Point:
    """`x` is a layer's index, `y` an error: 0, infinite and NaN have places of their own."""

    x: int
    y: float
    fails: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one colour. `number` says which, and is its `data-series`."""

    number: int
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class _Axes:
    first: int
    last: int
    low: int
    high: int
    lane_above: bool

    @property
    def top(self) -> float:
        return TOP + (LANE + LANE_GAP if self.lane_above else 0)

    @property
    def bottom(self) -> float:
        return HEIGHT - BOTTOM - LANE - LANE_GAP

    def x(self, index: int) -> float:
        span = WIDTH - LEFT - RIGHT - 12
        return (
            LEFT + 6 + (span * (index - self.first) / (self.last - self.first) if self.last > self.first else span / 2)
        )

    def y(self, value: float) -> float:
        if math.isnan(value) or math.isinf(value):
            return TOP + LANE / 2
        if value <= 0:
            return HEIGHT - BOTTOM - LANE / 2
        share = (min(max(math.log10(value), self.low), self.high) - self.low) / (self.high - self.low)
        return self.bottom - share * (self.bottom - self.top)


def error_plot(
    series: Sequence[Series],
    floor: Mapping[int, float],
    bound: Mapping[int, float],
    layers: tuple[int, int],
    label: str,
) -> Element:
    """The plot: a point for every error, the floor as an area, the bound as a line.

    `floor` and `bound` are by the layers' indices; `layers` are the first index and the last. `label` says in words
    what is to be seen. For scripts, the svg tells the place of the layers in `data-first`, `data-last`, `data-left` and
    `data-right` (units of the view box), and has a hidden line `.guide`.
    """
    axes = _axes(series, floor, bound, layers)
    return tag(
        "svg",
        _grid(axes),
        tag("path", d=_steps(axes, floor, closed=True), class_="floor"),
        tag("path", d=_steps(axes, bound, closed=False), class_="bound"),
        [
            tag("g", list(_marks(axes, one)), data_series=one.number, class_=f"c{one.number % COLOURS}")
            for one in series
        ],
        tag("path", d=f"M0 {TOP}V{HEIGHT - BOTTOM}", class_="guide", visibility="hidden"),
        tag("text", "layer", x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 6, class_="axis middle"),
        viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
        class_="plot",
        role="img",
        aria_label=label,
        data_first=axes.first,
        data_last=axes.last,
        data_left=_n(axes.x(axes.first)),
        data_right=_n(axes.x(axes.last)),
    )


def swatch(number: int) -> Element:
    """The mark of a series, for a legend."""
    shape = number % len(_SHAPES)
    mark = tag("path", d=f"M8 8{_SHAPES[shape]}", class_=f"mark m{shape}")
    return tag("svg", tag("g", mark, class_=f"c{number % COLOURS}"), viewBox="0 0 16 16", class_="swatch")


def _axes(
    series: Sequence[Series], floor: Mapping[int, float], bound: Mapping[int, float], layers: tuple[int, int]
) -> _Axes:
    values = [point.y for one in series for point in one.points]
    logs = [math.log10(v) for v in (*values, *floor.values(), *bound.values()) if 0 < v < math.inf]
    low = max(SMALLEST, math.floor(min(logs, default=-8)))
    high = max(low + FEWEST_DECADES, min(LARGEST, math.ceil(max(logs, default=-5))))
    beyond = any(math.isnan(value) or math.isinf(value) for value in values)
    return _Axes(*layers, low, high, beyond)


def _grid(axes: _Axes) -> Iterator[Element]:
    step = math.ceil((axes.high - axes.low) / 8)
    for power in range(axes.low, axes.high + 1, step):
        y = axes.y(10.0**power)
        yield tag("path", d=f"M{LEFT:g} {_n(y)}H{WIDTH - RIGHT:g}", class_="grid")
        label = tag(
            "text", "10", tag("tspan", str(power).replace("-", "\u2212"), dy=-4, class_="power"), class_="axis end"
        )
        label.set("x", _n(LEFT - 7))
        label.set("y", _n(y + 4))
        yield label
    for words, y, shown in (("equal", HEIGHT - BOTTOM - LANE / 2, True), ("∞, NaN", TOP + LANE / 2, axes.lane_above)):
        if shown:
            yield tag(
                "rect", x=_n(LEFT), y=_n(y - LANE / 2), width=_n(WIDTH - LEFT - RIGHT), height=_n(LANE), class_="lane"
            )
            yield tag("text", words, x=_n(LEFT - 7), y=_n(y + 4), class_="axis end")
    for index in _ticks(axes.first, axes.last):
        x = _n(axes.x(index))
        yield tag("path", d=f"M{x} {HEIGHT - BOTTOM:g}v5", class_="tick")
        yield tag("text", str(index), x=x, y=_n(HEIGHT - BOTTOM + 17), class_="axis middle")


def _ticks(first: int, last: int) -> list[int]:
    """Five to a dozen round numbers, less where there are fewer layers."""
    step = next(s * 10**p for p in range(12) for s in (1, 2, 5) if (last - first) / (s * 10**p) <= 13)
    return list(range(-(-first // step) * step, last + 1, step))


def _steps(axes: _Axes, values: Mapping[int, float], *, closed: bool) -> str:
    """Stairs through the values, each as wide as its layer and those after it that have none."""
    indices = sorted(index for index, value in values.items() if not math.isnan(value))
    if not indices:
        return ""
    edges = [axes.x(indices[0]) - 6 if len(indices) == 1 else axes.x(indices[0])]
    edges += [(axes.x(a) + axes.x(b)) / 2 for a, b in pairwise(indices)]
    edges.append(axes.x(indices[-1]) + (6 if len(indices) == 1 else 0))
    base = _n(axes.bottom)
    heights = [_n(min(axes.y(values[index]), axes.bottom) if closed else axes.y(values[index])) for index in indices]
    path = f"M{_n(edges[0])} {base if closed else heights[0]}"
    for height, edge in zip(heights, edges[1:], strict=True):
        path += f"V{height}H{_n(edge)}"
    return f"{path}V{base}z" if closed else path


def _marks(axes: _Axes, series: Series) -> Iterator[Element]:
    shape = series.number % len(_SHAPES)
    good = "".join(f"M{_at(axes, point)}{_SHAPES[shape]}" for point in series.points if not point.fails)
    bad = "".join(f"M{_at(axes, point)}{_CROSS}" for point in series.points if point.fails)
    if good:
        yield tag("path", d=good, class_=f"mark m{shape}")
    if bad:
        yield tag("path", d=bad, class_="fails")


def _at(axes: _Axes, point: Point) -> str:
    return f"{_n(axes.x(point.x))} {_n(axes.y(point.y))}"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
