"""How far a file of reduced precision is from the reference, on the net's outputs, and how far it may be.

A float file is held to the noise floor, layer by layer (`compare`). One in half or 8-bit precision cannot be: there the
user says what is allowed, as a share of each output's largest magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from caffe_port import runtime
from caffe_port.errors import GraphError
from caffe_port.layers.base import Array
from caffe_port.net import Net
from caffe_port.recording import Recording

__all__ = ["BudgetReport", "Case", "OutputError", "Runner", "expected_of", "held_to", "percent"]


def percent(share: float) -> str:
    """A share as people read it."""
    return f"{100 * share:.3g} %"


Runner = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Runs a deployed file: inputs by blob name, as the reference has them, to outputs by blob name."""


@dataclass(frozen=True, slots=True)
class Case:
    """Inputs, and the outputs that are right for them: Caffe's where it was recorded, else those of the float64 run."""

    name: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]

    @classmethod
    def recorded(cls, recording: Recording, name: str) -> Case | None:
        """What a recording has in full; None where it lacks an input."""
        if set(recording.input_names) - set(recording.inputs):
            return None
        return cls(name, recording.inputs, recording.finals)


@dataclass(frozen=True, slots=True)
class OutputError:
    """One output over all cases: how many values were compared, their largest magnitude, and the differences."""

    output: str
    values: int
    scale: float
    largest: float
    mean: float

    def share(self) -> float:
        """The largest difference as a share of the output's largest magnitude."""
        return self.largest / self.scale if self.scale else (np.inf if self.largest else 0.0)

    def as_json(self) -> dict[str, Any]:
        return {
            "output": self.output,
            "values": self.values,
            "scale": self.scale,
            "largest_error": self.largest,
            "mean_error": self.mean,
            "largest_error_share": self.share(),
        }


@dataclass(frozen=True, slots=True)
class BudgetReport:
    """A file of reduced precision against the reference."""

    artifact: str
    cases: tuple[str, ...]
    budget: float
    outputs: tuple[OutputError, ...]

    @property
    def ok(self) -> bool:
        """Whether something was compared and every output is within the budget; NaN is not."""
        return bool(self.outputs) and all(one.values and one.share() <= self.budget for one in self.outputs)

    def explanation(self) -> str:
        """One line that says how it went."""
        if not self.outputs or not self.cases:
            return f"{self.artifact}: FAILED: nothing was compared"
        told = ", ".join(
            f"{one.output!r} off by at most {one.largest:.3g} ({percent(one.share())} of its largest magnitude), "
            f"{one.mean:.3g} in the mean"
            for one in self.outputs
        )
        verdict = "within" if self.ok else "FAILED: beyond"
        return f"{self.artifact} on {len(self.cases)} inputs: {verdict} the budget of {percent(self.budget)}: {told}"

    def as_json(self) -> dict[str, Any]:
        return {
            "artifact": self.artifact,
            "agrees": self.ok,
            "budget": self.budget,
            "cases": list(self.cases),
            "outputs": [one.as_json() for one in self.outputs],
        }


def expected_of(net: Net, name: str, inputs: Mapping[str, Array]) -> Case:
    """The case of inputs nobody recorded: the NumPy float64 run says what is right."""
    given = {blob: np.asarray(inputs[blob], np.float32) for blob in net.inputs if blob in inputs}
    if set(net.inputs) - set(given):
        raise GraphError(f"{name}: no array for input {', '.join(sorted(set(net.inputs) - set(given)))}")
    shapes = {blob: array.shape for blob, array in given.items()}
    shaped = net if shapes == net.input_shapes else net.with_input_shapes(shapes)
    outputs = runtime.run(shaped, given, dtype="float64", outputs=list(net.outputs))
    return Case(name, given, {blob: outputs[blob] for blob in net.outputs})


def held_to(budget: float, artifact: str, run: Runner, cases: Sequence[Case]) -> BudgetReport:
    """Runs a file on every case and compares its outputs with what is right."""
    differences: dict[str, list[Array]] = {}
    scales: dict[str, float] = {}
    for case in cases:
        got = run(case.inputs)
        for output, right in case.outputs.items():
            value = np.asarray(got[output], np.float64).reshape(-1)
            wanted = np.asarray(right, np.float64).reshape(-1)
            if value.shape != wanted.shape:
                raise GraphError(f"{artifact}: output {output!r} has {value.size} values, the reference {wanted.size}")
            distance = np.abs(value - wanted)
            differences.setdefault(output, []).append(np.where(np.isnan(distance), np.inf, distance))
            scales[output] = max(scales.get(output, 0.0), float(np.abs(wanted).max(initial=0.0)))
    errors = []
    for output, parts in differences.items():
        joined = np.concatenate(parts)
        mean = float(joined.mean()) if joined.size else 0.0
        errors.append(OutputError(output, joined.size, scales[output], float(joined.max(initial=0.0)), mean))
    return BudgetReport(artifact, tuple(case.name for case in cases), budget, tuple(errors))
