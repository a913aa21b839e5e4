"""Losses against targets of the scores' own shape, and between pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from caffe_port.errors import ShapeError
from caffe_port.layers.base import Array, Count, LayerDef, LayerSpec, RunContext
from caffe_port.layers.loss import LossNormalizer, check_batch
from caffe_port.registry import layer
from caffe_port.shapes import Shape, count, format_shape, legacy_dim

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ContrastiveLoss", "EuclideanLoss", "SigmoidCrossEntropyLoss"]


@layer("EuclideanLoss")
@dataclass(frozen=True, slots=True)
class EuclideanLoss(LayerDef):
    """Half the squared distance of the bottoms, by item: sum (a - b)^2 / 2N.

    Shapes: (N, …), (N, …) of as many values, up to 4 axes → scalar (). Raises: ShapeError if they differ.
    Source: BVLC/caffe @ 9b89154, euclidean_loss_layer.cpp.
    """

    bottoms = Count(2, 2)
    auto_top = True

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        check_batch(bottoms)
        if count(bottoms[0], 1) != count(bottoms[1], 1):
            raise ShapeError(f"bottoms differ in size: {', '.join(map(format_shape, bottoms))}")
        return [()]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        a, b = bottoms
        squares = np.square(a - b.reshape(a.shape))
        return [np.asarray(squares.sum(dtype=a.dtype) / a.dtype.type(2 * legacy_dim(a.shape, 0)), dtype=a.dtype)]


@layer("SigmoidCrossEntropyLoss")
@dataclass(frozen=True, slots=True)
class SigmoidCrossEntropyLoss(LayerDef):
    """Cross entropy of sigmoid(x) and a target in [0, 1], summed; divided by the batch size unless loss_param says
    otherwise.

    A target that is ignore_label (a fraction cut off) does not count.
    Shapes: scores (N, …), targets (N, …) of as many values → scalar (). Raises: ShapeError if they differ.
    Source: BVLC/caffe @ 9b89154, sigmoid_cross_entropy_loss_layer.cpp.
    """

    bottoms = Count(2, 2)
    auto_top = True

    normalizer: LossNormalizer

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        return cls(LossNormalizer.parse(spec, default="BATCH_SIZE"))

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        check_batch(bottoms)
        if count(bottoms[0]) != count(bottoms[1]):
            raise ShapeError(f"bottoms differ in size: {', '.join(map(format_shape, bottoms))}")
        return [()]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        x, target = bottoms[0], bottoms[1].reshape(bottoms[0].shape)
        losses = np.maximum(x, 0) - x * target + np.log1p(np.exp(-np.abs(x)))
        valid = losses.size
        if self.normalizer.ignore_label is not None:
            counts = target.astype(np.int64) != self.normalizer.ignore_label
            losses, valid = np.where(counts, losses, 0), int(counts.sum())
        divisor = self.normalizer.divisor(x.shape[0], count(x.shape, 1), valid)
        return [np.asarray(losses.sum(dtype=x.dtype) / x.dtype.type(divisor), dtype=x.dtype)]


@layer("ContrastiveLoss")
@dataclass(frozen=True, slots=True)
class ContrastiveLoss(LayerDef):
    """Pulls similar pairs together and pushes others a margin apart, with d the distance of a pair, by 2N.

    Similar (bottom[2], a fraction cut off, is not 0): d^2. Others: max(margin - d, 0)^2, or with legacy_version
    max(margin - d^2, 0).
    Shapes: a, b (N, C) or (N, C, 1, 1), similar (N,) with any 1s → scalar (). Raises: ShapeError if they differ.
    Source: BVLC/caffe @ 9b89154, contrastive_loss_layer.cpp; Hadsell et al. 2006.
    """

    bottoms = Count(3, 3)
    auto_top = True

    margin: float = 1.0
    legacy_version: bool = False

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("contrastive_loss_param")
        return cls(params.real("margin"), params.flag("legacy_version"))

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        check_batch(bottoms)
        a, b, similar = bottoms
        vectors = legacy_dim(a, 1) == legacy_dim(b, 1) and count(a, 2) == count(b, 2) == 1
        if not vectors or count(similar) != a[0] or similar[:1] != a[:1]:
            raise ShapeError(
                f"bottoms must be (N, C), (N, C) and (N,), they are {', '.join(map(format_shape, bottoms))}"
            )
        return [()]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        a, b, similar = (bottom.reshape(len(bottom), count(bottom.shape, 1)) for bottom in bottoms)
        squares = np.square(a - b).sum(axis=1, dtype=a.dtype)
        margin = a.dtype.type(self.margin)
        if self.legacy_version:
            apart = np.maximum(margin - squares, 0)
        else:
            apart = np.square(np.maximum(margin - np.sqrt(squares), 0))
        losses = np.where(similar[:, 0].astype(np.int64) != 0, squares, apart)
        return [np.asarray(losses.sum(dtype=a.dtype) / a.dtype.type(2 * len(a)), dtype=a.dtype)]
