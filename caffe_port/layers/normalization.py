"""Layers that normalize: LRN, BatchNorm, MVN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe_port.errors import ShapeError
from caffe_port.layers.base import Array, LayerDef, LayerSpec, RunContext, WeightSpec, refuse
from caffe_port.layers.pooling import PoolWindow, average_pool
from caffe_port.registry import layer
from caffe_port.shapes import Shape, count, format_shape, legacy_dim

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LRN", "MVN", "BatchNorm", "ScaledBatchNorm"]


@layer("LRN")
@dataclass(frozen=True, slots=True)
class LRN(LayerDef):
    """Local response normalization, across channels or within each.

    ACROSS_CHANNELS: y = x * (k + alpha/n * sum of x^2 over n channels)^-beta. WITHIN_CHANNEL:
    y = x * (1 + alpha * mean of x^2 over n*n cells)^-beta, where the mean counts padding and k is ignored, as in Caffe.
    Shapes: bottom[0] (N, C, H, W) → top[0] the same.
    Raises: ShapeError if bottom[0] is not 4-D; UnsupportedParameter if local_size is even.
    Source: BVLC/caffe @ 9b89154, lrn_layer.cpp; Krizhevsky et al. 2012, section 3.3.
    """

    in_place = "ok"

    local_size: int = 5
    alpha: float = 1.0
    beta: float = 0.75
    k: float = 1.0
    within_channel: bool = False

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("lrn_param")
        params.inert("engine")
        size = params.integer("local_size")
        if size % 2 == 0:
            raise refuse(f"local_size must be odd, it is {size}")
        within = params.enum("norm_region") == "WITHIN_CHANNEL"
        return cls(
            local_size=size,
            alpha=params.real("alpha"),
            beta=params.real("beta"),
            k=params.real("k"),
            within_channel=within,
        )

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) != 4:
            raise ShapeError(f"LRN needs a bottom of 4 axes, it has {len(bottoms[0])} ({format_shape(bottoms[0])})")
        return [bottoms[0]]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        squares = x * x
        half = (self.local_size - 1) // 2
        if self.within_channel:
            size = (x.shape[2], x.shape[3])
            kernel = (self.local_size, self.local_size)
            mean = average_pool(squares, PoolWindow(kernel, (1, 1), (half, half), size, size))
            scale = 1 + x.dtype.type(self.alpha) * mean
        else:
            padded = np.pad(squares, [(0, 0), (half, half), (0, 0), (0, 0)])
            sums = padded[:, : x.shape[1]].copy()
            for i in range(1, self.local_size):
                sums += padded[:, i : i + x.shape[1]]
            scale = x.dtype.type(self.k) + x.dtype.type(self.alpha / self.local_size) * sums
        return [x * scale ** x.dtype.type(-self.beta)]


def _with_channels(bottom: Shape) -> Shape:
    if len(bottom) < 2:
        raise ShapeError(f"BatchNorm needs a bottom of at least 2 axes, it has {len(bottom)}")
    return bottom


@layer("BatchNorm")
@dataclass(frozen=True, slots=True)
class BatchNorm(LayerDef):
    """Normalization by channel: (x - mean) / sqrt(var + eps), without an affine part (that is Scale).

    Statistics are the stored ones (blob / factor; factor 0 counts as mean = var = 0) if use_global_stats, by default in
    TEST, else the batch's, with biased variance; then the stored blobs move: blob * fraction + batch statistic
    (variance unbiased), factor * fraction + 1.
    Shapes: bottom (N, C, …) → top the same. Weights: mean sum (C,), variance sum (C,), factor (1,).
    Raises: ShapeError for a bottom of fewer than 2 axes.
    Source: BVLC/caffe @ 9b89154, batch_norm_layer.cpp.
    """

    in_place = "ok"
    frozen_weights = True

    use_global_stats: bool = True
    moving_average_fraction: float = 0.999
    eps: float = 1e-5

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("batch_norm_param")
        if params.fork_has("scale_bias") or params.fork_has("scale_filler") or params.fork_has("bias_filler"):
            return ScaledBatchNorm.parse(spec)  # type: ignore[return-value]
        given = params.has("use_global_stats")
        return cls(
            use_global_stats=params.flag("use_global_stats") if given else spec.phase == "TEST",
            moving_average_fraction=params.real("moving_average_fraction"),
            eps=params.real("eps"),
        )

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [_with_channels(bottoms[0])]

    def weight_specs(self, bottoms: Sequence[Shape]) -> list[WeightSpec]:
        channels = (bottoms[0][1],)
        return [WeightSpec(channels), WeightSpec(channels), WeightSpec((1,))]

    def stored_statistics(self, weights: Sequence[Array]) -> tuple[Array, Array]:
        """Mean and variance (C,) the stored blobs stand for, in their own dtype."""
        return stored_statistics(weights)

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        column = (1, -1, *[1] * (x.ndim - 2))
        if self.use_global_stats:
            mean, variance = self.stored_statistics(weights)
            centred = x - mean.reshape(column)
        else:
            axes = (0, *range(2, x.ndim))
            mean = x.mean(axis=axes, dtype=x.dtype)
            centred = x - mean.reshape(column)
            variance = np.square(centred).mean(axis=axes, dtype=x.dtype)
            self._move(ctx, weights, mean, variance, count(x.shape) // x.shape[1])
        centred /= np.sqrt(variance + x.dtype.type(self.eps)).reshape(column)
        return [centred]

    def _move(self, ctx: RunContext, weights: Sequence[Array], mean: Array, variance: Array, samples: int) -> None:
        fraction = mean.dtype.type(self.moving_average_fraction)
        unbiased = mean.dtype.type(samples / (samples - 1) if samples > 1 else 1)
        ctx.new_weights[0] = weights[0] * fraction + mean
        ctx.new_weights[1] = weights[1] * fraction + variance * unbiased
        ctx.new_weights[2] = weights[2] * fraction + 1


@dataclass(frozen=True, slots=True)
class ScaledBatchNorm(LayerDef):
    """BatchNorm with scale and bias of its own, as NVIDIA's fork has it: a definition of its own beside upstream's.

    y = (x - mean) / sqrt(var + eps) * scale + bias, eps at least 1e-5. In TEST mean and var are the stored ones (blob /
    factor, as upstream's: the fork divides old files so when it loads them); in TRAIN the batch's, with biased
    variance, and the stored blobs move: blob * fraction + statistic * (1 - fraction). scale_filler or bias_filler alone
    say scale_bias too. Without scale_bias there are three blobs, as upstream's, and no scale and bias.
    Shapes: bottom (N, C, …) → top the same. Weights: mean, variance (C,), factor (1,), scale, bias (C,).
    Raises: ShapeError for a bottom of fewer than 2 axes.
    Source: NVIDIA/caffe, batch_norm_layer.cpp.
    """

    type = "BatchNorm"
    in_place = "ok"

    uses_batch: bool
    scale_bias: bool
    fraction: float
    eps: float
    scale_filler: Any
    bias_filler: Any

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("batch_norm_param")
        # The phase alone decides there, and the engine is a matter of speed.
        params.inert("use_global_stats", "engine")
        fillers = [params.raw(name) if params.fork_has(name) else None for name in ("scale_filler", "bias_filler")]
        return cls(
            uses_batch=spec.phase != "TEST",
            scale_bias=(params.fork_has("scale_bias") and params.flag("scale_bias")) or fillers != [None, None],
            fraction=params.real("moving_average_fraction"),
            eps=max(params.real("eps"), 1e-5),
            scale_filler=fillers[0],
            bias_filler=fillers[1],
        )

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [_with_channels(bottoms[0])]

    def weight_specs(self, bottoms: Sequence[Shape]) -> list[WeightSpec]:
        channels = (bottoms[0][1],)
        specs = [WeightSpec(channels), WeightSpec(channels), WeightSpec((1,), default_fill=1.0)]
        if self.scale_bias:
            specs += [WeightSpec(channels, self.scale_filler, 1.0), WeightSpec(channels, self.bias_filler)]
        return specs

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        column = (1, -1, *[1] * (x.ndim - 2))
        if self.uses_batch:
            axes = (0, *range(2, x.ndim))
            mean = x.mean(axis=axes, dtype=x.dtype)
            variance = np.square(x - mean.reshape(column)).mean(axis=axes, dtype=x.dtype)
            keep = x.dtype.type(self.fraction)
            ctx.new_weights[0] = weights[0] * keep + mean * (1 - keep)
            ctx.new_weights[1] = weights[1] * keep + variance * (1 - keep)
        else:
            mean, variance = stored_statistics(weights)
        top = (x - mean.reshape(column)) / np.sqrt(variance + x.dtype.type(self.eps)).reshape(column)
        if self.scale_bias:
            top = top * weights[3].reshape(column) + weights[4].reshape(column)
        return [top]


def stored_statistics(weights: Sequence[Array]) -> tuple[Array, Array]:
    """Mean and variance (C,) that BatchNorm's stored blobs stand for, in their own dtype; a factor of 0 gives zeros."""
    factor = weights[2].reshape(-1)[0]
    scale = factor.dtype.type(0) if factor == 0 else 1 / factor
    return weights[0] * scale, weights[1] * scale


@layer("MVN")
@dataclass(frozen=True, slots=True)
class MVN(LayerDef):
    """Mean 0 and, with normalize_variance, variance 1: y = (x - mean) / (sqrt(var) + eps), eps outside the root.

    Mean and (biased) variance are those of each channel of each item, or with across_channels of each item.
    Shapes: bottom of up to 4 axes → top (N, C, H, W), missing axes as 1. Raises: ShapeError for more than 4 axes.
    Source: BVLC/caffe @ 9b89154, mvn_layer.cpp.
    """

    in_place = "ok"

    normalize_variance: bool = True
    across_channels: bool = False
    eps: float = 1e-9

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("mvn_param")
        return cls(params.flag("normalize_variance"), params.flag("across_channels"), params.real("eps"))

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [tuple(legacy_dim(bottoms[0], axis) for axis in range(4))]

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the top that a mean is taken over."""
        return (1, 2, 3) if self.across_channels else (2, 3)

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        x = bottoms[0].reshape(self.top_shapes([bottoms[0].shape])[0])
        centred = x - x.mean(axis=self.axes, keepdims=True, dtype=x.dtype)
        if self.normalize_variance:
            variance = np.square(centred).mean(axis=self.axes, keepdims=True, dtype=x.dtype)
            centred /= np.sqrt(variance) + x.dtype.type(self.eps)
        return [centred]
