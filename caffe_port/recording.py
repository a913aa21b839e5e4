"""Reads and writes recordings: what real Caffe computed, layer by layer (format: docs/recordings.md).

A recording of a net is an npz file. Its `meta` (JSON as uint8) lists the layers in order. For each top of each layer
there is `sample:<index>:<layer>:<top>`, evenly spaced values of the top right after the layer ran (float32), and
`stats:<index>:<layer>:<top>`, its minimum, maximum, mean and L2 norm (float64). `in:<blob>` is an input in full, or
only its shape (int64) where the numbers come from elsewhere, and `final:<blob>` an output in full.

Nets of a single layer, with everything that went in and came out, are in `caffe_port.layer_cases`.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import io
import json
import math
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe_port.arrays import require_storable, unpacked
from caffe_port.errors import Location, Problems, RecordingError
from caffe_port.limits import limits
from caffe_port.proto.files import replacing
from caffe_port.reading import contents, parse_json

__all__ = [
    "CAFFE_COMMIT",
    "RecordedLayer",
    "Recording",
    "arrays_of",
    "available",
    "caffe_of",
    "described",
    "made_by",
    "read",
    "sample_indices",
    "write",
    "zip_bytes",
]

CAFFE_COMMIT = "9b891540183ddc834a02b2bd81b31afae71b2153"
"""The commit of BVLC/caffe that computed every recording the project ships."""


@dataclass(frozen=True, slots=True, eq=False)
class RecordedLayer:
    """One top of one layer, right after the layer ran; a layer with several tops has several of these.

    `index` is the layer's place in the net Caffe built. `sample` is float32, (n,): the flattened top at
    `sample_indices(size, limit)`. `stats` is float64, (4,): minimum, maximum, mean, L2 norm; None if not recorded.
    """

    index: int
    layer: str
    type: str
    top: str
    shape: tuple[int, ...]
    sample: NDArray[np.float32]
    stats: NDArray[np.float64] | None = None

    @property
    def size(self) -> int:
        """How many values the top has."""
        return math.prod(self.shape)

    @property
    def full(self) -> bool:
        """Whether the sample is all of the top."""
        return self.sample.size == self.size

    @property
    def value(self) -> NDArray[np.float32] | None:
        """The whole top in its shape if it was recorded in full, else None."""
        return self.sample.reshape(self.shape) if self.full else None

    @property
    def key(self) -> str:
        """What names this entry in a file and in a report: `<index>:<layer>:<top>`."""
        return f"{self.index}:{self.layer}:{self.top}"


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """What Caffe computed for one net and one set of inputs.

    `layers` are in the order in which they ran. `inputs` holds the inputs recorded in full; `input_shapes` the shape
    of every input. `finals` are the net's outputs in full. `limit` is the largest sample taken of a top. `source`
    and `sha256` are those of the file it was read from, empty for one that was made.
    """

    layers: list[RecordedLayer]
    inputs: dict[str, NDArray[np.float32]]
    input_shapes: dict[str, tuple[int, ...]]
    finals: dict[str, NDArray[np.float32]]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    limit: int
    source: str = ""
    sha256: str = ""


def sample_indices(size: int, limit: int) -> NDArray[np.int64]:
    """Which of `size` flattened values are recorded if at most `limit` are: int64, (min(limit, size),), ascending."""
    if size == 0:
        return np.zeros(0, np.int64)
    return np.linspace(0, size - 1, min(limit, size)).astype(np.int64)


def available(name: str) -> list[Path]:
    """The layer-by-layer recordings that the project ships for the released model `name`, sorted; [] if none."""
    root = importlib.resources.files("caffe_port.reference_outputs")
    if not name.isidentifier() or not root.joinpath(name).is_dir():
        return []
    return sorted(Path(str(entry)) for entry in root.joinpath(name).iterdir() if entry.name.endswith(".npz"))


def caffe_of(path: str | os.PathLike[str]) -> str:
    """Which Caffe computed a recording: of those the project ships it is known, else record.py wrote it down."""
    if Path(path) in available(Path(path).parent.name):
        return f"BVLC/caffe @ {CAFFE_COMMIT}"
    version = made_by(path).get("caffe")
    return f"Caffe {version}" if version else "a Caffe that the recording does not name"


def made_by(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What record.py wrote of itself into `meta`; {} where somebody else wrote it, or it is not what it writes.

    Raises: RecordingError for a file that cannot be read as a recording.
    """
    where = os.fspath(path)
    array = arrays_of(_content(Path(path)), where).get("meta")
    try:
        meta = {} if array is None else parse_json(array.tobytes())
    except ValueError as error:
        raise RecordingError(f"{where}: 'meta' is damaged: {error}") from None
    told = meta.get("recorder") if isinstance(meta, dict) else None
    return told if isinstance(told, dict) and _as_written(told) else {}


def _as_written(told: Mapping[str, Any]) -> bool:
    """Whether it has what record.py writes and is used here."""
    stages, files = told.get("stages"), told.get("weights")
    if told.get("phase") not in ("TEST", "TRAIN") or type(told.get("level")) is not int:
        return False
    if not isinstance(stages, list) or not isinstance(files, list):
        return False
    return all(isinstance(stage, str) for stage in stages) and all(
        isinstance(file, dict) and isinstance(file.get("name"), str) and isinstance(file.get("sha256"), str)
        for file in (told.get("definition"), *files)
    )


def read(path: str | os.PathLike[str]) -> Recording:
    """Reads a recording and checks that it is complete and agrees with itself.

    Raises: RecordingError, once for all that is wrong: an unreadable file, an array missing or listed nowhere, a
    wrong dtype, a sample that is not of min(limit, size) values, a sample beyond the recorded minimum and maximum.
    """
    file = Path(path)
    data = _content(file)
    return _checked(arrays_of(data, str(file)), str(file), hashlib.sha256(data).hexdigest())


def write(path: str | os.PathLike[str], recording: Recording) -> None:
    """Writes a recording so that the same recording always gives the same bytes; an existing file is replaced whole.

    Raises: RecordingError for a recording that `read` would not take; ArtifactError for a file that cannot be written,
    or whose names no npz file can hold.
    """
    file = Path(path)
    arrays = _as_arrays(recording)
    _checked(arrays, str(file), "")
    require_storable(arrays)
    with replacing(file) as stream:
        stream.write(zip_bytes((f"{key}.npy", _npy(array)) for key, array in arrays.items()))


def zip_bytes(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A zip file of (name, content) in the given order; the same members give the same bytes with the same zlib."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            smaller = len(zlib.compress(content, 9)) < len(content)
            info.compress_type = zipfile.ZIP_DEFLATED if smaller else zipfile.ZIP_STORED
            archive.writestr(info, content, compresslevel=9)
    return buffer.getvalue()


def _content(file: Path) -> bytes:
    try:
        return contents(file, limits.unpacked_bytes)
    except OSError as err:
        raise RecordingError(f"{file}: {err.strerror or err}") from err


def arrays_of(data: bytes, where: str) -> dict[str, NDArray[Any]]:
    """The arrays in the bytes of an npz file, called `where` in errors. Raises: RecordingError."""
    try:
        return unpacked(io.BytesIO(data))
    except ValueError as err:
        raise RecordingError(f"{where}: damaged, or not an npz file: {err}") from err


def _checked(arrays: Mapping[str, NDArray[Any]], where: str, sha256: str) -> Recording:
    problems = Problems()
    location = Location(where)

    def wrong(message: str, layer: str | None = None) -> None:
        problems.add(RecordingError, message, layer=layer, location=location)

    entries, input_names, output_names = _meta(arrays, where)
    if not entries:
        wrong("lists no layer, so nothing could be compared with it")
    expected = {"meta"}
    layers: list[RecordedLayer] = []
    for index, layer, kind, top, shape in entries:
        key = f"{index}:{layer}:{top}"
        if f"sample:{key}" in expected:
            wrong(f"top {top!r} listed twice", layer)
            continue
        expected |= {f"sample:{key}", f"stats:{key}"}
        sample, stats = arrays.get(f"sample:{key}"), arrays.get(f"stats:{key}")
        if sample is None:
            wrong(f"sample of top {top!r} missing", layer)
            continue
        if sample.dtype != np.float32 or sample.ndim != 1:
            wrong(f"sample of top {top!r} is {described(sample)}, not one-dimensional float32", layer)
            continue
        if stats is not None and (stats.dtype != np.float64 or stats.shape != (4,)):
            wrong(f"stats of top {top!r} are {described(stats)}, not four float64", layer)
            stats = None
        entry = RecordedLayer(index, layer, kind, top, shape, sample, stats)
        layers.append(entry)
        if sample.size and stats is not None and _beyond(entry):
            wrong(f"sample of top {top!r} has values beyond the recorded minimum and maximum", layer)

    if [entry[0] for entry in entries] != sorted(entry[0] for entry in entries):
        wrong("the layers are not in the order of their indices")
    limit = _limit(layers)
    for entry in layers:
        if entry.sample.size != min(limit, entry.size):
            wrong(
                f"sample of top {entry.top!r} has {entry.sample.size} values; "
                f"a shape of {entry.shape} needs {min(limit, entry.size)}",
                entry.layer,
            )

    inputs: dict[str, NDArray[np.float32]] = {}
    input_shapes: dict[str, tuple[int, ...]] = {}
    for name in input_names:
        expected.add(f"in:{name}")
        array = arrays.get(f"in:{name}")
        if array is None:
            wrong(f"input {name!r} missing")
        elif array.dtype == np.float32:
            inputs[name] = array
            input_shapes[name] = array.shape
        elif array.dtype == np.int64 and array.ndim == 1 and not (array < 0).any():
            input_shapes[name] = tuple(array.tolist())
        else:
            wrong(f"input {name!r} is {described(array)}, neither float32 nor a shape in int64")
    finals: dict[str, NDArray[np.float32]] = {}
    for name in output_names:
        expected.add(f"final:{name}")
        array = arrays.get(f"final:{name}")
        if array is None:
            wrong(f"output {name!r} missing")
        elif array.dtype != np.float32:
            wrong(f"output {name!r} is {described(array)}, not float32")
        else:
            finals[name] = array
    last = {entry.top: entry for entry in layers}
    for name, array in finals.items():
        if name in last:
            _check_final(array, last[name], limit, wrong)
    for key in sorted(set(arrays) - expected):
        wrong(f"array {key!r} is not in the list of layers, inputs and outputs")
    problems.raise_if_any()
    return Recording(layers, inputs, input_shapes, finals, input_names, output_names, limit, where, sha256)


def _check_final(array: NDArray[np.float32], entry: RecordedLayer, limit: int, wrong: Any) -> None:
    """An output was recorded twice: in full, and as the top of the last layer that wrote it."""
    if array.shape != entry.shape:
        wrong(f"output {entry.top!r} has shape {array.shape}, as a top {entry.shape}", entry.layer)
    elif entry.sample.size == min(limit, entry.size):
        same = array.reshape(-1)[sample_indices(entry.size, limit)].view(np.uint32) == entry.sample.view(np.uint32)
        if not same.all():
            wrong(f"output {entry.top!r} has other values than its sample", entry.layer)


_Entry = tuple[int, str, str, str, tuple[int, ...]]


def _meta(arrays: Mapping[str, NDArray[Any]], where: str) -> tuple[list[_Entry], tuple[str, ...], tuple[str, ...]]:
    array = arrays.get("meta")
    if array is None:
        raise RecordingError(f"{where}: no 'meta' in it, so it is no recording")
    if array.dtype != np.uint8 or array.ndim != 1:
        raise RecordingError(f"{where}: 'meta' is {described(array)}, not one-dimensional uint8")
    try:
        meta = parse_json(array.tobytes())
        entries: list[_Entry] = []
        for item in meta["layers"]:
            index, layer, kind, top = item["index"], item["layer"], item["type"], item["top"]
            shape = tuple(item["shape"])
            if type(index) is not int or not all(isinstance(text, str) for text in (layer, kind, top)):
                raise TypeError(f"no layer's entry: {item}")
            if not all(type(dim) is int and dim >= 0 for dim in shape):
                raise ValueError(f"no shape: {item['shape']}")
            entries.append((index, layer, kind, top, shape))
        names = [tuple(meta[key]) for key in ("inputs", "outputs")]
        if not all(isinstance(name, str) for group in names for name in group):
            raise TypeError("inputs and outputs must be lists of names")
    except KeyError as err:
        raise RecordingError(f"{where}: 'meta' is damaged: {err} missing") from err
    except (ValueError, TypeError) as err:
        raise RecordingError(f"{where}: 'meta' is damaged: {err}") from err
    return entries, names[0], names[1]


def _limit(layers: Iterable[RecordedLayer]) -> int:
    """The limit the samples were taken with: no file states it, every sample shorter than its top shows it."""
    layers = list(layers)
    short = Counter(entry.sample.size for entry in layers if entry.sample.size < entry.size)
    if short:
        return max(short, key=lambda size: (short[size], size))
    return max((entry.size for entry in layers), default=0)


def _beyond(entry: RecordedLayer) -> bool:
    assert entry.stats is not None
    low, high = entry.stats[:2]
    # Written so that NaN is never beyond: whether Caffe computed NaN is for a comparison to judge.
    return bool((entry.sample < low).any() or (entry.sample > high).any())


def _as_arrays(recording: Recording) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for name in recording.input_names:
        shape = np.array(recording.input_shapes.get(name, ()), np.int64)
        arrays[f"in:{name}"] = recording.inputs.get(name, shape)
    for entry in recording.layers:
        arrays[f"sample:{entry.key}"] = entry.sample
        if entry.stats is not None:
            arrays[f"stats:{entry.key}"] = entry.stats
    for name, array in recording.finals.items():
        arrays[f"final:{name}"] = array
    meta = {
        "layers": [
            {"index": e.index, "layer": e.layer, "type": e.type, "top": e.top, "shape": list(e.shape)}
            for e in recording.layers
        ],
        "inputs": list(recording.input_names),
        "outputs": list(recording.output_names),
    }
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    return arrays


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array, order="C"), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def described(array: NDArray[Any]) -> str:
    """An array's dtype and shape, for errors."""
    return f"{array.dtype} of shape {array.shape}"
