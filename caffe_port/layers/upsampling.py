"""Layers of forks that make a plane larger: Interp, Upsample, Unpooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from caffe_port.errors import GraphError, ShapeError
from caffe_port.layers.base import Array, Count, LayerDef, LayerSpec, Params, RunContext, refuse
from caffe_port.proto.dialects import Meaning, meaning
from caffe_port.registry import layer
from caffe_port.shapes import Shape, count, format_shape

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Interp", "Unpooling", "Upsample", "scatter"]

ZOOM = {
    "between": Meaning("n cells become (n - 1) * zoom_factor + 1", ("xmyqsh/deeplab-v2", "hszhao/PSPNet")),
    "whole": Meaning(
        "n cells become n * zoom_factor, unless shrink_factor is given too",
        ("opencv/open_model_zoo",),
    ),
}


@layer("Interp")
@dataclass(frozen=True, slots=True)
class Interp(LayerDef):
    """Bilinear interpolation; the corners of bottom and top are the same points.

    pad_beg and pad_end (0 or negative) first cut rows and columns away. The size is `height` and `width`, or what
    shrink_factor s makes of n cells, (n - 1) / s + 1 rounded down, and zoom_factor z of those, (n - 1) z + 1. DeepLab
    (v1, v2) and PSPNet agree in this; the fork behind open_model_zoo takes n z where zoom_factor stands alone.
    Given together, the factors win over the size only where one of them stands alone, as there.
    Shapes: (N, C, H, W) → (N, C, height, width). Raises: UnsupportedParameter for positive pads, factors below 1 and
    where nothing gives the size; ShapeError unless the bottom has 4 axes, and where nothing is left of it.
    Source: gpapan/caffe (DeepLab), openvinotoolkit/training_toolbox_caffe, interp_layer.cpp; recorded.
    """

    size: tuple[int, int] | None
    shrink: int = 1
    zoom: int = 1
    pad: tuple[int, int] = (0, 0)
    whole: bool = False

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("interp_param")
        if params.fork_has("mode") and params.enum("mode") != "LINEAR":
            raise refuse(f"mode {params.enum('mode')}: only LINEAR is known here")
        pad = params.integer("pad_beg"), params.integer("pad_end")
        if max(pad) > 0:
            raise refuse("pad_beg and pad_end must not be positive: the layer cuts, it does not pad")
        shrink, zoom = params.has("shrink_factor"), params.has("zoom_factor")
        factors = params.integer("shrink_factor"), params.integer("zoom_factor")
        if min(factors) < 1:
            raise refuse("shrink_factor and zoom_factor must be at least 1")
        # Looked at in any case, so that what an alone standing factor makes of no account counts as read.
        sides = params.has("height"), params.has("width")
        size = params.integer("height"), params.integer("width")
        if all(sides) and shrink == zoom:
            if min(size) < 1:
                raise refuse(f"height and width must be positive, they are {format_shape(size)}")
            return cls(size, pad=pad)
        if not (shrink or zoom):
            raise refuse("give height and width, or zoom_factor, or shrink_factor")
        whole = zoom and not shrink and factors[1] > 1 and meaning("Interp's zoom_factor", ZOOM, "between") == "whole"
        return cls(None, *factors, pad=pad, whole=whole)

    def kept(self, plane: Shape) -> Shape:
        """What is left of H and W when the pads are cut away. Raises ShapeError if nothing is."""
        left = tuple(size + sum(self.pad) for size in plane)
        if min(left) < 1:
            raise ShapeError(f"pad_beg and pad_end leave nothing of {format_shape(plane)}")
        return left

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (x,) = bottoms
        if len(x) != 4:
            raise ShapeError(f"Interp needs a bottom of 4 axes, it is {format_shape(x)}")
        plane = self.kept(x[2:])
        if self.size is None:
            plane = tuple((size - 1) // self.shrink + 1 for size in plane)
            plane = tuple(size * self.zoom if self.whole else (size - 1) * self.zoom + 1 for size in plane)
        return [(*x[:2], *(self.size or plane))]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        (top,) = self.top_shapes([x.shape])
        height, width = (slice(-self.pad[0], size + self.pad[1]) for size in x.shape[2:])
        return [_stretched(_stretched(x[:, :, height, width], 2, top[2]), 3, top[3])]


def _stretched(x: Array, axis: int, size: int) -> Array:
    """x with `size` cells along an axis, interpolated linearly between the first and the last."""
    before = x.shape[axis]
    if before == size:
        return x
    # In the run's own precision, as Caffe has it: of a large plane that is most of the layer's noise.
    step = (before - 1) / (size - 1) if size > 1 else 0.0
    places = np.arange(size, dtype=x.dtype) * x.dtype.type(step)
    first = np.minimum(places.astype(np.int64), before - 1)
    shares = (places - first.astype(x.dtype)).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    left, right = x.take(first, axis), x.take(np.minimum(first + 1, before - 1), axis)
    return np.asarray(left * (1 - shares) + right * shares)


def scatter(x: Array, mask: Array, plane: Shape) -> Array:
    """Zeros (N, C, *plane) with each value of x (N, C, H, W) at the flat index in its plane that mask gives.

    Where an index comes twice the last value stands, in raster order.
    Raises: GraphError for an index outside the plane.
    """
    cells = count(plane)
    index = mask.astype(np.int64).reshape(-1, count(mask.shape, 2))
    if index.size and (index.min() < 0 or index.max() >= cells):
        raise GraphError(
            f"the mask points at cell {index.max() if index.max() >= cells else index.min()} of a plane of "
            f"{format_shape(plane)}: it must come from a pooling of a blob of that size"
        )
    top = np.zeros((len(index), cells), x.dtype)
    top[np.arange(len(index))[:, None], index] = x.reshape(index.shape)
    return top.reshape(*x.shape[:2], *plane)


def _same(bottoms: Sequence[Shape], what: str) -> None:
    if any(len(bottom) != 4 or bottom != bottoms[0] for bottom in bottoms):
        raise ShapeError(f"{what} needs bottoms of one shape of 4 axes: {', '.join(map(format_shape, bottoms))}")


@layer("Upsample")
@dataclass(frozen=True, slots=True)
class Upsample(LayerDef):
    """With a mask (bottom[1]) zeros, and each value where a MAX pooling found it; without, each cell `scale` times.

    Shapes: bottom (N, C, H, W), the mask alike → (N, C, upsample_h, upsample_w), or where those are not given
    (N, C, H scale_h - pad_out_h, W scale_w - pad_out_w); `scale` is 2 with a mask if not given, else 1.
    Raises: UnsupportedParameter for what the forks refuse; ShapeError unless all bottoms have the same 4 axes;
    GraphError, when it runs, for a mask that points outside the top.
    Source: with a mask alexgkendall/caffe-segnet, upsample_layer.cpp, recorded; without eric612/MobileNet-YOLO,
    upsample_layer.cpp.
    """

    bottoms = Count(1, 2)

    masked: bool
    scale: tuple[int, int] = (1, 1)
    pad_out: tuple[int, int] = (0, 0)
    size: tuple[int, int] | None = None

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("upsample_param")
        masked = spec.num_bottoms == 2
        sides = [params.has("scale_h"), params.has("scale_w")]
        sizes = [params.has("upsample_h"), params.has("upsample_w")]
        if not masked and any(sides + sizes):
            raise refuse("scale_h, scale_w, upsample_h and upsample_w are for an Upsample with a mask (bottom[1])")
        if any(sides) and (not all(sides) or params.has("scale")):
            raise refuse("give scale, or scale_h and scale_w")
        given = params.real("scale") if params.has("scale") else 2.0 if masked else 1.0
        if given != int(given):
            raise refuse(f"scale must be a whole number, it is {given:g}")
        scale = (params.integer("scale_h"), params.integer("scale_w")) if all(sides) else (int(given),) * 2
        pad_out = int(params.flag("pad_out_h")), int(params.flag("pad_out_w"))
        if all(sizes):
            size = params.integer("upsample_h"), params.integer("upsample_w")
            if min(size) < 2:
                raise refuse(f"upsample_h and upsample_w must be larger than 1, they are {format_shape(size)}")
            return cls(True, size=size)
        if min(scale) < (2 if masked else 1):
            raise refuse(f"scale must be larger than {1 if masked else 0}, it is {format_shape(scale)}")
        if any(pad and one != 2 for pad, one in zip(pad_out, scale, strict=True)):
            raise refuse("pad_out_h and pad_out_w need a scale of 2")
        if any(pad_out) and not masked:
            raise refuse("pad_out_h and pad_out_w are for an Upsample with a mask (bottom[1])")
        return cls(masked, (scale[0], scale[1]), pad_out)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        _same(bottoms, "Upsample")
        x = bottoms[0]
        plane = [size * one - pad for size, one, pad in zip(x[2:], self.scale, self.pad_out, strict=True)]
        return [(*x[:2], *(self.size or plane))]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        x = bottoms[0]
        if self.masked:
            return [scatter(x, bottoms[1], self.top_shapes([x.shape])[0][2:])]
        return [x.repeat(self.scale[0], axis=2).repeat(self.scale[1], axis=3)]


@layer("Unpooling")
@dataclass(frozen=True, slots=True)
class Unpooling(LayerDef):
    """Zeros, and each value where a MAX pooling found its own (bottom[1], the mask), or without one at the first cell
    of its window.

    Shapes: bottom (N, C, H, W), the mask alike → (N, C, unpool_h, unpool_w).
    Raises: UnsupportedParameter for AVE and TILE, which add to whatever the top's memory held, and for what the fork
    refuses; ShapeError unless all bottoms have the same 4 axes; GraphError, when it runs, for a mask that points
    outside the top.
    Source: HyeonwooNoh/caffe, unpooling_layer.cpp.
    """

    bottoms = Count(1, 2)

    size: tuple[int, int]
    stride: tuple[int, int]

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("unpooling_param")
        params.inert("engine")
        method = params.enum("unpool")
        if method != "MAX":
            raise refuse(f"unpool {method} adds to what the top's memory held before, so it has no value of its own")
        # The kernel is needed and changes nothing.
        _pair(params, "kernel_size", "kernel_h", "kernel_w", None)
        if any(_pair(params, "pad", "pad_h", "pad_w", 0)):
            raise refuse("pad must be 0")
        stride = _pair(params, "stride", "stride_h", "stride_w", 1)
        size = _pair(params, "unpool_size", "unpool_h", "unpool_w", None)
        if min(size) < 1:
            raise refuse(f"unpool_size must be positive, it is {format_shape(size)}")
        return cls(size, stride)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        _same(bottoms, "Unpooling")
        return [(*bottoms[0][:2], *self.size)]

    def corners(self, plane: Shape) -> Array:
        """The flat index in the top's plane of the first cell of each window, for a bottom's H and W."""
        rows, columns = (
            np.minimum(np.arange(size) * stride, top - 1)
            for size, stride, top in zip(plane, self.stride, self.size, strict=True)
        )
        return np.asarray(rows[:, None] * self.size[1] + columns)

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        x = bottoms[0]
        mask = bottoms[1] if len(bottoms) == 2 else np.broadcast_to(self.corners(x.shape[2:]), x.shape)
        return [scatter(x, mask, self.size)]


def _pair(params: Params, name: str, height: str, width: str, default: int | None) -> tuple[int, int]:
    both = [params.has(height), params.has(width)]
    if any(both) and (not all(both) or params.has(name)):
        raise refuse(f"give {name}, or {height} and {width}")
    if all(both):
        return params.integer(height), params.integer(width)
    if not params.has(name) and default is None:
        raise refuse(f"{name} (or {height} and {width}) must be given")
    value = params.integer(name) if params.has(name) else default or 0
    return value, value
