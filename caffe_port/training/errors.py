"""The error of a training that cannot go on."""

from __future__ import annotations

from caffe_port.errors import CaffePortError

__all__ = ["TrainingError"]


class TrainingError(CaffePortError):
    """A training that cannot begin or go on: a solver that asks for what is impossible, a loss that is no number."""
