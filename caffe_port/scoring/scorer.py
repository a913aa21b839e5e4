"""Images → the probabilities of a classifier, one by one or as a stream of any length."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from importlib import metadata
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import numpy as np

from caffe_port import models
from caffe_port._version import __version__
from caffe_port.errors import ArtifactError, CaffePortError, GraphError, ImageError, MissingDependency
from caffe_port.evidence import generated_pictures
from caffe_port.image_files import Source, source_name
from caffe_port.layers.base import Array
from caffe_port.models.fetch import cache_folder
from caffe_port.models.progress import Progress
from caffe_port.net import Net
from caffe_port.proto.files import replacing
from caffe_port.scoring.classifier import Classifier, classifier_of, open_classifier
from caffe_port.scoring.items import Item, Row
from caffe_port.scoring.manifests import released_manifest
from caffe_port.scoring.pipeline import Allowance, in_chunks
from caffe_port.scoring.preprocess import tensor
from caffe_port.scoring.runners import BACKENDS, PRECISIONS, Runner

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Scorer"]

BATCH_SIZE = 8
"""Of onnxruntime, by default. It is no quicker with more; PyTorch and NumPy are quickest image by image."""

DECODED_PIXELS = 1 << 26
"""Of the images that are decoded at once, together; Pillow takes four bytes for each. A larger one is decoded alone."""

_CALIBRATION_SEEDS = 8


class Scorer:
    """Scores images: of open_nsfw from 0 (safe for work) to 1, as the original script gives them.

    - `model`: a released model's name, whatever else `open_classifier` opens, or a Classifier.
    - `backend`: one of BACKENDS; None takes the first installed.
    - `precision`: "float32" or "int8", which needs onnxruntime. The first time an int8 model is made, from generated
      pictures, which takes some 15 s, and kept in the cache.
    - `draft`: quicker and less exact preprocessing, see `caffe_port.scoring.preprocess.tensor`.
    - `batch_size`: of `stream`; `threads`: how many to compute with, by default the processors this process may use.
    - `net`: that of the released model `model`, loaded already. `offline`, `progress`: as in `models.fetch`.

    Any number of threads may use it at once. Also a context manager; a closed one scores no more.
    Raises: FetchError if the model cannot be had; GraphError for what does not go together; MissingDependency for a
    backend that is not installed.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Classifier = "open_nsfw",
        *,
        backend: str | None = None,
        precision: Literal["float32", "int8"] = "float32",
        draft: bool = False,
        batch_size: int | None = None,
        threads: int | None = None,
        net: Net | None = None,
        offline: bool = False,
        progress: Progress | None = None,
    ) -> None:
        _at_least_1(batch_size=batch_size, threads=threads)
        if precision not in PRECISIONS:
            raise GraphError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
        if isinstance(model, Classifier):
            self.model = model
        elif net is not None:
            self.model = classifier_of(net, released_manifest(models.get(os.fspath(model))), name=os.fspath(model))
        else:
            self.model = open_classifier(model, offline=offline, progress=progress)
        self.backend = _installed(backend, precision, self.model)
        self.precision = precision
        self.draft = draft
        self._threads = threads
        self._batch_size = batch_size or (BATCH_SIZE if self.backend == "onnxruntime" else 1)
        self._decoding = Allowance(DECODED_PIXELS)
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()
        self._runners: dict[int | None, Runner] = {}
        self._closed = False
        # What is run: as in `model`, or made int8.
        self.computed = self.model
        if precision == "int8" and isinstance(self.model.model, Net):
            self.computed = _int8(self.model, progress)

    def score(self, image: Source) -> float:
        """The score of one image: a path, the bytes of a file, a binary file object, an image of Pillow, or pixels.

        Raises: ImageError; GraphError if none of the model's classes is its score.
        """
        return float(self.probabilities(image)[self._score_index()])

    def probabilities(self, image: Source) -> Array:
        """The probability of each of `model.labels`, float32. Raises: ImageError."""
        values = tensor(image, self.model.preprocessing, draft=self.draft, decoding=self._decoding.taking)
        return np.asarray(self.classify(values[np.newaxis])[0])

    def score_many(self, images: Iterable[Source]) -> Iterator[float]:
        """The score of each image, in their order, computed as in `stream`. Raises: ImageError at a broken one."""
        index = self._score_index()
        for row in self.stream(images):
            if not row.ok:
                raise ImageError(f"{row.name}: {row.error}")
            yield row.probabilities[index]

    def stream(
        self, items: Iterable[Item | Source], *, batch_size: int | None = None, workers: int | None = None
    ) -> Iterator[Row]:
        """A row for each item, in the order of the items; of a broken image one with its error.

        `workers` threads (by default as many as the scorer's `threads`) each decode and preprocess `batch_size` images
        and run the model on them. What is held does not grow with the number of items: they are taken in the caller's
        thread as rows are, a few batches ahead. Closing the iterator, or an interruption, ends the threads.
        Raises: whatever taking the items raises, after the rows of those before; ArtifactError if the model fails.
        """
        _at_least_1(batch_size=batch_size, workers=workers)
        workers = workers or self._cores()
        if self.backend == "onnxruntime":
            run = self._runner(max(1, self._cores() // workers))
        else:
            run = self._exclusively(self._runner(self._threads))

        def work(chunk: list[Item | Source], stopped: Callable[[], bool]) -> list[Row]:
            return self._rows(chunk, run, stopped)

        return in_chunks(items, work, size=batch_size or self._batch_size, workers=workers)

    def classify(self, batch: Array) -> Array:
        """Probabilities (N, labels) of preprocessed images (N, C, H, W), float32."""
        return self._runner(self._cores() if self.backend == "onnxruntime" else self._threads)(batch)

    def close(self) -> None:
        """Lets go of the model."""
        with self._lock:
            self._closed = True
            self._runners.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _rows(self, chunk: list[Item | Source], run: Runner, stopped: Callable[[], bool]) -> list[Row]:
        preprocessing = self.model.preprocessing
        assert preprocessing.size is not None, "a Classifier's preprocessing has a size"
        batch = np.empty((len(chunk), preprocessing.channels, *preprocessing.size), np.float32)
        names, errors = [], []
        good = 0
        for item in chunk:
            if stopped():
                return []
            names.append(item.name if isinstance(item, Item) else source_name(item))
            error = ""
            try:
                source = _read(item) if isinstance(item, Item) else item
                # The name is in the row.
                tensor(
                    source, preprocessing, draft=self.draft, out=batch[good], decoding=self._decoding.taking, name=""
                )
                good += 1
            except ImageError as err:
                error = " ".join(str(err).split())
            errors.append(error)
        found = iter(run(batch[:good]).tolist() if good else ())
        return [
            Row(name, error=error) if error else Row(name, tuple(next(found)))
            for name, error in zip(names, errors, strict=True)
        ]

    def _score_index(self) -> int:
        if self.model.score_index is None:
            raise GraphError(f"none of the classes of {self.model.name} is its score: take probabilities")
        return self.model.score_index

    def _cores(self) -> int:
        return self._threads or _processors()

    def _runner(self, threads: int | None) -> Runner:
        """The model, computed with so many threads; made when it is wanted, once."""
        with self._lock:
            if self._closed:
                raise GraphError("this Scorer is closed")
            if threads not in self._runners:
                given = isinstance(self.computed.model, Net)
                run = _guarded(self.computed.runner(self.backend if given else None, None, threads), self.model.name)
                self._runners[threads] = _one_by_one(run) if self.backend == "numpy" else run
            return self._runners[threads]

    def _exclusively(self, run: Runner) -> Runner:
        """NumPy and PyTorch use all threads for one batch; the other workers decode meanwhile."""

        def alone(batch: Array) -> Array:
            with self._one_at_a_time:
                return run(batch)

        return alone


def _read(item: Item) -> bytes:
    try:
        return item.read()
    except ImageError:
        raise
    except Exception as error:
        # It may be read from anything: a disk, a bucket. Whatever fails there, it is this image that is lost.
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageError(reason or type(error).__name__) from error


def _one_by_one(run: Runner) -> Runner:
    """BLAS rounds a product of matrices otherwise for every size of theirs; so an image has one score in any batch."""
    return lambda batch: np.concatenate([run(batch[i : i + 1]) for i in range(len(batch))])


def _guarded(run: Runner, name: str) -> Runner:
    def guarded(batch: Array) -> Array:
        try:
            return run(batch)
        except CaffePortError:
            raise
        except Exception as error:  # the backends' errors have no common type
            raise ArtifactError(f"{name} cannot be run: {error}") from error

    return guarded


def _at_least_1(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise GraphError(f"{name} must be 1 or more, not {number}")


def _processors() -> int:
    """Those this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _installed(backend: str | None, precision: str, model: Classifier) -> str:
    """The backend, or the first that is installed and computes this."""
    if backend is not None and backend not in BACKENDS:
        raise GraphError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
    if precision == "int8" and not isinstance(model.model, Net):
        raise GraphError(
            f"{model.name} is an ONNX file, computed in what it was written in (convert --int8 writes one in int8)"
        )
    only_onnxruntime = precision == "int8" or not isinstance(model.model, Net)
    if only_onnxruntime and backend not in (None, "onnxruntime"):
        what = "int8" if precision == "int8" else f"{model.name}, an ONNX file,"
        raise GraphError(f"{what} is computed by onnxruntime, not by {backend}")
    known = ("onnxruntime",) if only_onnxruntime else BACKENDS
    for name in known if backend is None else (backend,):
        try:
            importlib.import_module(name)
            return name
        except ImportError as error:
            missing = error
    name = backend or known[-1]
    extra = {"onnxruntime": "runtime"}.get(name, name)
    raise MissingDependency(f"{name} is needed for this: pip install 'caffe_port[{extra}]' ({missing})")


def _int8(model: Classifier, progress: Progress | None) -> Classifier:
    """The model in int8, calibrated on generated pictures: from the cache, else made and put there.

    A file of the cache is the SHA-256 of the ONNX model and the model. Its name is a hash of all that it depends on.
    """
    libraries = {name: metadata.version(name) for name in ("numpy", "onnx", "onnxruntime", "pillow")}
    recipe = [__version__, libraries, model.identity, model.batch, _CALIBRATION_SEEDS]
    place = cache_folder() / "int8" / hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    try:
        kept = place.read_bytes()
    except OSError:
        kept = b""
    if kept and hashlib.sha256(kept[32:]).digest() == kept[:32]:
        return replace(model, model=kept[32:])
    if progress is not None:
        progress.say(f"{model.name}: making the int8 model, once")
    made = model.portable(
        "int8", [picture for i in range(_CALIBRATION_SEEDS) for picture in generated_pictures(i).values()]
    )
    assert isinstance(made.model, bytes)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as stream:
            stream.write(hashlib.sha256(made.model).digest() + made.model)
    except (ArtifactError, OSError) as error:
        if progress is not None:
            progress.say(f"{model.name}: the int8 model could not be kept in the cache: {error}")
    return made
