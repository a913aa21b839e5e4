"""The figure of a comparison: accuracy against multiply-accumulates, a disc's area for parameters. PNG, SVG, HTML."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe_port.errors import GraphError, MissingDependency
from caffe_port.printing import printable
from caffe_port.proto.files import replacing
from caffe_port.tradeoff.comparison import Comparison, Row
from caffe_port.tradeoff.labels import Disc, place_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FORMATS", "UNKNOWN_ACCURACY", "X_LABEL", "Y_LABEL", "Scene", "check_format", "round_ticks", "write_figure"]

FORMATS = ("png", "svg", "html")
"""What the figure can be written as; the file's suffix says which."""

X_LABEL = "multiply-accumulates of one picture, in billions"
Y_LABEL = "top-1 accuracy"
UNKNOWN_ACCURACY = ("not", "known")
"""Beside the strip of nets without a top-1 accuracy, in two lines."""

_RC = {
    "svg.hashsalt": "caffe_port",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 150,
}
_METADATA: dict[str, dict[str, Any]] = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
_LARGEST = 38.0
"""Radius of the disc with the most parameters, in points."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What is drawn, in the units of the axes, whatever draws it.

    `x` and `y` are the ends of the axes (billions, logarithmic; shares). Nets without a top-1 accuracy stand in a strip
    below `floor`, which is `y[0]` where there are none. `rows` has larger discs before smaller ones, which are drawn
    over them, each with its number in the comparison, which gives its colour.
    """

    rows: tuple[tuple[int, Row], ...]
    x: tuple[float, float]
    y: tuple[float, float]
    floor: float
    sizes: tuple[int, ...]
    """Round numbers of parameters for the legend of areas, the largest first."""

    @classmethod
    def of(cls, comparison: Comparison) -> Scene:
        """Raises: GraphError where no net has a top-1 accuracy, or one has no parameters or multiply-accumulates."""
        rows = comparison.rows
        shares = [row.top1 for row in rows if row.top1 is not None]
        if not shares:
            names = ", ".join(row.name for row in rows)
            raise GraphError(f"no top-1 accuracy is known of {names}: give one with --accuracy NAME=0.71")
        empty = [row.name for row in rows if not (row.cost.macs and row.cost.parameters)]
        if empty:
            raise GraphError(f"{', '.join(empty)}: without learned layers there is nothing to draw")
        giga = [row.cost.macs / 1e9 for row in rows]
        span = max(max(shares) - min(shares), 0.05)
        floor, top = min(shares) - 0.22 * span, min(max(shares) + 0.2 * span, 1.02)
        strip = 0.3 * (top - floor) if len(shares) < len(rows) else 0.0
        most = max(row.cost.parameters for row in rows)
        # The largest discs need room on either side, more the fewer decades there are.
        room = 2.2 * (max(giga) / min(giga)) ** 0.04
        largest = round_ticks(most / 10, most)[-1]
        return cls(
            tuple(sorted(enumerate(rows), key=lambda one: -one[1].cost.parameters)),
            (min(giga) / room, max(giga) * room),
            (floor - strip, top),
            floor,
            tuple(int(size) for size in (largest, largest / 5, largest / 20) if size >= 1),
        )

    @property
    def most(self) -> int:
        """The parameters of the largest disc."""
        return self.rows[0][1].cost.parameters

    def at(self, row: Row) -> tuple[float, float]:
        """Where a net stands."""
        height = (self.y[0] + self.floor) / 2 if row.top1 is None else row.top1
        return row.cost.macs / 1e9, height

    def radius(self, parameters: int, largest: float) -> float:
        """Of a disc, where `largest` is that of the disc with the most parameters: areas are as parameters are."""
        return largest * math.sqrt(parameters / self.most)


def round_ticks(low: float, high: float) -> list[float]:
    """The numbers 1, 2 and 5 times a power of ten from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    ticks = [float(f"{step}e{power}") for power in powers for step in (1, 2, 5)]
    return [tick for tick in ticks if low <= tick <= high]


def check_format(path: Path) -> str:
    """The format a file's name asks for. Raises: GraphError for another, MissingDependency without matplotlib."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise GraphError(f"{path}: a figure is a file ending in {', '.join(f'.{known}' for known in FORMATS)}")
    if kind != "html":
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise MissingDependency(
                f"figures need matplotlib: pip install 'caffe_port[calibration]' ({error}); HTML does without"
            ) from None
    return kind


def write_figure(comparison: Comparison, path: Path) -> None:
    """Writes the figure; the same bytes for the same comparison and libraries.

    Raises: GraphError for another suffix than `FORMATS`, and where there is nothing to draw; MissingDependency without
    matplotlib; ArtifactError where the system refuses to write.
    """
    kind = check_format(path)
    if kind == "html":
        from caffe_port.pages.tradeoff import page

        data = page(comparison).encode()
    else:
        data = _drawn(Scene.of(comparison), kind)
    with replacing(path) as stream:
        stream.write(data)


def _drawn(scene: Scene, kind: str) -> bytes:
    import matplotlib
    from matplotlib.colors import to_rgba
    from matplotlib.figure import Figure

    # A Figure of its own, not pyplot: nothing of the process's state is used, and no window system.
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_RC, "backend": "agg"}):
        figure = Figure(figsize=(7.2, 4.8), layout="constrained")
        axes, aside = figure.subplots(1, 2, width_ratios=(6, 1))
        axes.set(xscale="log", xlim=scene.x, ylim=scene.y, xlabel=X_LABEL, ylabel=Y_LABEL)
        axes.set_xticks(round_ticks(*scene.x), [f"{tick:g}" for tick in round_ticks(*scene.x)])
        axes.set_xticks([], minor=True)
        ticks = {tick: f"{100 * tick:.4g} %" for tick in axes.get_yticks() if scene.floor <= tick <= scene.y[1]}
        if scene.floor > scene.y[0]:
            axes.axhline(scene.floor, color="grey", linewidth=0.8, linestyle=":")
            ticks[(scene.y[0] + scene.floor) / 2] = "\n".join(UNKNOWN_ACCURACY)
        axes.set_yticks(list(ticks), list(ticks.values()))
        for i, row in scene.rows:
            known = row.top1 is not None
            axes.scatter(
                *([value] for value in scene.at(row)),
                s=_area(scene, row.cost.parameters),
                color=to_rgba(f"C{i % 10}", 0.5 if known else 0.12),
                edgecolor=f"C{i % 10}",
                linestyle="-" if known else "--",
                zorder=2,
            )
        aside.set_axis_off()
        # The layout is as it will be from here on, so that places in points mean something.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        _legend(scene, aside)
        _name(scene, axes)
        picture = io.BytesIO()
        figure.savefig(picture, format=kind, metadata=_METADATA[kind])
        return picture.getvalue()


def _legend(scene: Scene, axes: Axes) -> None:
    """Discs of round numbers of parameters, one below the other."""
    box = axes.get_window_extent()
    scale = 72 / axes.figure.dpi
    axes.set(xlim=(0, box.width * scale), ylim=(-box.height * scale, 0))
    middle = box.width * scale / 2
    axes.text(middle, -4, "area:\nparameters", ha="center", va="top")
    at = -36.0
    for size in scene.sizes:
        radius = scene.radius(size, _LARGEST)
        axes.scatter([middle], [at - radius], s=_area(scene, size), facecolor="none", edgecolor="grey", clip_on=False)
        axes.text(middle, at - 2 * radius - 3, f"{size / 1e6:g} M", ha="center", va="top")
        at -= 2 * radius + 24


def _area(scene: Scene, parameters: int) -> float:
    """matplotlib's `s`: the square of the disc's diameter in points."""
    return (2 * scene.radius(parameters, _LARGEST)) ** 2


def _name(scene: Scene, axes: Axes) -> None:
    """Writes the names beside their discs, where they cover nothing."""
    # Everything in points, from the figure's corner.
    scale = 72 / axes.figure.dpi
    texts = [_label(row.title) for _, row in scene.rows]
    discs = []
    for (_, row), text in zip(scene.rows, texts, strict=True):
        x, y = axes.transData.transform(scene.at(row)) * scale
        drawn = axes.text(0, 0, text)
        extent = drawn.get_window_extent()
        drawn.remove()
        discs.append(
            Disc(x, y, scene.radius(row.cost.parameters, _LARGEST), extent.width * scale, extent.height * scale)
        )
    box = axes.get_window_extent()
    frame = (box.x0 * scale, box.y0 * scale, box.x1 * scale, box.y1 * scale)
    for disc, place, text in zip(discs, place_labels(discs, frame), texts, strict=True):
        axes.annotate(
            text,
            (disc.x, disc.y),
            (place.x, place.y),
            xycoords="figure points",
            textcoords="figure points",
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "-", "color": "grey", "linewidth": 0.7, "shrinkB": disc.radius}
            if place.apart
            else None,
        )


def _label(title: str) -> str:
    """A name without what matplotlib takes for a formula; a long one is cut."""
    shown = printable(title).replace("$", r"\$")
    return shown if len(shown) <= 40 else f"{shown[:39]}…"
