"""Training of detectors, in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.layers import detection_loss
from caffe_port.net import Layer
from caffe_port.registry import emitter, inexpressible

if TYPE_CHECKING:
    from torch import nn

inexpressible("pytorch", "MultiBoxLoss", "it is read for inspection only; take the net of phase TEST")


@emitter("pytorch", "SmoothL1Loss")
def _smooth_l1(layer: Layer, loss: detection_loss.SmoothL1Loss) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.detection import SmoothL1Loss

    return SmoothL1Loss(loss)
