"""`caffe.coord_map`: where a top's coordinates lie in another top of a NetSpec, and the Crop that aligns them.

A map is (axis, scale, shift): coordinate x of one top is scale * x + shift in the other; `axis` is that of the
channels, before the first axis it is about, and None where any will do. Scale and shift are numbers or an array, one
value a spatial axis.

Source: BVLC/caffe @ 9b89154, python/caffe/coord_map.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from caffe_port.errors import GraphError, UnsupportedParameter
from caffe_port.netspec import Function, Top, layers

__all__ = [
    "AxisMismatchException",
    "CropError",
    "UnconnectedTops",
    "UndefinedMapException",
    "compose",
    "conv_params",
    "coord_map",
    "coord_map_from_to",
    "crop",
    "crop_params",
    "inverse",
]

Map = tuple[Any, Any, Any]

PASS_THROUGH_LAYERS = [
    *("AbsVal", "BatchNorm", "Bias", "BNLL", "Dropout", "Eltwise", "ELU", "Exp", "Log", "LRN", "MVN", "Power"),
    *("PReLU", "ReLU", "Scale", "Sigmoid", "Split", "TanH", "Threshold"),
]

IDENTITY: Map = (None, 1, 0)


class UndefinedMapException(GraphError):
    """A layer that does not keep coordinates."""


class AxisMismatchException(GraphError):
    """Maps of different axes."""


class UnconnectedTops(GraphError, RuntimeError):
    """Tops without an ancestor in common that layers with known maps lead to; a RuntimeError, as pycaffe's."""


class CropError(GraphError, AssertionError):
    """Tops that no crop aligns; an AssertionError, as pycaffe's."""


def conv_params(fn: Function) -> tuple[int, Any, Any, Any]:
    """Axis, stride, kernel extent (dilation included) and pad of a convolution, a deconvolution or a pooling.

    Raises: UnsupportedParameter for kernel_h and the like, and without a kernel size.
    """
    params = fn.params.get("convolution_param", fn.params.get("pooling_param", fn.params))
    legacy = sorted({f"{name}_{axis}" for name in ("kernel", "stride", "pad") for axis in "hw"} & set(params))
    if legacy:
        raise LegacyParameter(f"{fn.type_name}: {', '.join(legacy)} cannot be mapped; use kernel_size, stride and pad")
    if "kernel_size" not in params:
        raise LegacyParameter(f"{fn.type_name} without kernel_size cannot be mapped")
    stride, kernel, dilation, pad = (
        np.array(params.get(name, default), ndmin=1)
        for name, default in (("stride", 1), ("kernel_size", None), ("dilation", 1), ("pad", 0))
    )
    return params.get("axis", 1), stride, (kernel - 1) * dilation + 1, pad


class LegacyParameter(UnsupportedParameter, AssertionError):
    """A parameter that no map can be made of; an AssertionError, as pycaffe's."""


def crop_params(fn: Function) -> tuple[int, Any]:
    """Axis and offset of a Crop."""
    params = fn.params.get("crop_param", fn.params)
    return params.get("axis", 2), np.array(params.get("offset", 0), ndmin=1)


def coord_map(fn: Function) -> Map:
    """The map from a layer's bottom to its top. Raises: UndefinedMapException; UnsupportedParameter."""
    if fn.type_name in ("Convolution", "Pooling", "Im2col"):
        axis, stride, kernel, pad = conv_params(fn)
        return axis, 1 / stride, (pad - (kernel - 1) / 2) / stride
    if fn.type_name == "Deconvolution":
        axis, stride, kernel, pad = conv_params(fn)
        return axis, stride, (kernel - 1) / 2 - pad
    if fn.type_name in PASS_THROUGH_LAYERS:
        return IDENTITY
    if fn.type_name == "Crop":
        axis, offset = crop_params(fn)
        # The axis before the first that is cropped.
        return axis - 1, 1, -offset
    raise UndefinedMapException(f"{fn.type_name} does not keep coordinates")


def compose(base_map: Map, next_map: Map) -> Map:
    """x → base(next(x)). Raises: AxisMismatchException."""
    axis, scale, shift = base_map
    next_axis, next_scale, next_shift = next_map
    if axis is None:
        axis = next_axis
    elif next_axis is not None and next_axis != axis:
        raise AxisMismatchException(f"a map about axis {axis} cannot follow one about axis {next_axis}")
    return axis, scale * next_scale, scale * next_shift + shift


def inverse(coord_map: Map) -> Map:
    """The map the other way."""
    axis, scale, shift = coord_map
    return axis, 1 / scale, -shift / scale


def coord_map_from_to(top_from: Top, top_to: Top) -> Map:
    """The map from the coordinates of `top_from` to those of `top_to`, by way of an ancestor both have.

    Raises: UnconnectedTops; AxisMismatchException; UnsupportedParameter.
    """
    from_maps = dict(_walk(top_from))
    for top, to_map in _walk(top_to):
        if top in from_maps:
            return compose(to_map, inverse(from_maps[top]))
    raise UnconnectedTops("no layers with known maps connect the two tops")


def _walk(top: Top) -> Any:
    """The top and its ancestors, nearest first, each once, with the map from it to the top."""
    queue = [(top, IDENTITY)]
    seen = {top}
    for reached, known in queue:
        yield reached, known
        try:
            step = coord_map(reached.fn)
        except UndefinedMapException:
            continue
        # The second bottom of a Crop has a size only.
        for bottom in reached.fn.inputs[: 1 if reached.fn.type_name == "Crop" else None]:
            if bottom not in seen:
                seen.add(bottom)
                queue.append((bottom, compose(known, step)))


def crop(top_from: Top, top_to: Top) -> Top:
    """A Crop layer that cuts `top_from` to the size and the place of `top_to`.

    Raises: CropError if their scales differ, or `top_from` would have to grow, or to move by part of a pixel; as
    `coord_map_from_to`.
    """
    axis, scale, shift = coord_map_from_to(top_from, top_to)
    if axis is None:
        raise CropError("no layer between the two tops says which axes are spatial")
    if not np.all(scale == 1):
        raise CropError(f"scale mismatch on crop (a = {scale})")
    if not np.all(shift <= 0):
        raise CropError(f"cannot crop negative width (b = {shift})")
    if not np.all(np.round(shift) == shift):
        raise CropError(f"cannot crop noninteger width (b = {shift})")
    offset = [int(value) for value in np.atleast_1d(-shift)]
    top: Top = layers.Crop(top_from, top_to, crop_param={"axis": axis + 1, "offset": offset})
    return top
