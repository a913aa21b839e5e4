"""Training on Apache Spark: a task for each worker, by pyspark.ml.torch.distributor.TorchDistributor.

Spark gives the processes and lets them find each other; what they do then is `caffe_port.training.distributed`. Each
needs caffe_port, and sees the solver, the nets, the data and the folder of the snapshots under the same paths.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, TypeVar, cast

from caffe_port.errors import GraphError, MissingDependency
from caffe_port.scoring.spark import session
from caffe_port.training.errors import TrainingError

__all__ = ["distribute"]

Result = TypeVar("Result")

_DEFAULTS = {
    "spark.app.name": "caffe-port train",
    # A training that is begun anew by itself would overwrite its own snapshots.
    "spark.task.maxFailures": "1",
    "spark.stage.maxConsecutiveAttempts": "1",
}


def distribute(
    function: Callable[..., Result],
    *arguments: Any,
    processes: int,
    master: str | None = None,
    settings: Mapping[str, str] | None = None,
    gpus: bool = False,
) -> Result:
    """What `function(*arguments)` gives in the first of so many processes, which run it all at once.

    function: of a module that all have. In it `caffe_port.training.distributed.joined` finds the others. What the
    processes print appears on standard error here. master, settings: as for `caffe_port.scoring.spark.session`. gpus:
    each process gets one, as Spark has them (`spark.task.resource.gpu.amount`).
    Raises: MissingDependency without PySpark, pandas, PyTorch or Java; GraphError if Spark refuses to start or has too
    few slots; TrainingError if a process ends with an error.
    """
    slots = _slots(master)
    # Spark itself would wait for them, and a local one gets no more.
    if slots is not None and slots < processes:
        raise GraphError(f"{processes} processes at once need as many slots; {master} has {slots}")
    with session(master, {**_DEFAULTS, **(settings or {})}):
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        try:
            from pyspark.ml.torch.distributor import TorchDistributor
        except ImportError as error:
            raise MissingDependency(f"Spark's TorchDistributor needs NumPy and PyTorch: {error}") from None
        if find_spec("pandas") is None:
            raise MissingDependency(
                "Spark's TorchDistributor needs pandas, here and on the executors: pip install pandas"
            )
        try:
            distributor = TorchDistributor(num_processes=processes, local_mode=False, use_gpu=gpus)
            distributor.logger.setLevel(logging.WARNING)
            # What the function gives, though Spark's types leave it open.
            result = cast(Result, distributor.run(function, *arguments))
        except (PySparkException, Py4JError, RuntimeError) as error:
            raise TrainingError(f"Spark: {_reason(error)}") from error
        return result


def _slots(master: str | None) -> int | None:
    """How many tasks a local master runs at once; None where that is not known before."""
    found = re.fullmatch(r"local(?:\[(\d+|\*)[^]]*\])?", master or "")
    if found is None:
        return None
    return (os.cpu_count() or 1) if found[1] == "*" else int(found[1] or 1)


def _reason(error: BaseException) -> str:
    """In a line: what a worker said of it; else with what code one ended; else what Spark says."""
    text = str(error)
    if said := re.search(r"^caffe-port: (.*)$", text, re.MULTILINE):
        return said[1]
    if code := re.search(r"failed with return code (-?\d+)", text):
        return f"a worker has died (return code {code[1]}); what the others said is above"
    java = getattr(error, "java_exception", None)
    lines = str((java.getMessage() if java is not None else None) or text).strip().splitlines()
    return lines[0] if lines else type(error).__name__
