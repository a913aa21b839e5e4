"""Losses against targets of the scores' own shape, and between pairs, in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.layers import regression
from caffe_port.net import Layer
from caffe_port.registry import emitter

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "EuclideanLoss")
def _euclidean_loss(layer: Layer, definition: regression.EuclideanLoss) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.regression import EuclideanLoss

    return EuclideanLoss()


@emitter("pytorch", "SigmoidCrossEntropyLoss")
def _sigmoid_loss(layer: Layer, definition: regression.SigmoidCrossEntropyLoss) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.regression import SigmoidCrossEntropyLoss

    return SigmoidCrossEntropyLoss(definition)


@emitter("pytorch", "ContrastiveLoss")
def _contrastive_loss(layer: Layer, definition: regression.ContrastiveLoss) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.regression import ContrastiveLoss

    return ContrastiveLoss(definition)
