"""The net builder, under the name it has in pycaffe."""

from caffe_port.netspec import NetSpec, layers, params, to_proto

__all__ = ["NetSpec", "layers", "params", "to_proto"]
