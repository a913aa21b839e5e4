"""Data layers that really read: HDF5Data, ImageData, Data (LMDB), MemoryData, WindowData.

For converting and running, a data layer is an input of the net. Where it is asked for, this gives it what Caffe would:

    batches = open_sources("train_val.prototxt", phase="TEST")
    batch = next(batches)                                    # {"data": …, "label": …}
    shapes = {name: array.shape for name, array in batch.items()}
    net = cp.load("train_val.prototxt", "weights.caffemodel", input_shapes=shapes)
    blobs = cp.run(net, batch)

A source names files of the one who wrote the prototxt; nothing is opened but by these functions.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_port import registry
from caffe_port.errors import CaffePortError, DataError, Problems
from caffe_port.frontend import NetState, PlacedLayer, filter_by_state
from caffe_port.layers import data as layers
from caffe_port.layers.base import Array, LayerDef, LayerSpec
from caffe_port.proto import text, upgrade

if TYPE_CHECKING:
    from caffe_port.datasets.items import Batches

__all__ = ["Batch", "FoundSource", "find_sources", "open_source", "open_sources", "together"]

Batch = dict[str, Array]
"""A value for each top, by its name."""


def open_source(
    definition: LayerDef,
    tops: Sequence[str],
    *,
    phase: str = "TEST",
    root: str | os.PathLike[str] = ".",
    seed: int = 0,
    arrays: tuple[Array, Array] | None = None,
) -> Iterator[Batch]:
    """The batches of a data layer, float32, without end: at the end of the data it starts anew, as Caffe does.

    tops: the names of its tops. phase: decides how it crops. root: what relative paths of the layer and of its lists
    are relative to; Caffe takes the working directory. seed: of the layer's own random numbers (mirror, crop, windows:
    those of Caffe for that seed; the order of `shuffle` is not Caffe's). arrays: data and labels for MemoryData.
    Raises, at the first batch: DataError for a source that cannot be read or does not fit, ImageError, WeightsError for
    a mean file, MissingDependency; at once: DataError for a layer that is no data source.
    """
    batches = _batches(definition, tops, phase, root, seed, arrays)
    return (dict(zip(tops, batch, strict=True)) for batch in batches)


def _batches(
    definition: LayerDef,
    tops: Sequence[str],
    phase: str,
    root: str | os.PathLike[str],
    seed: int,
    arrays: tuple[Array, Array] | None,
) -> Batches:
    if isinstance(definition, layers.HDF5Data):
        from caffe_port.datasets.hdf5_data import hdf5_batches

        return hdf5_batches(definition, tops, root=root, seed=seed)
    if isinstance(definition, layers.Data):
        from caffe_port.datasets.lmdb_data import lmdb_batches

        return lmdb_batches(definition, tops, phase=phase, root=root, seed=seed)
    if isinstance(definition, layers.ImageData):
        from caffe_port.datasets.image_data import image_batches

        return image_batches(definition, phase=phase, root=root, seed=seed)
    if isinstance(definition, layers.WindowData):
        from caffe_port.datasets.window_data import window_batches

        return window_batches(definition, root=root, seed=seed)
    if isinstance(definition, layers.MemoryData):
        if arrays is None:
            raise DataError("MemoryData has no file: give its data and labels (arrays=)")
        from caffe_port.datasets.memory_data import memory_batches

        return memory_batches(definition, *arrays)
    raise DataError(f"{definition.type} reads no data")


@dataclass(frozen=True, slots=True)
class FoundSource:
    """A data layer of a prototxt. phase: the one it reads in. seed: that of its own random numbers."""

    name: str
    definition: layers.DataSource
    tops: tuple[str, ...]
    phase: str
    seed: int

    def batches(self, root: str | os.PathLike[str] = ".") -> Iterator[Batch]:
        """Its batches, as `open_source`; errors name the layer."""
        with self.naming():
            yield from open_source(self.definition, self.tops, phase=self.phase, root=root, seed=self.seed)

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Puts the layer's name before what goes wrong in the block."""
        try:
            yield
        except CaffePortError as error:
            raise type(error)(f"layer {self.name!r}: {error}") from error


def find_sources(
    prototxt: str | os.PathLike[str],
    *,
    phase: str = "TEST",
    level: int = 0,
    stages: Sequence[str] = (),
    seed: int = 0,
) -> list[FoundSource]:
    """The data layers of a prototxt that are kept in a state and read files.

    Inputs (Input layers, MemoryData) are left out: they have no file. Each layer has a seed of its own, made of `seed`
    and its place. Raises: PrototxtError and the other errors of reading a net.
    """
    message, where = text.read(prototxt)
    upgraded = upgrade.upgrade_net(message, where, None)
    placed = [
        PlacedLayer(layer, where.location(origin), i)
        for i, (layer, origin) in enumerate(zip(upgraded.net.layer, upgraded.origin, strict=True))
    ]
    written = upgraded.net.state
    state = NetState(phase, level or written.level, (*written.stage, *stages))
    problems = Problems()
    kept = filter_by_state(placed, state, problems)
    problems.raise_if_any()
    found: list[FoundSource] = []
    for position, layer in enumerate(kept):
        definition_class = registry.find_layer(layer.message.type)
        if definition_class is None or not issubclass(definition_class, layers.DataSource):
            continue
        if definition_class is layers.MemoryData:
            continue
        # A phase of the layer's own wins over the net's.
        own_phase = phase if not layer.message.HasField("phase") else "TEST" if layer.message.phase else "TRAIN"
        try:
            definition = definition_class.parse(LayerSpec(layer.message, own_phase, layer.location))
        except CaffePortError as error:
            problems.add(type(error), str(error), layer=layer.name, location=layer.location)
            continue
        # Two layers that cut the same images must not cut them at the same places by accident.
        found.append(FoundSource(layer.name, definition, tuple(layer.message.top), own_phase, seed + 7919 * position))
    problems.raise_if_any()
    return found


def open_sources(
    prototxt: str | os.PathLike[str],
    *,
    phase: str = "TEST",
    level: int = 0,
    stages: Sequence[str] = (),
    root: str | os.PathLike[str] = ".",
    seed: int = 0,
) -> Iterator[Batch]:
    """The batches of all data layers of a prototxt that are kept in a state, one dict for each pass of the net.

    The layers are those of `find_sources`. Arguments and errors otherwise as `open_source`. Raises, at once: as
    `find_sources`; DataError if no layer of the net reads data.
    """
    found = find_sources(prototxt, phase=phase, level=level, stages=stages, seed=seed)
    if not found:
        raise DataError(f"{Path(prototxt)}: no layer of the net reads data in phase {phase}")
    return together([source.batches(root) for source in found])


def together(sources: Sequence[Iterator[Batch]]) -> Iterator[Batch]:
    """One batch of each source at a time, as one."""
    while True:
        batch: Batch = {}
        for batches in sources:
            batch.update(next(batches))
        yield batch
