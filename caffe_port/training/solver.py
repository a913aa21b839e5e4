"""Caffe's training loop. Source: BVLC/caffe @ 9b89154, solver.cpp, solvers/sgd_solver.cpp.

    from caffe_port.training.settings import read_settings
    from caffe_port.training.solver import Solver

    solver = Solver(read_settings("solver.prototxt"), seed=1)
    solver.solve()                      # or step(100), test(), snapshot() one by one

Everything random follows from the seed and the number of the iteration, so a run that is stopped and resumed goes on
as the whole one would: the data too are taken up where they were.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from caffe_port.datasets import Batch, FoundSource
from caffe_port.errors import CaffePortError, DataError, WeightsError
from caffe_port.layers.base import Array
from caffe_port.layers.loss import Accuracy
from caffe_port.loading import load, with_weight_file
from caffe_port.net import Net
from caffe_port.proto import text
from caffe_port.proto.solverstate import SolverState
from caffe_port.training.data import default_workers, feed, require_classes, sources_of
from caffe_port.training.errors import TrainingError
from caffe_port.training.log import Log, ProgressLine
from caffe_port.training.optimizers import OPTIMIZERS, CaffeOptimizer
from caffe_port.training.settings import NetFile, Settings
from caffe_port.training.snapshots import Snapshot, Snapshots, read_snapshot
from caffe_port.training.trainable import Labels, Pass, TrainableNet, labels_of

__all__ = ["Outcome", "Solver"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a training ended.

    loss: averaged as `display` has it. stopped: before max_iter, because it was asked to. snapshot: the last, if any.
    """

    iteration: int
    loss: float
    stopped: bool
    snapshot: Snapshot | None


@dataclass(slots=True)
class _Fed:
    """A net, its batches, and the labels among them that are checked."""

    name: str
    net: TrainableNet
    batches: Iterator[Batch]
    labels: list[Labels]
    iterations: int = 0
    number: int = 0

    def next(self) -> Batch:
        """The next batch, checked. Raises: DataError, and whatever reading the data raises."""
        batch = next(self.batches)
        self.number += 1
        for labels in self.labels:
            labels.check(batch, f"{self.name}, batch {self.number}")
        return batch


class Solver:
    """A solver with its nets, as `settings` say.

    weights: files to start from, instead of the solver's own `weights`; layers they have nothing for are filled.
    snapshot: a .solverstate (.h5) to go on from, of Caffe's or of ours. seed: instead of `random_seed`; without either
    one is drawn, and logged. device: instead of what `solver_mode` says (a GPU where there is one). workers: processes
    that prepare data (default: `default_workers`); the numbers do not depend on it.
    data_from_start: a resumed run begins its data anew, as Caffe does, instead of going on in them.
    train_batches, test_batches: the data of the nets, where their layers shall not be read; one iterator for each test
    net.

    Attributes: `iteration` (finished updates), `current_step`, `train` and `tests` (TrainableNets), `optimizer`,
    `last_snapshot`, `last_loss` (of the last pass), and `on_gradients`: callables that are called with the solver when
    the gradients are summed and before they are used, in which several processes can average theirs.
    Raises: TrainingError, and the errors of reading nets, weights and data.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        weights: Sequence[str | os.PathLike[str]] = (),
        snapshot: str | os.PathLike[str] | None = None,
        seed: int | None = None,
        device: str | torch.device | None = None,
        workers: int | None = None,
        data_from_start: bool = False,
        train_batches: Iterator[Batch] | None = None,
        test_batches: Sequence[Iterator[Batch]] | None = None,
        log: Log | None = None,
        progress: ProgressLine | None = None,
    ) -> None:
        self.settings = settings
        self._log = log or Log()
        self._progress = progress
        self._told: set[str] = set()
        if snapshot is not None and weights:
            raise TrainingError("give a snapshot to go on from, or weights to start from, not both")
        for note in settings.notes:
            self._log(f"Note: {note}", "W")
        self.seed = _chosen(seed, settings.random_seed)
        self._log(f"Random seed {self.seed}")
        self.device = self._device(device)
        self._log(f"Training on {self.device}")
        state, learned = read_snapshot(snapshot, settings.root) if snapshot is not None else (None, None)
        self.iteration = 0 if state is None else state.iteration
        self.current_step = 0 if state is None else state.current_step
        files: list[str | os.PathLike[str]] = [*(weights or settings.weights)]
        if learned is not None:
            self._log(f"Restoring previous solver status from {snapshot}")
            files = [learned]
        self._workers = default_workers() if workers is None else workers
        done = 0 if data_from_start else self.iteration
        self._train = self._fed(settings.train, files, train_batches, done * settings.iter_size)
        self.train = self._train.net
        if not self.train.terms:
            raise TrainingError(f"{settings.train.name}: the net has no loss, so there is nothing to train")
        self.optimizer = self._optimizer()
        if snapshot is not None and state is not None:
            self._load_history(snapshot, state)
        self._tests: list[_Fed] = []
        if test_batches is not None and len(test_batches) != len(settings.tests):
            raise TrainingError(f"{len(test_batches)} test_batches for {len(settings.tests)} test nets")
        for index, test in enumerate(settings.tests):
            given = None if test_batches is None else test_batches[index]
            fed = self._fed(test.net, files, given, self._tests_before(done) * test.iterations, index + 1)
            fed.net.share(self.train)
            fed.iterations = test.iterations
            self._tests.append(fed)
        self.tests = [fed.net for fed in self._tests]
        self._snapshots = Snapshots(settings.root, settings.snapshot_prefix, settings.snapshot_hdf5)
        if settings.snapshot or settings.snapshot_after_train:
            self._snapshots.check(self.train.trained_net())
        self.last_snapshot: Snapshot | None = None
        if snapshot is not None and learned is not None:
            self.last_snapshot = Snapshot(learned, Path(snapshot), self.iteration)
        self.on_gradients: list[Callable[[Solver], None]] = []
        self.last_loss = float("nan")
        self._recent: deque[float] = deque(maxlen=settings.average_loss)
        self._accuracy: float | None = None
        self._asked = self._snapshot_wanted = False
        self._shown_at = (time.monotonic(), self.iteration)

    # Making the parts

    def _load_history(self, snapshot: str | os.PathLike[str], state: SolverState) -> None:
        """Gives the optimizer the history of a snapshot's state. Raises: WeightsError."""
        try:
            history = [torch.from_numpy(np.array(blob.data, np.float32)) for blob in state.history]
            self.optimizer.load_history(history, state.iteration)
        except WeightsError as error:
            raise WeightsError(f"{os.fspath(snapshot)}: {error}") from None

    def _device(self, wanted: str | torch.device | None) -> torch.device:
        if wanted is not None:
            return torch.device(wanted)
        gpu = self.settings.gpu
        return torch.device(f"cuda:{gpu}" if gpu is not None and torch.cuda.is_available() else "cpu")

    def _fed(
        self,
        file: NetFile,
        weights: Sequence[str | os.PathLike[str]],
        batches: Iterator[Batch] | None,
        skip: int,
        number: int = 0,
    ) -> _Fed:
        """A net with its data: number 0 is that of TRAIN, the others are tests."""
        seed = self.seed + 15485863 * number
        sources = []
        if batches is None:
            sources = sources_of(file, seed)
            batches = self._feed(sources, number, skip)
        name = f"{file.name} ({file.phase})"
        try:
            # Of a net without data layers each batch is empty; what its inputs lack is told below.
            first = next(batches)
        except CaffePortError as error:
            raise type(error)(f"{name}: {error}") from error
        with file.opened() as path:
            shapes = {blob: array.shape for blob, array in first.items()}
            net = load(
                path,
                phase=file.phase,
                level=file.level,
                stages=file.stages,
                input_shapes=shapes,
                allow_missing_weights=True,
            )
            force = bool(text.read(path)[0].force_backward)
        unfed = [blob for blob in net.inputs if blob not in first]
        if unfed:
            raise DataError(f"{name}: nothing gives {', '.join(map(repr, unfed))}: no layer of the net reads it")
        net = self._with_weights(net, weights, told=not number)
        self._tell_notes(net)
        if self.iteration and not number:
            # What is resumed is resumed whole.
            net.require_weights()
        labels = labels_of(net)
        for source in sources:
            for label in labels:
                if label.learned and not number and label.blob in source.tops:
                    require_classes(source, label.blob, self.settings.root)
        trainable = TrainableNet(net.filled(seed), self.device, force_backward=force)
        return _Fed(name, trainable, chain([first], batches), labels)

    def _feed(self, sources: Sequence[FoundSource], number: int, skip: int) -> Iterator[Batch]:
        """The data of net `number`."""
        workers = min(self._workers, 1) if number else self._workers
        return feed(sources, self.settings.root, workers=workers, skip=skip)

    def _with_weights(self, net: Net, files: Sequence[str | os.PathLike[str]], told: bool) -> Net:
        for file in files:
            before = net
            net = with_weight_file(net, file, allow_missing=True)
            if told and not any(
                new.data is not old.data for new, old in zip(net.weights(), before.weights(), strict=True)
            ):
                raise WeightsError(f"{os.fspath(file)}: has weights for no layer of the net {net.name!r}")
            if told:
                self._log(f"Weights from {os.fspath(file)}")
        if told and files:
            for name in dict.fromkeys(weight.layer for weight in net.missing_weights()):
                self._log(f"Note: layer {name!r} has no weights there and starts from its fillers", "W")
        return net

    def _tell_notes(self, net: Net) -> None:
        """Logs what a user should know of a net; what is true of TRAIN and TEST once."""
        told = [f"in the dialect of {dialect}" for dialect in net.dialects]
        told += map(str, net.notes)
        told += [
            f"layer {layer.name!r}: HDF5Output writes no file in training"
            for layer in net.layers
            if layer.type == "HDF5Output"
        ]
        for note in told:
            if note not in self._told:
                self._told.add(note)
                self._log(f"Note: {note}", "W")

    def _optimizer(self) -> CaffeOptimizer:
        settings = self.settings
        groups = [
            {"params": [blob.tensor], "lr_mult": blob.lr_mult, "decay_mult": blob.decay_mult, "name": blob.weight.label}
            for blob in self.train.blobs
        ]
        return OPTIMIZERS[settings.type](
            groups,
            settings.policy.base_lr,
            weight_decay=settings.weight_decay,
            regularization=settings.regularization,
            clip_gradients=settings.clip_gradients,
            iter_size=settings.iter_size,
            **settings.hyperparameters,
        )

    def _tests_before(self, iteration: int) -> int:
        """How many tests a run that has finished so many iterations has made."""
        interval = self.settings.test_interval
        if not interval or not iteration:
            return 0
        return (iteration - 1) // interval + int(self.settings.test_initialization)

    # From outside

    def request_stop(self) -> None:
        """Lets `solve` take a snapshot after the current iteration, and end. Safe in a signal handler."""
        self._asked = True

    def request_snapshot(self) -> None:
        """Lets `step` take a snapshot after the current iteration, and go on. Safe in a signal handler."""
        self._snapshot_wanted = True

    def solve(self) -> Outcome:
        """Trains up to max_iter, with the tests, the display and the snapshots of the settings.

        Raises: TrainingError for a loss that is no number; DataError and others for data that cannot be used. Each
        names the iteration and the last snapshot.
        """
        settings, log = self.settings, self._log
        log(f"Solving {self.train.net.name}")
        log(f"Learning Rate Policy: {settings.policy.name}")
        self.step(settings.max_iter - self.iteration)
        taken = self.last_snapshot is not None and self.last_snapshot.iteration == self.iteration
        if (settings.snapshot_after_train or self._stopping()) and not taken:
            self.snapshot()
        stopped, self._asked = self._stopping(), False
        if stopped and self.iteration < settings.max_iter:
            log("Optimization stopped early.")
            return self._outcome(stopped=True)
        with self._naming():
            if settings.display and self.iteration % settings.display == 0:
                with torch.no_grad():
                    self._seed(0, self._place(0))
                    self._recent.append(self._agreed(self._value(self._forward(self._train.next()))))
                log(f"Iteration {self.iteration}, loss = {self.loss:g}")
            if settings.test_interval and self.iteration % settings.test_interval == 0:
                self.test_all()
        log("Optimization Done.")
        return self._outcome(stopped=False)

    def _outcome(self, stopped: bool) -> Outcome:
        return Outcome(self.iteration, self.loss, stopped, self.last_snapshot)

    @property
    def loss(self) -> float:
        """The loss, averaged over the last `average_loss` iterations; NaN before the first."""
        return sum(self._recent) / len(self._recent) if self._recent else float("nan")

    def step(self, iterations: int = 1) -> None:
        """Makes so many iterations, with tests and snapshots between them; fewer where it was asked to stop.

        Raises: as `solve`.
        """
        settings = self.settings
        for _ in range(iterations):
            if self._stopping():
                return
            with self._naming():
                due = settings.test_interval and self.iteration % settings.test_interval == 0
                if due and (self.iteration or settings.test_initialization):
                    self.test_all()
                    if self._stopping():
                        return
                self._iterate()
            wanted, self._snapshot_wanted = self._snapshot_wanted, False
            if wanted or (settings.snapshot and self.iteration % settings.snapshot == 0):
                self.snapshot()

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        """Puts where it happened, and what there is to go back to, around what goes wrong in the block."""
        try:
            yield
        except CaffePortError as error:
            last = self.last_snapshot
            hint = "there is no snapshot yet" if last is None else f"the last good snapshot is {last.state}"
            raise type(error)(f"iteration {self.iteration}: {error}; {hint}") from error

    def _seed(self, *place: int) -> None:
        """Seeds what a forward pass draws (dropout) by its place, so that it does not matter where a run began."""
        torch.manual_seed(int(np.random.SeedSequence([self.seed, *place]).generate_state(1)[0]))

    # What a worker among several does otherwise

    def _place(self, index: int) -> int:
        """The number of a pass, among all of the training."""
        return self.iteration * self.settings.iter_size + index

    def _forward(self, batch: Batch) -> Pass:
        return self.train(batch)

    def _agreed(self, loss: float) -> float:
        """The loss of an iteration, of all workers."""
        return loss

    def _stopping(self) -> bool:
        """Whether to end after this iteration."""
        return self._asked

    @staticmethod
    def _value(made: Pass) -> float:
        value = float(made.loss.detach())
        if not np.isfinite(value):
            raise TrainingError(f"the loss is {value}: the rate is too high, or the data are not numbers")
        return value

    def _iterate(self) -> None:
        settings = self.settings
        shown = bool(settings.display) and self.iteration % settings.display == 0
        self.train.zero_grad()
        loss = 0.0
        for index in range(settings.iter_size):
            self._seed(0, self._place(index))
            made = self._forward(self._train.next())
            self.last_loss = self._value(made)
            loss += self.last_loss
            if made.loss.requires_grad:
                made.loss.backward()  # type: ignore[no-untyped-call]
        self._recent.append(self._agreed(loss / settings.iter_size))
        if shown:
            self._show(made)
        rate, self.current_step = settings.policy.rate(self.iteration, self.current_step)
        if shown:
            self._log(f"Iteration {self.iteration}, lr = {rate:g}")
        self.optimizer.set_rate(rate)
        for call in self.on_gradients:
            call(self)
        self.optimizer.step()
        self.iteration += 1
        if self._progress is not None:
            self._progress.draw(self.iteration, settings.max_iter, self.loss, rate, self._accuracy)

    # Telling

    def _show(self, made: Pass) -> None:
        now, (since, first) = time.monotonic(), self._shown_at
        self._shown_at = (now, self.iteration)
        seconds = now - since
        speed = (self.iteration - first) / seconds if seconds else 0.0
        self._log(
            f"Iteration {self.iteration} ({speed:g} iter/s, {seconds:g}s/{self.settings.display} iters), "
            f"loss = {self.loss:g}"
        )
        outputs = {name: value.detach().cpu().numpy() for name, value in made.outputs.items()}
        self._tell("Train", self.train, outputs)

    def _tell(self, which: str, net: TrainableNet, outputs: Mapping[str, Array]) -> None:
        weights = {blob.name: weight for blob, weight in net.terms}
        number = 0
        for name, values in outputs.items():
            for value in values.reshape(-1):
                weight = weights.get(name)
                loss = f" (* {weight:g} = {weight * value:g} loss)" if weight else ""
                self._log(f"    {which} net output #{number}: {name} = {value:g}{loss}")
                number += 1

    # Testing

    def test_all(self) -> list[dict[str, Array]]:
        """Tests with each test net, and logs it. Returns what `test` does, for each."""
        return [self.test(index) for index in range(len(self._tests))]

    @torch.no_grad()
    def test(self, index: int = 0) -> dict[str, Array]:
        """The outputs of a test net, by name, as means over its batches. Raises: as reading data does."""
        fed = self._tests[index]
        self._log(f"Iteration {self.iteration}, Testing net (#{index})")
        self._seed(1 + index, self.iteration)
        sums: dict[str, Array] = {}
        loss = 0.0
        for _ in range(fed.iterations):
            made = fed.net(fed.next())
            loss += float(made.loss)
            for name, value in made.outputs.items():
                array = value.cpu().numpy().astype(np.float64)
                sums[name] = array if name not in sums else sums[name] + array
            if self._asked:
                return {}
        means = {name: value / fed.iterations for name, value in sums.items()}
        if self.settings.test_compute_loss:
            self._log(f"Test loss: {loss / fed.iterations:g}")
        self._tell("Test", fed.net, means)
        for layer in fed.net.net.layers:
            if isinstance(layer.definition, Accuracy) and layer.tops[0].name in means:
                self._accuracy = float(means[layer.tops[0].name].reshape(-1)[0])
        return means

    # Snapshots

    def history(self) -> list[Array]:
        """The optimizer's history in Caffe's order, each in its learned blob's shape."""
        shapes = [blob.weight.shape for blob in self.train.blobs]
        tensors = self.optimizer.history()
        return [tensor.cpu().numpy().reshape(shapes[i % len(shapes)]) for i, tensor in enumerate(tensors)]

    def snapshot(self) -> Snapshot:
        """Writes a snapshot of where the training is. Raises: TrainingError where a weight is no number; others as
        `Snapshots.write`."""
        with self._naming():
            if not self.train.is_finite():
                raise TrainingError("weights are no numbers any more, so no snapshot is taken: the rate is too high")
            made = self._snapshots.write(self.train.trained_net(), self.iteration, self.current_step, self.history())
        self.last_snapshot = made
        form = "HDF5" if self.settings.snapshot_hdf5 else "binary proto"
        self._log(f"Snapshotting to {form} file {made.weights}")
        self._log(f"Snapshotting solver state to {made.state}")
        return made


def _chosen(seed: int | None, written: int | None) -> int:
    """The seed: the one given, else the solver's, else any."""
    if seed is not None and seed < 0:
        raise TrainingError(f"a seed must not be negative, it is {seed}")
    if seed is None:
        seed = written
    return int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
