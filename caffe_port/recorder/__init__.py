"""Recordings by users: the script for the machine where their Caffe still runs, and whether what it wrote is whole.

python record.py deploy.prototxt weights.caffemodel -o recording.npz     # there; `script()` is record.py's text
check("recording.npz", "deploy.prototxt")                                # here
"""

from __future__ import annotations

import importlib.resources
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caffe_port import recording
from caffe_port.errors import CaffePortError, GraphError, RecordingError, ShapeError
from caffe_port.loading import load
from caffe_port.matching import match_recorded
from caffe_port.net import Layer, Net
from caffe_port.recording import Recording
from caffe_port.shapes import format_shape

__all__ = ["RecordingCheck", "check", "script"]

_MANY = 5
"""So many are named in a line about several."""


def script() -> str:
    """The text of record.py, which needs nothing but pycaffe and NumPy and runs under Python 2.7 and 3."""
    return importlib.resources.files(__name__).joinpath("record.py").read_text(encoding="ascii")


@dataclass(frozen=True, slots=True, eq=False)
class RecordingCheck:
    """What is known of a recording, and all that is wrong with it.

    `recording` is None for a file that cannot be read as one. `made_by` is what record.py says of itself, Caffe and its
    files; empty for a recording made otherwise. `net` names the net it was held against, and is empty without one.
    `problems` make `ok` false; `notes` do not.
    """

    source: str
    recording: Recording | None
    made_by: Mapping[str, Any]
    net: str
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the recording is whole and, with a net, of that net."""
        return not self.problems

    @property
    def layers(self) -> int:
        """How many layers have tops in it."""
        return len({entry.index for entry in self.recording.layers}) if self.recording else 0

    @property
    def tops(self) -> int:
        return len(self.recording.layers) if self.recording else 0

    @property
    def full(self) -> int:
        """How many tops were recorded with every value."""
        return sum(entry.full for entry in self.recording.layers) if self.recording else 0

    def lines(self) -> Iterator[str]:
        """What to tell a person."""
        recorded = self.recording
        if recorded is None:
            yield f"{self.source}: no whole recording"
        else:
            kind = "each in full" if self.full == self.tops else f"{self.full} in full, at most {recorded.limit} values"
            with_stats = sum(entry.stats is not None for entry in recorded.layers)
            yield f"{self.source}: {self.tops} tops of {self.layers} layers, {kind}; {with_stats} with statistics"
            for name, shape in recorded.input_shapes.items():
                yield f"input {name} {format_shape(shape)}: {_held(recorded, name)}"
            for name, value in recorded.finals.items():
                yield f"output {name} {format_shape(value.shape)}"
        if self.made_by:
            yield f"made by record.py with Caffe {self.made_by.get('caffe') or 'of unknown version'}: {_files(self)}"
        for note in self.notes:
            yield f"note: {note}"
        for problem in self.problems:
            yield f"wrong: {problem}"
        if self.ok:
            yield "whole" + (f", and of the net {self.net}" if self.net else "")

    def as_json(self) -> dict[str, Any]:
        recorded = self.recording
        result: dict[str, Any] = {"file": self.source, "ok": self.ok, "problems": list(self.problems)}
        result |= {"notes": list(self.notes), "net": self.net or None, "recorder": dict(self.made_by) or None}
        if recorded is not None:
            result |= {
                "sha256": recorded.sha256,
                "layers": self.layers,
                "tops": self.tops,
                "tops_in_full": self.full,
                "tops_with_statistics": sum(entry.stats is not None for entry in recorded.layers),
                "sample_limit": recorded.limit,
                "inputs": {
                    name: {"shape": list(shape), "values": name in recorded.inputs}
                    for name, shape in recorded.input_shapes.items()
                },
                "outputs": {name: list(value.shape) for name, value in recorded.finals.items()},
            }
        return result


def check(path: str | os.PathLike[str], net: Net | str | os.PathLike[str] | None = None) -> RecordingCheck:
    """Whether a recording is whole, and with a net, whether it is of that net.

    - `path`: an npz file. All that `recording.read` checks is reported together.
    - `net`: a Net, or a prototxt, which is read for the recording's phase and input shapes; weights are not needed.
      Each top of each layer that computes must be recorded, in the net's order and shape, and nothing else; inputs and
      outputs must be the net's. Values are not compared: that is what `verify` does.

    Returns a RecordingCheck; nothing wrong with a recording raises.
    Raises: PrototxtError, UnsupportedLayer, UnsupportedParameter for a prototxt that cannot be read.
    """
    source = os.fspath(path)
    try:
        recorded = recording.read(path)
    except RecordingError as error:
        return RecordingCheck(source, None, {}, "", tuple(_problems(error, source)), ())
    made_by = recording.made_by(path)
    notes = list(_notes(recorded))
    if net is None:
        return RecordingCheck(source, recorded, made_by, "", (), tuple(notes))
    name = net.name if isinstance(net, Net) else Path(net).name
    try:
        if not isinstance(net, Net):
            net = load(
                net,
                phase=made_by.get("phase", "TEST"),
                level=made_by.get("level", 0),
                stages=made_by.get("stages", ()),
                input_shapes=recorded.input_shapes,
            )
        elif net.input_shapes != recorded.input_shapes:
            net = net.with_input_shapes(recorded.input_shapes)
    except (GraphError, ShapeError) as error:
        problems = [f"the net does not take the recorded inputs: {line}" for line in _problems(error, source)]
        return RecordingCheck(source, recorded, made_by, name, tuple(problems), tuple(notes))
    notes += _other_weights(net, made_by)
    problems = [
        *_names("input", net.inputs, recorded.input_names),
        *_names("output", net.outputs, recorded.output_names),
    ]
    if made_by and made_by["phase"] != net.phase:
        problems.append(f"recorded in phase {made_by['phase']}, the net is of phase {net.phase}")
    problems += _against(net, recorded)
    return RecordingCheck(source, recorded, made_by, name, tuple(problems), tuple(notes))


def _problems(error: CaffePortError, source: str) -> Iterator[str]:
    """The problems of an error, which has one a line, without the file's name that each starts with."""
    lines = str(error).splitlines()
    if len(lines) > 1:
        del lines[0]
    yield from (line.strip().removeprefix(f"{source}: ") for line in lines)


def _notes(recorded: Recording) -> Iterator[str]:
    absent = [name for name in recorded.input_names if name not in recorded.inputs]
    if absent:
        yield f"input {', '.join(absent)} has only its shape in it: verify needs the values (--input)"
    bad = [
        entry.key
        for entry in recorded.layers
        if np.isnan(entry.sample).any() or (entry.stats is not None and np.isnan(entry.stats).any())
    ]
    if bad:
        yield f"NaN in {_some(bad)}: nothing agrees with that"
    bare = [entry.key for entry in recorded.layers if entry.stats is None]
    if bare:
        yield f"no statistics of {_some(bare)}: only sampled values can be compared"


def _names(what: str, wanted: tuple[str, ...], found: tuple[str, ...]) -> Iterator[str]:
    for name in wanted:
        if name not in found:
            yield f"{what} {name} of the net is not in it"
    for name in found:
        if name not in wanted:
            yield f"{what} {name} is none of the net's"


def _against(net: Net, recorded: Recording) -> Iterator[str]:
    """What of the net's tops is missing, superfluous, out of order or of another shape."""
    try:
        matched, superfluous, missing = match_recorded(net, recorded)
    except RecordingError as error:
        yield from _problems(error, recorded.source)
        return
    if missing:
        yield f"{len(missing)} tops of the net are not recorded: {_some(missing)}"
    if superfluous:
        yield f"{len(superfluous)} recorded tops are none of the net's: {_some(superfluous)}"
    for (index, j), entry in matched.items():
        layer = net.layers[index]
        if not _fits(layer, layer.tops[j].shape, entry.shape):
            yield (
                f"layer {layer.name!r}: top {entry.top!r} is recorded as {format_shape(entry.shape)}, "
                f"the net makes {format_shape(layer.tops[j].shape)}"
            )


def _fits(layer: Layer, wanted: tuple[int, ...], found: tuple[int, ...]) -> bool:
    return layer.definition.fits(wanted, found)


def _other_weights(net: Net, made_by: Mapping[str, Any]) -> Iterator[str]:
    ours = [source for source in net.sources if source.role == "weights"]
    theirs = made_by.get("weights", [])
    if ours and theirs and [source.sha256() for source in ours] != [file["sha256"] for file in theirs]:
        names = ", ".join(file["name"] for file in theirs)
        yield f"recorded with other weight files ({names}) than {', '.join(source.path.name for source in ours)}"


def _held(recorded: Recording, name: str) -> str:
    if name not in recorded.inputs:
        return "only its shape"
    return f"all {math.prod(recorded.input_shapes[name])} values"


def _files(checked: RecordingCheck) -> str:
    files = (checked.made_by["definition"], *checked.made_by["weights"])
    return ", ".join(f"{file['name']} (SHA-256 {file['sha256'][:12]}…)" for file in files)


def _some(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - _MANY} more" if len(names) > _MANY else ""
    return ", ".join(names[:_MANY]) + more
