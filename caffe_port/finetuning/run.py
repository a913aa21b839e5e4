"""A fine-tuning: from images and a model to weights; `finishing` makes files of them that are verified.

work = Finetuning(locate("open_nsfw"), "photos", "tuned", Recipe(epochs=5))
done = work.train()
if not done.stopped:
    result = finish(work)
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from caffe_port.datasets import Batch
from caffe_port.errors import ArtifactError, DataError, GraphError
from caffe_port.finetuning.augmentation import AugmentedImages
from caffe_port.finetuning.data import LabelledImage, read_dataset
from caffe_port.finetuning.evaluation import Scores, evaluate
from caffe_port.finetuning.nets import LABEL, FinetunedNets, finetuned_nets, write_class_weights
from caffe_port.finetuning.recipe import Recipe
from caffe_port.loading import load, with_weight_file
from caffe_port.net import Net, Source
from caffe_port.netspec import assign_proto
from caffe_port.preprocessing import Manifest, Preprocessing
from caffe_port.proto import schema, text
from caffe_port.proto.files import replacing
from caffe_port.reading import contents, parse_json
from caffe_port.scoring.manifests import released_manifest
from caffe_port.sources import ModelFiles
from caffe_port.training.data import default_workers, made_batches
from caffe_port.training.log import Log, ProgressLine
from caffe_port.training.settings import read_settings
from caffe_port.training.solver import Solver

__all__ = ["Finetuning", "Look", "Trained"]

_PROGRESS = "progress.json"
_FORMAT = "caffe_port fine-tuning 1"


@dataclass(frozen=True, slots=True)
class Look:
    """What the validation images said after so many iterations: the loss as in training, and the accuracy."""

    iteration: int
    loss: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Trained:
    """How a training ended. best: the look with the least loss. stopped: by Ctrl-C, so that it can go on.

    early: whether `patience` ended it. snapshot: the last state to go on from.
    """

    iteration: int
    looks: tuple[Look, ...]
    best: Look | None
    stopped: bool
    early: bool
    snapshot: Path | None


class Finetuning:
    """A model that is to be fine-tuned on images, with all files in the folder `output`.

    - `files`: the model. `source`, `validation`, `classes`: as `read_dataset`. `positive`: of two classes the one whose
      probability is the score (default: the model's own where the names are its labels, else the second).
    - `manifest`: the model's preprocessing and labels; a released model's is known. Without one it is supposed to be
      Caffe's usual, which `notes` say.
    - `resume`: go on where a run into the same folder, with the same data and recipe, was stopped.

    When it is made, data, model and recipe are read and checked, and train_val.prototxt, solver.prototxt,
    deploy.prototxt, lists of the images and manifest.json are written; real Caffe can train with them too.
    Raises: DataError, ImageError, GraphError and others for what cannot be used; ArtifactError for a folder that cannot
    be written, or has a run already.
    """

    def __init__(
        self,
        files: ModelFiles,
        source: str | os.PathLike[str],
        output: str | os.PathLike[str],
        recipe: Recipe | None = None,
        *,
        validation: float | str | os.PathLike[str] = 0.2,
        classes: Sequence[str] | None = None,
        positive: str | None = None,
        manifest: Manifest | None = None,
        name: str | None = None,
        threads: int | None = None,
        resume: bool = False,
    ) -> None:
        self.files, self.output, self.recipe = files, Path(output), recipe or Recipe()
        self.name = name or f"{files.name}_finetuned"
        if Path(self.name).name != self.name or not self.name:
            raise ArtifactError(f"{self.name!r} is no file name")
        self.notes: list[str] = []
        self.threads, self.source = threads, source
        self._require_free(resume)
        if not files.weights:
            raise GraphError(f"{files.definition}: the weights to start from are needed too")
        self.model = files.load()
        own = self._manifest(manifest)
        self.dataset = read_dataset(
            source,
            validation=validation,
            classes=classes,
            preferred=own.labels,
            seed=self.recipe.seed,
            threads=threads,
        )
        self.notes += self.dataset.notes
        self.class_weights = self.recipe.weights_of(self.dataset.counts(self.dataset.train))
        steps = self._steps(own.preprocessing)
        assert steps.size is not None
        self.scale = self.recipe.shorter_side(steps.size[0])
        self.original = own
        self.manifest = replace(
            own, preprocessing=steps, labels=self.dataset.classes, score=self._score(own, positive), output_blob=None
        )
        if self.recipe.keep_head and classes is None and own.labels != self.dataset.classes:
            raise GraphError(
                "a head that is kept has its classes in an order: name them all in that of the model"
                + (f", which is {', '.join(own.labels)}" if own.labels else "")
            )
        self.nets = self._nets(steps)
        self.looks: list[Look] = []
        self._state: Path | None = None
        if resume:
            self._resume()
        self._write()
        self.deploy = load(self.output / "deploy.prototxt", allow_missing_weights=True)

    # What there is

    def _require_free(self, resume: bool) -> None:
        there = (self.output / _PROGRESS).exists()
        if there and not resume:
            raise ArtifactError(
                f"{self.output}: has a fine-tuning already; go on with it (resume), or name another folder"
            )
        if resume and not there:
            raise ArtifactError(f"{self.output}: has no fine-tuning that could go on")

    def _manifest(self, given: Manifest | None) -> Manifest:
        if given is not None:
            return given
        if self.files.released is not None:
            return released_manifest(self.files.released)
        shapes = list(self.model.input_shapes.items())
        if len(shapes) != 1 or len(shapes[0][1]) != 4 or shapes[0][1][1] != 3:
            raise GraphError(f"net {self.model.name!r}: one input of colour images is needed, or a manifest")
        blob, (_, _, height, width) = shapes[0]
        side = Recipe.resized(height)
        self.notes.append(
            f"nothing says how a picture becomes the input: supposed is Caffe's usual, resized to {side}x{side}, "
            f"the centre of {height}x{width} of it, blue first, less 104, 117, 123"
        )
        return Manifest(
            Preprocessing(
                input_blob=blob,
                resize=(side, side),
                interpolation="opencv",
                crop=(height, width),
                mean=(104.0, 117.0, 123.0),
            )
        )

    def _steps(self, own: Preprocessing) -> Preprocessing:
        """The preprocessing of the net that comes of it."""
        blob = own.input_blob
        if blob not in self.model.input_shapes:
            raise GraphError(f"the preprocessing is for a blob {blob!r}, which is no input of net {self.model.name!r}")
        size = own.size or self.model.input_shapes[blob][2:]
        if size[0] != size[1]:
            raise GraphError(f"the input is {size[0]}x{size[1]}; fine-tuning crops squares alone")
        crop = self.recipe.size or size[0]
        resize = own.resize or (Recipe.resized(size[0]),) * 2
        height, width = (round(side * crop / size[0]) for side in resize)
        return replace(own, resize=(height, width), crop=(crop, crop))

    def _score(self, own: Manifest, positive: str | None) -> int | None:
        classes = self.dataset.classes
        if positive is not None:
            if positive not in classes:
                raise GraphError(f"the positive class {positive!r} is none of {', '.join(classes)}")
            return classes.index(positive)
        if own.labels == classes and own.score is not None:
            return own.score
        return 1 if len(classes) == 2 else None

    def _nets(self, steps: Preprocessing) -> FinetunedNets:
        recipe = self.recipe
        return finetuned_nets(
            self.files.definition,
            classes=len(self.dataset.classes),
            preprocessing=steps,
            batches=(recipe.batch, self._test_batch),
            head=recipe.head,
            keep_head=recipe.keep_head,
            factor=recipe.factor,
            freeze=recipe.freeze,
            batch_statistics=recipe.batch_statistics,
            class_weights=None if self.class_weights is None else self.output / "class_weights.binaryproto",
        )

    @property
    def _test_batch(self) -> int:
        return min(self.recipe.batch, len(self.dataset.validation))

    @property
    def max_iter(self) -> int:
        """The iterations of the whole training."""
        return self.recipe.max_iter(len(self.dataset.train))

    # Files

    def _write(self) -> None:
        try:
            (self.output / "snapshots").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(f"{self.output}: cannot be made: {error.strerror or error}") from None
        if self.class_weights is not None:
            write_class_weights(self.output / "class_weights.binaryproto", self.class_weights)
        text.write(self.output / "train_val.prototxt", self.nets.train_val)
        text.write(self.output / "deploy.prototxt", self.nets.deploy)
        text.write(self.output / "solver.prototxt", self._solver_message())
        for file, images in (("train.txt", self.dataset.train), ("val.txt", self.dataset.validation)):
            self._write_list(file, images)
        self.manifest.write(self.output / "manifest.json")

    def _write_list(self, file: str, images: Sequence[LabelledImage]) -> None:
        for image in images:
            if "\n" in os.fspath(image.path) or "\r" in os.fspath(image.path):
                raise DataError(f"{os.fspath(image.path)!r}: a line break in a name cannot stand in a list")
        content = "".join(f"{image.path} {image.label}\n" for image in images)
        with replacing(self.output / file) as stream:
            stream.write(content.encode("utf-8", "surrogateescape"))

    def _solver_message(self) -> Any:
        recipe = self.recipe
        interval = recipe.interval(len(self.dataset.train))
        fields: dict[str, Any] = {
            "net": "train_val.prototxt",
            "test_iter": [math.ceil(len(self.dataset.validation) / self._test_batch)],
            "test_interval": interval,
            "base_lr": recipe.base_lr,
            "lr_policy": "step" if recipe.steps else "fixed",
            "display": max(1, min(20, interval // 5)),
            "average_loss": max(1, min(20, interval // 5)),
            "max_iter": self.max_iter,
            "momentum": recipe.momentum,
            "weight_decay": recipe.weight_decay,
            "snapshot": interval,
            "snapshot_prefix": f"snapshots/{self.name}",
            "random_seed": recipe.seed,
        }
        if recipe.steps:
            fields |= {"gamma": recipe.gamma, "stepsize": math.ceil(self.max_iter / (recipe.steps + 1))}
        message = schema.message("SolverParameter")
        for name, value in fields.items():
            assign_proto(message, name, value)
        return message

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        digests = {
            what: [[image.digest, image.label] for image in images]
            for what, images in (("train", self.dataset.train), ("validation", self.dataset.validation))
        }
        recipe = {field: getattr(self.recipe, field) for field in self.recipe.__dataclass_fields__}
        sources = [source.sha256() for source in self.model.sources]
        return json.loads(json.dumps({"recipe": recipe, "images": digests, "model": sources}))  # type: ignore[no-any-return]

    def _save(self, state: Path) -> None:
        self._state = state
        looks = [[look.iteration, look.loss, look.accuracy] for look in self.looks]
        document = {"format": _FORMAT, "state": state.name, "looks": looks, **self._identity()}
        with replacing(self.output / _PROGRESS) as stream:
            stream.write(json.dumps(document, indent=1).encode() + b"\n")

    def _resume(self) -> None:
        path = self.output / _PROGRESS
        try:
            document = parse_json(contents(path))
            looks = [Look(*look) for look in document["looks"]]
            state = self.output / "snapshots" / document["state"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{path}: cannot be read: {error}") from None
        for what, value in self._identity().items():
            if document.get(what) != value:
                raise GraphError(f"{path}: was made with another {what}; go on with the same, or name another folder")
        self.looks, self._state = looks, state

    # Training

    def before(self) -> Scores | None:
        """The model as it was, on the validation images; None, with a note, where it has another number of classes."""
        classes, labels = self.dataset.classes, self.original.labels
        outputs = self.model.output_blobs[0].shape[1]
        if outputs != len(classes):
            self.notes.append(f"before there are no scores: the model has {outputs} classes, the data {len(classes)}")
            return None
        scores = evaluate(
            self.model, replace(self.original, labels=labels or classes), self.dataset.validation, threads=self.threads
        )
        if labels == classes:
            return scores
        order = list(range(len(classes)))
        if self.original.score not in (None, self.manifest.score) and len(classes) == 2:
            order.reverse()
        named = [labels[i] if labels else str(i) for i in order]
        held = ", ".join(f"{own!r} against {name!r}" for own, name in zip(named, classes, strict=True))
        self.notes.append(
            f"before: the model's classes have other names; held are {held} (classes, positive say otherwise)"
        )
        return replace(scores, probabilities=scores.probabilities[:, order])

    def train(
        self,
        *,
        device: Any = None,
        workers: int | None = None,
        log: Log | None = None,
        progress: ProgressLine | None = None,
        around: Callable[[Solver], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,  # type: ignore[assignment]
    ) -> Trained:
        """Trains until `max_iter`, or until `patience` is over, or until it is asked to stop.

        After each interval the validation images are looked at and a snapshot is written; the best one and the last one
        stay. around: is entered with the solver while it trains, to ask it to stop (Solver.request_stop).
        Raises: TrainingError for a loss that is no number; what else the Solver raises; each names the last snapshot.
        """
        log = log or Log()
        recipe, dataset = self.recipe, self.dataset
        settings = replace(
            read_settings(self.output / "solver.prototxt", self.output),
            tests=(),
            test_interval=0,
            snapshot=0,
            snapshot_after_train=False,
        )
        done = self.looks[-1].iteration if self.looks else 0
        if self._state is not None:
            done = int(self._state.name.rpartition("_iter_")[2].partition(".")[0])
        items = AugmentedImages(
            dataset.train,
            self.manifest.preprocessing,
            batch_size=recipe.batch,
            scale=self.scale,
            mirror=recipe.mirror,
            seed=recipe.seed,
        )
        workers = default_workers() if workers is None else workers
        solver = Solver(
            settings,
            weights=() if self._state is not None else self.files.weights,
            snapshot=self._state,
            seed=recipe.seed,
            device=device,
            train_batches=self._batches(items, workers, done),
            log=log,
            progress=progress,
        )
        with around(solver):
            return self._loop(solver, log)

    def _batches(self, items: AugmentedImages, workers: int, skip: int) -> Iterator[Batch]:
        blob = self.manifest.preprocessing.input_blob
        for data, labels in made_batches(items, workers=workers, skip=skip):
            yield {blob: data, LABEL: labels}

    def _loop(self, solver: Solver, log: Log) -> Trained:
        interval = self.recipe.interval(len(self.dataset.train))
        while solver.iteration < self.max_iter and not self._out_of_patience():
            target = min((solver.iteration // interval + 1) * interval, self.max_iter)
            solver.step(target - solver.iteration)
            if solver.iteration < target:
                last = solver.last_snapshot
                if last is None or last.iteration != solver.iteration:
                    last = solver.snapshot()
                self._save(last.state)
                self._tidy(solver.iteration)
                return self._trained(solver.iteration, stopped=True)
            self._look(solver, log)
        return self._trained(solver.iteration, stopped=False)

    def _trained(self, iteration: int, *, stopped: bool) -> Trained:
        early = iteration < self.max_iter and not stopped
        return Trained(iteration, tuple(self.looks), self.best, stopped, early, self._state)

    def _look(self, solver: Solver, log: Log) -> None:
        snapshot = solver.snapshot()
        scores = evaluate(self._tuned(snapshot.weights), self.manifest, self.dataset.validation, threads=self.threads)
        look = Look(solver.iteration, scores.loss(self.class_weights), scores.accuracy.estimate)
        self.looks.append(look)
        log(f"Iteration {look.iteration}, Testing net (#0)")
        log(f"    Test net output #0: accuracy = {look.accuracy:g}")
        log(f"    Test net output #1: loss = {look.loss:g} (* 1 = {look.loss:g} loss)")
        self._save(snapshot.state)
        self._tidy(look.iteration)

    @property
    def best(self) -> Look | None:
        """The look with the least loss, the first of equals; None before the first."""
        return min(self.looks, key=lambda look: look.loss, default=None)

    def _out_of_patience(self) -> bool:
        best = self.best
        if not self.recipe.patience or best is None:
            return False
        return sum(look.iteration > best.iteration for look in self.looks) >= self.recipe.patience

    def _snapshot(self, iteration: int, ending: str) -> Path:
        return self.output / "snapshots" / f"{self.name}_iter_{iteration}.{ending}"

    def _tidy(self, last: int) -> None:
        """Takes away all snapshots but the best and the last."""
        kept = {last, *([] if self.best is None else [self.best.iteration])}
        for look in self.looks:
            if look.iteration not in kept:
                for ending in ("caffemodel", "solverstate"):
                    self._snapshot(look.iteration, ending).unlink(missing_ok=True)

    def _tuned(self, weights: Path) -> Net:
        return with_weight_file(self.deploy, weights)

    def tuned_net(self) -> Net:
        """The net to be used with the best weights. Its sources name what it was made of.

        Raises: DataError before the first look at the validation images.
        """
        if self.best is None:
            raise DataError("nothing was trained yet")
        weights = self._snapshot(self.best.iteration, "caffemodel")
        made_of = [("trained net", "train_val.prototxt"), ("solver", "solver.prototxt")]
        made_of += [("training images", "train.txt"), ("validation images", "val.txt")]
        # The snapshot is of the net that was trained: what is written is the net that is used.
        return replace(
            self._tuned(weights),
            sources=(
                Source("definition", self.output / "deploy.prototxt"),
                Source("weights", weights),
                *(Source("fine-tuned from", path) for path in self.files.weights),
                *(Source(role, self.output / file) for role, file in made_of),
            ),
        )
