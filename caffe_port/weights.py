"""Weight files → a net's learned blobs, matched by layer name as Caffe's CopyTrainedLayersFrom does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe_port.errors import Problem, Problems, WeightsError
from caffe_port.layers.unknown import UnknownLayer
from caffe_port.net import Layer, Net, Weight
from caffe_port.shapes import Shape, count, format_shape

if TYPE_CHECKING:
    from caffe_port.layers.base import Array
    from caffe_port.proto.blobs import BlobData
    from caffe_port.proto.hdf5 import HDF5Blob
from caffe_port.proto.wire import WeightFile

__all__ = ["StoredLayer", "adopt", "assign", "assign_inline", "same_bits", "stored_layers", "targets_of", "write_hdf5"]

StoredLayer = tuple[str, str, Sequence["BlobData | HDF5Blob | None"]]
"""A layer of a weight file: its name, its type, its learned blobs (of HDF5: None for one that is not there)."""


def stored_layers(file: WeightFile) -> list[StoredLayer]:
    """The layers of a caffemodel of any generation, parallel to its `blobs`."""
    entries = file.net.layer or [v1.layer if v1.HasField("layer") else v1 for v1 in file.net.layers]
    return [(entry.name, _type_name(entry), blobs) for entry, blobs in zip(entries, file.blobs, strict=True)]


def _type_name(layer: Any) -> str:
    """The type of a layer of any generation, in the words of its own."""
    values = layer.DESCRIPTOR.fields_by_name["type"].enum_type
    return str(layer.type if values is None else values.values_by_number[layer.type].name)


def targets_of(net: Net, *, hdf5: bool = False) -> dict[str, Layer]:
    """By name, the layer that takes a file's weights: the first of that name, or the last where the file is HDF5."""
    return {layer.name: layer for layer in (net.layers if hdf5 else reversed(net.layers))}


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays hold the same values to the last bit, whatever their shapes: -0 is not 0, NaN is itself."""
    bits = f"u{a.itemsize}"
    first, second = (np.ascontiguousarray(array).reshape(-1) for array in (a, b))
    return a.dtype == b.dtype and np.array_equal(first.view(bits), second.view(bits))


def write_hdf5(net: Net, path: str | os.PathLike[str]) -> None:
    """Writes a net's learned blobs as .caffemodel.h5: a group for each layer, Split too, shared blobs at their owner.

    Raises: WeightsError for blobs without values, and for layers whose name HDF5 cannot hold (`hdf5.write`);
    ArtifactError; MissingDependency.
    """
    from caffe_port.proto import hdf5

    net.require_weights()
    layers = [
        (layer.name, [None if weight.owner is not None else weight.data for weight in layer.weights])
        for layer in net.layers
    ]
    hdf5.write(path, layers)


def _fits(blob: BlobData | HDF5Blob, shape: Shape) -> bool:
    """Caffe's Blob::ShapeEquals: a legacy blob's four numbers are held against the shape from the last axis on."""
    if not blob.legacy:
        return blob.shape == shape
    return len(shape) <= 4 and (1,) * (4 - len(shape)) + shape == blob.shape


def assign(
    net: Net,
    stored: Sequence[StoredLayer],
    *,
    file: str,
    allow_missing: bool = False,
    refuse_unused: bool = False,
    hdf5: bool = False,
) -> Net:
    """`net` with the learned blobs of a weight file.

    A file's layer goes to the first layer of that name; `hdf5`: by Caffe's rules for HDF5 to the last one, and a blob
    may be left out where the net's is shared. Values are not copied: `Weight.data` views the file's array. Where
    layers share a blob, what the file has last for any of them is it, as in Caffe.
    `allow_missing`: layers the file has nothing for keep what they have (Caffe: their fillers).
    Learned blobs of the file that no layer of the net takes are passed over, as Caffe does, and named in the net's
    notes; `refuse_unused` makes them an error, and a file with nothing for this net always is one.
    Raises: WeightsError listing all that does not fit: number of blobs, shapes, missing and unused ones.
    """
    own = {layer.name for layer in net.layers if layer.weights}
    theirs = {name for name, _, blobs in stored if blobs}
    if own and theirs and not own & theirs and not allow_missing:
        raise WeightsError(
            f"{file} holds the weights of another net: none of its {len(theirs)} layers with weights "
            f"({_some(theirs)}) is among the {len(own)} of net {net.name!r} ({_some(own)})"
        )
    problems = Problems()
    unused: list[Problem] = []
    values: dict[int, Array] = {}
    targets = targets_of(net, hdf5=hdf5)
    given: set[int] = set()
    for name, type_name, blobs in stored:
        target = targets.get(name)
        if target is None:
            if blobs:
                text = f"{file} has {len(blobs)} learned blobs for it, and no layer of the net has this name"
                unused.append(Problem(WeightsError, text, name))
            continue
        if blobs:
            given.add(target.index)
        for weight, array in _fitted(target, type_name, blobs, file, problems, hdf5=hdf5):
            owner = weight.owner or weight
            values[id(owner)] = array.reshape(owner.shape)
    if not allow_missing:
        for layer in net.layers:
            missing = [w for w in layer.weights if w.owner is None and w.data is None and id(w) not in values]
            if missing and layer.index not in given:
                namesake = targets[layer.name] is not layer
                which = "a later" if hdf5 else "an earlier"
                problems.add(
                    WeightsError,
                    f"{file} has no weights for it "
                    f"({', '.join(format_shape(weight.shape) for weight in missing)} needed)",
                    layer=layer.name,
                    location=layer.location,
                    hint=f"{which} layer of this name takes them" if namesake else "wrong weight file?",
                )
    if problems or refuse_unused:
        # Among other problems they are likely part of the same story, a renamed layer say.
        problems.found.extend(unused)
    problems.raise_if_any()
    return replace(net.with_values(values), notes=(*net.notes, *unused))


def adopt(net: Net, stored: Sequence[StoredLayer]) -> Net:
    """`net` with learned blobs in its unknown layers: as many, and of the shapes, that a weight file has for them."""
    blobs_of = {name: blobs for name, _, blobs in reversed(stored) if blobs}
    layers = []
    for layer in net.layers:
        if isinstance(layer.definition, UnknownLayer) and not layer.weights:
            blobs = blobs_of.get(layer.name, ())
            # Of HDF5 a shared blob may be missing; its shape then stands nowhere.
            known = [blob for blob in blobs if blob is not None]
            if len(known) == len(blobs):
                weights = tuple(Weight(layer.name, i, tuple(blob.shape)) for i, blob in enumerate(known))
                layer = replace(layer, weights=weights)
        layers.append(layer)
    return replace(net, layers=tuple(layers)) if net.unknown_layers() else net


def assign_inline(net: Net, blobs_of: Mapping[int, Sequence[BlobData]], *, file: str) -> Net:
    """`net` with the learned blobs that stand in the prototxt itself, by index of the layer.

    Those of a blob that is shared with an earlier layer give way to the earlier layer's, as in Caffe.
    Raises: WeightsError, for all layers at once, where their number or shape does not fit.
    """
    problems = Problems()
    values = {
        id(weight): array
        for index, blobs in blobs_of.items()
        for weight, array in _fitted(net.layers[index], "in the layer itself", blobs, file, problems)
        if weight.owner is None
    }
    problems.raise_if_any()
    return net.with_values(values)


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (", …" if len(ordered) > 3 else "")


def _fitted(
    layer: Layer,
    origin: str,
    blobs: Sequence[BlobData | HDF5Blob | None],
    file: str,
    problems: Problems,
    *,
    hdf5: bool = False,
) -> list[tuple[Weight, Array]]:
    """Each learned blob of the layer with its values; what does not fit goes to `problems` and is left out."""
    if hdf5 and len(blobs) < len(layer.weights):
        blobs = [*blobs, *(None for _ in layer.weights[len(blobs) :])]
    if len(blobs) != len(layer.weights):
        problems.add(
            WeightsError,
            f"{layer.type} has {len(layer.weights)} learned blobs, {file} has {len(blobs)} for it ({origin})",
            layer=layer.name,
            location=layer.location,
        )
        return []
    fitted = []
    for i, (weight, blob) in enumerate(zip(layer.weights, blobs, strict=True)):
        if blob is None:
            if weight.owner is None:
                problems.add(
                    WeightsError,
                    f"{file} has no learned blob {i} ({format_shape(weight.shape)}) for it, "
                    "which no other layer shares",
                    layer=layer.name,
                    location=layer.location,
                )
        elif not _fits(blob, weight.shape):
            layout = " (num, channels, height, width)" if blob.legacy else ""
            problems.add(
                WeightsError,
                f"learned blob {i} is {format_shape(weight.shape)} in the net, "
                f"{format_shape(blob.shape)}{layout} in {file}",
                layer=layer.name,
                location=layer.location,
            )
        elif blob.data.size != count(weight.shape):
            problems.add(
                WeightsError,
                f"learned blob {i} has {blob.data.size} values for shape {format_shape(weight.shape)}",
                layer=layer.name,
                location=layer.location,
            )
        else:
            fitted.append((weight, blob.data.reshape(weight.shape)))
    return fitted
