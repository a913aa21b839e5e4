"""What every layer type declares, and how it reads its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from caffe_port.errors import Location, ShapeError, UnsupportedParameter
from caffe_port.proto import dialects
from caffe_port.shapes import Shape

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "Array",
    "Count",
    "InPlace",
    "LayerDef",
    "LayerSpec",
    "Params",
    "RunContext",
    "WeightSpec",
    "as_indices",
]

Array = npt.NDArray[Any]
"""A NumPy array of the dtype the net runs in (float32 or float64)."""

InPlace = Literal["ok", "overwrites", "refused"]
"""What happens when a top names its own bottom.

`ok`: as if it were another blob. `overwrites`: Caffe clears the top before it has read the bottom; forward gets
`ctx.in_place` and does likewise. `refused`: Caffe aborts, or would read what it has already resized or overwritten.
"""


@dataclass(frozen=True, slots=True)
class Count:
    """How many bottoms or tops a layer type takes; `most=None` means any number from `least` on."""

    least: int
    most: int | None

    def __contains__(self, number: int) -> bool:
        return number >= self.least and (self.most is None or number <= self.most)

    def __str__(self) -> str:
        if self.most is None:
            return f"at least {self.least}"
        if self.least == self.most:
            return str(self.least)
        return f"{self.least} to {self.most}"


ONE = Count(1, 1)


class Params:
    """A parameter message, read through typed accessors that remember which fields some code looked at.

    A field that is set and that nobody looked at is reported by `unread`, so no parameter is ignored unnoticed.
    """

    __slots__ = ("_children", "_message", "_seen")

    def __init__(self, message: Any) -> None:
        self._message = message
        self._seen: set[str] = set()
        self._children: list[tuple[str, Params]] = []

    def _get(self, name: str) -> Any:
        self._seen.add(name)
        return getattr(self._message, name)

    def has(self, name: str) -> bool:
        """Whether the (singular) field is set. Looking counts as reading."""
        self._seen.add(name)
        return bool(self._message.HasField(name))

    def fork_has(self, name: str) -> bool:
        """Whether a field that forks added is set; a message of upstream's schema does not know it."""
        return name in self._message.DESCRIPTOR.fields_by_name and self.has(name)

    def integer(self, name: str) -> int:
        return int(self._get(name))

    def real(self, name: str) -> float:
        return float(self._get(name))

    def flag(self, name: str) -> bool:
        return bool(self._get(name))

    def text(self, name: str) -> str:
        return str(self._get(name))

    def enum(self, name: str) -> str:
        """The name of an enum field's value, e.g. `MAX`. Raises UnsupportedParameter for one that is a fork's."""
        descriptor = self._message.DESCRIPTOR.fields_by_name[name]
        number = self._get(name)
        value = str(descriptor.enum_type.values_by_number[number].name)
        if number >= dialects.FIRST_NUMBER and descriptor.number < dialects.FIRST_NUMBER:
            forks = "".join(dialects.fork_paths(self._message).get(f"{name}: {value}", ""))
            raise UnsupportedParameter(f"{name}: {value} is not upstream's but of {forks}, and nothing here knows it")
        return value

    def integers(self, name: str) -> tuple[int, ...]:
        return tuple(int(value) for value in self._get(name))

    def reals(self, name: str) -> tuple[float, ...]:
        return tuple(float(value) for value in self._get(name))

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(str(value) for value in self._get(name))

    def message(self, name: str) -> Params:
        """A singular sub-message (its defaults, if it is not set)."""
        child = Params(self._get(name))
        self._children.append((name, child))
        return child

    def messages(self, name: str) -> tuple[Params, ...]:
        children = tuple(Params(value) for value in self._get(name))
        self._children.extend((f"{name}[{i}]", child) for i, child in enumerate(children))
        return children

    def raw(self, name: str) -> Any:
        """The field as protobuf has it, for a caller that keeps it whole (fillers)."""
        return self._get(name)

    def inert(self, *names: str) -> None:
        """Fields that change speed or memory but no number: engines, prefetching."""
        self._seen.update(names)

    def has_read(self, path: str) -> bool:
        """Whether the field at a dotted path was looked at. In a message kept whole (`raw`) no field counts as that."""
        name, _, rest = path.partition(".")
        if name.partition("[")[0] not in self._seen:
            return False
        return not rest or any(child.has_read(rest) for own, child in self._children if own == name)

    def unread(self) -> Iterator[str]:
        """Names of set fields nobody looked at, sub-messages included (dotted)."""
        for descriptor, _ in self._message.ListFields():
            if descriptor.name not in self._seen:
                yield descriptor.name
        for name, child in self._children:
            for inner in child.unread():
                yield f"{name}.{inner}"


@dataclass(slots=True)
class LayerSpec:
    """A layer as the prototxt has it: what `LayerDef.parse` reads its parameters from."""

    message: Any
    phase: str
    location: Location | None
    read: dict[str, Params] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.message.name)

    @property
    def type(self) -> str:
        return str(self.message.type)

    @property
    def num_bottoms(self) -> int:
        return len(self.message.bottom)

    @property
    def num_tops(self) -> int:
        return len(self.message.top)

    def has_read(self, path: str) -> bool:
        """Whether the layer's own code looked at the field at a dotted path, as `pooling_param.ceil_mode`."""
        name, _, rest = path.partition(".")
        return name in self.read and (not rest or self.read[name].has_read(rest))

    def params(self, name: str) -> Params:
        """A parameter message of the layer (`convolution_param`); its defaults if it is not set.

        A fork's is there too where the layer's own message, which is upstream's, has no such field.
        """
        if name not in self.read:
            here = name in self.message.DESCRIPTOR.fields_by_name
            self.read[name] = Params(getattr(self.message if here else dialects.union_message("LayerParameter"), name))
        return self.read[name]


@dataclass(frozen=True, slots=True)
class WeightSpec:
    """A learned blob: its shape, and the FillerParameter that starts it when no file brings it."""

    shape: Shape
    filler: Any = None
    default_fill: float = 0.0


@dataclass(slots=True)
class RunContext:
    """What a forward pass needs to know besides its arrays."""

    phase: str
    dtype: npt.DTypeLike
    rng: np.random.Generator
    in_place: bool = False
    top_shapes: tuple[Shape, ...] = ()
    new_weights: dict[int, Array] = field(default_factory=dict)


class LayerDef:
    """One layer type: parameters, bottom and top counts, shapes, NumPy forward, multiply-accumulates.

    Subclasses are frozen dataclasses; `parse` makes one from a prototxt layer. All methods are pure.
    """

    type: ClassVar[str]
    bottoms: ClassVar[Count] = ONE
    tops: ClassVar[Count] = ONE
    in_place: ClassVar[InPlace] = "refused"
    is_input: ClassVar[bool] = False
    """Tops are given by the caller, not computed."""
    is_pass_through: ClassVar[bool] = False
    """Tops are the bottom under other names; exporters write nothing for it (Split)."""
    auto_top: ClassVar[bool] = False
    """A missing top is made by Caffe itself (loss layers)."""
    same_count: ClassVar[bool] = False
    """Needs as many tops as bottoms."""
    data_dependent: ClassVar[bool] = False
    """Axis `free_axis` of the tops depends on the bottoms' values (Filter); `top_shapes` gives the size that it can
    reach, or 1 where that is not known (DetectionOutput)."""
    free_axis: ClassVar[int] = 0
    frozen_weights: ClassVar[bool] = False
    """Learned blobs are computed, never learned: their lr_mult must be 0 (BatchNorm)."""

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        """Reads the parameters. Raises UnsupportedParameter (or a sibling) for what Caffe refuses."""
        return cls()

    @classmethod
    def fits(cls, wanted: Shape, found: Shape) -> bool:
        """Whether a top of the shape `found` is one of the shape `wanted`: equal but for a free axis."""
        if not cls.data_dependent:
            return tuple(wanted) == tuple(found)
        if len(wanted) != len(found):
            return False
        pairs = enumerate(zip(wanted, found, strict=True))
        return all(a == b for axis, (a, b) in pairs if axis != cls.free_axis)

    def declared_shapes(self, num_tops: int) -> list[Shape | None]:
        """For an input layer: the shapes the prototxt gives its tops; None where it does not say."""
        raise NotImplementedError

    def views_bottom(self, num_bottoms: int, num_tops: int) -> bool:
        """Whether the tops are views of bottom[0] (Split, Reshape): an in-place layer behind one changes both."""
        return False

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Shapes of the tops. Raises ShapeError if the bottoms do not fit."""
        raise NotImplementedError

    def weight_specs(self, bottoms: Sequence[Shape]) -> list[WeightSpec]:
        """The learned blobs, in the order Caffe stores them."""
        return []

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        """The tops' values. Arrays are never written to; a top may be a view of a bottom."""
        raise NotImplementedError

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Multiply-accumulates of one forward pass (0 for layers without a product with weights)."""
        return 0


def refuse(message: str) -> UnsupportedParameter:
    """The error for a parameter value that Caffe refuses."""
    return UnsupportedParameter(message)


def as_indices(values: Array, size: int, what: str) -> Array:
    """Floats as indices into `size` things, a fraction cut off, int64.

    Raises: ShapeError where one is none of them, or NaN; Caffe reads there whatever the memory holds.
    """
    whole = np.trunc(values)
    if not ((whole >= 0) & (whole < size)).all():
        raise ShapeError(f"{what} {values.min():g} to {values.max():g} are not all in 0 to {size - 1}")
    return whole.astype(np.int64)
