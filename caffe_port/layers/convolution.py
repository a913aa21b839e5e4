"""Convolution and its relatives over any number of spatial axes, through BLAS."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe_port.errors import ShapeError
from caffe_port.layers.base import Array, Count, LayerDef, LayerSpec, Params, RunContext, WeightSpec, refuse
from caffe_port.limits import MAX_ELEMENTS
from caffe_port.registry import layer
from caffe_port.shapes import Shape, canonical_axis, conv_output, count, deconv_output, format_shape

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Convolution", "Deconvolution", "Im2col", "Window", "window_view"]

# Columns are made in strips of about this many bytes, so that they stay in cache and memory stays bounded.
STRIP_BYTES = 4 << 20


def _spread(params: Params, name: str, axes: int, default: int | None, pair: tuple[str, str] | None) -> Shape:
    """A per-axis parameter: `name` once or once an axis, or the pair of _h and _w, or the default.

    Raises: UnsupportedParameter as base_conv_layer.cpp does.
    """
    values = params.integers(name)
    if pair and (params.has(pair[0]) or params.has(pair[1])):
        if axes != 2:
            raise refuse(f"{pair[0]} and {pair[1]} are for 2 spatial axes; this blob has {axes}: use {name}")
        if values:
            raise refuse(f"both {name} and {pair[0]}/{pair[1]} are given; give one or the other")
        return params.integer(pair[0]), params.integer(pair[1])
    if not values and default is not None:
        return (default,) * axes
    if len(values) == 1:
        return values * axes
    if len(values) == axes:
        return values
    raise refuse(f"{name} is given {len(values)} times for {axes} spatial axes; give it once, or once an axis")


@dataclass(frozen=True, slots=True)
class Window:
    """Kernel, stride, pad and dilation of one layer, a value a spatial axis."""

    kernel: Shape
    stride: Shape
    pad: Shape
    dilation: Shape

    @property
    def axes(self) -> int:
        return len(self.kernel)

    def output(self, spatial: Sequence[int]) -> Shape:
        """Spatial dims of a convolution's output for input dims `spatial`. Raises ShapeError if one is negative."""
        sizes = tuple(
            conv_output(*args) for args in zip(spatial, self.kernel, self.stride, self.pad, self.dilation, strict=True)
        )
        if min(sizes, default=0) < 0:
            raise ShapeError(
                f"kernel {format_shape(self.kernel)} does not fit an input of {format_shape(spatial)} "
                f"with pad {format_shape(self.pad)}"
            )
        return sizes

    def deconvolved(self, spatial: Sequence[int]) -> Shape:
        """Spatial dims of a deconvolution's output for input dims `spatial`. Raises ShapeError if one is negative."""
        sizes = tuple(
            deconv_output(*args)
            for args in zip(spatial, self.kernel, self.stride, self.pad, self.dilation, strict=True)
        )
        if min(sizes, default=0) < 0:
            raise ShapeError(
                f"pad {format_shape(self.pad)} takes more than kernel {format_shape(self.kernel)} makes "
                f"of an input of {format_shape(spatial)}"
            )
        return sizes

    def offsets(self) -> Iterator[Shape]:
        """For each kernel cell in raster order, the distance of the input cell it meets from the window's first."""
        for cell in itertools.product(*map(range, self.kernel)):
            yield tuple(i * step for i, step in zip(cell, self.dilation, strict=True))

    def cells(self, offset: Shape, size: Sequence[int]) -> tuple[slice, ...]:
        """Where `size` windows a spatial axis, a stride apart, have their cell at `offset`."""
        return tuple(
            slice(start, start + (n - 1) * stride + 1, stride) if n else slice(0, 0)
            for start, n, stride in zip(offset, size, self.stride, strict=True)
        )

    def pad_after(self, spatial: Sequence[int]) -> Shape:
        """Zeros needed behind the input: the pad, or more where Caffe's rounding reads past it (never less than 0)."""
        return tuple(
            max(pad, (out - 1) * stride + dilation * (kernel - 1) + 1 - size - pad)
            for size, out, kernel, stride, pad, dilation in zip(
                spatial, self.output(spatial), self.kernel, self.stride, self.pad, self.dilation, strict=True
            )
        )

    @property
    def is_pointwise(self) -> bool:
        return all(k == 1 for k in self.kernel) and not any(self.pad)


@dataclass(frozen=True, slots=True)
class WindowParams:
    """The window parameters of a convolution_param before the number of spatial axes is known."""

    params: Params

    def at(self, axes: int) -> Window:
        """The window for a blob of `axes` spatial axes. Raises UnsupportedParameter for what Caffe refuses."""
        kernel = _spread(self.params, "kernel_size", axes, None, ("kernel_h", "kernel_w"))
        stride = _spread(self.params, "stride", axes, 1, ("stride_h", "stride_w"))
        pad = _spread(self.params, "pad", axes, 0, ("pad_h", "pad_w"))
        dilation = _spread(self.params, "dilation", axes, 1, None)
        if any(self.params.fork_has(name) for name in ("hole", "hole_h", "hole_w")):
            # What DeepLab called the dilation before upstream had it.
            if self.params.integers("dilation") or axes != 2:
                raise refuse("hole is for 2 spatial axes, and stands for dilation: give one of them")
            hole = self.params.integer("hole")
            pair = (self.params.integer(name) if self.params.has(name) else hole for name in ("hole_h", "hole_w"))
            dilation = tuple(pair)
        for name, values in (("kernel_size", kernel), ("stride", stride), ("dilation", dilation)):
            if any(value <= 0 for value in values):
                # Caffe divides by a stride of 0 (given stride_h alone, stride_w stays 0) and crashes.
                raise refuse(f"{name} must be positive on every axis, it is {format_shape(values)}")
        return Window(kernel, stride, pad, dilation)

    def mark_read(self) -> None:
        """All of these are looked at, though only once the shape of the bottom is known."""
        self.params.inert(
            "kernel_size", "kernel_h", "kernel_w", "stride", "stride_h", "stride_w", "pad", "pad_h", "pad_w", "dilation"
        )
        self.params.inert("engine", "force_nd_im2col", "hole", "hole_h", "hole_w")


def window_view(padded: Array, window: Window, output: Shape) -> Array:
    """View of `padded` (C, padded spatial…) as (C, kernel…, output…): the columns of im2col, not yet copied."""
    channel, *spatial = padded.strides
    return np.lib.stride_tricks.as_strided(
        padded,
        shape=(padded.shape[0], *window.kernel, *output),
        strides=(
            channel,
            *(step * d for step, d in zip(spatial, window.dilation, strict=True)),
            *(step * s for step, s in zip(spatial, window.stride, strict=True)),
        ),
        writeable=False,
    )


def convolve(x: Array, weight: Array, window: Window, group: int) -> Array:
    """Cross-correlation of x (N, C, spatial…) with weight (O, C/group, kernel…): (N, O, output…)."""
    output = window.output(x.shape[2:])
    num, channels = x.shape[:2]
    out_channels = weight.shape[0]
    kernels = np.ascontiguousarray(weight).reshape(group, out_channels // group, -1)
    top = np.empty((num, out_channels, *output), dtype=x.dtype)
    if top.size == 0:
        return top
    if window.is_pointwise:
        steps: tuple[Any, ...] = (..., *(slice(None, None, stride) for stride in window.stride))
        inside: tuple[Any, ...] = (..., *(slice(size) for size in output))
        picked = np.ascontiguousarray(x[steps][inside])
        columns = picked.reshape(num, group, channels // group, -1)
        np.matmul(kernels, columns, out=top.reshape(num, group, out_channels // group, -1))
        return top
    padding = list(zip(window.pad, window.pad_after(x.shape[2:]), strict=True))
    rows_per_strip = max(1, STRIP_BYTES // max(1, kernels.shape[2] * x.itemsize * count(output, 1)))
    for n in range(num):
        padded = np.pad(x[n], [(0, 0), *padding])
        for g in range(group):
            part = padded[g * (channels // group) : (g + 1) * (channels // group)]
            view = window_view(part, window, output)
            target = top[n].reshape(group, out_channels // group, *output)[g]
            for start in range(0, output[0], rows_per_strip):
                rows = slice(start, start + rows_per_strip)
                at_rows: tuple[Any, ...] = (*[slice(None)] * (1 + window.axes), rows)
                strip_columns: Array = view[at_rows].reshape(kernels.shape[2], -1)
                product = kernels[g] @ strip_columns
                target[:, rows] = product.reshape(out_channels // group, -1, *output[1:])
    return top


def deconvolve(x: Array, weight: Array, window: Window, group: int) -> Array:
    """Transpose of `convolve`: x (N, C, spatial…) with weight (C, O/group, kernel…) gives (N, O, output…)."""
    num, channels, *spatial = x.shape
    out_channels = weight.shape[1]
    output = window.deconvolved(spatial)
    whole = [size + 2 * pad for size, pad in zip(output, window.pad, strict=True)]
    full = np.zeros((num, group, out_channels, *whole), dtype=x.dtype)
    flat = np.ascontiguousarray(x).reshape(num, group, channels // group, count(spatial))
    kernels = weight.reshape(group, channels // group, out_channels, -1).transpose(3, 0, 2, 1)
    for kernel, offset in zip(np.ascontiguousarray(kernels), window.offsets(), strict=True):
        cells: tuple[Any, ...] = (..., *window.cells(offset, spatial))
        full[cells] += (kernel @ flat).reshape(num, group, out_channels, *spatial)
    inner: tuple[Any, ...] = tuple(slice(pad, pad + size) for pad, size in zip(window.pad, output, strict=True))
    return full[(slice(None),) * 3 + inner].reshape(num, group * out_channels, *output)


@layer("Convolution")
@dataclass(frozen=True, slots=True)
class Convolution(LayerDef):
    """Cross-correlation with learned kernels over every axis after `axis`, zero-padded, in groups.

    Shapes: bottom[i] (N…, C, spatial…) → top[i] (N…, num_output, out…), out = (in + 2 pad - extent) / stride + 1 with
    C's division. Weights: (num_output, C/group, kernel…), and (num_output,) if bias_term. All bottoms have the same
    shape.
    Raises: UnsupportedParameter for window parameters Caffe refuses; ShapeError if group does not divide the channels,
    or an item unrolled to columns has more elements than Caffe's blobs can.
    Source: BVLC/caffe @ 9b89154, base_conv_layer.cpp, conv_layer.cpp.
    """

    bottoms = Count(1, None)
    tops = Count(1, None)
    same_count = True

    num_output: int
    bias_term: bool
    group: int
    axis: int
    windows: WindowParams
    weight_filler: Any
    bias_filler: Any

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("convolution_param")
        windows = WindowParams(params)
        windows.mark_read()
        num_output, group = params.integer("num_output"), params.integer("group")
        if num_output <= 0:
            raise refuse("num_output must be given and positive")
        if group <= 0 or num_output % group:
            raise refuse(f"group {group} must divide num_output {num_output}")
        return cls(
            num_output=num_output,
            bias_term=params.flag("bias_term"),
            group=group,
            axis=params.integer("axis"),
            windows=windows,
            weight_filler=params.raw("weight_filler"),
            bias_filler=params.raw("bias_filler"),
        )

    def channel_axis(self, bottom: Shape) -> int:
        return canonical_axis(self.axis, len(bottom))

    def window(self, bottom: Shape) -> Window:
        """The window at a bottom's shape (its number of spatial axes)."""
        return self.windows.at(len(bottom) - self.channel_axis(bottom) - 1)

    def _check(self, bottoms: Sequence[Shape]) -> None:
        if any(bottom != bottoms[0] for bottom in bottoms):
            raise ShapeError(f"bottoms differ in shape: {', '.join(map(format_shape, bottoms))}")
        channels = bottoms[0][self.channel_axis(bottoms[0])]
        if channels % self.group:
            raise ShapeError(f"group {self.group} does not divide the {channels} channels of the bottom")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self._check(bottoms)
        axis, window = self.channel_axis(bottoms[0]), self.window(bottoms[0])
        spatial = self.output(window, bottoms[0][axis + 1 :])
        columns = self.group * count(self.weight_shape(bottoms[0][axis], window.kernel), 1)
        positions = self.positions(bottoms[0][axis + 1 :], spatial)
        if columns * count(positions) > MAX_ELEMENTS:
            raise ShapeError(
                f"the columns of one item would be {format_shape((columns, *positions))}, more than the {MAX_ELEMENTS} "
                "elements that Caffe allows"
            )
        return [(*bottoms[0][:axis], self.num_output, *spatial)] * len(bottoms)

    def positions(self, bottom: Shape, top: Shape) -> Shape:
        """Of the spatial dims of bottom and top, those that the columns of Caffe's im2col have."""
        return top

    def output(self, window: Window, spatial: Shape) -> Shape:
        """Spatial dims of the top for those of the bottom."""
        return window.output(spatial)

    def weight_shape(self, channels: int, kernel: Shape) -> Shape:
        """Shape of learned blob 0 for a bottom of `channels`."""
        return (self.num_output, channels // self.group, *kernel)

    def weight_specs(self, bottoms: Sequence[Shape]) -> list[WeightSpec]:
        channels = bottoms[0][self.channel_axis(bottoms[0])]
        kernel = self.window(bottoms[0]).kernel
        specs = [WeightSpec(self.weight_shape(channels, kernel), self.weight_filler)]
        if self.bias_term:
            specs.append(WeightSpec((self.num_output,), self.bias_filler))
        return specs

    def product(self, x: Array, weight: Array, window: Window) -> Array:
        """Top (N, num_output, out…), without bias, of x (N, C, spatial…)."""
        return convolve(x, weight, window, self.group)

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        tops = []
        for x in bottoms:
            axis = self.channel_axis(x.shape)
            window = self.window(x.shape)
            top = self.product(x.reshape(-1, *x.shape[axis:]), weights[0], window)
            if self.bias_term:
                top += weights[1].reshape(-1, *[1] * window.axes)
            tops.append(top.reshape(*x.shape[:axis], *top.shape[1:]))
        return tops

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        kernel = count(self.weight_specs(bottoms)[0].shape, 1)
        return sum(count(top) * kernel for top in tops)


@layer("Deconvolution")
@dataclass(frozen=True, slots=True)
class Deconvolution(Convolution):
    """The exact transpose of Convolution: every input value spreads over a window of the output.

    Shapes: bottom[i] (N…, C, spatial…) → top[i] (N…, num_output, out…), out = stride (in - 1) + extent - 2 pad.
    Weights: (C, num_output/group, kernel…), and (num_output,) if bias_term. All bottoms have the same shape.
    Raises: UnsupportedParameter for window parameters Caffe refuses; ShapeError if group does not divide the channels,
    or an item unrolled to columns has more elements than Caffe's blobs can.
    Source: BVLC/caffe @ 9b89154, base_conv_layer.cpp, deconv_layer.cpp.
    """

    def output(self, window: Window, spatial: Shape) -> Shape:
        return window.deconvolved(spatial)

    def positions(self, bottom: Shape, top: Shape) -> Shape:
        return bottom

    def weight_shape(self, channels: int, kernel: Shape) -> Shape:
        return (channels, self.num_output // self.group, *kernel)

    def product(self, x: Array, weight: Array, window: Window) -> Array:
        return deconvolve(x, weight, window, self.group)

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        kernel = count(self.weight_specs(bottoms)[0].shape, 1)
        return sum(count(bottom) * kernel for bottom in bottoms)


@layer("Im2col")
@dataclass(frozen=True, slots=True)
class Im2col(LayerDef):
    """The windows a convolution would meet, as channels: channel by channel, within one the kernel cells in raster
    order.

    Shapes: (N…, C, spatial…) → (N…, C * cells of the kernel, out…), out as of Convolution.
    Raises: UnsupportedParameter for window parameters Caffe refuses; ShapeError without a spatial axis.
    Source: BVLC/caffe @ 9b89154, im2col_layer.cpp.
    """

    axis: int
    windows: WindowParams

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("convolution_param")
        windows = WindowParams(params)
        windows.mark_read()
        # A convolution's own; Im2col makes no use of them, and Caffe does not mind them.
        params.inert("num_output", "bias_term", "group", "weight_filler", "bias_filler")
        return cls(params.integer("axis"), windows)

    def channel_axis(self, bottom: Shape) -> int:
        return canonical_axis(self.axis, len(bottom))

    def window(self, bottom: Shape) -> Window:
        """The window at a bottom's shape."""
        axes = len(bottom) - self.channel_axis(bottom) - 1
        if axes < 1:
            raise ShapeError(f"{format_shape(bottom)} has no spatial axis behind axis {self.channel_axis(bottom)}")
        return self.windows.at(axes)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (x,) = bottoms
        axis, window = self.channel_axis(x), self.window(x)
        return [(*x[:axis], x[axis] * count(window.kernel), *window.output(x[axis + 1 :]))]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        axis, window = self.channel_axis(x.shape), self.window(x.shape)
        spatial = x.shape[axis + 1 :]
        output = window.output(spatial)
        padding = list(zip(window.pad, window.pad_after(spatial), strict=True))
        padded = np.pad(x.reshape(-1, *spatial), [(0, 0), *padding])
        return [window_view(padded, window, output).reshape(self.top_shapes([x.shape])[0])]
