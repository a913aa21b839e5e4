"""ONNX models, opened by onnxruntime on the CPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from caffe_port.errors import ArtifactError
from caffe_port.optional import require_onnxruntime

__all__ = ["make_session"]


def make_session(model: bytes | str | Path, threads: int | None = None, *, optimized: bool = True) -> Any:
    """An onnxruntime session on the CPU, of a model's bytes or path (a Path is named in errors).

    `threads` of each operator, by default one a core; `optimized=False` leaves the graph as it is written.
    Raises: MissingDependency; ArtifactError if onnxruntime does not take the model.
    """
    onnxruntime = require_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    given = os.fspath(model) if isinstance(model, Path) else model
    try:
        return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common type
        name = f"{model}: " if isinstance(model, Path) else ""
        raise ArtifactError(f"{name}onnxruntime does not take the model: {error}") from error
