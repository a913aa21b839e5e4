"""Weight files → a net's learned blobs, matched by layer name as Caffe's CopyTrainedLayersFrom does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from caffe_port.errors import Problems, WeightsError
from caffe_port.net import Net, Weight
from caffe_port.shapes import Shape, count, format_shape

if TYPE_CHECKING:
    from caffe_port.layers.base import Array
    from caffe_port.proto.wire import BlobData

__all__ = ["StoredLayer", "assign"]

StoredLayer = tuple[str, str, Sequence["BlobData"]]
"""A layer of a weight file: its name, its type, its learned blobs."""


def _fits(blob: BlobData, shape: Shape) -> bool:
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
    allow_unused: bool = False,
) -> Net:
    """`net` with the learned blobs of a weight file.

    A file's layer goes to the first layer of that name. Values are not copied: `Weight.data` views the file's array.
    `allow_missing`: layers the file has nothing for keep what they have (Caffe: their fillers).
    `allow_unused`: learned blobs of the file that no layer of the net takes are passed over, as Caffe does.
    Raises: WeightsError listing all that does not fit: number of blobs, shapes, missing and unused ones.
    """
    problems = Problems()
    values: dict[str, list[Array]] = {}
    targets = {}
    for layer in net.layers:
        targets.setdefault(layer.name, layer)
    for name, type_name, blobs in stored:
        layer = targets.get(name)
        if layer is None:
            if blobs and not allow_unused:
                problems.add(
                    WeightsError,
                    f"{file} has {len(blobs)} learned blobs for it, and no layer of the net has this name",
                    layer=name,
                    hint="wrong weight file? --allow-unused-weights (allow_unused=True) passes over them as Caffe does",
                )
            continue
        if len(blobs) != len(layer.weights):
            problems.add(
                WeightsError,
                f"{layer.type} has {len(layer.weights)} learned blobs, {file} has {len(blobs)} for it ({type_name})",
                layer=name,
                location=layer.location,
            )
            continue
        arrays = _arrays(layer.weights, blobs, name, file, problems)
        if layer.weights and arrays is not None:
            values[name] = arrays
    if not allow_missing:
        for layer in net.layers:
            missing = [weight for weight in layer.weights if weight.owner is None and weight.data is None]
            if missing and layer.name not in {name for name, _, blobs in stored if blobs}:
                problems.add(
                    WeightsError,
                    f"{file} has no weights for it ({', '.join(format_shape(weight.shape) for weight in missing)} needed)",
                    layer=layer.name,
                    location=layer.location,
                    hint="wrong weight file?",
                )
    problems.raise_if_any()
    return net.with_weights(values, partial=True)


def _arrays(
    weights: Sequence[Weight], blobs: Sequence[BlobData], layer: str, file: str, problems: Problems
) -> list[Array] | None:
    arrays: list[Array] = []
    for i, (weight, blob) in enumerate(zip(weights, blobs, strict=True)):
        if not _fits(blob, weight.shape):
            layout = " (num, channels, height, width)" if blob.legacy else ""
            problems.add(
                WeightsError,
                f"learned blob {i} is {format_shape(weight.shape)} in the net, {format_shape(blob.shape)}{layout} in {file}",
                layer=layer,
            )
        elif blob.data.size != count(weight.shape):
            problems.add(
                WeightsError,
                f"learned blob {i} has {blob.data.size} values for shape {format_shape(weight.shape)}",
                layer=layer,
            )
        else:
            arrays.append(blob.data.reshape(weight.shape))
    return arrays if len(arrays) == len(weights) else None
