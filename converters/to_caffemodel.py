"""Net → .caffemodel: the file it came from with other values in it, or a new one as Caffe's `Net::ToProto` makes it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from caffe_port.errors import Problems, WeightsError
from caffe_port.layers.base import Array
from caffe_port.layers.normalization import BatchNorm
from caffe_port.net import Layer, Net, Weight
from caffe_port.proto import dialects, schema, wire
from caffe_port.proto.blobs import BlobData
from caffe_port.shapes import count
from caffe_port.weights import same_bits, stored_layers, targets_of

__all__ = ["to_caffemodel", "write_caffemodel"]

_PHASES = {"TRAIN": 0, "TEST": 1}
"""The numbers of caffe.proto's enum."""


def to_caffemodel(net: Net) -> bytes:
    """The bytes of a .caffemodel with the net's weights.

    A net whose learned blobs were all read from one caffemodel gives that file again, whatever else is in it: the net
    that was trained, layers that this one does not have, old layouts, gradients. Only the values of learned blobs whose
    values are others now are replaced, in the file's own precision, and in each layer that shares them; with none,
    every byte is the file's.

    Any other net (weights from HDF5, several files, fillers, a pass) gives a file of its own, as Caffe saves one: the
    net's name, each layer with its Split layers, phase and parameters, and its learned blobs, shared ones with each
    layer. float64 values are written as such.
    Raises: WeightsError for learned blobs without values, for a file that was changed after the net was loaded from
    it, and for layers that only a fork of Caffe has, which no number stands for that all would read; UnsupportedLayer.
    Source: BVLC/caffe @ 9b89154, net.cpp (ToProto), layer.hpp, blob.cpp.
    """
    return b"".join(_pieces(net, f"the caffemodel of net {net.name!r}"))


def write_caffemodel(net: Net, path: str | os.PathLike[str]) -> None:
    """Writes `to_caffemodel(net)`; the file appears complete or not at all. `weights.write_hdf5` writes HDF5.

    Raises: as `to_caffemodel`; ArtifactError where it cannot be written.
    """
    wire.write_pieces(path, _pieces(net, Path(path).name))


def _pieces(net: Net, name: str) -> list[Any]:
    files = [source.stored for source in net.sources if source.role == "weights"]
    if len(files) == 1 and files[0] is not None and _has_all(files[0], net):
        files[0].require_unchanged()
        return wire.patched(files[0], _changes(files[0], net))
    return _fresh(net, name)


def _copies(file: wire.WeightFile, net: Net) -> Iterator[tuple[tuple[int, int], Weight]]:
    """Where the file has the net's learned blobs: position of the layer and of the blob, and which it is."""
    targets = targets_of(net)
    for i, (name, _, blobs) in enumerate(stored_layers(file)):
        target = targets.get(name)
        if target is not None:
            yield from (((i, j), weight) for j, weight in enumerate(target.weights[: len(blobs)]))


def _has_all(file: wire.WeightFile, net: Net) -> bool:
    """Whether each learned blob of the net stands in the file, with as many values."""
    copies = list(_copies(file, net))
    there = {id(weight.owner or weight) for _, weight in copies}
    sizes = all(file.blobs[i][j].data.size == count(weight.shape) for (i, j), weight in copies)
    return sizes and all(id(weight) in there for weight in net.weights())


def _changes(file: wire.WeightFile, net: Net) -> dict[tuple[int, int], Array]:
    """The values to be written, by position. As in Caffe, of several copies the last is what the net was given."""
    copies: dict[int, list[tuple[int, int]]] = {}
    for place, weight in _copies(file, net):
        copies.setdefault(id(weight.owner or weight), []).append(place)
    changes = {}
    for weight in net.weights():
        places = copies[id(weight)]
        last = file.blobs[places[-1][0]][places[-1][1]].data
        if not same_bits(np.asarray(weight.data, last.dtype).reshape(-1), last):
            changes.update({(i, j): np.asarray(weight.data, file.blobs[i][j].data.dtype) for i, j in places})
    return changes


def _fresh(net: Net, name: str) -> list[Any]:
    net.require_weights()
    problems = Problems()
    saved = schema.message("NetParameter")
    saved.name = net.name
    blobs = []
    for layer in net.layers:
        forks = dialects.fork_paths(layer.message)
        if forks:
            fields = ", ".join(f"{path} ({fork})" for path, fork in forks.items())
            problems.add(
                WeightsError,
                f"{fields}: what only forks of Caffe have has no number that all would read",
                layer=layer.name,
                location=layer.location,
                hint="weights read from one caffemodel can be written back into a copy of it",
            )
            continue
        saved.layer.append(_saved(layer))
        blobs.append([_blob(weight) for weight in layer.weights])
    problems.raise_if_any()
    return wire.serialized(saved, blobs, name)


def _saved(layer: Layer) -> Any:
    """The layer's message as Caffe has it once the layer is set up, without learned blobs."""
    message = schema.message("LayerParameter")
    # By way of bytes: the message of a net that a fork's prototxt gave is of another pool.
    message.MergeFromString(layer.message.SerializeToString())
    message.ClearField("blobs")
    message.phase = _PHASES[layer.phase]
    if layer.definition.auto_top and not message.loss_weight:
        message.loss_weight.append(1)
    if isinstance(layer.definition, BatchNorm):
        for _ in layer.weights[len(message.param) :]:
            message.param.add().lr_mult = 0
    return message


def _blob(weight: Weight) -> BlobData:
    assert weight.data is not None
    return BlobData(weight.shape, False, weight.data.reshape(-1))
