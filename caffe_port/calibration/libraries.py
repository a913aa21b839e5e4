"""The libraries that the statistics are made with, or one error that says how to get them."""

from __future__ import annotations

from caffe_port.errors import MissingDependency

try:
    from scipy import special, stats
    from sklearn import metrics
except ImportError as error:
    raise MissingDependency(
        f"calibration needs scikit-learn and SciPy: pip install 'caffe_port[calibration]' ({error})"
    ) from error

__all__ = ["metrics", "special", "stats"]
