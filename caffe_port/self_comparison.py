"""Holds the ways to compute a net against each other: what can be shown without a recording of Caffe, and less."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np

from caffe_port.backends import Backend, NumpyBackend, installed_backends
from caffe_port.compare import NOTHING_CARRIED, Digest, ParityReport, digest
from caffe_port.errors import MissingDependency, ParityError
from caffe_port.layers.base import Array
from caffe_port.net import Layer, Net
from caffe_port.verification import SAMPLE, Reference

__all__ = ["BackendPair", "SelfComparison", "verify_self"]


@dataclass(frozen=True, slots=True)
class BackendPair:
    """How far two backends are from each other, over the blobs that both show.

    `multiple` is the largest distance between two values of a blob in that blob's noise floors (in ulps, where those
    are more), found at `top` of `layer`; `identical` of `blobs` blobs have the same values throughout.
    """

    first: str
    second: str
    multiple: float
    layer: str
    top: str
    identical: int
    blobs: int

    def __str__(self) -> str:
        where = "" if self.identical == self.blobs else f", at layer {self.layer!r}, top {self.top!r}"
        return (
            f"{self.first} and {self.second}: at most {self.multiple:.2f} x floor apart{where}; "
            f"{self.identical} of {self.blobs} blobs equal"
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SelfComparison:
    """The backends held against each other, without any recording of Caffe.

    `reports` has each backend that a converter wrote against the NumPy float64 run; they decide. `pairs` has every two
    backends against each other.
    """

    reports: tuple[ParityReport, ...]
    pairs: tuple[BackendPair, ...]

    MEANING: ClassVar[str] = (
        "no recording of Caffe was used: this shows that the converted nets compute what caffe_port reads in the net, "
        "not that Caffe computes that (caffe-port record --script prints what makes a recording)"
    )
    """What such a comparison proves, and what not."""

    @property
    def ok(self) -> bool:
        """Whether a converted net was compared, and all of them agree with the float64 run."""
        return bool(self.reports) and all(report.ok for report in self.reports)

    def lines(self) -> Iterator[str]:
        """What to tell a person: the comparisons, the pairs, and how little that proves."""
        yield from (report.explanation() for report in self.reports)
        yield from map(str, self.pairs)
        yield self.MEANING

    def raise_if_failed(self) -> None:
        """Raises ParityError, naming for each backend that does not agree the first layer that diverges."""
        if not self.ok:
            failed = [report.explanation() for report in self.reports if not report.ok]
            raise ParityError("\n".join(failed) or "no converted net was compared")

    def as_json(self) -> dict[str, Any]:
        return {
            "agrees": self.ok,
            "meaning": self.MEANING,
            "verification": [report.as_json() for report in self.reports],
            "pairs": [pair.as_json() for pair in self.pairs],
        }


def verify_self(
    net: Net,
    inputs: Mapping[str, Array] | None = None,
    backends: Sequence[Backend] | None = None,
) -> SelfComparison:
    """Compares the ways to compute a net with each other: what can be had without a recording of Caffe, and less.

    `inputs` default to `seeded_inputs`; `backends` to all that are installed, NumPy's float64 and float32 among them.
    Raises: MissingDependency if there is none but NumPy, which would only be compared with itself; UnsupportedLayer if
    a backend cannot express a layer.
    """
    if backends is None:
        backends = installed_backends()
    if all(isinstance(backend, NumpyBackend) for backend in backends):
        raise MissingDependency("there is nothing to compare NumPy with: pip install 'caffe_port[torch,runtime]'")
    reference = Reference.make(net, None, inputs)
    reports = []
    shown: list[_Shown] = [("numpy float64", reference.exact), ("numpy float32", reference.float32)]
    for backend in backends:
        if not isinstance(backend, NumpyBackend):
            keeping = _Keeping(backend)
            reports.append(reference.compare(keeping))
            shown.append((backend.name, keeping.shown))
    pairs = tuple(
        _pair(reference, first, second)
        for first, second in itertools.combinations(shown, 2)
        if first[1].keys() & second[1].keys()
    )
    return SelfComparison(tuple(reports), pairs)


@dataclass(frozen=True, slots=True)
class _Keeping:
    """A backend that keeps digests of what it shows."""

    backend: Backend
    shown: dict[tuple[int, int], Digest] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.backend.name

    @property
    def outputs_only(self) -> bool:
        return self.backend.outputs_only

    def trace(self, net: Net, inputs: Mapping[str, Array]) -> Iterator[tuple[Layer, tuple[Array | None, ...]]]:
        for layer, tops in self.backend.trace(net, inputs):
            for j, value in enumerate(tops):
                if value is not None:
                    self.shown[layer.index, j] = digest(value, SAMPLE)
            yield layer, tops


_Shown = tuple[str, Mapping[tuple[int, int], Digest]]


def _pair(reference: Reference, first: _Shown, second: _Shown) -> BackendPair:
    multiples = {
        key: _apart(first[1][key], second[1][key]) / _unit(reference, key) for key in first[1] if key in second[1]
    }
    worst = max(multiples, key=lambda key: multiples[key])
    layer = reference.net.layers[worst[0]]
    return BackendPair(
        first[0],
        second[0],
        multiples[worst],
        layer.name,
        layer.tops[worst[1]].name,
        sum(multiple == 0 for multiple in multiples.values()),
        len(multiples),
    )


def _unit(reference: Reference, key: tuple[int, int]) -> float:
    """A blob's noise floor; an ulp of its largest magnitude where that is more."""
    exact = reference.exact[key]
    finite = np.abs(exact.sample[np.isfinite(exact.sample)])
    noise = _apart(exact, reference.float32[key])
    ulp = float(np.spacing(np.float32(finite.max(initial=0.0))))
    return max(noise if np.isfinite(noise) else 0.0, reference.carried.get(key, NOTHING_CARRIED).noise, ulp)


def _apart(a: Digest, b: Digest) -> float:
    """The largest distance of two samples' values; infinite for different shapes, and where one value is not finite."""
    if a.shape != b.shape:
        return math.inf
    with np.errstate(invalid="ignore"):
        distances = np.where(a.sample == b.sample, 0.0, np.abs(a.sample - b.sample))
    return float(np.where(np.isnan(distances), np.inf, distances).max(initial=0.0))
