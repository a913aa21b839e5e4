"""Softmax, and the losses and measures computed from labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from caffe_port.errors import ShapeError
from caffe_port.layers.base import Array, Count, LayerDef, LayerSpec, RunContext, as_indices, refuse
from caffe_port.proto import wire
from caffe_port.registry import layer
from caffe_port.shapes import Shape, canonical_axis, count, format_shape, legacy_dim

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "Accuracy",
    "HingeLoss",
    "InfogainLoss",
    "LossNormalizer",
    "MultinomialLogisticLoss",
    "Softmax",
    "SoftmaxWithLoss",
    "check_batch",
    "softmax",
]

FLT_MIN = float(np.finfo(np.float32).tiny)

LOG_THRESHOLD = 1e-20
"""The least probability InfogainLoss and MultinomialLogisticLoss take a logarithm of."""


def softmax(x: Array, axis: int) -> Array:
    """exp(x - max) / sum along `axis`."""
    exponentials = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=axis, keepdims=True))


@dataclass(frozen=True, slots=True)
class LossNormalizer:
    """What a loss is divided by (`loss_param`), and the label that does not count.

    FULL: all positions; VALID: those that count; BATCH_SIZE: the outer dims; NONE: 1. Never less than 1.
    Source: BVLC/caffe @ 9b89154, softmax_loss_layer.cpp, LossLayer.
    """

    mode: str
    ignore_label: int | None

    @classmethod
    def parse(cls, spec: LayerSpec, default: str = "VALID") -> LossNormalizer:
        params = spec.params("loss_param")
        mode = default
        if params.has("normalization"):
            params.inert("normalize")
            mode = params.enum("normalization")
        elif params.has("normalize"):
            mode = "VALID" if params.flag("normalize") else "BATCH_SIZE"
        return cls(mode, params.integer("ignore_label") if params.has("ignore_label") else None)

    def divisor(self, outer: int, inner: int, valid: int) -> float:
        """For `outer` * `inner` label positions of which `valid` count."""
        amount = {"FULL": outer * inner, "VALID": valid, "BATCH_SIZE": outer, "NONE": 1}[self.mode]
        return float(max(amount, 1))


def check_batch(bottoms: Sequence[Shape]) -> None:
    """Raises ShapeError unless scores and labels have the same axis 0, as every loss needs (LossLayer::Reshape)."""
    scores, labels = bottoms[:2]
    if not scores or scores[:1] != labels[:1]:
        raise ShapeError(f"bottoms differ in axis 0: {format_shape(scores)} and {format_shape(labels)}")


def label_index(labels: Array, shape: Shape, classes: int, ignore_label: int | None = None) -> tuple[Array, Array]:
    """Labels as indices in `shape` (a fraction cut off; an ignored one as 0), and which of them count.

    Raises: ShapeError for a label that is no class, or no number; Caffe reads past the end there.
    """
    whole = np.trunc(labels).reshape(shape)
    counts = np.ones_like(whole, dtype=bool) if ignore_label is None else whole != ignore_label
    return as_indices(np.where(counts, whole, 0), classes, "labels"), counts


def check_labels(bottoms: Sequence[Shape], axis: int) -> tuple[int, int]:
    """Outer and inner count of the scores around their class axis. Raises ShapeError unless each has a label."""
    scores, labels = bottoms[:2]
    outer, inner = count(scores, 0, axis), count(scores, axis + 1)
    if outer * inner != count(labels):
        raise ShapeError(
            f"{count(labels)} labels ({format_shape(labels)}) for {outer * inner} positions of scores "
            f"{format_shape(scores)}; integer labels without the class axis are needed"
        )
    return outer, inner


@layer("Softmax")
@dataclass(frozen=True, slots=True)
class Softmax(LayerDef):
    """exp(x - max) / sum along an axis; other axes are independent.

    Shapes: any → the same. Raises: ShapeError if axis is out of range.
    Source: BVLC/caffe @ 9b89154, softmax_layer.cpp.
    """

    in_place = "ok"

    axis: int = 1

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("softmax_param")
        params.inert("engine")
        return cls(params.integer("axis"))

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        canonical_axis(self.axis, len(bottoms[0]))
        return [bottoms[0]]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        return [softmax(bottoms[0], self.axis)]


@layer("SoftmaxWithLoss")
@dataclass(frozen=True, slots=True)
class SoftmaxWithLoss(LayerDef):
    """Mean of -log(softmax probability of the label), a probability floored at FLT_MIN.

    Caffe's header allows a second top with the probabilities, but a net with it cannot be set up at this commit.
    Shapes: scores (…, classes at softmax_param.axis, …), labels one a position → scalar ().
    Raises: ShapeError for another number of labels, and when running for a label that is no class.
    Source: BVLC/caffe @ 9b89154, softmax_loss_layer.cpp.
    """

    bottoms = Count(2, 2)
    tops = Count(1, 1)
    auto_top = True

    axis: int
    normalizer: LossNormalizer

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("softmax_param")
        params.inert("engine")
        return cls(params.integer("axis"), LossNormalizer.parse(spec))

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        check_batch(bottoms)
        check_labels(bottoms, canonical_axis(self.axis, len(bottoms[0])))
        return [()]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        scores, labels = bottoms
        axis = canonical_axis(self.axis, scores.ndim)
        outer, inner = check_labels([scores.shape, labels.shape], axis)
        probabilities = softmax(scores, axis).reshape(outer, scores.shape[axis], inner)
        index, counts = label_index(labels, (outer, 1, inner), scores.shape[axis], self.normalizer.ignore_label)
        picked = np.take_along_axis(probabilities, index, axis=1)
        losses = np.where(counts, -np.log(np.maximum(picked, picked.dtype.type(FLT_MIN))), 0)
        loss = losses.sum(dtype=scores.dtype) / scores.dtype.type(
            self.normalizer.divisor(outer, inner, int(counts.sum()))
        )
        return [np.asarray(loss, dtype=scores.dtype)]


@layer("Accuracy")
@dataclass(frozen=True, slots=True)
class Accuracy(LayerDef):
    """Share of positions whose label is among the top_k scores; an equal score of another class counts against it.

    Shapes: scores (…, classes at axis, …), labels one a position → top[0] scalar (); top[1] (classes,), by class.
    Raises: ShapeError for another number of labels, and when running for a label that is no class.
    Source: BVLC/caffe @ 9b89154, accuracy_layer.cpp.
    """

    bottoms = Count(2, 2)
    tops = Count(1, 2)

    top_k: int
    axis: int
    ignore_label: int | None
    num_tops: int

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("accuracy_param")
        ignore = params.integer("ignore_label") if params.has("ignore_label") else None
        return cls(params.integer("top_k"), params.integer("axis"), ignore, spec.num_tops)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        axis = canonical_axis(self.axis, len(bottoms[0]))
        check_labels(bottoms, axis)
        classes = bottoms[0][axis]
        if self.top_k > classes:
            raise ShapeError(f"top_k {self.top_k} is more than the {classes} classes")
        return [(), (classes,)][: self.num_tops]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        scores, labels = bottoms
        axis = canonical_axis(self.axis, scores.ndim)
        outer, inner = check_labels([scores.shape, labels.shape], axis)
        flat = scores.reshape(outer, scores.shape[axis], inner)
        index, counts = label_index(labels, (outer, 1, inner), scores.shape[axis], self.ignore_label)
        own = np.take_along_axis(flat, index, axis=1)
        right = ((flat >= own).sum(axis=1, keepdims=True) - 1 < self.top_k) & counts
        total = max(int(counts.sum()), 1)
        tops = [np.asarray(right.sum() / total, dtype=scores.dtype)]
        if self.num_tops == 2:
            classes = flat.shape[1]
            seen = np.bincount(index[counts], minlength=classes)
            hits = np.bincount(index[right], minlength=classes)
            tops.append((hits / np.maximum(seen, 1)).astype(scores.dtype))
        return tops


@layer("HingeLoss")
@dataclass(frozen=True, slots=True)
class HingeLoss(LayerDef):
    """Margins max(0, 1 - s) of the label's score and max(0, 1 + s) of the others', summed (L2: squared), by item.

    Shapes: scores (N, …), labels with one an item → scalar (). Raises: ShapeError if axis 0 differs or there are more
    than 4 axes, and when running for a label that is no class.
    Source: BVLC/caffe @ 9b89154, hinge_loss_layer.cpp.
    """

    bottoms = Count(2, 2)
    auto_top = True

    norm: str = "L1"

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        return cls(spec.params("hinge_loss_param").enum("norm"))

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        check_batch(bottoms)
        _check_item_labels(bottoms)
        return [()]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        scores = bottoms[0].reshape(len(bottoms[0]), count(bottoms[0].shape, 1))
        index, _ = label_index(bottoms[1], (len(scores), 1), scores.shape[1])
        signs = np.ones_like(scores)
        np.put_along_axis(signs, index, -1, axis=1)
        margins = np.maximum(1 + signs * scores, 0)
        if self.norm == "L2":
            margins = np.square(margins)
        return [np.asarray(margins.sum(dtype=scores.dtype) / scores.dtype.type(len(scores)), dtype=scores.dtype)]


def _check_item_labels(bottoms: Sequence[Shape]) -> None:
    """Raises ShapeError unless there is one label an item, and a loss can ask for `num()` of the scores."""
    scores, labels = bottoms[:2]
    legacy_dim(scores, 0)
    if count(labels, 1) != 1:
        raise ShapeError(f"one label an item is needed, (N,); labels are {format_shape(labels)}")


@layer("MultinomialLogisticLoss")
@dataclass(frozen=True, slots=True)
class MultinomialLogisticLoss(LayerDef):
    """Mean over the items of -log(probability of the label), a probability floored at 1e-20.

    Shapes: probabilities (N, …), labels (N,) with any 1s → scalar (). Raises: ShapeError for other labels, and when
    running for a label that is no class.
    Source: BVLC/caffe @ 9b89154, multinomial_logistic_loss_layer.cpp.
    """

    bottoms = Count(2, 2)
    auto_top = True

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        check_batch(bottoms)
        _check_item_labels(bottoms)
        return [()]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        probabilities = bottoms[0].reshape(len(bottoms[0]), count(bottoms[0].shape, 1))
        real = probabilities.dtype.type
        index, _ = label_index(bottoms[1], (len(probabilities), 1), probabilities.shape[1])
        picked = np.take_along_axis(probabilities, index, axis=1)
        losses = -np.log(np.maximum(picked, real(LOG_THRESHOLD)))
        return [np.asarray(losses.sum(dtype=losses.dtype) / real(len(losses)), dtype=losses.dtype)]


@layer("InfogainLoss")
@dataclass(frozen=True, slots=True)
class InfogainLoss(LayerDef):
    """Mean of -sum over classes l of H[label, l] * log(p_l), p the softmax of the scores, floored at 1e-20.

    H is bottom[2], or infogain_loss_param.source: a binaryproto, read when the net is built.
    Shapes: scores (…, K at axis, …), labels one a position, [H of K * K values] → top[0] scalar (), top[1] the
    probabilities. Raises: ShapeError for another number of labels or values of H, and when running for a label that is
    no class; UnsupportedParameter for loss_param.normalize, for neither bottom[2] nor source, and for a second top
    without two loss_weight, all of which Caffe refuses; WeightsError if source cannot be read.
    Source: BVLC/caffe @ 9b89154, infogain_loss_layer.cpp.
    """

    bottoms = Count(2, 3)
    tops = Count(1, 2)
    auto_top = True

    axis: int
    normalizer: LossNormalizer
    num_tops: int
    matrix: Array | None = field(default=None, compare=False)
    """H as `source` has it; None where it is bottom[2]."""

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("infogain_loss_param")
        if spec.params("loss_param").has("normalize"):
            raise refuse("loss_param.normalize is out of date, and Caffe refuses it here: use normalization")
        num_tops = max(spec.num_tops, 1)
        if num_tops == 2 and not spec.message.loss_weight:
            raise refuse("with a second top, loss_weight must be given for both (loss_weight: 1 loss_weight: 0)")
        matrix = None
        if spec.num_bottoms < 3:
            if not params.has("source"):
                raise refuse("the infogain matrix is missing: give it as source, or as a third bottom")
            matrix = wire.read_blob(params.text("source")).data
        else:
            params.inert("source")
        return cls(params.integer("axis"), LossNormalizer.parse(spec), num_tops, matrix)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        check_batch(bottoms)
        scores = bottoms[0]
        axis = canonical_axis(self.axis, len(scores))
        check_labels(bottoms, axis)
        values = count(bottoms[2]) if self.matrix is None else self.matrix.size
        if values != scores[axis] ** 2:
            raise ShapeError(
                f"the infogain matrix has {values} values, {scores[axis]} classes need {scores[axis] ** 2}"
            )
        return [(), scores][: self.num_tops]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        scores, labels = bottoms[:2]
        axis = canonical_axis(self.axis, scores.ndim)
        classes = scores.shape[axis]
        outer, inner = check_labels([scores.shape, labels.shape], axis)
        matrix = bottoms[2] if self.matrix is None else self.matrix.astype(scores.dtype)
        index, counts = label_index(labels, (outer, inner), classes, self.normalizer.ignore_label)
        probabilities = softmax(scores, axis)
        floored = np.maximum(probabilities, scores.dtype.type(LOG_THRESHOLD)).reshape(outer, classes, inner)
        gains = matrix.reshape(classes, classes)[index].transpose(0, 2, 1)
        losses = np.where(counts[:, None], gains * np.log(floored), 0)
        divisor = scores.dtype.type(self.normalizer.divisor(outer, inner, int(counts.sum())))
        loss = np.asarray(-losses.sum(dtype=scores.dtype) / divisor, dtype=scores.dtype)
        return [loss, probabilities][: self.num_tops]
