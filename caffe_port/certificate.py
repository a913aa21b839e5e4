"""What was converted from what, by what, and how exactly it agrees: a JSON document."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caffe_port._version import __version__
from caffe_port.budget import BudgetReport, percent
from caffe_port.compare import TOLERANCE, ParityReport
from caffe_port.net import Net
from caffe_port.proto.files import replacing, sha256_of
from caffe_port.recording import caffe_of

__all__ = ["FORMAT", "Artifact", "Certificate"]

FORMAT = "caffe_port certificate 2"

_LIBRARIES = ("numpy", "protobuf", "onnx", "onnxruntime", "openvino", "torch", "safetensors", "pillow", "h5py")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that was made: what it is, its name, its bytes' SHA-256 and number, and what a user must know of it."""

    kind: str
    name: str
    sha256: str
    size: int
    details: dict[str, Any]

    @classmethod
    def of(cls, kind: str, path: Path, **details: Any) -> Artifact:
        return cls(kind, path.name, sha256_of(path), path.stat().st_size, details)

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "sha256": self.sha256, "bytes": self.size, **self.details}


@dataclass(frozen=True, slots=True)
class Certificate:
    """The record of one conversion or verification.

    `recordings` are the files of recorded Caffe outputs it was held against; with none, the reference was this
    package's own float64 run, and the certificate says so. `reports` is empty where verification was switched off;
    `budgets` has what is of reduced precision and therefore held to a budget on the outputs. `form` says in which form
    the net was asked for, where that is not Caffe's own; `changes` what was done to it for that, in words; `command`
    repeats the conversion where the sources lie.
    """

    net: Net
    artifacts: tuple[Artifact, ...]
    recordings: tuple[Path, ...]
    reports: tuple[ParityReport, ...]
    budgets: tuple[BudgetReport, ...] = ()
    form: Mapping[str, Any] = field(default_factory=dict)
    changes: tuple[str, ...] = ()
    command: str = ""

    @property
    def ok(self) -> bool:
        """Whether something was verified and all of it agrees."""
        return bool(self.reports) and not self._failed()

    def _failed(self) -> bool:
        return not all([*(report.ok for report in self.reports), *(report.ok for report in self.budgets)])

    @property
    def verdict(self) -> str:
        if self._failed():
            return "failed"
        if not self.reports:
            return "not verified"
        recorded = {path.name for path in self.recordings}
        by_caffe = {report.backend for report in self.reports if report.reference in recorded}
        if by_caffe == {report.backend for report in self.reports}:
            verdict = "verified against Caffe"
        elif by_caffe:
            verdict = "verified against the float64 run, and that against Caffe"
        else:
            verdict = "verified against the float64 run, not against Caffe"
        budgets = {percent(report.budget) for report in self.budgets}
        return f"{verdict}; outputs within {' and '.join(sorted(budgets))}" if budgets else verdict

    def as_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "verdict": self.verdict,
            "tool": {"caffe_port": __version__, "python": platform.python_version(), **_versions()},
            "net": {
                "name": self.net.name,
                "phase": self.net.phase,
                "inputs": {name: list(shape) for name, shape in self.net.input_shapes.items()},
                "outputs": list(self.net.outputs),
                "layers": len(self.net.layers),
                "upgrades": list(self.net.upgrades),
                "notes": [str(note) for note in self.net.notes],
            },
            "sources": [
                {"role": s.role, "name": s.path.name, "sha256": s.sha256(), "bytes": s.path.stat().st_size}
                for s in self.net.sources
            ],
            **({"command": self.command} if self.command else {}),
            "form": dict(self.form),
            "changes": list(self.changes),
            "artifacts": [artifact.as_json() for artifact in self.artifacts],
            "reference": {
                "kind": "recordings of Caffe" if self.recordings else "float64 run of caffe_port",
                "recordings": [
                    {"name": path.name, "sha256": sha256_of(path), "caffe": caffe_of(path)} for path in self.recordings
                ],
            },
            "tolerance": {
                "rule": "distance from the reference <= floors * floor + ulps * ulp of the blob's largest magnitude",
                "floors": TOLERANCE.floors,
                "ulps": TOLERANCE.ulps,
            },
            "verification": [report.as_json() for report in self.reports],
            "budgets": [report.as_json() for report in self.budgets],
        }

    def dumps(self) -> str:
        """The document as JSON text: the same for the same files and versions, nothing of the time in it."""
        return json.dumps(_finite(self.as_json()), indent=1, allow_nan=False) + "\n"

    def write(self, path: Path) -> None:
        """Writes the document; the file appears complete or not at all. Raises ArtifactError."""
        with replacing(path) as stream:
            stream.write(self.dumps().encode())


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: these become their names."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value
