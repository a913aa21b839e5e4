"""Numbers and sizes as source text."""

from __future__ import annotations

import math

from caffe_port.converters.to_pytorch_source.graph import Written, literal
from caffe_port.converters.to_pytorch_source.names import number
from caffe_port.errors import UnsupportedLayer
from caffe_port.shapes import Shape

__all__ = ["finite", "linear", "size", "sized", "times"]


def finite(value: float) -> str:
    """A parameter. Raises: UnsupportedLayer for infinity and NaN, which have no literal."""
    if not math.isfinite(value):
        raise UnsupportedLayer(f"a parameter is {value}")
    return number(value)


def linear(scale: float, shift: float) -> str:
    """scale * {0} + shift, without what changes nothing."""
    text = "{0}" if scale == 1 else f"{finite(scale)} * {{0}}"
    if shift == 0:
        return text
    return f"{text} {'-' if shift < 0 else '+'} {finite(abs(shift))}"


def times(scale: float, text: str) -> str:
    """scale * text, without a factor of 1."""
    return text if scale == 1 else f"{finite(scale)} * {text}"


def size(values: Shape) -> Written | int:
    """The size of a window: one number where all axes have the same."""
    return values[0] if len(set(values)) == 1 else Written(f"({', '.join(map(str, values))})")


def sized(values: Shape) -> str:
    """`size` as source text."""
    return literal(size(values))
