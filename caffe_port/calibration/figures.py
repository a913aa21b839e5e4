"""The curves as pictures: PNG and SVG by matplotlib, the same bytes for the same data and version."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_port.calibration.report import Calibration
from caffe_port.errors import GraphError
from caffe_port.optional import require_matplotlib
from caffe_port.plotting import drawn, plain_label, plain_style
from caffe_port.proto.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FORMATS", "write_figures"]

FORMATS = ("png", "svg")
"""What figures can be written as."""

_LONGEST = 80
"""Characters of a name in a legend; longer ones are cut."""


def write_figures(calibration: Calibration, folder: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Writes `roc`, `precision-recall`, `reliability` and `scores` in each format into the folder.

    Raises: MissingDependency without matplotlib; ArtifactError where the system refuses to write.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    for one in formats:
        if one not in FORMATS:
            raise GraphError(f"unknown format of figures {one!r}; known: {', '.join(FORMATS)}")
    written = []
    with plain_style():
        for name, draw in (
            ("roc", _roc),
            ("precision-recall", _precision_recall),
            ("reliability", _reliability),
            ("scores", _scores),
        ):
            count = len(calibration.models) if draw is _scores else 1
            figure = Figure(figsize=(5, 4.4 if count == 1 else 2.2 * count), layout="constrained")
            draw(calibration, list(figure.subplots(count, squeeze=False)[:, 0]))
            for kind in formats:
                picture = drawn(figure, kind)
                with replacing(folder / f"{name}.{kind}") as stream:
                    stream.write(picture)
                written.append(folder / f"{name}.{kind}")
    return written


def _roc(calibration: Calibration, places: list[Axes]) -> None:
    (axes,) = places
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    for i, model in enumerate(calibration.models):
        points, colour = model.points(calibration.confidence), f"C{i}"
        # Between the corners of each threshold's rectangle of both intervals.
        axes.fill(
            [*points["fpr_lower"], *points["fpr_upper"][::-1]],
            [*points["tpr_upper"], *points["tpr_lower"][::-1]],
            color=colour,
            alpha=0.18,
            linewidth=0,
        )
        fpr = points["false_positives"] / model.curves.negatives
        axes.plot(
            fpr,
            points["true_positives"] / model.curves.positives,
            color=colour,
            label=_named(i, model.name, f"AUC {model.auc.estimate:.4f}"),
        )
        t = model.chosen.threshold
        axes.plot([t.false_positive_rate.estimate], [1 - t.false_negative_rate.estimate], "o", color=colour)
    _frame(axes, "false positive rate", "true positive rate", "lower right")


def _precision_recall(calibration: Calibration, places: list[Axes]) -> None:
    (axes,) = places
    axes.axhline(calibration.data.positives / len(calibration.data.labels), color="grey", linewidth=0.8, linestyle=":")
    for i, model in enumerate(calibration.models):
        points, colour = model.points(calibration.confidence), f"C{i}"
        recall = points["true_positives"] / model.curves.positives
        flagged = points["true_positives"] + points["false_positives"]
        some = flagged > 0
        axes.fill_between(
            recall[some],
            points["precision_lower"][some],
            points["precision_upper"][some],
            color=colour,
            alpha=0.18,
            linewidth=0,
        )
        label = _named(i, model.name, f"average precision {model.average_precision.estimate:.4f}")
        axes.plot(recall[some], points["true_positives"][some] / flagged[some], color=colour, label=label)
        counts = model.chosen.confusion
        if counts.true_positives + counts.false_positives:
            precision = counts.true_positives / (counts.true_positives + counts.false_positives)
            axes.plot([counts.true_positives / model.curves.positives], [precision], "o", color=colour)
    _frame(axes, "recall", "precision", "lower left")


def _reliability(calibration: Calibration, places: list[Axes]) -> None:
    (axes,) = places
    if all(model.brier is not None for model in calibration.models):
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    for i, model in enumerate(calibration.models):
        used = [one for one in model.bins if one.observed.total]
        rates = [one.observed.estimate for one in used]
        errors = [
            [rate - one.observed.lower for rate, one in zip(rates, used, strict=True)],
            [one.observed.upper - rate for rate, one in zip(rates, used, strict=True)],
        ]
        axes.errorbar(
            [one.mean_score for one in used],
            rates,
            errors,
            color=f"C{i}",
            marker="o",
            capsize=2,
            label=_named(i, model.name, ""),
        )
    _frame(axes, "mean score of the bin", "observed rate of positives", "upper left")
    axes.set_xlim(auto=True)


def _scores(calibration: Calibration, places: list[Axes]) -> None:
    for model, axes in zip(calibration.models, places, strict=True):
        ends, counts = model.histogram
        for label, colour, row in (("negative", "C0", counts[0]), ("positive", "C3", counts[1])):
            axes.stairs(row / row.sum(), ends, fill=True, color=colour, alpha=0.45, label=label)
        axes.axvline(model.chosen.threshold.value, color="black", linewidth=1, label="threshold")
        axes.set_xlabel(plain_label(f"score ({model.name})", _LONGEST))
        axes.set_ylabel("share of the class")
        axes.legend()


def _frame(axes: Axes, x: str, y: str, where: str) -> None:
    axes.set(xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.legend(loc=where)


def _named(number: int, name: str, more: str) -> str:
    # matplotlib leaves labels that begin with _ out.
    return plain_label(f"{number + 1}: {name}{', ' if more else ''}{more}", _LONGEST)
