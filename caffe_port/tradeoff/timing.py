"""How long a forward pass takes, and how that compares with another net's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from caffe_port.backends import make_backend
from caffe_port.errors import ArtifactError, GraphError
from caffe_port.net import Net
from caffe_port.sessions import make_session
from caffe_port.shapes import count

__all__ = ["BACKENDS", "RUNS", "WARM_UP", "Timing", "default_backend", "time_forward", "with_any_weights"]

BACKENDS = ("onnxruntime", "numpy")
"""What a pass can be timed with; the first that is installed is the default."""

RUNS, WARM_UP = 15, 3
"""Timed passes of a net, and those before them that are not timed."""


@dataclass(frozen=True, slots=True)
class Timing:
    """A net's forward pass.

    - `seconds`: the median of `runs` passes.
    - `ratio`: that over the median of the first net's passes, which ran in turns with these; 1 for the first itself.
    - `threads`: how many were allowed; None where the backend was not told (NumPy: as its BLAS is set).
    """

    seconds: float
    ratio: float
    runs: int
    backend: str
    threads: int | None

    def as_json(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "ratio": self.ratio,
            "runs": self.runs,
            "warm_up": WARM_UP,
            "backend": self.backend,
            "threads": self.threads,
        }


def default_backend() -> str:
    """onnxruntime where it is installed, else NumPy."""
    return BACKENDS[0] if find_spec("onnxruntime") else BACKENDS[-1]


def time_forward(
    nets: Sequence[Net], backend: str | None = None, *, threads: int = 1, runs: int = RUNS
) -> list[Timing]:
    """Times a forward pass of each net at its own shapes, on the CPU.

    Each net after the first runs in turns with the first, so that a machine that becomes slower does not change the
    ratio; no more than two nets are in memory. Learned blobs without values get some (`with_any_weights`), and inputs
    are 0: dense layers take as long for any values, as long as these are ordinary numbers.
    Raises: GraphError for an unknown backend or fewer than 1 run or thread; MissingDependency; ArtifactError; what
    `to_onnx` raises for a net that ONNX cannot express.
    """
    name = backend or default_backend()
    if name not in BACKENDS:
        raise GraphError(f"unknown backend {name!r} to time with; known: {', '.join(BACKENDS)}")
    if runs < 1 or threads < 1:
        raise GraphError(f"{'runs' if runs < 1 else 'threads'} must be at least 1")
    told = threads if name == "onnxruntime" else None
    timings: list[Timing] = []
    first = _pass_of(nets[0], name, threads) if nets else None
    for net in nets:
        if not timings:
            (own,) = _medians([first], runs)
            base = own
        else:
            base, own = _medians([first, _pass_of(net, name, threads)], runs)
        timings.append(Timing(own, own / base, runs, make_backend(name).name, told))
    return timings


def with_any_weights(net: Net, seed: int = 0) -> Net:
    """The net with random values for the learned blobs that have none.

    Positive, in the mean 1 over the number of values that are summed up, so that no blob overflows, or becomes so small
    that the processor slows down. Not from the net's fillers: these may be zeros, which a runtime may leave out.
    """
    rng = np.random.default_rng(seed)
    values = {}
    for weight in net.missing_weights():
        scale = np.float32(2 / max(1, count(weight.shape, 1) if len(weight.shape) > 1 else 1))
        values[id(weight)] = rng.random(weight.shape, np.float32) * scale
    return net.with_values(values)


def _pass_of(net: Net, backend: str, threads: int) -> Callable[[], object]:
    net = with_any_weights(net)
    inputs = {name: np.zeros(shape, np.float32) for name, shape in net.input_shapes.items()}
    if backend == "numpy":
        from caffe_port.runtime import run

        return lambda: run(net, inputs, outputs=net.outputs)
    from caffe_port.converters.to_onnx import to_onnx

    try:
        session = make_session(to_onnx(net).SerializeToString(), threads)
    except (ArtifactError, ValueError) as error:  # ValueError: protobuf writes no more than 2 GB
        raise ArtifactError(f"net {net.name!r} cannot be timed with onnxruntime: {error}") from error
    given = {value.name: inputs[value.name] for value in session.get_inputs()}
    return lambda: session.run(None, given)


def _medians(passes: Sequence[Callable[[], object] | None], runs: int) -> list[float]:
    """Median seconds of each, run in turns."""
    times: list[list[float]] = [[] for _ in passes]
    for i in range(WARM_UP + runs):
        for own, one in zip(times, passes, strict=True):
            assert one is not None
            start = time.perf_counter()
            one()
            if i >= WARM_UP:
                own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in times]
