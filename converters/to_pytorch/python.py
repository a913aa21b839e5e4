"""Python layers in PyTorch: there is no such thing."""

from caffe_port.registry import inexpressible

inexpressible("pytorch", "Python", "it is Python code on NumPy arrays, which PyTorch cannot hold")
