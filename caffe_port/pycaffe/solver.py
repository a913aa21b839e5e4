"""Solvers, by name: a script that trains is told so at once."""

from __future__ import annotations

from typing import Any

from caffe_port.pycaffe.errors import SolverError

__all__ = [
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "NesterovSolver",
    "RMSPropSolver",
    "SGDSolver",
    "get_solver",
]


class SGDSolver:
    """Not there yet. Raises: SolverError when it is made."""

    def __init__(self, *args: Any, **options: Any) -> None:
        raise SolverError(
            f"{type(self).__name__}: training comes with a later release of caffe_port; this one runs nets "
            "forward and backward"
        )


class NesterovSolver(SGDSolver):
    """Not there yet, as SGDSolver."""


class AdaGradSolver(SGDSolver):
    """Not there yet, as SGDSolver."""


class RMSPropSolver(SGDSolver):
    """Not there yet, as SGDSolver."""


class AdaDeltaSolver(SGDSolver):
    """Not there yet, as SGDSolver."""


class AdamSolver(SGDSolver):
    """Not there yet, as SGDSolver."""


def get_solver(path: str) -> SGDSolver:
    """Not there yet. Raises: SolverError."""
    raise SolverError(f"get_solver({path!r}): training comes with a later release of caffe_port")
