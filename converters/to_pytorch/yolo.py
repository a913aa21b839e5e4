"""YOLO, in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.layers import yolo
from caffe_port.net import Layer
from caffe_port.registry import emitter

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "Reorg")
def _reorg(layer: Layer, reorg: yolo.Reorg) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.yolo import Reorg

    return Reorg(reorg)


@emitter("pytorch", "YoloDetectionOutput", "Yolov3DetectionOutput")
def _yolo(layer: Layer, definition: yolo.Yolo) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.yolo import Yolo, YoloBoxes

    return (YoloBoxes if isinstance(definition, (yolo.YoloBoxes, yolo.Yolov3Boxes)) else Yolo)(definition)
