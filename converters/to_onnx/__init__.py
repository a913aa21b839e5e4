"""Net → ONNX: standard operators of one pinned opset, Caffe's graph, blob names kept."""

from caffe_port.converters.to_onnx import emitters  # noqa: F401
from caffe_port.converters.to_onnx.export import OPSET, to_onnx, value_names

__all__ = ["OPSET", "to_onnx", "value_names"]
