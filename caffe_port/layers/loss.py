"""Softmax, and the losses and measures computed from labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from caffe_port.errors import ShapeError
from caffe_port.layers.base import Array, Count, LayerDef, LayerSpec, RunContext
from caffe_port.registry import layer
from caffe_port.shapes import Shape, canonical_axis, count, format_shape

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Accuracy", "LossNormalizer", "Softmax", "SoftmaxWithLoss", "softmax"]

FLT_MIN = float(np.finfo(np.float32).tiny)


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


def check_labels(bottoms: Sequence[Shape], axis: int) -> tuple[int, int]:
    """Outer and inner count of the scores around their class axis. Raises ShapeError unless there is a label for each."""
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
    Raises: ShapeError for another number of labels.
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
        check_labels(bottoms, canonical_axis(self.axis, len(bottoms[0])))
        return [()]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        scores, labels = bottoms
        axis = canonical_axis(self.axis, scores.ndim)
        outer, inner = check_labels([scores.shape, labels.shape], axis)
        probabilities = softmax(scores, axis).reshape(outer, -1, inner)
        index = labels.astype(np.int64).reshape(outer, 1, inner)
        counts = np.ones_like(index, dtype=bool)
        if self.normalizer.ignore_label is not None:
            counts = index != self.normalizer.ignore_label
        picked = np.take_along_axis(probabilities, np.where(counts, index, 0), axis=1)
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
    Raises: ShapeError for another number of labels.
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
        flat = scores.reshape(outer, -1, inner)
        index = labels.astype(np.int64).reshape(outer, 1, inner)
        counts = np.ones_like(index, dtype=bool)
        if self.ignore_label is not None:
            counts = index != self.ignore_label
        index = np.where(counts, index, 0)
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
