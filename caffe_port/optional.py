"""Libraries that not every installation has: imported where they are needed, or said to be missing, with the remedy."""

from __future__ import annotations

from typing import Any

from caffe_port.errors import MissingDependency

__all__ = ["require_matplotlib", "require_onnxruntime", "require_torch"]


def require_torch() -> None:
    """Raises MissingDependency, with what to install, if there is no torch."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingDependency(f"PyTorch is needed for this: pip install 'caffe_port[torch]' ({error})") from None


def require_onnxruntime(or_else: str = "") -> Any:
    """The module onnxruntime. Raises MissingDependency, with what to install, and `or_else`: how to do without."""
    try:
        import onnxruntime
    except ImportError as error:
        remedy = "pip install 'caffe_port[runtime]'" + (f", or {or_else}" if or_else else "")
        raise MissingDependency(f"onnxruntime is needed for this: {remedy} ({error})") from None
    return onnxruntime


def require_matplotlib(or_else: str = "") -> None:
    """Raises MissingDependency, with what to install, and `or_else`: how to do without."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        remedy = "pip install 'caffe_port[calibration]'" + (f", or {or_else}" if or_else else "")
        raise MissingDependency(f"figures need matplotlib: {remedy} ({error})") from None
