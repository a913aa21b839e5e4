"""What came of a fine-tuning: `report.md` for people, `report.json` for programs, `validation.html` with the curves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_port._version import __version__
from caffe_port.calibration.auc import Interval
from caffe_port.calibration.report import Calibration
from caffe_port.calibration.words import percent, shown, small
from caffe_port.conversion import Conversion
from caffe_port.finetuning.evaluation import CONFIDENCE, ClassAuc, Scores
from caffe_port.finetuning.run import Finetuning, Trained
from caffe_port.proto.files import replacing

__all__ = ["FORMAT", "Result", "summary", "write_report"]

FORMAT = "caffe_port fine-tuning report 1"


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What came of it: validation scores after and before (None where the model has other classes), the AUC of each
    class, the calibration of both (two classes), and the files. conversion: None only in a report of what failed."""

    after: Scores
    before: Scores | None
    aucs: tuple[ClassAuc, ...]
    calibration: Calibration | None
    conversion: Conversion | None
    notes: tuple[str, ...]
    files: tuple[Path, ...]


def summary(result: Result) -> Iterator[str]:
    """A few lines: what was measured on the validation images, before and after."""
    yield f"validation: {len(result.after.labels)} images"
    for when, scores in (("before", result.before), ("after", result.after)):
        if scores is not None:
            yield f"{when:<8}accuracy {shown(scores.accuracy)}, loss {scores.loss():.4f}"
    for auc in result.aucs:
        yield f"AUC of {auc.name}: {_told(auc)}"


def write_report(work: Finetuning, result: Result, trained: Trained | None) -> list[Path]:
    """Writes the report into the run's folder. Returns the files. Raises: ArtifactError."""
    folder = work.output
    pages = {
        "report.md": "\n".join(_markdown(work, result, trained)) + "\n",
        "report.json": json.dumps(_plain(_document(work, result, trained)), indent=1, allow_nan=False) + "\n",
    }
    if result.calibration is not None:
        from caffe_port.pages.calibration import page

        pages["validation.html"] = page(result.calibration)
    for name, content in pages.items():
        with replacing(folder / name) as stream:
            stream.write(content.encode("utf-8", "surrogateescape"))
    return [folder / name for name in pages]


def _document(work: Finetuning, result: Result, trained: Trained | None) -> dict[str, Any]:
    dataset, recipe = work.dataset, work.recipe
    best = work.best
    return {
        "format": FORMAT,
        "tool": {"caffe_port": __version__},
        "model": work.files.name,
        "sources": [{"role": s.role, "name": s.path.name, "sha256": s.sha256()} for s in work.model.sources],
        "classes": list(dataset.classes),
        "positive": None if work.manifest.score is None else dataset.classes[work.manifest.score],
        "images": {"train": dataset.counts(dataset.train), "validation": dataset.counts(dataset.validation)},
        "recipe": {name: getattr(recipe, name) for name in recipe.__dataclass_fields__},
        "class_weights": work.class_weights,
        "shorter_side": work.scale,
        "head": work.nets.head,
        "frozen": list(work.nets.frozen),
        "iterations": work.looks[-1].iteration if trained is None else trained.iteration,
        "early": None if trained is None else trained.early,
        "best_iteration": None if best is None else best.iteration,
        "looks": [{"iteration": k.iteration, "loss": k.loss, "accuracy": k.accuracy} for k in work.looks],
        "before": None if result.before is None else result.before.as_json(),
        "after": result.after.as_json(),
        "auc": [auc.as_json() for auc in result.aucs],
        "calibration": None if result.calibration is None else result.calibration.as_json(),
        "verdict": "failed" if result.conversion is None else result.conversion.certificate.verdict,
        "files": [] if result.conversion is None else [path.name for path in result.conversion.files],
        "notes": list(result.notes),
    }


def _plain(value: Any) -> Any:
    """NaN as null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _markdown(work: Finetuning, result: Result, trained: Trained | None) -> Iterator[str]:
    dataset, recipe, best = work.dataset, work.recipe, work.best
    yield f"# {_cell(work.files.name)}, fine-tuned"
    yield ""
    yield "| class | to train | to validate |"
    yield "|---|---|---|"
    for name, *counts in zip(
        dataset.classes, dataset.counts(dataset.train), dataset.counts(dataset.validation), strict=True
    ):
        yield f"| {_cell(name)} | {counts[0]} | {counts[1]} |"
    yield ""
    yield "## On the validation images"
    yield ""
    yield f"Intervals: {CONFIDENCE:.0%} confidence."
    yield ""
    both = [("before", result.before), ("after", result.after)]
    yield "| | accuracy | balanced accuracy | loss |"
    yield "|---|---|---|---|"
    for when, scores in both:
        if scores is not None:
            yield f"| {when} | {shown(scores.accuracy)} | {percent(scores.balanced_accuracy)} | {scores.loss():.4f} |"
    yield ""
    for auc in result.aucs:
        yield f"- AUC of {_cell(auc.name)}: {_told(auc)}"
    if result.calibration is not None:
        yield "- curves, thresholds, bins: `validation.html`"
    for when, scores in both:
        if scores is not None:
            yield ""
            yield from _confusion(when, scores, dataset.classes)
    yield ""
    yield "The best weights were chosen by these same images, so what is told of `after` is a little better than it is."
    yield ""
    yield "## Training"
    yield ""
    ended = "" if trained is None or not trained.early else f", ended by {recipe.patience} looks without a smaller loss"
    yield f"- {work.looks[-1].iteration} iterations of {recipe.batch} images, of {work.max_iter} at most{ended}"
    if best is not None:
        yield f"- best: iteration {best.iteration}, loss {best.loss:.4f}, accuracy {percent(best.accuracy)}"
    yield f"- head `{work.nets.head}`, {'kept' if recipe.keep_head else 'new'}, rate times {recipe.factor:g}"
    yield f"- rate {recipe.base_lr:g}, momentum {recipe.momentum:g}, weight decay {recipe.weight_decay:g}"
    scale = "none" if work.scale is None else "shorter side {} to {}".format(*work.scale)
    yield f"- scale augmentation: {scale}; mirrored: {'yes' if recipe.mirror else 'no'}"
    if work.nets.frozen:
        patterns = ", ".join(f"`{pattern}`" for pattern in recipe.freeze)
        yield f"- frozen: {patterns}: {len(work.nets.frozen)} layers"
    if work.class_weights is not None:
        yield f"- class weights: {', '.join(f'{weight:.4g}' for weight in work.class_weights)}"
    yield f"- seed {recipe.seed}"
    yield ""
    yield "| iteration | loss | accuracy |"
    yield "|---|---|---|"
    for look in work.looks:
        yield f"| {look.iteration} | {look.loss:.4f} | {percent(look.accuracy)} |"
    yield ""
    yield "The curve: `loss.png`; the log: `train.log`."
    yield ""
    if result.conversion is not None:
        yield "## Files"
        yield ""
        yield result.conversion.certificate.verdict
        yield ""
        for path in result.conversion.files:
            yield f"- `{path.name}`"
    if result.notes:
        yield ""
        yield "## Notes"
        yield ""
        for note in result.notes:
            yield f"- {_cell(note)}"


def _confusion(when: str, scores: Scores, classes: tuple[str, ...]) -> Iterator[str]:
    yield f"| {when}: is | {' | '.join(f'taken for {_cell(name)}' for name in classes)} |"
    yield "|---" * (len(classes) + 1) + "|"
    for name, row in zip(classes, scores.confusion, strict=True):
        yield f"| {_cell(name)} | {' | '.join(map(str, row))} |"


def _told(auc: ClassAuc) -> str:
    text = _interval(auc.after)
    if auc.before is not None and auc.test is not None:
        text += f"; before {_interval(auc.before)}; difference {_interval(auc.test.difference)}, p {small(auc.test.p)}"
    return text


def _interval(found: Interval) -> str:
    return f"{found.estimate:.4f} ({found.lower:.4f} to {found.upper:.4f})"


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
