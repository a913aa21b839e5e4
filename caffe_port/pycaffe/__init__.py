"""`import caffe` without Caffe: its Python interface on caffe_port.

    import caffe_port.pycaffe
    caffe_port.pycaffe.install()

    import caffe
    net = caffe.Net("deploy.prototxt", "weights.caffemodel", caffe.TEST)
    net.blobs["data"].data[...] = image
    prob = net.forward()["prob"]

See `docs/pycaffe.md`. Names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from caffe_port.pycaffe.install import install, is_installed, uninstall

if TYPE_CHECKING:
    from caffe_port.netspec import NetSpec, layers, params, to_proto
    from caffe_port.pycaffe.blobs import Blob
    from caffe_port.pycaffe.classifier import Classifier
    from caffe_port.pycaffe.detector import Detector
    from caffe_port.pycaffe.layer import Layer
    from caffe_port.pycaffe.net import Net
    from caffe_port.pycaffe.settings import (
        Timer,
        has_nccl,
        init_log,
        log,
        set_device,
        set_mode_cpu,
        set_mode_gpu,
        set_multiprocess,
        set_random_seed,
        set_solver_count,
        set_solver_rank,
        solver_count,
        solver_rank,
    )
    from caffe_port.pycaffe.solver import (
        AdaDeltaSolver,
        AdaGradSolver,
        AdamSolver,
        NesterovSolver,
        RMSPropSolver,
        SGDSolver,
        get_solver,
    )

__version__ = "1.0.0"
"""Of the interface: the pycaffe that this is like."""

TRAIN = 0
TEST = 1

__all__ = [
    "TEST",
    "TRAIN",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Blob",
    "Classifier",
    "Detector",
    "Layer",
    "NesterovSolver",
    "Net",
    "NetSpec",
    "RMSPropSolver",
    "SGDSolver",
    "Timer",
    "__version__",
    "get_solver",
    "has_nccl",
    "init_log",
    "install",
    "is_installed",
    "layer_type_list",
    "layers",
    "log",
    "params",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_multiprocess",
    "set_random_seed",
    "set_solver_count",
    "set_solver_rank",
    "solver_count",
    "solver_rank",
    "to_proto",
    "uninstall",
]

_SUBMODULES = ("classifier", "coord_map", "detector", "draw", "io", "net_spec", "proto", "pycaffe")
_HOME = {
    "Blob": "caffe_port.pycaffe.blobs",
    "Classifier": "caffe_port.pycaffe.classifier",
    "Detector": "caffe_port.pycaffe.detector",
    "Layer": "caffe_port.pycaffe.layer",
    "Net": "caffe_port.pycaffe.net",
    **dict.fromkeys(("NetSpec", "layers", "params", "to_proto"), "caffe_port.netspec"),
    **dict.fromkeys(
        (
            "AdaDeltaSolver", "AdaGradSolver", "AdamSolver", "NesterovSolver", "RMSPropSolver", "SGDSolver",
            "get_solver",
        ),
        "caffe_port.pycaffe.solver",
    ),
    **dict.fromkeys(
        (
            "Timer", "has_nccl", "init_log", "log", "set_device", "set_mode_cpu", "set_mode_gpu", "set_multiprocess",
            "set_random_seed", "set_solver_count", "set_solver_rank", "solver_count", "solver_rank",
        ),
        "caffe_port.pycaffe.settings",
    ),
}  # fmt: skip


def layer_type_list() -> list[str]:
    """The layer types that are known, sorted. Raises: PluginError where an installed plug-in cannot be loaded."""
    from caffe_port.registry import layer_types

    return [definition.type for definition in layer_types()]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
