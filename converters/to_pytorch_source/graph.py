"""A net as calls in PyTorch's own parts: what a module holds, and what `forward` does."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from caffe_port.net import Blob, Weight
from caffe_port.shapes import Shape

__all__ = ["Argument", "Channels", "Graph", "Module", "Op", "Stride", "Tensor", "Value", "Written", "literal"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """What a variable of `forward` holds: the value of `blob`, in its shape."""

    shape: Shape
    blob: Blob | None = None


@dataclass(frozen=True, slots=True)
class Channels:
    """An argument that is the number of channels of a value."""

    of: Value
    number: int


@dataclass(frozen=True, slots=True)
class Stride:
    """An argument that may differ between the uses of a block."""

    number: int


@dataclass(frozen=True, slots=True)
class Written:
    """An argument as source text."""

    text: str


Argument = Channels | Stride | Written | int


def literal(argument: Argument) -> str:
    """An argument as source text, where it is no parameter of a block."""
    if isinstance(argument, Written):
        return argument.text
    return str(argument if isinstance(argument, int) else argument.number)


@dataclass(frozen=True, slots=True)
class Tensor:
    """An entry of the state dict, and the learned blob it comes from (see docs/pytorch-source.md for `kind`)."""

    data: Array
    layer: str
    blob: int | None
    kind: str

    @classmethod
    def of(cls, weight: Weight, kind: str) -> Tensor:
        """The values of a learned blob, in float32."""
        owner = weight.owner or weight
        data = np.asarray(weight.data, np.float32)
        return cls(data.T if kind == "transposed" else data, owner.layer, owner.index, kind)

    def reshaped(self, shape: Shape) -> Tensor:
        """The same values in another shape."""
        return replace(self, data=self.data.reshape(shape))


@dataclass(slots=True, eq=False)
class Module:
    """An attribute of a module: what makes it, and what it holds.

    `tensors` and `hooks` go by path below the attribute; the empty path is the attribute itself. A hook is a path where
    a submodule gives exactly the value of a blob.
    """

    constructor: str
    arguments: tuple[tuple[str, Argument], ...]
    name: str
    """Caffe's, or one made from it."""
    kind: str
    """What it is, in a word that can begin an identifier."""
    layers: tuple[str, ...] = ()
    """Names of the layers it stands for."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    hooks: dict[str, Blob] = field(default_factory=dict)
    children: tuple[tuple[str, Module], ...] = ()
    """Of a Sequential, instead of arguments."""
    tied: tuple[tuple[str, Module, str], ...] = ()
    """Own parameter, module and parameter that it is the same as."""
    comment: str = ""


@dataclass(slots=True, eq=False)
class Op:
    """A call in `forward`. In `expression`, {0} … are the inputs and {m0} … the modules."""

    expression: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    role: str = "heavy"
    """heavy: begins a statement; light: goes around what makes its input; view: goes into what takes its output."""
    modules: tuple[Module, ...] = ()
    layers: tuple[str, ...] = ()
    """Names of the layers that only the expression stands for."""
    keeps_channels: bool = False
    comment: str = ""

    @property
    def is_operator(self) -> bool:
        """Whether the expression is no call, so that it needs brackets inside another one that is not."""
        return not self.expression.endswith(")") or self.expression.startswith("(")


@dataclass(slots=True, eq=False)
class Graph:
    """A net in calls. Values are given by position, and taken by name of the blob."""

    inputs: tuple[Value, ...]
    outputs: tuple[tuple[str, Value], ...]
    ops: list[Op]
