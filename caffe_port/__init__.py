"""Reads Caffe models without Caffe, runs them, proves them equal to recordings of Caffe, and exports them.

    import caffe_port as cp

    net = cp.load("deploy.prototxt", "weights.caffemodel")
    blobs = cp.run(net, {"data": x})
    module = cp.to_pytorch(net)
    model = cp.to_onnx(net)
    cp.to_caffemodel(cp.with_state_dict(net, module.state_dict()))  # and back

Names are imported when they are first used, so that importing the package is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from caffe_port._version import __version__

if TYPE_CHECKING:
    from caffe_port import limits
    from caffe_port.compare import ParityReport
    from caffe_port.converters.from_pytorch import with_state_dict
    from caffe_port.converters.to_caffemodel import to_caffemodel
    from caffe_port.converters.to_onnx import to_onnx
    from caffe_port.converters.to_pytorch import to_pytorch
    from caffe_port.errors import CaffePortError
    from caffe_port.loading import load
    from caffe_port.net import Blob, Layer, Net
    from caffe_port.runtime import run
    from caffe_port.verification import verify

__all__ = [
    "Blob",
    "CaffePortError",
    "Layer",
    "Net",
    "ParityReport",
    "__version__",
    "limits",
    "load",
    "run",
    "to_caffemodel",
    "to_onnx",
    "to_pytorch",
    "verify",
    "with_state_dict",
]

_HOME = {
    "Blob": "caffe_port.net",
    "CaffePortError": "caffe_port.errors",
    "Layer": "caffe_port.net",
    "Net": "caffe_port.net",
    "ParityReport": "caffe_port.compare",
    "load": "caffe_port.loading",
    "run": "caffe_port.runtime",
    "to_caffemodel": "caffe_port.converters.to_caffemodel",
    "to_onnx": "caffe_port.converters.to_onnx",
    "to_pytorch": "caffe_port.converters.to_pytorch",
    "verify": "caffe_port.verification",
    "with_state_dict": "caffe_port.converters.from_pytorch",
}


def __getattr__(name: str) -> Any:
    if name == "limits":
        return importlib.import_module("caffe_port.limits")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
