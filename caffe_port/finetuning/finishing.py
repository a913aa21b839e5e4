"""What comes of a fine-tuning: the best weights measured, the model in files that are verified, the report."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from caffe_port.calibration.data import Labelled
from caffe_port.calibration.report import Calibration, calibrate
from caffe_port.conversion import convert
from caffe_port.errors import CaffePortError
from caffe_port.evidence import Evidence
from caffe_port.finetuning.evaluation import Scores, class_aucs, evaluate
from caffe_port.finetuning.report import Result, write_report
from caffe_port.finetuning.run import Finetuning, Trained
from caffe_port.proto.files import replacing

__all__ = ["TARGETS", "finish"]

TARGETS = ("onnx", "pytorch", "caffemodel")
"""What the fine-tuned model is written as, where nothing else is said."""


def finish(
    work: Finetuning,
    targets: Sequence[str] = TARGETS,
    *,
    before: Scores | None = None,
    trained: Trained | None = None,
    verify: bool = True,
    command: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """Measures the best weights on the validation images, writes the model in the forms of `targets`, verified, and
    the report.

    before: what `work.before()` gave. verify, command, say: of `caffe_port.conversion.convert`.
    Raises: as `convert`, after the report is written; DataError before the first look at the validation images.
    """
    net = work.tuned_net()
    after = evaluate(net, work.manifest, work.dataset.validation, threads=work.threads)
    conversion, failure = None, None
    try:
        conversion = convert(
            net,
            work.output,
            work.name,
            targets,
            evidence=Evidence(preprocessing=work.manifest.preprocessing),
            manifest=work.manifest,
            verify=verify,
            command=command,
            say=say,
        )
    except CaffePortError as error:
        # What was measured is told all the same.
        failure = error
        work.notes.append(f"the model was not written: {error}")
    classes, score = work.dataset.classes, work.manifest.score
    wanted = range(len(classes)) if score is None else [score]
    aucs = class_aucs(classes, wanted, after, before)
    calibration = None
    if score is not None:
        calibration = _calibration(work, after, before, score)
    result = Result(after, before, tuple(aucs), calibration, conversion, tuple(work.notes), ())
    written = [_write_scores(work, after, before), *write_report(work, result, trained)]
    if failure is not None:
        weights = next(source.path for source in net.sources if source.role == "weights")
        kept = f"the trained weights stay in {weights}, for {work.output / 'deploy.prototxt'}; see also report.md"
        raise type(failure)(f"{failure}\n{kept}") from failure
    return replace(result, files=(*(conversion.files if conversion is not None else ()), *written))


def _calibration(work: Finetuning, after: Scores, before: Scores | None, score: int) -> Calibration | None:
    """Thresholds of both; of the new one alone where the old one has none that is better than nothing."""
    scored = {"after": after, **({} if before is None else {"before": before})}
    source = f"{Path(work.source).name}: validation images"
    for names in (list(scored), ["after"]):
        columns = {name: scored[name].probabilities[:, score] for name in names}
        try:
            return calibrate(Labelled(after.labels == score, columns, source), seed=work.recipe.seed)
        except CaffePortError as error:
            work.notes.append(f"no thresholds of {' and '.join(names)}: {error}")
    return None


def _write_scores(work: Finetuning, after: Scores, before: Scores | None) -> Path:
    """The validation images with their probabilities: `validation.csv`."""
    path = work.output / "validation.csv"
    classes = work.dataset.classes
    scored = [("after", after), *([] if before is None else [("before", before)])]
    with replacing(path) as stream:
        content = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
        writer = csv.writer(content, lineterminator="\n")
        writer.writerow(("image", "label", *(f"{when}: {name}" for when, _ in scored for name in classes)))
        for row, image in enumerate(work.dataset.validation):
            values = [repr(float(value)) for _, scores in scored for value in scores.probabilities[row]]
            writer.writerow((image.path, classes[image.label], *values))
        content.detach()
    return path
