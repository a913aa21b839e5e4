"""Timing: in turns, without the first passes, by the median; and the weights that are made up for it."""

from __future__ import annotations

import numpy as np
import pytest
from small import CONV_NET, built, filled

from caffe_port.errors import GraphError
from caffe_port.runtime import run
from caffe_port.tradeoff import timing
from caffe_port.tradeoff.timing import WARM_UP, time_forward, with_any_weights


class Clock:
    """A clock that passes move on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def passing(self, name: str, seconds: list[float]) -> object:
        left = iter(seconds)

        def one() -> None:
            self.order.append(name)
            self.now += next(left)

        return one


def test_medians_in_turns_and_without_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    cold = [1000.0] * WARM_UP
    medians = {"a": [*cold, 1, 2, 900], "b": [*cold, 8, 6, 4]}
    passes = [clock.passing(name, seconds) for name, seconds in medians.items()]
    assert timing._medians(passes, 3) == [2, 6]  # type: ignore[arg-type]
    assert clock.order == ["a", "b"] * (WARM_UP + 3)


def test_ratios_are_to_the_first_as_it_ran_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is half as fast when the second net runs; the ratio is the nets' own."""
    found = iter([[1.0], [2.0, 6.0]])
    monkeypatch.setattr(timing, "_medians", lambda passes, runs: next(found))
    first, second = time_forward([built(CONV_NET), built(CONV_NET)], "numpy", runs=4)
    assert (first.seconds, first.ratio, first.runs, first.threads) == (1.0, 1.0, 4, None)
    assert (second.seconds, second.ratio) == (6.0, 3.0)


@pytest.mark.parametrize("backend", timing.BACKENDS)
def test_a_pass_is_timed(backend: str) -> None:
    if backend == "onnxruntime":
        pytest.importorskip(backend)
    first, second = time_forward([built(CONV_NET), filled(CONV_NET)], backend, runs=3, threads=2)
    assert first.ratio == 1 and first.seconds > 0 and second.ratio > 0
    assert first.as_json() == {
        "seconds": first.seconds,
        "ratio": 1.0,
        "runs": 3,
        "warm_up": WARM_UP,
        "backend": "onnxruntime" if backend == "onnxruntime" else "numpy float32",
        "threads": 2 if backend == "onnxruntime" else None,
    }


def test_bad_input() -> None:
    net = built(CONV_NET)
    with pytest.raises(GraphError, match="unknown backend 'abacus' to time with; known: onnxruntime, numpy"):
        time_forward([net], "abacus")
    with pytest.raises(GraphError, match="runs must be at least 1"):
        time_forward([net], "numpy", runs=0)
    with pytest.raises(GraphError, match="threads must be at least 1"):
        time_forward([net], "numpy", threads=0)


def test_made_up_weights_are_ordinary_numbers_and_keep_what_is_there() -> None:
    net = with_any_weights(built(CONV_NET))
    assert not net.missing_weights()
    blobs = run(net, {"data": np.zeros((2, 3, 8, 7), np.float32)})
    for name in ("conv1", "fc", "prob"):
        assert (np.abs(blobs[name]) > 1e-6).all() and (np.abs(blobs[name]) < 1e3).all()
    given = filled(CONV_NET)
    for kept, own in zip(with_any_weights(given).weights(), given.weights(), strict=True):
        assert kept.data is own.data
