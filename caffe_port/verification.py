"""Holds a backend against a recording of Caffe, layer by layer."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from caffe_port.backends import Backend, NumpyBackend, make_backend
from caffe_port.compare import (
    EXACT_TYPES,
    NOTHING_CARRIED,
    BlobComparison,
    Carried,
    Digest,
    ParityReport,
    Place,
    compare_blob,
    digest,
)
from caffe_port.errors import MissingDependency, ParityError, RecordingError, ShapeError
from caffe_port.layers.base import Array, RunContext
from caffe_port.layers.data import Input
from caffe_port.net import Blob, Layer, Net
from caffe_port.recording import RecordedLayer, Recording

__all__ = [
    "BackendPair",
    "Reference",
    "SelfComparison",
    "computed_outputs",
    "match_recorded",
    "seeded_inputs",
    "verify",
    "verify_isolated",
    "verify_self",
]

SAMPLE = 1024
"""Values compared of each blob where there is no recording to say how many it has."""


def seeded_inputs(net: Net, seed: int = 0) -> dict[str, Array]:
    """Inputs for a net without a recording: standard normal times 40 (the scale of images less their mean), float32."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.standard_normal(shape) * 40).astype(np.float32) if len(shape) > 1 else np.zeros(shape, np.float32)
        for name, shape in net.input_shapes.items()
    }


@dataclass(frozen=True, slots=True)
class Reference:
    """What backends are compared with: a net's own float64 and float32 runs on one set of inputs, and the recording.

    Made once, used for every backend. `recorded` is None for a net nobody recorded.
    """

    net: Net
    inputs: dict[str, Array]
    name: str
    exact: dict[tuple[int, int], Digest]
    float32: dict[tuple[int, int], Digest]
    recorded: dict[tuple[int, int], RecordedLayer] | None
    carried: dict[tuple[int, int], Carried]
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    @classmethod
    def make(cls, net: Net, recording: Recording | None = None, inputs: Mapping[str, Array] | None = None) -> Reference:
        """`inputs` are needed where the recording has only their shapes, and default to `seeded_inputs` without one.

        Raises: RecordingError if inputs are missing; ShapeError if the recorded shapes do not fit the net.
        """
        given = {name: np.asarray(array, np.float32) for name, array in (inputs or {}).items()}
        if recording is not None:
            given = {**recording.inputs, **given}
            absent = [name for name in net.inputs if name not in given]
            if absent:
                raise RecordingError(f"{recording.source}: input {', '.join(absent)} is not recorded in full; give it")
            for name, shape in recording.input_shapes.items():
                if name in given and given[name].shape != shape:
                    raise ShapeError(f"input {name!r} has shape {given[name].shape}, the recording {shape}")
        elif not given:
            given = seeded_inputs(net)
        shapes = {name: given[name].shape for name in net.inputs}
        if shapes != net.input_shapes:
            net = net.with_input_shapes(shapes)
        recorded, missing, extra = (None, (), ()) if recording is None else match_recorded(net, recording)
        name = "the float64 run (no recording of Caffe)" if recording is None else Path(recording.source).name
        return cls._of(net, {name: given[name] for name in net.inputs}, name, recorded, missing, extra)

    @classmethod
    def _of(
        cls,
        net: Net,
        inputs: dict[str, Array],
        name: str,
        recorded: dict[tuple[int, int], RecordedLayer] | None,
        missing: tuple[str, ...],
        extra: tuple[str, ...],
    ) -> Reference:
        float32 = {
            (layer.index, j): digest(value, _sampled(recorded, (layer.index, j)))
            for layer, tops in NumpyBackend("float32").trace(net, inputs)
            for j, value in enumerate(tops)
        }
        exact, carried = _exact(net, inputs, recorded, float32)
        return cls(net, inputs, name, exact, float32, recorded, carried, missing, extra)

    def compare(self, backend: Backend) -> ParityReport:
        """Runs the backend and compares every blob of every layer."""
        comparisons: list[BlobComparison] = []
        diverged: dict[Blob, str] = {}
        missing = list(self.missing)
        seen: set[tuple[int, int]] = set()
        for layer, tops in backend.trace(self.net, self.inputs):
            bad_inputs = tuple(
                dict.fromkeys(diverged[b] for b in (blob.origin for blob in layer.bottoms) if b in diverged)
            )
            for j, value in enumerate(tops):
                if value is None:
                    continue
                key = (layer.index, j)
                seen.add(key)
                recorded = None if self.recorded is None else self.recorded.get(key)
                if self.recorded is not None and recorded is None:
                    continue
                place = Place(layer.index, layer.name, layer.type, layer.tops[j].name, _is_exact(layer, j), bad_inputs)
                result = compare_blob(
                    place,
                    digest(value, _sampled(self.recorded, key)),
                    None if recorded is None else _recorded_digest(recorded),
                    self.exact[key],
                    self.float32[key],
                    self.carried.get(key, NOTHING_CARRIED),
                )
                comparisons.append(replace(result, shape=layer.tops[j].shape))
                if not result.agrees:
                    diverged[layer.tops[j]] = layer.tops[j].name
            self._pass_on(layer, diverged)
        wanted = self.exact if self.recorded is None else self.recorded
        outputs = computed_outputs(self.net) if backend.outputs_only else None
        missing += [
            f"{layer.name}:{top.name}"
            for layer in self.net.layers
            for j, top in enumerate(layer.tops)
            if (layer.index, j) in wanted and (layer.index, j) not in seen and (outputs is None or top in outputs)
        ]
        return ParityReport(backend.name, self.name, tuple(comparisons), tuple(missing), self.extra)

    def _pass_on(self, layer: Layer, diverged: dict[Blob, str]) -> None:
        """What a Split hands on has diverged if its bottom has."""
        for split in self.net.layers[layer.index + 1 :]:
            if split.type != "Split":
                break
            if split.bottoms[0].origin in diverged:
                diverged.update(dict.fromkeys(split.tops, diverged[split.bottoms[0].origin]))


def computed_outputs(net: Net) -> dict[Blob, str]:
    """The tops that hold the values of the net's outputs, and the outputs' names.

    An output of a Split is the value of the Split's bottom; one that shares overwritten memory that of its overwriter.
    """
    value_of: dict[Blob, Blob] = {}
    for layer in net.layers:
        for top in layer.tops:
            value_of[top] = value_of[layer.bottoms[0].origin] if layer.definition.is_pass_through else top
    given = set(net.input_blobs)
    values = {value_of[blob.origin]: blob.name for blob in net.output_blobs}
    return {blob: name for blob, name in values.items() if blob not in given}


def verify(
    net: Net,
    recording: Recording | None = None,
    backend: str | Backend = "numpy",
    *,
    inputs: Mapping[str, Array] | None = None,
) -> ParityReport:
    """Compares a backend with a recording of Caffe, every blob of every layer, in-place versions too.

    `backend`: "numpy", "numpy64", "torch", "onnxruntime", or a Backend. Without a recording the reference is the NumPy
    float64 run, which proves less: that the backends agree with each other.
    Returns a ParityReport; its `ok` says whether all agrees, `raise_if_failed` raises ParityError if not.
    Raises: RecordingError, ShapeError if recording and net or inputs do not fit at all.
    """
    chosen = make_backend(backend) if isinstance(backend, str) else backend
    return Reference.make(net, recording, inputs).compare(chosen)


def verify_isolated(
    net: Net,
    recording: Recording,
    backend: str | Backend = "numpy",
    *,
    inputs: Mapping[str, Array] | None = None,
) -> ParityReport:
    """Compares each layer by itself, run on its *recorded* inputs, wherever all of them were recorded in full.

    Noise of earlier layers cannot reach it, so the bound is much tighter. Layers whose inputs were only sampled are
    left out; if that is all of them, nothing was compared, and the report fails.
    """
    chosen = make_backend(backend) if isinstance(backend, str) else backend
    recorded, missing, extra = match_recorded(net, recording)
    known_inputs = {**(inputs or {}), **recording.inputs}
    values: dict[Blob, Array] = {
        blob: np.asarray(known_inputs[blob.name], np.float32) for blob in net.input_blobs if blob.name in known_inputs
    }
    comparisons: list[BlobComparison] = []
    for layer in net.layers:
        known = all(blob.origin in values for blob in layer.bottoms)
        if layer.type == "Split":
            if known:
                values.update(dict.fromkeys(layer.tops, values[layer.bottoms[0].origin]))
            continue
        entries = [recorded.get((layer.index, j)) for j in range(len(layer.tops))]
        if known and layer.bottoms and all(entry is not None for entry in entries):
            alone = _alone(layer)
            own_inputs = {
                top.name: values[bottom.origin].reshape(bottom.shape)
                for top, bottom in zip(alone.input_blobs, dict.fromkeys(layer.bottoms), strict=True)
            }
            entries_alone = {(1, j): entry for j, entry in enumerate(entries) if entry is not None}
            reference = Reference._of(alone, own_inputs, recording.source, entries_alone, (), ())
            report = reference.compare(chosen)
            comparisons += [replace(result, index=layer.index) for result in report.comparisons]
        for top, entry in zip(layer.tops, entries, strict=True):
            full = None if entry is None else entry.value
            if full is not None:
                values[top] = full
    return ParityReport(f"{chosen.name}, layer by layer", recording.source, tuple(comparisons), missing, extra)


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
        from caffe_port.conversion import verification_backends

        backends = verification_backends(net)
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


def _alone(layer: Layer) -> Net:
    """A net of one layer, its bottoms as inputs."""
    bottoms = tuple(dict.fromkeys(layer.bottoms))
    given = tuple(Blob(f"bottom{i}", blob.shape) for i, blob in enumerate(bottoms))
    tops = tuple(Blob(top.name, top.shape) for top in layer.tops)
    head = Layer(0, "bottoms", Input(tuple(blob.shape for blob in bottoms)), (), given)
    by_bottom = dict(zip(bottoms, given, strict=True))
    body = replace(layer, index=1, bottoms=tuple(by_bottom[blob] for blob in layer.bottoms), tops=tops)
    return Net(
        name=layer.name,
        phase=layer.phase,
        layers=(head, body),
        input_blobs=given,
        output_blobs=tops,
        blobs={blob.name: blob for blob in (*given, *tops)},
    )


def _is_exact(layer: Layer, top: int) -> bool:
    return layer.type in EXACT_TYPES or (layer.type == "Pooling" and top == 1)


def _sampled(recorded: Mapping[tuple[int, int], RecordedLayer] | None, key: tuple[int, int]) -> int:
    """How many values of a top to compare: as many as were recorded."""
    if recorded is None or key not in recorded:
        return SAMPLE
    return max(1, recorded[key].sample.size)


def _recorded_digest(entry: RecordedLayer) -> Digest:
    sample = entry.sample.astype(np.float64)
    stats = np.full(4, np.nan) if entry.stats is None else entry.stats
    return Digest(entry.shape, sample, stats)


def _exact(
    net: Net,
    inputs: Mapping[str, Array],
    recorded: dict[tuple[int, int], RecordedLayer] | None,
    float32: Mapping[tuple[int, int], Digest],
) -> tuple[dict[tuple[int, int], Digest], dict[tuple[int, int], Carried]]:
    """The float64 run, and for tops of a few values what their inputs' floor and noise make of them."""
    exact: dict[tuple[int, int], Digest] = {}
    carried: dict[tuple[int, int], Carried] = {}
    noisy: dict[Blob, Carried] = {}
    rng = np.random.default_rng(0)
    backend = NumpyBackend("float64")
    for layer, bottoms, tops in backend.trace_with_bottoms(net, inputs):
        disturbances = [noisy.get(blob.origin, NOTHING_CARRIED) for blob in layer.bottoms]
        if layer.type == "Split":
            noisy.update(dict.fromkeys(layer.tops, disturbances[0]))
            continue
        few = all(value.size <= FEW for value in tops)
        for j, value in enumerate(tops):
            key = (layer.index, j)
            exact[key] = own = digest(value, _sampled(recorded, key))
            spread = Carried(
                floor=_rms(own, _recorded_digest(recorded[key])) if recorded and key in recorded else 0.0,
                noise=_rms(own, float32[key]),
            )
            if few and any(given != NOTHING_CARRIED for given in disturbances) and not _is_exact(layer, j):
                carried[key] = Carried(
                    *(
                        _disturbed(layer, j, bottoms, [getattr(given, what) for given in disturbances], value, rng)
                        for what in ("floor", "noise")
                    )
                )
                # The maximum over the trials, brought back to one standard deviation.
                spread = Carried(
                    max(spread.floor, carried[key].floor / _PEAK), max(spread.noise, carried[key].noise / _PEAK)
                )
            noisy[layer.tops[j]] = spread
    return exact, carried


FEW = 64
"""Blobs of so few values may have a tiny floor by luck."""

_TRIALS = 16
_PEAK = 2.0
"""About how many standard deviations the largest of a few normal values lies out."""


def _rms(a: Digest, b: Digest) -> float:
    """Root mean square of the difference of two digests' samples; 0 where they are no blobs of the same shape."""
    if a.shape != b.shape or a.sample.size == 0:
        return 0.0
    with np.errstate(invalid="ignore"):
        difference = a.sample - b.sample
    difference = difference[np.isfinite(difference)]
    return float(np.sqrt(np.mean(difference**2))) if difference.size else 0.0


def _disturbed(
    layer: Layer, top: int, bottoms: Sequence[Array], spreads: Sequence[float], value: Array, rng: np.random.Generator
) -> float:
    """Largest change of a top when the layer's inputs change at random by `spreads` (standard deviations)."""
    if not any(spreads):
        return 0.0
    weights = [np.asarray(weight.data, dtype=np.float64) for weight in layer.weights]
    largest = 0.0
    for _ in range(_TRIALS):
        moved = [x + spread * rng.standard_normal(x.shape) for x, spread in zip(bottoms, spreads, strict=True)]
        context = RunContext(layer.phase, np.dtype(np.float64), rng, layer.is_in_place)
        with np.errstate(invalid="ignore"):
            change = np.abs(layer.definition.forward(context, moved, weights)[top] - value)
        largest = max(largest, float(np.max(change[np.isfinite(change)], initial=0.0)))
    return largest


def match_recorded(
    net: Net, recording: Recording
) -> tuple[dict[tuple[int, int], RecordedLayer], tuple[str, ...], tuple[str, ...]]:
    """The recorded entry of each top, by layer index and top; what is recorded and not in the net; and the reverse.

    By names, types and order, not by Caffe's indices: those of old Caffes do not count inputs. A layer that is known
    here by its Python class may be recorded under that name or as `Python`, the type it has in Caffe.
    Raises: RecordingError where the layers were recorded in another order than the net has them.
    """
    entries: dict[tuple[str, str, str, int], RecordedLayer] = {}
    times: Counter[tuple[str, str, str]] = Counter()
    for entry in recording.layers:
        name = (entry.layer, entry.type, entry.top)
        key = (*name, times[name])
        entries[key] = entry
        times[name] += 1
    times.clear()
    matched: dict[tuple[int, int], RecordedLayer] = {}
    extra: list[str] = []
    order: list[int] = []
    positions = {id(entry): i for i, entry in enumerate(recording.layers)}
    for layer in net.layers:
        if layer.definition.is_input or layer.type == "Split":
            continue
        for j, top in enumerate(layer.tops):
            found = None
            for kind in _recorded_types(layer):
                name = (layer.name, kind, top.name)
                found = found or entries.pop((*name, times[name]), None)
                times[name] += 1
            if found is None:
                extra.append(f"{layer.name} ({layer.type}):{top.name}")
                continue
            final = recording.finals.get(top.name)
            if final is not None and net.blobs[top.name] is top and final.shape == found.shape:
                # Outputs are recorded whole, not only as a sample.
                matched[layer.index, j] = replace(found, sample=final.reshape(-1))
            else:
                matched[layer.index, j] = found
            order.append(positions[id(found)])
    missing = [f"{entry.layer} ({entry.type}):{entry.top}" for entry in entries.values()]
    if order != sorted(order):
        raise RecordingError(f"{recording.source}: the layers were recorded in another order than the net has them")
    return matched, tuple(missing), tuple(extra)


def _recorded_types(layer: Layer) -> tuple[str, ...]:
    """The types a recording may call a layer: its own, and the prototxt's where that is another."""
    written = layer.type if layer.message is None else layer.message.type
    return (layer.type,) if written == layer.type else (layer.type, written)
