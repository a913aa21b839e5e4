"""Walks a net, calls the emitters, and makes the module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port import registry
from caffe_port.converters.to_pytorch.names import child_names
from caffe_port.net import Net
from caffe_port.optional import require_torch

if TYPE_CHECKING:
    from torch import nn

__all__ = ["to_pytorch"]


def to_pytorch(net: Net) -> nn.Module:
    """The net as an nn.Module.

    It is called with the net's inputs by position, in the order of `net.inputs`, in any batch size the net allows, and
    returns the output's tensor, or a dict by blob name if there are several. Children have the layers' names (a `.`
    becomes `_`), so parameters are `conv1.weight`; learned blobs keep Caffe's layout. A net of phase TEST comes in
    eval mode.
    Raises: MissingDependency without torch; UnsupportedLayer naming every layer PyTorch cannot express; WeightsError if
    learned blobs have no values.
    """
    require_torch()
    net.require_weights()
    registry.require_expressible("pytorch", net.layers)
    from caffe_port.converters.to_pytorch.modules.graph import GraphModule

    module = GraphModule(net, child_names(net))
    return module.train(net.phase == "TRAIN")
