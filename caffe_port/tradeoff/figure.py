"""The figure of a comparison: accuracy against multiply-accumulates, a disc's area for parameters. PNG, SVG, HTML."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from caffe_port.errors import GraphError
from caffe_port.optional import require_matplotlib
from caffe_port.pages.tradeoff import page
from caffe_port.plotting import drawn, plain_label, plain_style
from caffe_port.proto.files import replacing
from caffe_port.tradeoff.comparison import Comparison
from caffe_port.tradeoff.labels import Disc, place_labels
from caffe_port.tradeoff.scene import UNKNOWN_ACCURACY, X_LABEL, Y_LABEL, Scene, round_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FORMATS", "check_format", "write_figure"]

FORMATS = ("png", "svg", "html")
"""What the figure can be written as; the file's suffix says which."""

_LARGEST = 38.0
"""Radius of the disc with the most parameters, in points."""


def check_format(path: Path) -> str:
    """The format a file's name asks for. Raises: GraphError for another, MissingDependency without matplotlib."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise GraphError(f"{path}: a figure is a file ending in {', '.join(f'.{known}' for known in FORMATS)}")
    if kind != "html":
        require_matplotlib("write HTML, which does without")
    return kind


def write_figure(comparison: Comparison, path: Path) -> None:
    """Writes the figure; the same bytes for the same comparison and libraries.

    Raises: GraphError for another suffix than `FORMATS`, and where there is nothing to draw; MissingDependency without
    matplotlib; ArtifactError where the system refuses to write.
    """
    kind = check_format(path)
    if kind == "html":
        data = page(comparison).encode()
    else:
        data = _drawn(Scene.of(comparison), kind)
    with replacing(path) as stream:
        stream.write(data)


def _drawn(scene: Scene, kind: str) -> bytes:
    from matplotlib.colors import to_rgba
    from matplotlib.figure import Figure

    with plain_style({"axes.axisbelow": True}):
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
        return drawn(figure, kind)


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
    texts = [plain_label(row.title, 40) for _, row in scene.rows]
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
