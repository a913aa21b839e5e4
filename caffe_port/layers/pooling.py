"""Pooling with Caffe's rounding, clipping and divisors."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from caffe_port.errors import ShapeError
from caffe_port.layers.base import Array, Count, LayerDef, LayerSpec, Params, RunContext, refuse
from caffe_port.registry import layer
from caffe_port.shapes import Shape, count, format_shape, pool_output

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FLT_MAX", "SPP", "PoolWindow", "Pooling", "average_pool", "max_pool"]

FLT_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class PoolWindow:
    """Kernel, stride and pad (height, width) of a pooling at a known input size, and the output size they give."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    input: tuple[int, int]
    output: tuple[int, int]

    @property
    def pad_after(self) -> tuple[int, int]:
        """Cells the last windows reach past the input; at least 0."""
        after = [
            max(0, (out - 1) * stride + kernel - size - pad)
            for out, stride, kernel, size, pad in zip(
                self.output, self.stride, self.kernel, self.input, self.pad, strict=True
            )
        ]
        return after[0], after[1]

    def divisors(self, axis: int) -> list[int]:
        """Per window along an axis, the cells AVE counts: padding up to input + pad, but nothing past it."""
        return [
            min(start + self.kernel[axis], self.input[axis] + self.pad[axis]) - start
            for start in (i * self.stride[axis] - self.pad[axis] for i in range(self.output[axis]))
        ]

    def shifted(self, x: Array, fill: float) -> Iterator[tuple[int, int, Array]]:
        """For each kernel cell (i, j) in raster order: the cells of x (…, H, W) it meets, shape (…, out_h, out_w)."""
        (top, left), (bottom, right) = self.pad, self.pad_after
        padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(top, bottom), (left, right)], constant_values=fill)
        out_h, out_w = self.output
        stride_h, stride_w = self.stride
        for i, j in itertools.product(range(self.kernel[0]), range(self.kernel[1])):
            rows = slice(i, i + (out_h - 1) * stride_h + 1, stride_h)
            columns = slice(j, j + (out_w - 1) * stride_w + 1, stride_w)
            yield i, j, padded[..., rows, columns]


def max_pool(x: Array, window: PoolWindow) -> Array:
    """Largest cell of each window of x (N, C, H, W). NaN is never selected; a window without cells gives -FLT_MAX."""
    top = np.full((*x.shape[:-2], *window.output), -FLT_MAX, dtype=x.dtype)
    for _, _, cells in window.shifted(x, -np.inf):
        np.fmax(top, cells, out=top)
    return top


def max_pool_mask(x: Array, window: PoolWindow) -> Array:
    """Flat index h*W+w in its plane of the cell `max_pool` picks (the first in raster order); -1 if none is there."""
    best = np.full((*x.shape[:-2], *window.output), -FLT_MAX, dtype=x.dtype)
    mask = np.full(best.shape, -1, dtype=x.dtype)
    origin_h = np.arange(window.output[0])[:, None] * window.stride[0] - window.pad[0]
    origin_w = np.arange(window.output[1])[None, :] * window.stride[1] - window.pad[1]
    for i, j, cells in window.shifted(x, -np.inf):
        better = cells > best
        best = np.where(better, cells, best)
        mask = np.where(better, ((origin_h + i) * window.input[1] + origin_w + j).astype(x.dtype), mask)
    return mask


def average_pool(x: Array, window: PoolWindow) -> Array:
    """Mean of each window of x (N, C, H, W), divided by the cells Caffe counts (PoolWindow.divisors)."""
    top = np.zeros((*x.shape[:-2], *window.output), dtype=x.dtype)
    for _, _, cells in window.shifted(x, 0.0):
        top += cells
    heights = np.array(window.divisors(0), dtype=x.dtype)[:, None]
    widths = np.array(window.divisors(1), dtype=x.dtype)[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        # A window wholly outside has 0 or fewer cells; Caffe divides all the same.
        return np.asarray(top / (heights * widths))


def _method(params: Params) -> str:
    params.inert("engine")
    method = params.enum("pool")
    if method == "STOCHASTIC":
        raise refuse("STOCHASTIC pooling is not implemented in Caffe's CPU code")
    return method


@layer("Pooling")
@dataclass(frozen=True, slots=True)
class Pooling(LayerDef):
    """Largest or mean value of each window.

    Shapes: bottom (N, C, H, W) → top[0] (N, C, out_h, out_w), sizes rounded up (round_mode FLOOR, or of forks ceil_mode
    false: down), a last window that would start in the far padding dropped. MAX: top[1] the mask, same shape, flat
    index within the plane.
    Raises: ShapeError unless the bottom has 4 axes; UnsupportedParameter for STOCHASTIC (not implemented on Caffe's
    CPU) and for what Caffe refuses: pad >= kernel, kernel with global_pooling, both forms of a parameter.
    Source: BVLC/caffe @ 9b89154, pooling_layer.cpp.
    """

    tops = Count(1, 2)

    method: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    global_pooling: bool
    round_mode: str
    num_tops: int = 1

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("pooling_param")
        method = _method(params)
        if spec.num_tops > 1 and method != "MAX":
            raise refuse("a second top (the mask) is for MAX pooling only")

        def pair(name: str, height: str, width: str, default: int) -> tuple[int, int]:
            both = params.has(height) or params.has(width)
            if params.has(name) and both:
                raise refuse(f"both {name} and {height}/{width} are given; give one or the other")
            if both and not (params.has(height) and params.has(width)):
                raise refuse(f"{height} and {width} must be given together")
            if both:
                return params.integer(height), params.integer(width)
            value = params.integer(name) if params.has(name) else default
            return value, value

        round_mode = params.enum("round_mode")
        if params.fork_has("ceil_mode"):
            # Forks say with it what upstream says with round_mode, and round up where it is not given, as upstream.
            if params.has("round_mode"):
                raise refuse("both round_mode and a fork's ceil_mode are given; give round_mode")
            round_mode = "CEIL" if params.flag("ceil_mode") else "FLOOR"
        global_pooling = params.flag("global_pooling")
        kernel = pair("kernel_size", "kernel_h", "kernel_w", 0)
        stride = pair("stride", "stride_h", "stride_w", 1)
        pad = pair("pad", "pad_h", "pad_w", 0)
        if global_pooling:
            if any(params.has(name) for name in ("kernel_size", "kernel_h", "kernel_w")):
                raise refuse("with global_pooling the kernel is the whole input: remove kernel_size")
            if pad != (0, 0) or stride != (1, 1):
                raise refuse("with global_pooling pad must be 0 and stride 1")
        else:
            if min(kernel) <= 0:
                raise refuse("kernel_size (or kernel_h and kernel_w) must be given and positive")
            if min(stride) <= 0:
                raise refuse("stride must be positive")
            if pad[0] >= kernel[0] or pad[1] >= kernel[1]:
                raise refuse(f"pad {format_shape(pad)} must be smaller than the kernel {format_shape(kernel)}")
        return cls(method, kernel, stride, pad, global_pooling, round_mode, spec.num_tops)

    def window(self, bottom: Shape) -> PoolWindow:
        """The window at a bottom's shape. Raises ShapeError if it does not fit."""
        if len(bottom) != 4:
            raise ShapeError(f"Pooling needs a bottom of 4 axes, it has {len(bottom)} ({format_shape(bottom)})")
        size = (bottom[2], bottom[3])
        kernel = size if self.global_pooling else self.kernel
        clip = any(self.pad)
        output = [
            pool_output(*args, clip=clip, floor=self.round_mode == "FLOOR")
            for args in zip(size, kernel, self.stride, self.pad, strict=True)
        ]
        if min(output) < 0:
            raise ShapeError(f"kernel {format_shape(kernel)} does not fit an input of {format_shape(size)}")
        return PoolWindow(kernel, self.stride, self.pad, size, (output[0], output[1]))

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [(*bottoms[0][:2], *self.window(bottoms[0]).output)] * self.num_tops

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        window = self.window(x.shape)
        if self.method == "AVE":
            return [average_pool(x, window)]
        tops = [max_pool(x, window)]
        if self.num_tops == 2:
            tops.append(max_pool_mask(x, window))
        return tops


@layer("SPP")
@dataclass(frozen=True, slots=True)
class SPP(LayerDef):
    """Spatial pyramid pooling: level l has 2^l bins an axis, whatever the size of the bottom.

    Shapes: (N, C, H, W) → (N, C * (1 + 4 + … + 4^(pyramid_height-1))), level by level; pyramid_height 1 gives (N, C,
    1, 1).
    Raises: ShapeError unless the bottom has 4 axes, and where a bottom is too small for its bins (the pad, half the
    cells missing to 2^l whole kernels, must be smaller than the kernel); UnsupportedParameter without a
    pyramid_height, and for STOCHASTIC (not implemented on Caffe's CPU).
    Source: BVLC/caffe @ 9b89154, spp_layer.cpp; He et al. 2014.
    """

    pyramid_height: int
    method: str

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("spp_param")
        method = _method(params)
        height = params.integer("pyramid_height")
        if not 0 < height < 32:
            raise refuse(f"pyramid_height must be given and positive, it is {height}")
        return cls(height, method)

    def windows(self, bottom: Shape) -> list[PoolWindow]:
        """The window of each level at a bottom's shape. Raises ShapeError if one does not fit."""
        if len(bottom) != 4:
            raise ShapeError(f"SPP needs a bottom of 4 axes, it has {len(bottom)} ({format_shape(bottom)})")
        size = (bottom[2], bottom[3])
        windows = []
        for level in range(self.pyramid_height):
            bins = 1 << level
            kernel = (-(-size[0] // bins), -(-size[1] // bins))
            pad = ((kernel[0] * bins - size[0] + 1) // 2, (kernel[1] * bins - size[1] + 1) // 2)
            if pad[0] >= kernel[0] or pad[1] >= kernel[1]:
                raise ShapeError(
                    f"{format_shape(size)} is too small for {bins}x{bins} bins (level {level}): "
                    f"pad {format_shape(pad)} would not be smaller than kernel {format_shape(kernel)}"
                )
            output = [pool_output(*args, clip=any(pad)) for args in zip(size, kernel, kernel, pad, strict=True)]
            windows.append(PoolWindow(kernel, kernel, pad, size, (output[0], output[1])))
        return windows

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (x,) = bottoms
        windows = self.windows(x)
        if len(windows) == 1:
            return [(*x[:2], *windows[0].output)]
        return [(x[0], x[1] * sum(count(window.output) for window in windows))]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        pool = max_pool if self.method == "MAX" else average_pool
        levels = [pool(x, window) for window in self.windows(x.shape)]
        if len(levels) == 1:
            return levels
        return [np.concatenate([level.reshape(len(x), count(level.shape, 1)) for level in levels], axis=1)]
