"""A built net as files: deploy.prototxt, train_val.prototxt, solver.prototxt."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_port import build
from caffe_port.architectures import deploy, get, solver, train_val
from caffe_port.errors import Location
from caffe_port.frontend import NetState, PlacedLayer
from caffe_port.net import Net
from caffe_port.proto import text
from caffe_port.proto.files import move_together, workshop
from caffe_port.proto.schema import Message

__all__ = ["FILES", "Built", "write"]

FILES = ("deploy.prototxt", "train_val.prototxt", "solver.prototxt")


@dataclass(frozen=True)
class Built:
    """What was written: the three files, and the net of the first."""

    files: tuple[Path, ...]
    net: Net


def write(
    folder: str | os.PathLike[str],
    name: str,
    classes: int | None = None,
    *,
    finetune: str | None = None,
    sources: tuple[str, str] | None = None,
    batches: tuple[int, int] | None = None,
    mean: str | Sequence[float] | None = None,
    options: Mapping[str, Any] | None = None,
    solver_fields: Mapping[str, Any] | None = None,
) -> Built:
    """Writes the three files of an architecture into a folder, which is made: all of them or none (only a kill between
    two renames leaves a part). What is there under their names is replaced. Before that the nets are built, the second
    in both phases.

    The arguments are those of `deploy`, `train_val` and `solver`. The solver names the net without a folder, so it is
    started where the files are.
    Raises: as those; what `load` says of a net that cannot be built; ArtifactError where nothing can be written.
    """
    given, training = dict(options or {}), dict(solver_fields or {})
    deployed = deploy(name, classes, finetune=finetune, **given)
    trained = train_val(name, classes, finetune=finetune, sources=sources, batches=batches, mean=mean, **given)
    solved = solver(name, net=FILES[1], finetune=finetune is not None, **training)
    net = _built(deployed, FILES[0], "TEST")
    for phase in ("TRAIN", "TEST"):
        _built(trained, FILES[1], phase, crop=get(name).crop)
    place = Path(folder)
    with workshop(place) as made:
        for file, message in zip(FILES, (deployed, trained, solved), strict=True):
            text.write(made / file, message)
        move_together(made, place, FILES)
    return Built(tuple(place / file for file in FILES), net)


def _built(message: Message, file: str, phase: str, crop: int | None = None) -> Net:
    """The net of a message. `crop`: of its data layer, whose file of means hides the number of channels."""
    layers = [PlacedLayer(layer, Location(file), index) for index, layer in enumerate(message.layer)]
    shapes = {}
    for layer in message.layer:
        if crop is not None and layer.type == "Data" and layer.include[0].phase == ("TRAIN", "TEST").index(phase):
            shapes = {"data": (layer.data_param.batch_size, 3, crop, crop)}
    return build.build(layers, name=message.name, state=NetState(phase), input_shapes=shapes)[0]
