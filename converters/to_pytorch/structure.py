"""Layers that join and reshape blobs in PyTorch. Split is no module: its tops are its bottom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.layers import structure
from caffe_port.net import Layer
from caffe_port.registry import emitter
from caffe_port.shapes import canonical_axis

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "Concat")
def _concat(layer: Layer, concat: structure.Concat) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.structure import Concat

    return Concat(canonical_axis(concat.axis, len(layer.bottoms[0].shape)))


@emitter("pytorch", "Eltwise")
def _eltwise(layer: Layer, eltwise: structure.Eltwise) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.structure import Eltwise

    return Eltwise(eltwise, layer.is_in_place)


@emitter("pytorch", "Flatten")
def _flatten(layer: Layer, flatten: structure.Flatten) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.structure import Flatten

    return Flatten(flatten)


@emitter("pytorch", "Reshape")
def _reshape(layer: Layer, reshape: structure.Reshape) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.structure import Reshape

    return Reshape(reshape)


@emitter("pytorch", "Silence")
def _silence(layer: Layer, silence: structure.Silence) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.structure import Sink

    return Sink()
