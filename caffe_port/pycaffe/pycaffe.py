"""What pycaffe keeps in its module of this name."""

from caffe_port.pycaffe.net import Net
from caffe_port.pycaffe.settings import Timer
from caffe_port.pycaffe.solver import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
)

__all__ = [
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "NesterovSolver",
    "Net",
    "RMSPropSolver",
    "SGDSolver",
    "Timer",
]  # fmt: skip
