"""Files → Net: the prototxt, the weights, or a caffemodel alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from caffe_port import build
from caffe_port.alignment import align
from caffe_port.errors import GraphError, Location, Problem, Problems, UnsupportedParameter, WeightsError
from caffe_port.frontend import NetState, PlacedLayer
from caffe_port.layers.python import allowing_python_layers
from caffe_port.net import Net, Source
from caffe_port.proto import dialects, hdf5, text, upgrade, wire
from caffe_port.proto.blobs import BlobData
from caffe_port.weight_values import check_weight_values
from caffe_port.weights import StoredLayer, adopt, assign, assign_inline, stored_layers

__all__ = ["load", "with_weight_file"]

PathLike = str | os.PathLike[str]


def load(
    prototxt: PathLike,
    weights: PathLike | Sequence[PathLike] | None = None,
    *,
    phase: str = "TEST",
    level: int = 0,
    stages: Sequence[str] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    allow_missing_weights: bool = False,
    refuse_unused_weights: bool = False,
    allow_non_finite: bool = False,
    allow_unknown: bool = False,
    allow_python_layers: bool = False,
    dialect: str | None = None,
) -> Net:
    """Reads a net and its weights.

    - `prototxt`: a text definition, or a caffemodel, which carries its own (then `weights` is not needed; see below).
    - `weights`: one weight file or several (.caffemodel, or .caffemodel.h5, told apart by their content), loaded one
      after the other, matched by layer name. None: no values.
    - `phase`, `level`, `stages`: the state that include and exclude rules are held against.
    - `input_shapes`: shapes of inputs by blob name, where the file has none or others are wanted.
    - `allow_missing_weights`: layers the files have nothing for keep no values, instead of an error; `Net.filled` gives
      them those of their fillers.
    - `refuse_unused_weights`: weights that no layer takes are an error. Caffe passes over them; the net's notes say so.
    - `allow_non_finite`: weights that are NaN or infinite become notes of the net, instead of an error.
    - `allow_unknown`: a layer that nobody here understands (a type or a field of a fork) does not stop the net from
      being loaded. Shapes behind it are unknown, and all but looking at the net raises what is wrong with it
      (`Net.require_known`).
    - `allow_python_layers`: import and run the classes that Python layers name; only for nets that are trusted.

    A prototxt may be in any dialect of Caffe that is known (see `caffe_port.proto.dialects`); the net's `dialects` say
    which it uses. Where forks mean different things by the same words the fields of the net tell which is meant, or
    `dialect` does: a repository, a name, or a part of one; the net's notes say what was decided.

    A caffemodel holds the net that was saved, usually the one that was trained: its state rules have already been
    applied and are not applied again, and its layers' saved phase gives way to `phase`. Its data layers become inputs.

    Returns a Net. Raises: PrototxtError, WeightsError, GraphError, ShapeError, UnsupportedLayer,
    UnsupportedParameter, with everything that is wrong in one message.
    """
    if phase not in ("TRAIN", "TEST"):
        raise GraphError(f"phase must be TRAIN or TEST, not {phase!r}")
    definition = Path(prototxt)
    files = [weights] if isinstance(weights, (str, os.PathLike)) else list(weights or ())
    state = NetState(phase, level, tuple(stages))
    if wire.looks_binary(definition):
        saved = wire.read(definition)
        upgraded = upgrade.upgrade_net(saved.net, None, saved.blobs)
        layers = [_unruled(message, definition.name, i) for i, message in enumerate(upgraded.net.layer)]
        files.insert(0, definition)
    else:
        message, source_map = text.read(definition)
        upgraded = upgrade.upgrade_net(message, source_map, None)
        layers = [
            PlacedLayer(layer, source_map.location(origin), i)
            for i, (layer, origin) in enumerate(zip(upgraded.net.layer, upgraded.origin, strict=True))
        ]
        if upgraded.net.HasField("state"):
            state = _merged(state, upgraded.net.state)
    beside = _fields_of_forks(upgraded.net, definition)
    if not allow_unknown:
        beside.raise_if_any()
    with allowing_python_layers(allow_python_layers), dialects.speaking(upgraded.net, dialect) as speech:
        layers = align(layers)
        net, source_index = build.build(
            layers, name=upgraded.net.name, state=state, input_shapes=input_shapes, allow_unknown=allow_unknown
        )
    if not net.layers:
        kept = f"no layer is left of its {len(layers)} in phase {phase}" if layers else "no layer in it"
        raise GraphError(f"{definition}: {kept}")
    net = replace(
        net,
        sources=(Source("definition", definition),),
        upgrades=tuple(upgraded.steps),
        dialects=speech.dialects,
        notes=(
            *upgraded.warnings,
            *beside,
            *(Problem(UnsupportedParameter, text) for text in speech.notes),
            *net.notes,
            *_batch_statistics_notes(net),
        ),
    )
    inline = {
        layer.index: [_blob_data(blob) for blob in layers[index].message.blobs]
        for layer, index in zip(net.layers, source_index, strict=True)
        if index >= 0 and layers[index].message.blobs
    }
    if inline:
        net = assign_inline(net, inline, file=definition.name)
    for position, name in enumerate(files):
        path = Path(name)
        net = _with_weight_file(
            net,
            path,
            allow_missing=allow_missing_weights or position + 1 < len(files),
            refuse_unused=refuse_unused_weights and path != definition,
        )
    return check_weight_values(net, allow_non_finite=allow_non_finite)


def with_weight_file(
    net: Net,
    path: PathLike,
    *,
    allow_missing: bool = False,
    refuse_unused: bool = False,
    allow_non_finite: bool = False,
) -> Net:
    """`net` with the learned blobs of one more weight file, which it names among its sources.

    - `path`: a .caffemodel or a .caffemodel.h5, told apart by content.
    - `allow_missing`: layers the file has nothing for keep what they have.
    - `refuse_unused`: weights that no layer takes are an error instead of a note.
    - `allow_non_finite`: weights that are NaN or infinite are notes instead of an error.

    Raises: WeightsError for all that does not fit; MissingDependency for HDF5 without h5py.
    """
    renewed = _with_weight_file(net, Path(path), allow_missing=allow_missing, refuse_unused=refuse_unused)
    return check_weight_values(renewed, allow_non_finite=allow_non_finite, since=net)


def _with_weight_file(net: Net, path: Path, *, allow_missing: bool, refuse_unused: bool) -> Net:
    saved, stored = _stored(path)
    net = assign(
        adopt(net, stored),
        stored,
        file=path.name,
        allow_missing=allow_missing,
        refuse_unused=refuse_unused,
        hdf5=saved is None,
    )
    return replace(net, sources=(*net.sources, Source("weights", path, saved)))


def _stored(path: Path) -> tuple[wire.WeightFile | None, list[StoredLayer]]:
    """A weight file, if it is no HDF5, and its layers with their learned blobs.

    Nothing else of the file is looked at, so it does not matter if a fork wrote it: names and blobs are where they are
    in all of them.
    """
    if path.exists() and not wire.looks_binary(path):
        raise WeightsError(f"{path}: this is no caffemodel but text; the prototxt comes first, the weights second")
    if hdf5.is_hdf5(path):
        return None, [(name, "HDF5", blobs) for name, blobs in hdf5.read(path)]
    saved = wire.read(path, definition=False)
    return saved, stored_layers(saved)


def _fields_of_forks(net: Any, file: Path) -> Problems:
    """What a fork has beside the layers of a net, which nothing here looks at."""
    problems = Problems()
    for path, forks in dialects.fork_paths(net).items():
        if not path.startswith("layer["):
            text = f"{path} is set in the net, which is not upstream's but of {forks}, and nothing here looks at it"
            problems.add(UnsupportedParameter, text, location=Location(str(file)), hint="remove it, or report it")
    return problems


def _unruled(message: Any, file: str, index: int) -> PlacedLayer:
    """A saved layer without the rules and the phase it was saved with."""
    copy = type(message)()
    copy.CopyFrom(message)
    copy.ClearField("include")
    copy.ClearField("exclude")
    copy.ClearField("phase")
    return PlacedLayer(copy, Location(file), index, automatic=message.type == "Split")


def _merged(state: NetState, written: Any) -> NetState:
    """The state asked for, with what the file's own `state` adds: its level, its stages (a phase asked for wins)."""
    return NetState(state.phase, state.level or written.level, (*written.stage, *state.stages))


def _blob_data(blob: Any) -> BlobData:
    legacy = any(blob.HasField(name) for name in ("num", "channels", "height", "width"))
    shape = (blob.num, blob.channels, blob.height, blob.width) if legacy else tuple(blob.shape.dim)
    data = np.array(blob.double_data or blob.data, dtype=np.float64 if blob.double_data else np.float32)
    data.flags.writeable = False
    return BlobData(shape=shape, legacy=legacy, data=data, diff=None)


def _batch_statistics_notes(net: Net) -> tuple[Problem, ...]:
    """Says so where a net for inference normalizes with the statistics of the batch it is given."""
    layers = [
        layer
        for layer in net.layers
        if net.phase == "TEST" and layer.type == "BatchNorm" and not getattr(layer.definition, "use_global_stats", True)
    ]
    if not layers:
        return ()
    return (
        Problem(
            GraphError,
            f"{len(layers)} BatchNorm layers say use_global_stats: false, so each result depends on the whole batch; "
            "a deploy prototxt usually says true",
            layers[0].name,
            layers[0].location,
        ),
    )
