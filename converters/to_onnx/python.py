"""Python layers in ONNX: there is no such thing."""

from caffe_port.registry import inexpressible

inexpressible("onnx", "Python", "it is Python code on NumPy arrays, which ONNX cannot hold")
