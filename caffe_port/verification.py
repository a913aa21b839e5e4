"""Holds a backend against a recording of Caffe, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

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
from caffe_port.errors import RecordingError, ShapeError
from caffe_port.layers.base import Array, RunContext
from caffe_port.layers.data import Input
from caffe_port.matching import match_recorded
from caffe_port.net import Blob, Layer, Net
from caffe_port.recording import RecordedLayer, Recording

__all__ = [
    "SAMPLE",
    "Reference",
    "computed_outputs",
    "seeded_inputs",
    "single_layer",
    "verify",
    "verify_isolated",
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
            alone = single_layer(layer)
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


def single_layer(layer: Layer) -> Net:
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
    with np.errstate(all="ignore"):
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
        context = RunContext(layer.phase, np.dtype(np.float64), rng, layer.is_in_place)
        with np.errstate(all="ignore"):
            moved = [x + spread * rng.standard_normal(x.shape) for x, spread in zip(bottoms, spreads, strict=True)]
            change = np.abs(layer.definition.forward(context, moved, weights)[top] - value)
        largest = max(largest, float(np.max(change[np.isfinite(change)], initial=0.0)))
    return largest
