"""A net: layers that refer to blobs and weights by object, all of it frozen."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from caffe_port.errors import GraphError, LimitError, Location, Problem, Problems, WeightsError
from caffe_port.fillers import Filler
from caffe_port.layers.base import LayerDef
from caffe_port.layers.unknown import UnknownLayer
from caffe_port.limits import hint, limits
from caffe_port.proto.dialects import Dialect
from caffe_port.proto.files import sha256_of
from caffe_port.shapes import Shape, count, format_shape

if TYPE_CHECKING:
    from caffe_port.proto.wire import WeightFile

__all__ = ["Blob", "Layer", "Net", "Source", "Weight"]


@dataclass(frozen=True, slots=True, eq=False)
class Blob:
    """One value of a blob. A layer that works in place makes a new version under the same name.

    `alias_of` is set on a version that nobody wrote under this name: its memory is shared (Split, Flatten, Reshape)
    with a blob that a layer then overwrote in place. Its value is that blob's, in this one's shape.
    """

    name: str
    shape: Shape
    version: int = 0
    alias_of: Blob | None = None

    @property
    def origin(self) -> Blob:
        """The blob whose value this is: itself, unless it is an alias."""
        blob = self
        while blob.alias_of is not None:
            blob = blob.alias_of
        return blob

    def __repr__(self) -> str:
        return f"<Blob {self.name!r} v{self.version} {format_shape(self.shape)}>"


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A learned blob. `data` has `shape`, is read-only, and is None until a file or a caller brings it.

    `owner` is set on a blob shared by name (`param { name: ... }`) with an earlier layer: it has that one's data.
    """

    layer: str
    index: int
    shape: Shape
    data: npt.NDArray[np.floating[Any]] | None = None
    owner: Weight | None = None
    name: str = ""
    lr_mult: float = 1.0
    decay_mult: float = 1.0
    filler: Any = None
    default_fill: float = 0.0

    @property
    def label(self) -> str:
        return f"{self.layer}/{self.index}"

    def __repr__(self) -> str:
        return f"<Weight {self.label!r} {format_shape(self.shape)}{'' if self.data is not None else ' (unset)'}>"


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A layer of a built net. `index` is Caffe's own, Split layers counted."""

    index: int
    name: str
    definition: LayerDef
    bottoms: tuple[Blob, ...]
    tops: tuple[Blob, ...]
    weights: tuple[Weight, ...] = ()
    phase: str = "TEST"
    loss_weights: tuple[float, ...] = ()
    location: Location | None = None
    automatic: bool = False
    """Inserted by Caffe's rules (Split), not written by anybody."""
    message: Any = None
    """The LayerParameter it was built from, upgraded and with Split's blobs; not to be changed."""

    @property
    def type(self) -> str:
        """Caffe's name of what it computes, e.g. "Convolution"."""
        return self.definition.type

    @property
    def is_in_place(self) -> bool:
        """Whether a top has the name of the bottom at its place: it makes a new version of that blob."""
        return any(top.name == bottom.name for top, bottom in zip(self.tops, self.bottoms, strict=False))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one forward pass at the net's shapes."""
        return self.definition.macs([b.shape for b in self.bottoms], [t.shape for t in self.tops])

    def __repr__(self) -> str:
        return f"<Layer {self.index} {self.name!r} {self.type}>"


@dataclass(frozen=True, slots=True)
class Source:
    """A file a net came from; `role` is `definition` or `weights`.

    `stored` is what a caffemodel of role `weights` held, as long as the net's learned blobs are those of its layers.
    """

    role: str
    path: Path
    stored: WeightFile | None = field(default=None, repr=False, compare=False)

    def sha256(self) -> str:
        """SHA-256 of the file's bytes as they are now; read again only if the file has changed."""
        status = self.path.stat()
        return _sha256(self.path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, stamp: tuple[int, ...]) -> str:
    return sha256_of(path)


@dataclass(frozen=True, slots=True, eq=False)
class Net:
    """A net as Caffe would build it: `layers` in Caffe's order, `inputs` and `outputs` as names of blobs.

    `inputs` are the tops a caller gives: those of Input layers and of data layers (Data, ImageData, …), whose
    reading of files is not part of the net. `outputs` are the blobs no layer consumes, sorted by name as Caffe does.
    `notes` are things a user should know that are no errors (a parameter that Caffe itself ignores, for example).
    """

    name: str
    phase: str
    layers: tuple[Layer, ...]
    input_blobs: tuple[Blob, ...]
    output_blobs: tuple[Blob, ...]
    notes: tuple[Problem, ...] = ()
    sources: tuple[Source, ...] = ()
    upgrades: tuple[str, ...] = ()
    dialects: tuple[Dialect, ...] = ()
    """The forks of Caffe whose fields the definition uses, with these fields."""
    blobs: Mapping[str, Blob] = field(default_factory=dict)
    """The last version of every blob, in the order of first writing."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the blobs that a caller gives: the tops of Input and data layers, in the layers' order."""
        return tuple(blob.name for blob in self.input_blobs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the blobs that no layer consumes, sorted as bytes."""
        return tuple(blob.name for blob in self.output_blobs)

    @property
    def input_shapes(self) -> dict[str, Shape]:
        """The shape of each input by name; one that is not known has shape `UNKNOWN` (see `load(allow_unknown=)`)."""
        return {blob.name: blob.shape for blob in self.input_blobs}

    def weights(self) -> Iterator[Weight]:
        """Every learned blob, shared ones once, at their owner."""
        for layer in self.layers:
            yield from (weight for weight in layer.weights if weight.owner is None)

    def layer(self, name: str) -> Layer:
        """The layer of that name (the last, where several have it, as in Caffe). Raises GraphError if there is none."""
        for layer in reversed(self.layers):
            if layer.name == name:
                return layer
        raise GraphError(f"net {self.name!r} has no layer {name!r}")

    def missing_weights(self) -> list[Weight]:
        """The learned blobs that have no values yet."""
        return [weight for weight in self.weights() if weight.data is None]

    def unknown_layers(self) -> list[Layer]:
        """The layers that nobody here understands; there are some only in a net loaded with `allow_unknown`."""
        return [layer for layer in self.layers if isinstance(layer.definition, UnknownLayer)]

    def unknown_problems(self) -> list[Problem]:
        """What is wrong with the layers that nobody here understands: unknown types, forks' fields, missing shapes."""
        definitions = [layer.definition for layer in self.layers]
        return [problem for one in definitions if isinstance(one, UnknownLayer) for problem in one.problems]

    def require_known(self) -> None:
        """Raises, for all layers at once, what `load` would have raised without `allow_unknown`."""
        Problems(self.unknown_problems()).raise_if_any()

    def filled(self, seed: int = 0) -> Net:
        """The net with values for the learned blobs that have none: from their fillers, as Caffe starts them.

        The distributions are Caffe's, the random numbers NumPy's: equal seeds give equal values here, not Caffe's.
        """
        self.require_size()
        rng = np.random.default_rng(seed)
        return self.with_values(
            {id(w): Filler.parse(w.filler, w.default_fill).fill(w.shape, rng) for w in self.missing_weights()}
        )

    def require_size(self) -> None:
        """Raises LimitError where its blobs and learned blobs, in float32, are more than `limits.net_bytes`.

        Blobs that share another's memory (Split, Flatten, what is computed in place) count once.
        """
        own: dict[str, int] = {}
        for layer in self.layers:
            if not layer.definition.views_bottom(len(layer.bottoms), len(layer.tops)):
                own.update((top.name, count(top.shape)) for top in layer.tops)
        total = 4 * (sum(own.values()) + sum(count(weight.shape) for weight in self.weights()))
        if total > limits.net_bytes:
            name, largest = max(own.items(), key=lambda entry: entry[1], default=("", 0))
            raise LimitError(
                f"net {self.name!r} needs {total:,} bytes for its blobs (the largest, {name!r}, {4 * largest:,}), "
                f"more than {limits.net_bytes:,}; {hint('net_bytes')}"
            )

    def require_weights(self) -> None:
        """Raises WeightsError naming every learned blob without values; as `require_known` for unknown layers, and
        `require_size`."""
        self.require_known()
        self.require_size()
        problems = Problems()
        for weight in self.missing_weights():
            problems.add(
                WeightsError,
                f"learned blob {weight.index} of shape {format_shape(weight.shape)} has no values",
                layer=weight.layer,
                hint="give a weight file that has this layer",
            )
        problems.raise_if_any()

    def with_weights(self, values: Mapping[str, Sequence[npt.ArrayLike]], *, partial: bool = False) -> Net:
        """A net with other weights.

        `values`: layer name → its learned blobs in Caffe's order, each of exactly the blob's shape; kept as float32,
        or as float64 where the array given is. Of several layers of one name the first gets them, as in Caffe; a
        blob that layers share may be given with any of them. Layers not named keep theirs (with `partial=False` a
        layer that has learned blobs and is neither named nor set raises).
        Raises: WeightsError for unknown layers, wrong numbers of blobs, wrong shapes, and different values for one
        shared blob, all at once.
        """
        problems = Problems()
        targets: dict[str, Layer] = {}
        for layer in self.layers:
            targets.setdefault(layer.name, layer)
        renewed: dict[int, npt.NDArray[np.floating[Any]]] = {}
        for name, given in values.items():
            target = targets.get(name)
            if target is None or not target.weights:
                problems.add(WeightsError, "no layer of this name has learned blobs", layer=name)
                continue
            if len(given) != len(target.weights):
                problems.add(
                    WeightsError, f"has {len(target.weights)} learned blobs, {len(given)} were given", layer=name
                )
                continue
            for i, (weight, value) in enumerate(zip(target.weights, given, strict=True)):
                data = _frozen(value)
                if data.shape != weight.shape:
                    problems.add(
                        WeightsError,
                        f"learned blob {i} has shape {format_shape(weight.shape)}, "
                        f"{format_shape(data.shape)} was given",
                        layer=name,
                    )
                    continue
                owner = weight.owner or weight
                data = data.reshape(owner.shape)
                first = renewed.setdefault(id(owner), data)
                if first is not data and not np.array_equal(first, data, equal_nan=True):
                    problems.add(
                        WeightsError,
                        f"learned blob {i} is shared as {weight.name!r}, and another layer is given "
                        "other values for it",
                        layer=name,
                    )
        problems.raise_if_any()
        net = self.with_values(renewed)
        if not partial:
            net.require_weights()
        return net

    def with_values(self, values: Mapping[int, npt.NDArray[np.floating[Any]]]) -> Net:
        """A net with other values of some learned blobs, by `id` of the Weight that owns them; they are not copied."""
        renewed = {id(weight): replace(weight, data=values.get(id(weight), weight.data)) for weight in self.weights()}
        return replace(self, layers=tuple(_with_weights(layer, renewed) for layer in self.layers))

    def with_input_shapes(self, shapes: Mapping[str, Sequence[int]]) -> Net:
        """The same net for inputs of other shapes, as Caffe's `net.reshape()` gives it.

        Raises: GraphError for a name that is no input; ShapeError, for all layers at once, where the shapes do not fit.
        """
        from caffe_port.build import reshape

        return reshape(self, shapes)

    def __repr__(self) -> str:
        return f"<Net {self.name!r} {self.phase} {len(self.layers)} layers, {self.inputs} -> {self.outputs}>"


def _frozen(values: npt.ArrayLike) -> npt.NDArray[np.floating[Any]]:
    array = np.asarray(values)
    if array.dtype != np.float64:
        array = array.astype(np.float32, copy=False)
    if array.flags.writeable:
        array = array.copy()
        array.flags.writeable = False
    return array


def _with_weights(layer: Layer, renewed: Mapping[int, Weight]) -> Layer:
    """`layer` with its learned blobs replaced; shared ones follow their owner."""
    weights = []
    for weight in layer.weights:
        if weight.owner is None:
            weights.append(renewed[id(weight)])
        else:
            owner = renewed[id(weight.owner)]
            data = None if owner.data is None else owner.data.reshape(weight.shape)
            weights.append(replace(weight, owner=owner, data=data))
    return replace(layer, weights=tuple(weights))
