"""A model that can score pictures: what makes its input, what its output means, and how it is run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe_port.errors import (
    ArtifactError,
    CaffePortError,
    FetchError,
    GraphError,
    Problems,
    ShapeError,
)
from caffe_port.layers.base import Array
from caffe_port.net import Net
from caffe_port.preprocessing import Manifest, Preprocessing
from caffe_port.proto.files import sha256_of
from caffe_port.scoring.manifests import (
    NO_PREPROCESSING,
    as_manifest,
    derived_manifest,
    manifest_from,
    released_manifest,
)
from caffe_port.scoring.onnx_files import sha256_of_onnx, without_preprocessing
from caffe_port.scoring.runners import (
    BACKENDS,
    PRECISIONS,
    Runner,
    float_runner,
    folded,
    folded_model,
    in_batches_of,
    session_runner,
)
from caffe_port.sessions import make_session
from caffe_port.shapes import format_shape

if TYPE_CHECKING:
    from caffe_port.image_files import Source
    from caffe_port.models.progress import Progress

__all__ = [
    "Classifier",
    "classifier_of",
    "open_classifier",
    "top_k",
]


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """A model, and what scoring needs to know of it.

    - `name`, and `identity`: the name with the SHA-256 of the model's file or weights, and behind a `+` the beginning
      of that of all else that decides the scores (definition, manifest).
    - `preprocessing`: makes a picture the input; its `size` is set.
    - `labels`: the classes in the order of the probabilities; their numbers where nothing names them.
    - `score_index`: the label whose probability is the score; None where the classes are equals (top-k).
    - `notes`: what had to be supposed, in words.
    - `model`: a net, or an ONNX model, in memory or as a file.
    - `batch`: how many pictures the model takes at once if it takes no other number; `runner` fills batches up itself.
    """

    name: str
    identity: str
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    score_index: int | None
    model: Net | bytes | Path = field(repr=False)
    output_blob: str
    batch: int | None = None
    notes: tuple[str, ...] = ()

    def runner(
        self,
        backend: str | None = None,
        precision: str | None = None,
        threads: int | None = None,
        calibration: Iterable[Source] | None = None,
    ) -> Runner:
        """What computes the probabilities of preprocessed pictures; any N.

        `backend`: one of BACKENDS, None takes the first installed. `precision`: one of PRECISIONS; None is float32, of
        an ONNX file what it is in. `threads`: for one call of the runner; None leaves it to the backend. PyTorch has
        one number for the whole process, NumPy's libraries read theirs from the environment. `calibration`: several
        dozen pictures as they will come, which int8 is made with, some seconds' work; None takes generated ones. Of
        open_nsfw the scores of 25 pictures are then up to 0.041 off, of those calibrated with up to 0.037.
        Raises: GraphError for what the model cannot be run with; MissingDependency for a backend not installed.
        """
        problems = Problems()
        if backend is not None and backend not in BACKENDS:
            problems.add(GraphError, f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
        if precision is not None and precision not in PRECISIONS:
            problems.add(GraphError, f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
        if threads is not None and threads < 1:
            problems.add(GraphError, f"{threads} threads are none")
        if not isinstance(self.model, Net):
            if backend not in (None, "onnxruntime"):
                problems.add(GraphError, f"{self.name} is an ONNX file, which {backend} does not run")
            if precision is not None:
                hint = "leave the precision out; convert --int8 writes one in int8"
                problems.add(GraphError, f"{self.name} is an ONNX file, computed in what it was written in", hint=hint)
        elif precision == "int8" and backend not in (None, "onnxruntime"):
            problems.add(GraphError, f"int8 is computed by onnxruntime, not by {backend}")
        problems.raise_if_any()
        blob, labels = self.preprocessing.input_blob, len(self.labels)
        if not isinstance(self.model, Net):
            run = session_runner(self.model, blob, self.output_blob, threads)
        elif precision == "int8":
            run = session_runner(self._int8(self.model, calibration), blob, self.output_blob, threads)
        else:
            run = float_runner(self.model, blob, self.output_blob, backend, threads)

        def flat(batch: Array) -> Array:
            return run(batch).reshape(len(batch), labels)

        return flat if self.batch is None else in_batches_of(self.batch, run, labels)

    def portable(self, precision: str | None = None, calibration: Iterable[Source] | None = None) -> Classifier:
        """The same as one value that can be pickled and sent to another machine: an ONNX model in memory.

        `precision`, `calibration`: as for `runner`, of a net.
        Raises: GraphError, as `runner`; ArtifactError for a file that cannot be read.
        """
        if isinstance(self.model, Net):
            return replace(
                self, model=self._int8(self.model, calibration) if precision == "int8" else folded(self.model)
            )
        if precision is not None:
            raise GraphError(f"{self.name} is an ONNX file, computed in what it was written in")
        if isinstance(self.model, bytes):
            return self
        import onnx

        try:
            # One in onnxruntime's own format is no ONNX, and has nothing beside it.
            if self.model.suffix.lower() == ".ort":
                return replace(self, model=self.model.read_bytes())
            return replace(self, model=onnx.load(self.model).SerializeToString())
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{self.model}: cannot be read: {error}") from None

    def _int8(self, net: Net, calibration: Iterable[Source] | None) -> bytes:
        from caffe_port.converters.to_onnx.quantize import quantize
        from caffe_port.scoring.preprocess import tensor

        if calibration is None:
            from PIL import Image

            from caffe_port.evidence import generated_pictures

            calibration = map(Image.fromarray, generated_pictures().values())
        items = (tensor(picture, self.preprocessing)[np.newaxis] for picture in calibration)
        feeds = [{self.preprocessing.input_blob: np.repeat(item, self.batch or 1, axis=0)} for item in items]
        made: bytes = quantize(folded_model(net), feeds).model.SerializeToString()
        return made


def open_classifier(
    source: str | os.PathLike[str],
    weights: Sequence[str | os.PathLike[str]] = (),
    manifest: Manifest | Preprocessing | str | os.PathLike[str] | None = None,
    *,
    resize: tuple[int, int] | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Classifier:
    """Opens a model that is to score pictures.

    - `source`, `weights`: a released model by name, a prototxt and its caffemodels, a folder, a caffemodel alone, or an
      ONNX file of one input (in float32, float16 or int8; with its preprocessing inside or not) or in onnxruntime's own
      format.
    - `manifest`: a Manifest, or a file: a manifest, or the prototxt, solver or caffemodel with the data layer that the
      net was trained or tested with. None takes the released model's own, or the one in the ONNX file's metadata, or
      what the source's own data layer says.
    - `resize`: (height, width) of pictures before the crop, where a data layer leaves it open.

    Raises: FetchError, PrototxtError, WeightsError and their like for what cannot be read; DataError for a manifest
    that is none or leaves the size open; GraphError for all that does not fit together.
    """
    path = Path(source)
    if path.suffix.lower() in (".onnx", ".ort"):
        if weights:
            raise GraphError(f"{path}: an ONNX file has its weights inside, or beside it; give no others")
        return _of_onnx(path, manifest, resize)
    from caffe_port.sources import locate

    files = locate(os.fspath(source), weights, offline=offline, progress=progress)
    name = files.name if files.released is None else files.released.name
    net = files.load()
    if manifest is None and files.released is not None:
        manifest = released_manifest(files.released)
    notes: tuple[str, ...] = ()
    if manifest is None:
        found = derived_manifest(files.definition, net, resize)
        if found is None:
            raise GraphError(NO_PREPROCESSING.format(files.definition))
        known, notes = found
    elif isinstance(manifest, (Manifest, Preprocessing)):
        known = as_manifest(manifest, resize)
    else:
        known, notes = manifest_from(manifest, net, resize)
    identity = "+".join(sha256_of(file) for file in files.weights) or sha256_of(files.definition)
    classifier = classifier_of(net, known, name=name, notes=notes)
    return replace(classifier, identity=_identity(name, identity, known, sha256_of(files.definition)))


def classifier_of(net: Net, manifest: Manifest, *, name: str = "", notes: Sequence[str] = ()) -> Classifier:
    """The classifier of a net that is loaded. Its identity has the hash of the net's learned blobs.

    Raises: GraphError naming all that does not fit together; WeightsError where values are missing.
    """
    net.require_known()
    net.require_weights()
    name = name or net.name or "net"
    steps = manifest.preprocessing
    _require_fitting(name, steps, net.input_shapes)
    output = _output_of(name, manifest, net.outputs)
    shape, batch = _any_batch(net, steps.input_blob, output)
    labels = _labels(name, manifest, output, shape)
    digest = hashlib.sha256()
    for layer in net.layers:
        for weight in layer.weights:
            digest.update(np.asarray(weight.data).tobytes())
    return Classifier(
        name,
        _identity(name, digest.hexdigest(), manifest),
        steps,
        labels,
        _score_index(manifest, labels),
        net,
        output,
        batch,
        tuple(notes),
    )


def top_k(probabilities: Sequence[float] | Array, labels: Sequence[str], k: int) -> list[tuple[str, float]]:
    """The k most probable labels with their probabilities, the most probable first; of equal ones the earlier.

    All of them where there are fewer than k. Raises: GraphError for a k below 1, or as many labels as probabilities are
    not.
    """
    if k < 1:
        raise GraphError(f"the {k} most probable labels are none: k must be 1 or more")
    if len(probabilities) != len(labels):
        raise GraphError(f"{len(probabilities)} probabilities for {len(labels)} labels")
    order = sorted(range(len(labels)), key=lambda i: -probabilities[i])
    return [(labels[i], float(probabilities[i])) for i in order[:k]]


# What fits together


def _require_fitting(name: str, steps: Preprocessing, shapes: Mapping[str, Sequence[int | str | None]]) -> None:
    """Raises GraphError unless the input takes what the preprocessing makes. Of shapes what is no number is open."""
    problems = Problems()
    shape = shapes.get(steps.input_blob)
    known = ", ".join(map(repr, shapes))
    if shape is None:
        problems.add(GraphError, f"{name} has no input {steps.input_blob!r}", hint=f"'input_blob' must be of {known}")
    elif len(shapes) > 1:
        hint = "give a net of one input, such as deploy.prototxt"
        problems.add(GraphError, f"{name} takes more than pictures: {known}", hint=hint)
    if steps.size is None:
        hint = "give 'resize', [height, width]"
        problems.add(GraphError, f"the preprocessing of {name} says no size", hint=hint)
    elif shape is not None:
        made = (steps.channels, *steps.size)
        if len(shape) != 4 or any(type(a) is int and a != b for a, b in zip(shape[1:], made, strict=True)):
            takes = "x".join(str(size) if type(size) is int else "?" for size in shape)
            what = f"{name} takes {takes}, its preprocessing makes {format_shape((1, *made))}"
            problems.add(GraphError, what, hint="'resize' and 'crop' are height, then width; grey has one channel")
    problems.raise_if_any()


def _output_of(name: str, manifest: Manifest, outputs: Sequence[str]) -> str:
    if manifest.output_blob is not None:
        if manifest.output_blob in outputs:
            return manifest.output_blob
        raise GraphError(
            f"{name} has no output {manifest.output_blob!r}; 'output_blob' must be of {', '.join(outputs)}"
        )
    if len(outputs) != 1:
        hint = "say it in the manifest: 'output_blob'"
        raise GraphError(
            f"{name} has {len(outputs)} outputs, which has the probabilities? {', '.join(outputs)} ({hint})"
        )
    return outputs[0]


def _any_batch(net: Net, blob: str, output: str) -> tuple[Sequence[int], int | None]:
    """The shape of the output for the net as it stands, and the batch if the net takes no other."""
    own = net.input_shapes[blob]
    try:
        for size in (1, 3):
            shape = net.with_input_shapes({blob: (size, *own[1:])}).blobs[output].shape
            if not shape or shape[0] != size:
                raise ShapeError("its output has another batch")
    except CaffePortError:
        # Caffe's prototxts fix a batch with a Reshape, say.
        return net.blobs[output].shape, own[0]
    return shape, None


def _labels(name: str, manifest: Manifest, output: str, shape: Sequence[Any]) -> tuple[str, ...]:
    """The labels, or their numbers. Raises: GraphError unless the output has a value for each label."""
    count = shape[1] if len(shape) > 1 else None
    if any(size != 1 for size in shape[2:]) or type(count) is not int:
        hint = "a classifier's is (N, labels)"
        text = "x".join(str(size) if type(size) is int else "?" for size in shape)
        raise GraphError(f"output {output!r} of {name} is {text or 'of unknown shape'} ({hint})")
    if manifest.labels and len(manifest.labels) != count:
        raise GraphError(f"output {output!r} of {name} has {count} values, the manifest {len(manifest.labels)} labels")
    if manifest.score is not None and manifest.score >= count:
        raise GraphError(
            f"output {output!r} of {name} has {count} values, so the score cannot be number {manifest.score}"
        )
    return manifest.labels or tuple(map(str, range(count)))


def _score_index(manifest: Manifest, labels: Sequence[str]) -> int | None:
    return 0 if manifest.score is None and len(labels) == 1 else manifest.score


def _identity(name: str, digest: str, manifest: Manifest, *others: str) -> str:
    rest = json.dumps([manifest.as_json(), *others], sort_keys=True)
    return f"{name} sha256:{digest}+{hashlib.sha256(rest.encode()).hexdigest()[:16]}"


# ONNX files

_TYPES = ("tensor(float)", "tensor(uint8)")


def _of_onnx(
    path: Path, manifest: Manifest | Preprocessing | str | os.PathLike[str] | None, resize: tuple[int, int] | None
) -> Classifier:
    from caffe_port.converters.to_onnx.preprocess import METADATA_KEY
    from caffe_port.preprocessing import manifest_of

    if not path.is_file():
        raise FetchError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}")
    opened = make_session(path, optimized=False)
    shapes = {value.name: tuple(value.shape) for value in opened.get_inputs()}
    outputs = {value.name: tuple(value.shape) for value in opened.get_outputs()}
    carried = opened.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    own = None if carried is None else manifest_of(carried, f"{path}, metadata {METADATA_KEY}")
    notes: tuple[str, ...] = ()
    model: bytes | Path = path
    other = [f"{v.name!r} {v.type}" for v in (*opened.get_inputs(), *opened.get_outputs()) if v.type not in _TYPES]
    if other:
        raise GraphError(f"{path}: a classifier takes and gives float32: {', '.join(other)}")
    pictured = [value.name for value in opened.get_inputs() if value.type == "tensor(uint8)"]
    if own is not None and own.preprocessing.input_blob not in shapes and pictured:
        if manifest is not None:
            raise GraphError(f"{path}: its preprocessing is inside; another cannot be given")
        model, known = without_preprocessing(path, own.preprocessing), own
        del shapes[pictured[0]]
        shapes[own.preprocessing.input_blob] = (1, own.preprocessing.channels, *(own.preprocessing.size or ()))
    elif manifest is None:
        if own is None:
            raise GraphError(NO_PREPROCESSING.format(path))
        known = as_manifest(own, resize)
    elif isinstance(manifest, (Manifest, Preprocessing)):
        known = as_manifest(manifest, resize)
    else:
        known, notes = manifest_from(manifest, None, resize)
    _require_fitting(path.stem, known.preprocessing, shapes)
    output = _output_of(path.stem, known, list(outputs))
    shape = outputs[output]
    labels = _labels(path.stem, known, output, shape)
    batch = shapes[known.preprocessing.input_blob][0]
    return Classifier(
        path.stem,
        _identity(path.stem, sha256_of_onnx(path), known),
        known.preprocessing,
        labels,
        _score_index(known, labels),
        model,
        output,
        batch if type(batch) is int else None,
        notes,
    )
