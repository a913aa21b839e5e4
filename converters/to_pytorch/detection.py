"""Single-shot detectors, in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.layers import detection
from caffe_port.net import Layer
from caffe_port.registry import emitter

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "PriorBox", "PriorBoxClustered")
def _priors(layer: Layer, priors: detection.Priors) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.detection import Priors

    return Priors(priors)


@emitter("pytorch", "DetectionOutput")
def _detection_output(layer: Layer, definition: detection.DetectionOutput) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.detection import DetectionBoxes, DetectionOutput

    kind = DetectionBoxes if isinstance(definition, detection.DetectionBoxes) else DetectionOutput
    return kind(definition)
