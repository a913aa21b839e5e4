"""What is set for the whole process: the stream of random numbers, the device, the log."""

from __future__ import annotations

import logging
import time
import warnings

import numpy as np

__all__ = [
    "Timer", "has_nccl", "init_log", "log", "next_seed", "set_device", "set_mode_cpu", "set_mode_gpu",
    "set_multiprocess", "set_random_seed", "set_solver_count", "set_solver_rank", "solver_count", "solver_rank",
]  # fmt: skip

_logger = logging.getLogger("caffe")
_seeds = [np.random.SeedSequence()]


def set_random_seed(seed: int) -> None:
    """Nets made from now on fill their blobs, and draw in their passes, the same values for the same seed.

    They are NumPy's values, not those that Caffe has for this seed.
    """
    _seeds[0] = np.random.SeedSequence(seed % 2**32)


def next_seed() -> int:
    """A seed that nobody else has: the next one of the stream that `set_random_seed` started."""
    (child,) = _seeds[0].spawn(1)
    return int(child.generate_state(1, np.uint64)[0])


def set_mode_cpu() -> None:
    """The CPU computes; it always does."""


def set_mode_gpu() -> None:
    """Warns: the CPU computes all the same."""
    warnings.warn("caffe_port has no GPU mode: the CPU computes, with the same results", stacklevel=2)


def set_device(device_id: int) -> None:
    """Accepted; there is no device to choose."""


def init_log(level: int = 0, stderr: bool = True) -> None:
    """Messages of `log` from `level` on (0 INFO, 1 WARNING, 2 ERROR, 3 FATAL) go to stderr."""
    levels = (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
    _logger.setLevel(levels[min(max(int(level), 0), 3)])
    if stderr and not _logger.handlers:
        _logger.addHandler(logging.StreamHandler())


def log(message: str) -> None:
    """Logs a message as INFO, to the logger `caffe`."""
    _logger.info(message)


def has_nccl() -> bool:
    """False: there is no training on several GPUs."""
    return False


def solver_count() -> int:
    return 1


def solver_rank() -> int:
    return 0


def set_solver_count(number: int) -> None:
    """Accepted; there is one solver."""


def set_solver_rank(rank: int) -> None:
    """Accepted; there is one solver."""


def set_multiprocess(several: bool) -> None:
    """Accepted; there is one solver."""


class Timer:
    """A stopwatch: `ms` is the time from `start` to `stop`, or to now."""

    def __init__(self) -> None:
        self._started = 0.0
        self._stopped: float | None = 0.0

    def start(self) -> None:
        self._started, self._stopped = time.perf_counter(), None

    def stop(self) -> None:
        self._stopped = time.perf_counter()

    @property
    def ms(self) -> float:
        return ((time.perf_counter() if self._stopped is None else self._stopped) - self._started) * 1000
