"""Net → ONNX: standard operators of one pinned opset, Caffe's graph, blob names kept.

The emitters stand in files by family, as the layers do; importing them registers them.
"""

from caffe_port.converters.to_onnx import (  # noqa: F401
    activation,
    affine,
    arrangement,
    convolution,
    data,
    dense,
    detection,
    detection_loss,
    fork_normalization,
    loss,
    mobile,
    normalization,
    pooling,
    python,
    recurrent,
    reduction,
    regression,
    roi,
    selection,
    sequence,
    structure,
    upsampling,
    yolo,
)
from caffe_port.converters.to_onnx.export import OPSET, to_onnx, value_names

__all__ = ["OPSET", "to_onnx", "value_names"]
