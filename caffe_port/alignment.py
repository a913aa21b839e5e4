"""Crop layers without offsets, as the forks before upstream's own Crop had them: where to cut follows from the net.

Both bottoms come from one blob by convolutions, poolings and the like. Each of these puts cell i of its top at a place
s * i + t of its bottom; two chains of such steps say where the first cell of bottom[1] lies in bottom[0].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from caffe_port.errors import CaffePortError, GraphError, Problems, ShapeError
from caffe_port.frontend import PlacedLayer
from caffe_port.layers.base import Params
from caffe_port.layers.convolution import WindowParams
from caffe_port.proto.dialects import Meaning, meaning

__all__ = ["align"]

V1_CROP = "CROP"
"""The V1 type of the forks' layer; upstream's has V2's type only."""

CROP = {
    "corner": Meaning("cut from the first row and column on", ("BVLC/caffe",)),
    "aligned": Meaning("cut where the net puts bottom[1]", ("s9xie/hed", "zeakey/DeepSkeleton", "HyeonwooNoh/caffe")),
}

_CONVOLUTIONS = ("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution")
_IN_PLACE = {
    "AbsVal", "BatchNorm", "Bias", "BN", "BNLL", "Clip", "Concat", "Dropout", "Eltwise", "ELU", "Exp", "Log", "LRN",
    "Mish", "MVN", "Normalize", "Power", "PReLU", "ReLU", "ReLU6", "Scale", "ShuffleChannel", "Sigmoid", "Slice",
    "Softmax", "Split", "Swish", "TanH", "Threshold",
}  # fmt: skip
"""Types whose cells lie where their bottom's do."""

_Line = tuple[Fraction, Fraction]
"""Scale and shift: cell i lies at scale * i + shift."""
_Place = tuple[_Line, _Line]
"""Of rows, and of columns."""
_Places = dict[int, _Place]
"""Where a blob's cells lie in each blob it comes from, by the number of the layer that made that one."""

_SAME: _Line = (Fraction(1), Fraction(0))


def align(layers: Sequence[PlacedLayer]) -> list[PlacedLayer]:
    """The layers, with offsets in the Crop layers that have none and that their fork aligns.

    A V1 layer CROP is such a one; a Crop without crop_param is if the net's dialect says so (see `CROP`).
    Raises: GraphError naming each layer whose bottoms cannot be traced to one blob, or do not lie on one grid.
    """
    if not any(_aligns(placed.message) for placed in layers):
        return list(layers)
    problems = Problems()
    places: dict[str, _Places] = {}
    made = []
    for number, placed in enumerate(layers):
        message = placed.message
        try:
            if _aligns(message):
                message = _cut(message, _offsets([places.get(name, {}) for name in message.bottom]))
                placed = replace(placed, message=message)
            steps = _steps(message)
        except CaffePortError as error:
            problems.add(type(error), str(error), layer=message.name, location=placed.location)
            steps = None
        made.append(placed)
        before: _Places = {}
        if steps is not None:
            # A blob may be come by in several ways; the first bottom's counts.
            for name in reversed(message.bottom[: 1 if message.type == "Crop" else None]):
                before.update(places.get(name, {}))
        after = {
            source: (_then(place[0], steps[0]), _then(place[1], steps[1]))
            for source, place in before.items()
            if steps is not None
        }
        for name in message.top:
            places[name] = {**after, number: (_SAME, _SAME)}
    problems.raise_if_any()
    return made


def _aligns(message: Any) -> bool:
    if message.type == V1_CROP:
        return True
    return (
        message.type == "Crop"
        and not message.HasField("crop_param")
        and meaning("a Crop layer without crop_param", CROP, "corner") == "aligned"
    )


def _cut(message: Any, offsets: tuple[int, int]) -> Any:
    made = type(message)()
    made.CopyFrom(message)
    made.type = "Crop"
    made.crop_param.axis = 2
    made.crop_param.offset.extend(offsets)
    return made


def _then(first: _Line, second: _Line) -> _Line:
    """Where cell i lies that is at `second` of a blob whose cells are at `first`."""
    return first[0] * second[0], first[0] * second[1] + first[1]


def _steps(message: Any) -> _Place | None:
    """Where the cells of a layer's top lie in its bottom, of rows and of columns; None where that cannot be said."""
    if message.type in _IN_PLACE:
        return _SAME, _SAME
    if message.type == "Crop":
        offset = list(message.crop_param.offset)
        if message.crop_param.axis != 2 or len(offset) > 2:
            return None
        rows, columns = offset * 2 if len(offset) == 1 else offset or (0, 0)
        return (Fraction(1), Fraction(rows)), (Fraction(1), Fraction(columns))
    if message.type == "Pooling":
        pool = message.pooling_param
        if pool.global_pooling:
            return None
        pairs = [
            (getattr(pool, f"{name}_h"), getattr(pool, f"{name}_w")) if pool.HasField(f"{name}_h") else (value, value)
            for name, value in (("kernel", pool.kernel_size), ("stride", pool.stride), ("pad", pool.pad))
        ]
        lines = [_line(*values) for values in zip(*pairs, strict=True)]
        return lines[0], lines[1]
    if message.type in (*_CONVOLUTIONS, "Deconvolution"):
        window = WindowParams(Params(message.convolution_param)).at(2)
        sides = zip(window.kernel, window.stride, window.pad, window.dilation, strict=True)
        lines = [_line(*values) for values in sides]
        if message.type == "Deconvolution":
            lines = [(1 / scale, -shift / scale) for scale, shift in lines]
        return lines[0], lines[1]
    return None


def _line(kernel: int, stride: int, pad: int, dilation: int = 1) -> _Line:
    return Fraction(stride), Fraction(dilation * (kernel - 1), 2) - pad


def _offsets(bottoms: Sequence[_Places]) -> tuple[int, int]:
    """Row and column of bottom[0] at which the first cell of bottom[1] lies."""
    if len(bottoms) != 2:
        raise GraphError(f"Crop takes 2 bottoms, {len(bottoms)} are given")
    common = bottoms[0].keys() & bottoms[1].keys()
    if not common:
        raise GraphError("the bottoms cannot be traced to one blob by layers that say where they cut; give crop_param")
    found = []
    for mine, other in zip(bottoms[0][max(common)], bottoms[1][max(common)], strict=True):
        offset = (other[1] - mine[1]) / mine[0]
        if mine[0] != other[0]:
            raise GraphError(
                f"the bottoms lie on grids of {mine[0]} and {other[0]} cells, so none can be cut to the other"
            )
        if offset < 0:
            raise ShapeError(f"bottom[1] begins {-offset} cells before bottom[0]")
        # Half cells go up, as C's round has it.
        found.append(int(offset + Fraction(1, 2)))
    return found[0], found[1]
