"""A net on the validation images, and what its probabilities say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from caffe_port.calibration.auc import Interval, auc_interval, delong
from caffe_port.calibration.comparison import AucTest, compare_aucs
from caffe_port.calibration.curves import rate
from caffe_port.calibration.threshold import Rate
from caffe_port.errors import ImageError
from caffe_port.finetuning.data import LabelledImage
from caffe_port.layers.base import Array
from caffe_port.net import Net
from caffe_port.preprocessing import Manifest
from caffe_port.scoring.classifier import classifier_of
from caffe_port.scoring.scorer import Scorer

__all__ = ["CONFIDENCE", "ClassAuc", "Scores", "class_aucs", "evaluate"]

CONFIDENCE = 0.95

_LEAST_PROBABILITY = 1e-20
"""Of which a logarithm is taken, as InfogainLoss has it."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Probabilities (N, classes), float64, of images whose classes are `labels` (N,)."""

    probabilities: Array
    labels: Array

    @property
    def confusion(self) -> Array:
        """How many images of each class (rows) are taken for which (columns), the most probable."""
        classes = self.probabilities.shape[1]
        found = np.zeros((classes, classes), np.int64)
        np.add.at(found, (self.labels, self.probabilities.argmax(axis=1)), 1)
        return found

    @property
    def accuracy(self) -> Rate:
        """The share of images whose class is the most probable, with its exact interval."""
        return rate(int(np.trace(self.confusion)), len(self.labels), CONFIDENCE)

    @property
    def balanced_accuracy(self) -> float:
        """The mean over the classes of the share that is right."""
        confusion = self.confusion
        return float((np.diag(confusion) / confusion.sum(axis=1)).mean())

    def loss(self, weights: Sequence[float] | None = None) -> float:
        """The mean of -weight[label] * log p[label]; weights of 1 without any. As the training's own loss."""
        of_label = self.probabilities[np.arange(len(self.labels)), self.labels]
        losses = -np.log(np.maximum(of_label, _LEAST_PROBABILITY))
        return float((losses if weights is None else losses * np.asarray(weights)[self.labels]).mean())

    def as_json(self) -> dict[str, Any]:
        """What is measured, for programs."""
        return {
            "images": len(self.labels),
            "loss": self.loss(),
            "accuracy": self.accuracy.as_json(),
            "balanced_accuracy": self.balanced_accuracy,
            "confusion": self.confusion.tolist(),
        }


@dataclass(frozen=True, slots=True)
class ClassAuc:
    """The area under the ROC curve of one class against all others, after and before; `test` compares them."""

    name: str
    after: Interval
    before: Interval | None
    test: AucTest | None

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "class": self.name,
            "after": self.after.as_json(),
            "before": None if self.before is None else self.before.as_json(),
            "test": None if self.test is None else self.test.as_json(),
        }


def evaluate(net: Net, manifest: Manifest, images: Sequence[LabelledImage], *, threads: int | None = None) -> Scores:
    """The scores of images, each preprocessed as where the net is used.

    onnxruntime computes them where it is installed, else PyTorch, in float64.
    Raises: ImageError for one that cannot be scored any more; GraphError, DataError where net and manifest do not fit.
    """
    found = []
    with Scorer(classifier_of(net, manifest), threads=threads) as scorer:
        for row in scorer.stream([image.path for image in images]):
            if not row.ok:
                raise ImageError(f"{row.name}: {row.error}")
            found.append(row.probabilities)
    return Scores(np.array(found, np.float64), np.array([image.label for image in images], np.int64))


def class_aucs(classes: Sequence[str], wanted: Sequence[int], after: Scores, before: Scores | None) -> list[ClassAuc]:
    """The AUC of each class of `wanted`, DeLong's intervals and his test of both nets' difference."""
    found = []
    for index in wanted:
        labels = after.labels == index
        both = [after, *([] if before is None else [before])]
        areas, covariance = delong(labels, [scores.probabilities[:, index] for scores in both])
        intervals = [auc_interval(areas[i], covariance[i, i], CONFIDENCE) for i in range(len(both))]
        test = None if before is None else compare_aucs(("after", "before"), areas, covariance, CONFIDENCE)
        found.append(ClassAuc(classes[index], intervals[0], intervals[1] if before is not None else None, test))
    return found
