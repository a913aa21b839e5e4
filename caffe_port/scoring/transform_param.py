"""A net's data layer → the preprocessing of its pictures, as far as the prototxt tells it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_port.errors import DataError, Location, Problems, PrototxtError
from caffe_port.frontend import NetState, PlacedLayer, filter_by_state
from caffe_port.layers.base import LayerSpec
from caffe_port.layers.data import ImageData, Transform
from caffe_port.preprocessing import MeanImage, Preprocessing, mean_from_file
from caffe_port.proto import text, upgrade, wire
from caffe_port.proto.schema import Message
from caffe_port.upgrading import kind_of, read_solver

__all__ = ["Derived", "from_transform_param"]

_SOURCES = ("Data", "ImageData", "MemoryData")
"""Layers whose transform_param says how a whole picture becomes an input."""


@dataclass(frozen=True, slots=True)
class Derived:
    """What a data layer says of its pictures. `notes`: what had to be supposed, or is left out, in words."""

    preprocessing: Preprocessing
    notes: tuple[str, ...] = ()


def from_transform_param(
    path: str | os.PathLike[str],
    *,
    channels: int | None = None,
    resize: tuple[int, int] | None = None,
    mean_file: str | os.PathLike[str] | None = None,
) -> Derived | None:
    """The preprocessing of the data layer of phase TEST (else of TRAIN) of a net, or of a solver's net.

    - `path`: prototxt of a net with a data layer, such as train_val.prototxt, or of a solver; or a caffemodel, which
      carries the net that was trained.
    - `channels`: of the net's input, where it is known: 1 makes grey pictures.
    - `resize`: (height, width) that pictures had when they were written into the database, which no prototxt says. A
      mean image says it, which Caffe wants as large as they are.
    - `mean_file`: takes the place of the one the prototxt names, which is looked for from here, from the prototxt's
      folder and from those above it.

    None if no layer of it reads pictures. Mirroring is left out.
    Raises: PrototxtError for a file that cannot be read; DataError for a mean file that is not there, and for values
    that contradict each other.
    """
    name = os.fspath(path)
    message, where, notes = _net_of(Path(path))
    upgraded = upgrade.upgrade_net(message, where).net
    layer, phase = _data_layer(upgraded.layer, name)
    if layer is None:
        return None
    if phase == "TRAIN":
        notes.append(f"{name}: only phase TRAIN has a data layer; its values are taken")
    spec = LayerSpec(layer, phase, Location(name))
    transform = Transform.parse(spec)
    if transform.mean_file and transform.mean_values:
        raise DataError(f"{name}: layer {layer.name!r}: transform_param has both mean_file and mean_value; give one")
    mean: tuple[float, ...] | MeanImage = transform.mean_values or (0.0,)
    if transform.mean_file:
        found = Path(mean_file) if mean_file is not None else _found(transform.mean_file, Path(path), "mean_file")
        mean = mean_from_file(found)
    if transform.mirror:
        notes.append("mirror is left out: Caffe draws it at random, in phase TEST too")
    crop = (transform.crop_size, transform.crop_size) if transform.crop_size else None
    stored = True
    if layer.type == "ImageData":
        parsed = ImageData.parse(spec)
        if parsed.new_size is not None:
            stored, resize = False, parsed.new_size
        channels = parsed.channels
    elif transform.force_gray or transform.force_color:
        channels = 1 if transform.force_gray else 3
    told = mean.shape[0] if isinstance(mean, MeanImage) else len(mean) if len(mean) > 1 else None
    channels = channels or told
    if channels is None:
        notes.append("whether pictures are in colour is not in the file: they are taken to be (blue, green, red)")
    if stored and resize is None and isinstance(mean, MeanImage):
        resize = mean.shape[1:]
        notes.append(f"pictures are resized to {resize[0]}x{resize[1]}, the size of the mean image")
    if stored and resize is not None:
        notes.append(
            "how pictures were made this size is not in the file: they are taken to be squeezed to it, as "
            "`convert_imageset --resize_height --resize_width` does"
        )
    elif stored:
        notes.append("the size that pictures had in the database is not in the file: 'resize' is left open")
    return Derived(
        Preprocessing(
            input_blob=str(layer.top[0]),
            resize=resize,
            interpolation="opencv",
            crop=crop,
            channel_order="grey" if channels == 1 else "BGR",
            mean=mean,
            scale=transform.scale,
        ),
        tuple(notes),
    )


def _net_of(path: Path) -> tuple[Message, Any, list[str]]:
    """The net's message, where its fields stand, and notes; of a solver, that of the net it tests."""
    kind = kind_of(path)
    if kind == "weights":
        return wire.read(path).net, None, []
    if kind != "solver":
        return *text.read(path), []
    solver: Any = read_solver(path).message
    for inline in (*solver.test_net_param, *(getattr(solver, f) for f in _INLINE if solver.HasField(f))):
        return inline, None, []
    for named in (solver.net, *solver.test_net, solver.train_net):
        if named:
            found = _found(named, path, "net")
            return *text.read(found), [f"the net of the solver is {found}"]
    raise PrototxtError(f"{path}: the solver names no net")


_INLINE = ("net_param", "train_net_param")


def _data_layer(layers: Sequence[Any], name: str) -> tuple[Any, str]:
    """The first layer that reads pictures, and the phase it is in."""
    placed = [PlacedLayer(layer, Location(name), i) for i, layer in enumerate(layers)]
    for phase in ("TEST", "TRAIN"):
        problems = Problems()
        kept = filter_by_state(placed, NetState(phase), problems)
        problems.raise_if_any()
        for layer in kept:
            if layer.message.type in _SOURCES and layer.message.top:
                return layer.message, phase
    return None, ""


def _found(named: str, beside: Path, what: str) -> Path:
    """A file that a prototxt names relative to wherever Caffe was started, most often the root of its repository."""
    for place in _places(Path(named), beside):
        if place.is_file():
            return place
    raise DataError(
        f"{beside}: {what} {named!r} is not there, neither from here nor from the folder of {beside.name} or one above "
        "it; put it beside"
    )


def _places(named: Path, beside: Path) -> Iterator[Path]:
    yield named
    for folder in beside.absolute().parents:
        yield folder / named
    yield beside.absolute().parent / named.name
