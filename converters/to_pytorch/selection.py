"""Layers that cut out, pick and repeat parts of blobs, in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.layers import selection
from caffe_port.net import Layer
from caffe_port.registry import emitter

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "Slice")
def _slice(layer: Layer, definition: selection.Slice) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.selection import Slice

    return Slice(definition)


@emitter("pytorch", "Crop")
def _crop(layer: Layer, crop: selection.Crop) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.selection import Crop

    return Crop(crop)


@emitter("pytorch", "Tile")
def _tile(layer: Layer, tile: selection.Tile) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.selection import Tile

    return Tile(tile)


@emitter("pytorch", "BatchReindex")
def _batch_reindex(layer: Layer, reindex: selection.BatchReindex) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.selection import BatchReindex

    return BatchReindex()


@emitter("pytorch", "Filter")
def _filter(layer: Layer, definition: selection.Filter) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.selection import Filter

    return Filter()
