"""What "the same" means: tolerances, the comparison of one blob, and the report of a whole net.

Caffe computes in float32, so a recording carries rounding noise of its own. How much is measured, not guessed:

* the *floor* of a blob is the recording's largest distance from the net evaluated in float64;
* the *noise* is the distance of our own float32 run from the same float64 run, a second sample of the same rounding.

A recording is believed to be of this net if its floor is rounding noise: floor <= 4 noise + 4 ulp. A backend agrees if
its distance from the recording is <= 4 floor + 4 ulp. An ulp is the spacing of float32 at the blob's largest magnitude.
Blobs of integers (ArgMax, masks, Accuracy) must be equal. Infinities must be the same ones. NaN never agrees, and a
comparison of nothing fails.

The floor of a blob of a few values can be small by luck. There it is at least what the floors of its inputs make of it,
found by running the layer in float64 on inputs disturbed by that much (`Carried`).

Two things are compared: the recorded sample of values, and the minimum, maximum, mean and L2 norm over all of them.
These are single numbers, so they too have at least the floor that the sampled values' makes of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from caffe_port.errors import ParityError
from caffe_port.recording import sample_indices
from caffe_port.shapes import Shape, format_shape

__all__ = [
    "EXACT_TYPES",
    "TOLERANCE",
    "BlobComparison",
    "Carried",
    "Digest",
    "ParityReport",
    "Tolerance",
    "compare_blob",
    "digest",
]

EXACT_TYPES = frozenset({"ArgMax", "Accuracy", "Threshold", "Filter"})
"""Types whose tops are counts, indices or copies: float32 and float64 must give the very same numbers."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """At most `floors` times the floor (or noise) plus `ulps` ulps of the blob's largest magnitude."""

    floors: float = 4.0
    ulps: float = 4.0

    def bound(self, floor: float, ulp: float) -> float:
        return self.floors * floor + self.ulps * ulp


TOLERANCE = Tolerance()
"""The one tolerance there is; it is written into every certificate."""


@dataclass(frozen=True, slots=True, eq=False)
class Digest:
    """What is kept of a blob for comparing: shape, evenly spaced values, minimum, maximum, mean, L2 norm; float64."""

    shape: Shape
    sample: Values
    stats: Values


def digest(values: npt.NDArray[Any], limit: int) -> Digest:
    """The digest of a blob, with at most `limit` values of it."""
    flat = np.ascontiguousarray(values).reshape(-1)
    sample = flat[sample_indices(flat.size, limit)].astype(np.float64)
    if flat.size == 0:
        return Digest(values.shape, sample, np.zeros(4))
    # In blocks, so that the float64 copy stays in the cache. Infinities of both signs sum up to NaN, which fails.
    total = squares = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK].astype(np.float64)
            total += float(block.sum())
            squares += float(np.dot(block, block))
    stats = np.array([flat.min(), flat.max(), total / flat.size, math.sqrt(squares) if squares >= 0 else squares])
    return Digest(values.shape, sample, stats.astype(np.float64))


_BLOCK = 1 << 16

_LARGEST = float(np.nextafter(np.finfo(np.float32).max, np.float32(0)))
"""The largest float32 that has another above it."""


@dataclass(frozen=True, slots=True)
class BlobComparison:
    """How one top of one layer compares.

    `distance` is the backend's largest distance from the reference, `floor` and `noise` as the module says, `bound`
    what the distance may be; all are of the value for which distance/bound is largest. `reason` is empty if it agrees.
    """

    index: int
    layer: str
    type: str
    top: str
    shape: Shape
    compared: int
    scale: float
    ulp: float
    floor: float
    noise: float
    distance: float
    bound: float
    worst: str
    got: float
    expected: float
    reason: str = ""
    inputs_diverged: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        return not self.reason

    @property
    def multiple(self) -> float:
        """The distance in floors; where the floor is below an ulp (by luck, in a small blob), in ulps."""
        return self.distance / max(self.floor, self.ulp) if self.distance else 0.0

    @property
    def of_bound(self) -> float:
        """The share of the bound that was used; above 1 it fails."""
        if self.bound:
            return self.distance / self.bound
        return np.inf if self.distance else 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "layer": self.layer,
            "type": self.type,
            "top": self.top,
            "shape": list(self.shape),
            "compared": self.compared,
            "scale": self.scale,
            "floor": self.floor,
            "noise": self.noise,
            "distance": self.distance,
            "bound": self.bound,
            "multiple": self.multiple,
            "agrees": self.agrees,
            **({"reason": self.reason} if self.reason else {}),
        }


@dataclass(frozen=True, slots=True)
class ParityReport:
    """The comparison of one backend with one reference, layer by layer in Caffe's order."""

    backend: str
    reference: str
    comparisons: tuple[BlobComparison, ...]
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    tolerance: Tolerance = field(default=TOLERANCE)

    @property
    def ok(self) -> bool:
        """Whether something was compared, everything was, and all of it agrees."""
        return bool(self.comparisons) and not self.missing and not self.extra and not any(self.failures())

    def failures(self) -> Iterator[BlobComparison]:
        """The comparisons that do not agree, in Caffe's order of layers."""
        return (comparison for comparison in self.comparisons if not comparison.agrees)

    @property
    def first_divergence(self) -> BlobComparison | None:
        """The first comparison that does not agree; its `inputs_diverged` say whether the fault lies before it."""
        return next(self.failures(), None)

    @property
    def worst(self) -> BlobComparison | None:
        """The comparison that came nearest to its bound, or went furthest past it."""
        # One that could not be compared at all has NaN, and is worse than any distance.
        return max(self.comparisons, key=lambda one: (np.isnan(one.of_bound), one.of_bound), default=None)

    @property
    def median_multiple(self) -> float:
        """The median distance of a blob from its reference, in noise floors; 0 where nothing was compared."""
        return float(np.median([comparison.multiple for comparison in self.comparisons])) if self.comparisons else 0.0

    def explanation(self) -> str:
        """One line that says how it went; for a failure, the first layer that diverges and what is known of it."""
        where = f"{self.backend} against {self.reference}"
        wrong = []
        if not self.comparisons:
            wrong.append("nothing was compared")
        if self.missing:
            wrong.append(f"recorded blobs are missing: {_some(self.missing)}")
        if self.extra:
            wrong.append(f"blobs were not recorded: {_some(self.extra)}")
        first = self.first_divergence
        if first is not None:
            number = sum(1 for _ in self.failures())
            inputs = (
                f"its inputs had already diverged: {', '.join(first.inputs_diverged)}"
                if first.inputs_diverged
                else "its inputs agree, so the fault is in this layer"
            )
            wrong.append(
                f"{number} of {len(self.comparisons)} blobs diverge, first layer {first.layer!r} ({first.type}), "
                f"top {first.top!r}: {first.reason}; {inputs}"
            )
        if wrong:
            return f"{where}: FAILED: {'; '.join(wrong)}"
        worst = self.worst
        assert worst is not None
        return (
            f"{where}: {len(self.comparisons)} blobs agree; distance {self.median_multiple:.2f} x floor in the median, "
            f"at most {worst.of_bound:.2f} of the bound (layer {worst.layer!r}, {worst.multiple:.1f} x floor)"
        )

    def table(self) -> Iterator[str]:
        """A line for every blob: how far it is from the reference, in floors and as a share of what is allowed."""
        yield f"{'layer':40} {'top':32} {'distance':>10} {'floor':>10} {'x floor':>8} {'of bound':>8}"
        for c in self.comparisons:
            numbers = f"{c.distance:10.3g} {c.floor:10.3g} {c.multiple:8.2f} {c.of_bound:8.2f}"
            yield f"{c.layer:40} {c.top:32} {numbers}{'' if c.agrees else '  DIVERGES: ' + c.reason}"

    def raise_if_failed(self) -> None:
        """Raises ParityError with the `explanation` unless `ok`."""
        if not self.ok:
            raise ParityError(self.explanation())

    def as_json(self) -> dict[str, Any]:
        """The report for programs, with every comparison; what JSON can hold and nothing else."""
        return {
            "backend": self.backend,
            "reference": self.reference,
            "agrees": self.ok,
            "compared": len(self.comparisons),
            "median_multiple": self.median_multiple,
            "missing": list(self.missing),
            "extra": list(self.extra),
            "layers": [comparison.as_json() for comparison in self.comparisons],
        }


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@dataclass(frozen=True, slots=True)
class Place:
    """Which blob is compared."""

    index: int
    layer: str
    type: str
    top: str
    exact: bool = False
    inputs_diverged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Carried:
    """The least floor and noise that are allowed: for a blob of a few values what those of its inputs make of it, for a
    statistic what those of the sampled values do."""

    floor: float = 0.0
    noise: float = 0.0


NOTHING_CARRIED = Carried()

_STATISTICS = ("minimum", "maximum", "mean", "L2 norm")


def compare_blob(
    place: Place,
    backend: Digest,
    recorded: Digest | None,
    exact: Digest,
    float32: Digest,
    carried: Carried = NOTHING_CARRIED,
    tolerance: Tolerance = TOLERANCE,
) -> BlobComparison:
    """Compares a backend's blob with the recorded one (None: with the float64 run, whose floor is then the noise).

    `exact` and `float32` are our own runs in float64 and float32. Shapes must be equal, and every value finite where
    the reference is (and equal where it is infinite).
    """
    reference = exact if recorded is None else recorded
    if backend.shape != reference.shape:
        return _refused(
            place, reference, f"shape {format_shape(backend.shape)}, Caffe has {format_shape(reference.shape)}"
        )
    if exact.shape != reference.shape:
        return _refused(
            place, reference, f"shape {format_shape(exact.shape)}, Caffe has {format_shape(reference.shape)}"
        )
    finite = np.abs(reference.sample[np.isfinite(reference.sample)])
    extremes = np.abs(reference.stats[:2])
    scale = float(max(finite.max(initial=0.0), extremes[np.isfinite(extremes)].max(initial=0.0)))
    recorded_at_all = recorded is not None

    def part(name: str | None, least: Carried) -> BlobComparison:
        at = slice(None) if name is None else slice(_STATISTICS.index(name), _STATISTICS.index(name) + 1)

        def values(of: Digest) -> Values:
            return of.sample if name is None else of.stats[at]

        own_scale = float(abs(reference.stats[3])) if name == "L2 norm" else scale
        return _compare(
            place,
            name,
            own_scale,
            recorded_at_all,
            values(reference),
            values(backend),
            values(exact),
            values(float32),
            least,
            tolerance,
        )

    sampled = part(None, carried)
    results = [sampled]
    size = math.prod(reference.shape)
    if reference.sample.size < size:
        # Statistics add something only where the sample is not everything. Each is a single number, whose own distance
        # can be tiny by luck, so it has at least the noise that the values' gives it: an extreme is one value;
        # independent errors of the values, each as large as the largest sampled, move the norm by about one of them and
        # the mean by that over the root of their number.
        one = Carried(sampled.floor, sampled.noise)
        averaged = Carried(sampled.floor / math.sqrt(size), sampled.noise / math.sqrt(size))
        results += [part("minimum", one), part("maximum", one), part("mean", averaged), part("L2 norm", one)]
    # The worst part speaks for the blob; a failed one before all.
    return max(results, key=lambda result: (not result.agrees, result.of_bound))


def _refused(place: Place, reference: Digest, reason: str) -> BlobComparison:
    nan = float("nan")
    return BlobComparison(
        place.index, place.layer, place.type, place.top, reference.shape, 0, nan, nan, nan, nan, nan, nan, "", nan, nan,
        reason, place.inputs_diverged,
    )  # fmt: skip


def _compare(
    place: Place,
    statistic: str | None,
    scale: float,
    is_recorded: bool,
    reference: Values,
    backend: Values,
    exact: Values,
    float32: Values,
    least: Carried,
    tolerance: Tolerance,
) -> BlobComparison:
    # A float64 run goes beyond float32.
    ulp = float(np.spacing(np.float32(min(scale, _LARGEST))))
    noise = max(_largest(float32, exact), least.noise)
    floor = max(_largest(reference, exact), least.floor) if is_recorded else noise
    bound = 0.0 if place.exact else tolerance.bound(floor, ulp)
    distances = _distances(backend, reference)
    at = int(np.argmax(distances)) if distances.size else 0
    distance = float(distances[at]) if distances.size else 0.0
    got, expected = (float(backend[at]), float(reference[at])) if distances.size else (0.0, 0.0)
    worst = statistic or f"value {at} of {reference.size} sampled"
    reason = ""
    infinite = np.isinf(reference) | np.isinf(backend)
    if np.isnan(reference).any() or np.isnan(backend).any():
        # Caffe itself can make NaN (0/0 in an average pooling); even then no value can be said to agree.
        reason = "NaN" if not np.isnan(reference).any() else "the reference has NaN"
    elif not np.array_equal(backend[infinite], reference[infinite]):
        at = int(np.flatnonzero(infinite)[np.argmax(backend[infinite] != reference[infinite])])
        got, expected = float(backend[at]), float(reference[at])
        worst = statistic or f"value {at} of {reference.size} sampled"
        reason = f"{worst} is {got:.9g}, Caffe has {expected:.9g}: what is infinite must be so in both"
    elif not distance <= bound:
        reason = (
            f"{worst} is {got:.9g}, Caffe has {expected:.9g}: off by {distance:.3g}, allowed {bound:.3g} "
            f"({distance / max(floor, ulp, 1e-300):.1f} x the floor)"
        )
    elif is_recorded and not place.exact and not floor <= tolerance.bound(noise, ulp):
        reason = (
            f"{worst}: the recording is {floor:.3g} from the exact result, rounding explains "
            f"{tolerance.bound(noise, ulp):.3g}: not the same net or input"
        )
    return BlobComparison(
        place.index, place.layer, place.type, place.top, (), reference.size, scale, ulp, floor, noise, distance, bound,
        worst, got, expected, reason, place.inputs_diverged,
    )  # fmt: skip


def _distances(a: Values, b: Values) -> Values:
    """|a - b|, with equal infinities at distance 0 and NaN infinitely far."""
    with np.errstate(invalid="ignore"):
        difference = np.where(a == b, 0.0, np.abs(a - b))
    return np.where(np.isnan(difference), np.inf, difference)


def _largest(a: Values, b: Values) -> float:
    """The largest distance of two values that are finite: an infinite floor would let everything pass."""
    both = np.isfinite(a) & np.isfinite(b)
    return float(_distances(a[both], b[both]).max(initial=0.0))
