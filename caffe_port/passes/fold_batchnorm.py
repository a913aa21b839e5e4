"""Folds BatchNorm, and the Scale behind it, into the layer before."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from caffe_port.layers.affine import Scale
from caffe_port.layers.base import Array
from caffe_port.layers.convolution import Convolution
from caffe_port.layers.dense import InnerProduct
from caffe_port.layers.normalization import BatchNorm
from caffe_port.net import Blob, Layer, Net, Weight

__all__ = ["FoldResult", "fold_batchnorm"]


@dataclass(frozen=True, slots=True)
class FoldResult:
    """The new net, and for each layer that took others in, the names of those."""

    net: Net
    folded: dict[str, tuple[str, ...]]


def fold_batchnorm(net: Net) -> FoldResult:
    """Folds each BatchNorm with stored statistics, and each learned Scale, into the Convolution or InnerProduct
    before it.

    Done where nothing else uses the blob between them and the weights are not shared; other layers stay as they are.
    The new weights are computed in float64 and rounded once. The folded layer's top is the last folded one's.
    Raises: WeightsError if learned blobs have no values.
    """
    net.require_weights()
    uses = Counter(id(blob.origin) for layer in net.layers for blob in layer.bottoms)
    kept_anyway = {id(blob.origin) for blob in net.output_blobs}
    aliased = {id(blob.alias_of) for layer in net.layers for blob in layer.bottoms if blob.alias_of is not None}
    aliased |= {id(blob.alias_of) for blob in net.blobs.values() if blob.alias_of is not None}
    consumer = {id(blob): layer for layer in net.layers for blob in layer.bottoms}
    gone: set[int] = set()
    changed: dict[int, Layer] = {}
    folded: dict[str, tuple[str, ...]] = {}
    for layer in net.layers:
        if not _can_take(layer):
            continue
        chain: list[Layer] = []
        top = layer.tops[0]
        while uses[id(top)] == 1 and id(top) not in kept_anyway and id(top) not in aliased and id(top) in consumer:
            following = consumer[id(top)]
            if not _can_be_taken(following, layer):
                break
            chain.append(following)
            top = following.tops[0]
        if chain:
            changed[id(layer)] = _folded(layer, chain, top)
            gone.update(map(id, chain))
            folded[layer.name] = tuple(taken.name for taken in chain)
    layers = tuple(changed.get(id(layer), layer) for layer in net.layers if id(layer) not in gone)
    return FoldResult(replace(net, layers=layers), folded)


def _can_take(layer: Layer) -> bool:
    definition = layer.definition
    if len(layer.tops) != 1 or len(layer.bottoms) != 1 or any(weight.owner or weight.name for weight in layer.weights):
        return False
    if type(definition) is Convolution:  # not Deconvolution, whose weights have the outputs on another axis
        return definition.channel_axis(layer.bottoms[0].shape) == 1
    # The outputs of an InnerProduct are its top's axis 1, BatchNorm's channels, if it starts there and nothing follows.
    return isinstance(definition, InnerProduct) and definition.start(layer.bottoms[0].shape) == 1


def _can_be_taken(layer: Layer, into: Layer) -> bool:
    definition = layer.definition
    if any(weight.owner or weight.name for weight in layer.weights):
        return False
    if isinstance(definition, BatchNorm):
        return definition.use_global_stats
    channels = into.tops[0].shape[1]
    return (
        isinstance(definition, Scale)
        and len(layer.bottoms) == 1
        and layer.weights[0].shape == (channels,)
        and definition.broadcast.column(layer.bottoms[0].shape, (channels,))[1:2] == (channels,)
    )


def _folded(layer: Layer, chain: list[Layer], top: Blob) -> Layer:
    weight, *rest = (_exact(blob) for blob in layer.weights)
    outputs = layer.tops[0].shape[1]
    bias = rest[0] if rest else np.zeros(outputs)
    # Output channels are axis 0 of the weights, but axis 1 of a transposed InnerProduct's.
    column = (1, -1) if getattr(layer.definition, "transpose", False) else (-1, *[1] * (weight.ndim - 1))
    for taken in chain:
        factor, shift = _affine(taken)
        weight = weight * factor.reshape(column)
        bias = bias * factor + shift
    definition = layer.definition
    assert isinstance(definition, (Convolution, InnerProduct))
    first = layer.weights[0]
    return replace(
        layer,
        definition=replace(definition, bias_term=True),
        tops=(top,),
        weights=(
            replace(first, data=_rounded(weight)),
            Weight(layer.name, 1, (outputs,), data=_rounded(bias), lr_mult=first.lr_mult, decay_mult=0.0),
        ),
    )


def _affine(layer: Layer) -> tuple[Array, Array]:
    """Factor and shift (C,) of a BatchNorm or a Scale, float64."""
    blobs = [_exact(weight) for weight in layer.weights]
    if isinstance(layer.definition, BatchNorm):
        mean, variance = layer.definition.stored_statistics(blobs)
        factor = 1 / np.sqrt(variance + layer.definition.eps)
        return factor, -mean * factor
    return blobs[0], blobs[1] if len(blobs) == 2 else np.zeros_like(blobs[0])


def _exact(weight: Weight) -> Array:
    return np.asarray(weight.data, dtype=np.float64)


def _rounded(values: Array) -> Array:
    array = values.astype(np.float32)
    array.flags.writeable = False
    return array
