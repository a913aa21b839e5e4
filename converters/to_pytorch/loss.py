"""Softmax, losses and measures in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.layers import loss
from caffe_port.net import Layer
from caffe_port.registry import emitter
from caffe_port.shapes import canonical_axis

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "Softmax")
def _softmax(layer: Layer, softmax: loss.Softmax) -> nn.Module:
    from torch import nn

    return nn.Softmax(dim=canonical_axis(softmax.axis, len(layer.bottoms[0].shape)))


@emitter("pytorch", "SoftmaxWithLoss")
def _softmax_loss(layer: Layer, definition: loss.SoftmaxWithLoss) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.loss import SoftmaxWithLoss

    return SoftmaxWithLoss(definition)


@emitter("pytorch", "Accuracy")
def _accuracy(layer: Layer, accuracy: loss.Accuracy) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.loss import Accuracy

    return Accuracy(accuracy)


@emitter("pytorch", "HingeLoss")
def _hinge_loss(layer: Layer, hinge: loss.HingeLoss) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.loss import HingeLoss

    return HingeLoss(hinge.norm)


@emitter("pytorch", "MultinomialLogisticLoss")
def _multinomial_loss(layer: Layer, definition: loss.MultinomialLogisticLoss) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.loss import MultinomialLogisticLoss

    return MultinomialLogisticLoss()


@emitter("pytorch", "InfogainLoss")
def _infogain_loss(layer: Layer, definition: loss.InfogainLoss) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.loss import InfogainLoss

    return InfogainLoss(definition)
