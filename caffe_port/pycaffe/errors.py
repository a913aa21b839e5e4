"""Errors that are also what pycaffe raised in their place, for scripts that catch that."""

from __future__ import annotations

from caffe_port.errors import CaffePortError, GraphError, ShapeError

__all__ = ["ArgumentError", "BlobShapeError", "FileError", "InstallError", "LayerNameError", "SourceError"]


class ArgumentError(CaffePortError, RuntimeError):
    """Arguments of a call that do not fit the net."""


class BlobShapeError(ShapeError, ValueError):
    """Values or dims that do not fit a blob."""


class FileError(CaffePortError, RuntimeError):
    """A file that cannot be opened."""


class InstallError(CaffePortError, ImportError):
    """`import caffe` cannot be made to find this package."""


class LayerNameError(GraphError, ValueError):
    """A name that no layer of the net has."""


class SourceError(CaffePortError, SyntaxError):
    """A source that is no Python 3 and cannot be safely translated from Python 2. `str()` has file and line of each
    place."""

    def __str__(self) -> str:
        return str(self.args[0])
