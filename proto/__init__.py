"""Caffe's file formats: bytes and messages, and nothing about nets.

Installed as `caffe_port.proto`; the bare name belongs to another project (proto-plus).
"""

if __name__ != "caffe_port.proto":
    raise ImportError(f"import this package as 'caffe_port.proto', not as {__name__!r}")
