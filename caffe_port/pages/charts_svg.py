"""Curves, bands and bars over numbers, as SVG whose marks scripts can move."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from caffe_port.pages.document import Child, number, tag

__all__ = ["BOTTOM", "TOP", "Chart", "dot"]


LEFT, RIGHT, TOP, BOTTOM = 64.0, 22.0, 10.0, 44.0
"""What is around the frame, in units of the view box."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A frame with axes from `x[0]` to `x[1]` and `y[0]` to `y[1]`; `log_x` makes the first logarithmic (above 0).

    The svg tells scripts the frame (`data-left`, `-right`, `-top`, `-bottom`, units of the view box) and the ends of
    the axes (`data-x0`, `-x1`, `-y0`, `-y1`, `data-log`).
    """

    x_label: str
    y_label: str
    x: tuple[float, float] = (0.0, 1.0)
    y: tuple[float, float] = (0.0, 1.0)
    log_x: bool = False
    percent: tuple[bool, bool] = (False, False)
    width: float = 440.0
    height: float = 330.0

    def at_x(self, value: float) -> float:
        """Where a value stands, in units of the view box."""
        low, high = self.x
        if self.log_x:
            value, low, high = math.log10(max(value, low)), math.log10(low), math.log10(high)
        return LEFT + (min(max(value, low), high) - low) / (high - low) * (self.width - LEFT - RIGHT)

    def at_y(self, value: float) -> float:
        """Where a value stands, in units of the view box."""
        low, high = self.y
        bottom = self.height - BOTTOM
        return bottom - (min(max(value, low), high) - low) / (high - low) * (bottom - TOP)

    def line(self, xs: Iterable[float], ys: Iterable[float], **attributes: object) -> Element:
        """A path through points."""
        return tag("path", d=_through(self._places(xs, ys)), **attributes)

    def area(self, xs: Sequence[float], ys: Sequence[float], **attributes: object) -> Element:
        """A closed path through points."""
        return tag("path", d=f"{_through(self._places(xs, ys))}z", **attributes)

    def bar(self, low: float, high: float, value: float) -> str:
        """Path data of a bar from the bottom."""
        left, right = self.at_x(low), self.at_x(high)
        return f"M{_n(left)} {_n(self.at_y(self.y[0]))}V{_n(self.at_y(value))}H{_n(right)}V{_n(self.at_y(self.y[0]))}z"

    def svg(self, label: str, *content: Child, **attributes: object) -> Element:
        """The chart: grid, what it is given, and the axes' names. `label` says in words what is to be seen."""
        bottom, right = self.height - BOTTOM, self.width - RIGHT
        middle = (TOP + bottom) / 2
        return tag(
            "svg",
            list(self._grid()),
            content,
            tag("text", self.x_label, x=_n((LEFT + right) / 2), y=_n(self.height - 6), class_="axis middle"),
            tag("text", self.y_label, transform=f"translate(13 {_n(middle)}) rotate(-90)", class_="axis middle"),
            viewBox=f"0 0 {self.width:g} {self.height:g}",
            class_="chart",
            role="img",
            aria_label=label,
            data_left=_n(LEFT),
            data_right=_n(right),
            data_top=_n(TOP),
            data_bottom=_n(bottom),
            data_x0=repr(self.x[0]),
            data_x1=repr(self.x[1]),
            data_y0=repr(self.y[0]),
            data_y1=repr(self.y[1]),
            data_log=self.log_x,
            **attributes,
        )

    def _places(self, xs: Iterable[float], ys: Iterable[float]) -> list[str]:
        places: list[str] = []
        for x, y in zip(xs, ys, strict=True):
            place = f"{_n(self.at_x(x))} {_n(self.at_y(y))}"
            # Many points fall on one place of the screen.
            if not places or places[-1] != place:
                places.append(place)
        return places

    def _grid(self) -> Iterable[Element]:
        bottom, right = self.height - BOTTOM, self.width - RIGHT
        ticks = _decades(*self.x) if self.log_x else _round(*self.x, 5)
        for value in ticks:
            x = _n(self.at_x(value))
            yield tag("path", d=f"M{x} {_n(TOP)}V{_n(bottom)}", class_="grid")
            yield tag("text", _tick(value, self.percent[0]), x=x, y=_n(bottom + 16), class_="axis middle")
        for value in _round(*self.y, 5):
            y = self.at_y(value)
            yield tag("path", d=f"M{_n(LEFT)} {_n(y)}H{_n(right)}", class_="grid")
            yield tag("text", _tick(value, self.percent[1]), x=_n(LEFT - 6), y=_n(y + 4), class_="axis end")


def dot(chart: Chart, x: float, y: float, **attributes: object) -> Element:
    """A mark that scripts move by its transform."""
    place = f"translate({_n(chart.at_x(x))} {_n(chart.at_y(y))})"
    return tag("circle", r=6, transform=place, class_="dot", **attributes)


def _through(places: Sequence[str]) -> str:
    return f"M{'L'.join(places)}" if places else ""


def _tick(value: float, percent: bool) -> str:
    return f"{number(100 * value)} %" if percent else number(value)


def _round(low: float, high: float, about: int) -> list[float]:
    """Round numbers, about as many."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / about))
    step = next(power * s for s in (1, 2, 5, 10) if (high - low) / (power * s) <= about * 1.01)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    return [10.0**p for p in range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)]


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
