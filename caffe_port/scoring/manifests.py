"""The manifest of a classifier: a released model's, one in a file, or what a data layer says."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from caffe_port.errors import DataError, GraphError
from caffe_port.models import ReleasedModel
from caffe_port.net import Net
from caffe_port.preprocessing import Manifest, Preprocessing, read_manifest
from caffe_port.reading import open_regular

__all__ = ["NO_PREPROCESSING", "as_manifest", "derived_manifest", "manifest_from", "released_manifest"]

NO_PREPROCESSING = (
    "nothing says how a picture becomes the input of {}: give --preprocessing MANIFEST, or the prototxt or solver it "
    "was trained with"
)


def released_manifest(model: ReleasedModel) -> Manifest:
    """What a released model is known to need."""
    return Manifest(model.preprocessing, model.score_blob, model.labels, model.score_index)


def manifest_from(
    path: str | os.PathLike[str], net: Net | None = None, resize: tuple[int, int] | None = None
) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest in a file, or what the data layer in a prototxt, solver or caffemodel says; and what it supposes.

    `net`: the one it is for, whose input completes what a data layer leaves open; `resize`: as for `open_classifier`.
    Raises: DataError; PrototxtError.
    """
    try:
        with open_regular(path) as stream:
            is_json = stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")
    except OSError as error:
        raise DataError(f"{os.fspath(path)}: cannot be read: {error.strerror or error}") from None
    if is_json:
        return as_manifest(read_manifest(path), resize), ()
    found = derived_manifest(Path(path), net, resize)
    if found is None:
        raise DataError(f"{os.fspath(path)}: neither a manifest nor a net with a data layer that reads pictures")
    return found


def as_manifest(given: Manifest | Preprocessing, resize: tuple[int, int] | None) -> Manifest:
    """A manifest of what is given. Raises: GraphError where `resize` would contradict it."""
    if resize is not None:
        raise GraphError("a manifest says itself how pictures are resized: change it there")
    return given if isinstance(given, Manifest) else Manifest(given)


def derived_manifest(
    path: Path, net: Net | None, resize: tuple[int, int] | None
) -> tuple[Manifest, tuple[str, ...]] | None:
    """What the data layer of a net says, completed by the input of the net it is for; None without a data layer.

    Raises: DataError if the size of the pictures stays open.
    """
    from caffe_port.scoring.transform_param import from_transform_param

    shapes = {} if net is None else net.input_shapes
    shape = next(iter(shapes.values())) if len(shapes) == 1 else ()
    found = from_transform_param(path, channels=shape[1] if len(shape) == 4 else None, resize=resize)
    if found is None:
        return None
    steps, notes = found.preprocessing, found.notes
    if steps.input_blob not in shapes and len(shapes) == 1:
        steps = replace(steps, input_blob=next(iter(shapes)))
    size = shapes.get(steps.input_blob, ())
    if steps.resize is None and steps.crop is None and len(size) == 4:
        # What is not cropped is as large as the input.
        steps = replace(steps, resize=(size[2], size[3]))
        notes = (*notes, f"pictures are resized to the net's input, {size[2]}x{size[3]} (height x width)")
    elif steps.resize is None:
        raise DataError(
            f"{path}: nothing says what size pictures have before the crop: give --resize HEIGHTxWIDTH, or a manifest"
        )
    return Manifest(steps), notes
