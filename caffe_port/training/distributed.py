"""Training by several processes at once: each computes on its share of the data, and their gradients are averaged.

    with joined() as group:                      # under torchrun, or Spark's TorchDistributor
        with group.agreeing():
            solver = DistributedSolver(read_settings("solver.prototxt"), group)
            solver.solve()

N workers with batches of B items make the updates that one makes with batches of N * B. All go through the data in one
order: batch k of worker r is batch k * N + r. Worker 0 alone tests, logs and writes snapshots. Over gloo on CPUs, NCCL
on GPUs.

What is exchanged, in the same order by all: a few numbers in each iteration (losses, requests to stop, whether one has
failed), then the gradients. So an error of one ends all with one message. A worker that dies closes its connections,
which the others find out at their next exchange.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from caffe_port.datasets import Batch, FoundSource
from caffe_port.errors import CaffePortError, GraphError, MissingDependency, Problems
from caffe_port.layers.base import Array
from caffe_port.layers.detection_loss import SmoothL1Loss
from caffe_port.layers.loss import (
    HingeLoss,
    InfogainLoss,
    MultinomialLogisticLoss,
    SoftmaxWithLoss,
)
from caffe_port.layers.reduction import Reduction
from caffe_port.layers.regression import ContrastiveLoss, EuclideanLoss, SigmoidCrossEntropyLoss
from caffe_port.net import Blob, Layer, Net
from caffe_port.shapes import canonical_axis
from caffe_port.training.data import default_workers, feed
from caffe_port.training.errors import TrainingError
from caffe_port.training.log import Log, ProgressLine
from caffe_port.training.settings import Settings
from caffe_port.training.snapshots import Snapshot
from caffe_port.training.solver import Solver
from caffe_port.training.trainable import Pass, loss_terms

__all__ = ["DistributedSolver", "Group", "LossShare", "WorkerLost", "joined", "launched", "loss_shares"]

BUCKET = 8 << 20
"""Values that are averaged at once; what they are copied to has this size."""

TIMEOUT = 1800.0
"""Seconds that a worker waits for the others by default: more than the tests and the snapshots of worker 0 take."""


class WorkerLost(TrainingError):
    """Another worker has ended without a word, or cannot be reached."""


class _OthersFailed(Exception):
    """Another worker has told an error; the message is for people. No CaffePortError, so that nobody adds to it."""


# The group


class Group:
    """The processes that train together, as one of them sees it.

    Attributes: `rank` (0 to size - 1), `size`, `local_rank` (among those of this machine), `local_size`, `seed` (drawn
    by worker 0, for a run that has none).
    """

    def __init__(self, rank: int, size: int, local_rank: int = 0, local_size: int = 1) -> None:
        self.rank, self.size, self.local_rank, self.local_size = rank, size, local_rank, local_size
        drawn = torch.from_numpy(np.random.SeedSequence().generate_state(1).astype(np.int64))
        self.broadcast([drawn])
        self.seed = int(drawn)

    def __str__(self) -> str:
        return f"worker {self.rank} of {self.size}"

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            # Without the place in gloo, and its advice.
            reason = re.sub(r"^\[[^]]*\] |\. This is typically.*", "", str(error).strip().splitlines()[0])
            raise WorkerLost(f"{self}: another worker has ended, or cannot be reached any more ({reason})") from error

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Gives these tensors, in place, the values that worker 0 has. Raises: WorkerLost."""
        with self._reaching(), torch.no_grad():
            for tensor in tensors:
                values = tensor.detach().contiguous()
                dist.broadcast(values, 0)
                tensor.copy_(values)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Gives these tensors, in place, their means over the workers: the same bits in each. Raises: WorkerLost."""
        with self._reaching(), torch.no_grad():
            for bucket in _buckets(tensors):
                sizes = [tensor.numel() for tensor in bucket]
                flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
                dist.all_reduce(flat)
                flat /= self.size
                for tensor, mean in zip(bucket, torch.split(flat, sizes), strict=True):
                    tensor.copy_(mean.view_as(tensor))

    def sums(self, values: Sequence[float]) -> list[float]:
        """The sum over the workers of each of these values, as many in each worker.

        Raises: WorkerLost; ends the block of `agreeing` where another worker has failed.
        """
        sums = self._exchanged([0.0, *values])
        if sums[0]:
            self._end(None)
        return sums[1:]

    def _exchanged(self, values: Sequence[float]) -> list[float]:
        # Always as long: who has failed takes part in the exchange that the others are at.
        padded = torch.zeros(_EXCHANGED, dtype=torch.float64)
        padded[: len(values)] = torch.tensor([*values], dtype=torch.float64)
        with self._reaching():
            dist.all_reduce(padded)
        return [float(value) for value in padded[: len(values)]]

    def _end(self, message: str | None) -> NoReturn:
        """Raises the message of the first worker that has one. All come here together."""
        messages: list[str | None] = [None] * self.size
        with self._reaching():
            dist.all_gather_object(messages, message)
        first = next(rank for rank, text in enumerate(messages) if text is not None)
        where = f"worker {first} of {self.size}: " if None in messages else ""
        raise _OthersFailed(f"{where}{messages[first]}")

    def wait(self) -> None:
        """Waits until all that are left have come here."""
        # Who has gone has nothing more to say.
        with contextlib.suppress(WorkerLost):
            self._exchanged([])

    @contextlib.contextmanager
    def agreeing(self) -> Iterator[None]:
        """All leave this block together. An error in one ends it in all, with the same message.

        Raises: TrainingError with that message, which says whose it is; WorkerLost.
        """
        try:
            try:
                yield
                self.sums(())
            except WorkerLost:
                raise
            except CaffePortError as error:
                try:
                    self._exchanged([1.0])
                    self._end(str(error))
                except WorkerLost:
                    raise error from None
        except _OthersFailed as failed:
            raise TrainingError(str(failed)) from failed.__context__


_EXCHANGED = 64
"""How many numbers are exchanged at once; more loss layers that need one nobody has."""


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, as many together as are no more than BUCKET values, of one type and device."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        first = bucket[0] if bucket else tensor
        fits = sum(other.numel() for other in bucket) + tensor.numel() <= BUCKET
        if bucket and not (fits and tensor.dtype == first.dtype and tensor.device == first.device):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def launched() -> bool:
    """Whether torchrun, or something that sets what it sets, started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and "MASTER_ADDR" in os.environ


@contextlib.contextmanager
def joined(timeout: float = TIMEOUT) -> Iterator[Group]:
    """Joins the processes that were started together (`launched`), and leaves them at the end.

    timeout: seconds that one waits for the others, the tests of worker 0 included.
    Raises: TrainingError where they do not find each other; MissingDependency where PyTorch was built without this.
    """
    if not dist.is_available():
        raise MissingDependency("this PyTorch was built without torch.distributed, which several workers need")
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    number = {name: int(os.environ.get(name, default)) for name, default in _ENVIRONMENT.items()}
    try:
        dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout))
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TrainingError(f"worker {number['RANK']} does not find the others: {reason}") from None
    try:
        yield Group(number["RANK"], number["WORLD_SIZE"], number["LOCAL_RANK"], number["LOCAL_WORLD_SIZE"])
    finally:
        dist.destroy_process_group()


_ENVIRONMENT = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}


# The loss of all from the losses of each


@dataclass(frozen=True, slots=True)
class LossShare:
    """How a term of the loss of the whole batch comes from those of its parts: their mean, each times a factor.

    additive: the term is a sum over items, so the factor is the number of workers. labels, ignored: it is divided by
    the labels, in this input, that are not `ignored`; the factor is the worker's share of them.
    """

    additive: bool = False
    labels: str | None = None
    ignored: int = 0

    def counted(self, batch: Mapping[str, Array]) -> float:
        """By what the worker's own loss is divided, where that is by labels that count; else 0."""
        if self.labels is None:
            return 0.0
        return float((batch[self.labels].astype(np.int64) != self.ignored).sum())

    def factor(self, own: float, all_counted: float, size: int) -> float:
        """The factor. own: what `counted` gave this worker; all_counted: the sum over the workers."""
        if self.labels is not None:
            # As the layer, which divides by at least 1.
            return size * max(own, 1.0) / max(all_counted, 1.0)
        return float(size) if self.additive else 1.0


_MEANS = (EuclideanLoss, HingeLoss, ContrastiveLoss, MultinomialLogisticLoss, SmoothL1Loss)
_NORMALIZED = (SoftmaxWithLoss, InfogainLoss, SigmoidCrossEntropyLoss)


def loss_shares(net: Net) -> list[LossShare]:
    """A share for each of the `loss_terms`, in their order.

    Raises: TrainingError, all at once, for a layer whose loss on a batch does not follow from those on its parts.
    """
    makers = {top: layer for layer in net.layers for top in layer.tops}
    fed: set[Blob] = set(net.input_blobs)
    for layer in net.layers:
        if any(bottom in fed for bottom in layer.bottoms):
            fed.update(layer.tops)
    problems = Problems()
    shares = []
    for term, _ in loss_terms(net):
        blob = _before_splits(term, makers)
        layer = makers[blob]
        try:
            shares.append(_share(layer, blob, net, makers) if blob in fed else LossShare())
        except TrainingError as error:
            problems.add(TrainingError, str(error), layer=layer.name, location=layer.location)
    problems.raise_if_any()
    return shares


def _before_splits(blob: Blob, makers: Mapping[Blob, Layer]) -> Blob:
    while blob in makers and makers[blob].type == "Split":
        blob = makers[blob].bottoms[0]
    return blob


def _share(layer: Layer, blob: Blob, net: Net, makers: Mapping[Blob, Layer]) -> LossShare:
    definition = layer.definition
    if isinstance(definition, Reduction):
        whole = canonical_axis(definition.axis, len(layer.bottoms[0].shape)) == 0
        return LossShare(additive=not (whole and definition.operation == "MEAN"))
    if blob is layer.tops[0] and isinstance(definition, _MEANS):
        return LossShare()
    if blob is layer.tops[0] and isinstance(definition, _NORMALIZED):
        mode, ignored = definition.normalizer.mode, definition.normalizer.ignore_label
        if mode != "VALID" or ignored is None:
            return LossShare(additive=mode == "NONE")
        labels = _before_splits(layer.bottoms[1], makers)
        if labels in net.input_blobs:
            return LossShare(labels=labels.name, ignored=ignored)
        raise TrainingError(
            "with several workers, normalization VALID and an ignore_label the labels must come from a data layer, to "
            "be counted: set loss_param { normalization: BATCH_SIZE }"
        )
    raise TrainingError(
        f"with several workers the loss of a {layer.type} layer is not known to be that of the whole batch: use one "
        "worker, with iter_size for a larger batch"
    )


# The solver


class DistributedSolver(Solver):
    """A Solver that is one of several workers. Arguments, attributes and errors otherwise as of Solver.

    Only worker 0 has test nets, writes snapshots and logs. device: cpu or cuda; each worker takes the GPU of its number
    on its machine. Made, and used, in the block of `group.agreeing()`. What is random differs between the workers, and
    is what it is in a single process with `iter_size` times as many passes.
    Raises also: TrainingError for a loss that cannot be put together (`loss_shares`).
    """

    def __init__(
        self,
        settings: Settings,
        group: Group,
        *,
        seed: int | None = None,
        workers: int | None = None,
        log: Log | None = None,
        progress: ProgressLine | None = None,
        **options: Any,
    ) -> None:
        self.group = group
        self._stop_agreed = False
        if group.rank:
            settings, log, progress = replace(settings, tests=()), None, None
            options.pop("test_batches", None)
        if seed is None and settings.random_seed is None:
            seed = group.seed
        if workers is None:
            workers = max(1, default_workers() // group.local_size)
        super().__init__(settings, seed=seed, workers=workers, log=log, progress=progress, **options)
        self._shares = loss_shares(self.train.net)
        self._factors = [1.0] * len(self._shares)
        self._counted = [index for index, share in enumerate(self._shares) if share.labels is not None]
        if len(self._counted) > _EXCHANGED // 2:
            raise TrainingError(f"{len(self._counted)} losses that count labels; with several workers at most 32")
        layer_of = {id(weight): layer for layer in self.train.net.layers for weight in layer.weights}
        self._statistics = [
            blob.tensor
            for blob in self.train.blobs
            if not isinstance(blob.tensor, nn.Parameter)
            and not getattr(layer_of[id(blob.weight)].definition, "use_global_stats", False)
        ]
        self._log(f"Training with {group.size} workers; this is worker {group.rank}")
        if self._statistics:
            self._log(
                "Note: BatchNorm normalizes each worker's batch by itself, as Caffe's does; its averages are the means "
                "over the workers",
                "W",
            )
        group.sums(())
        group.broadcast([blob.tensor for blob in self.train.blobs])
        self.on_gradients.append(lambda _: self._average())

    def _device(self, wanted: str | torch.device | None) -> torch.device:
        device = super()._device(wanted)
        if device.type != "cuda":
            return device
        if wanted is not None and device.index is not None:
            raise GraphError(f"--device {wanted}: with several workers each takes the GPU of its number: give cuda")
        if self.group.local_rank >= torch.cuda.device_count():
            raise GraphError(
                f"there are {torch.cuda.device_count()} GPUs for {self.group.local_size} workers on this machine"
            )
        device = torch.device("cuda", self.group.local_rank)
        torch.cuda.set_device(device)
        return device

    def _feed(self, sources: Sequence[FoundSource], number: int, skip: int) -> Iterator[Batch]:
        if number:
            return super()._feed(sources, number, skip)
        part = (self.group.rank, self.group.size)
        return feed(sources, self.settings.root, workers=self._workers, skip=skip, part=part)

    def _place(self, index: int) -> int:
        return super()._place(index) * self.group.size + self.group.rank

    def _forward(self, batch: Batch) -> Pass:
        own = [share.counted(batch) for share in self._shares]
        every = list(own)
        if self._counted:
            for index, total in zip(self._counted, self.group.sums([own[i] for i in self._counted]), strict=True):
                every[index] = total
        self._factors = [
            share.factor(mine, total, self.group.size)
            for share, mine, total in zip(self._shares, own, every, strict=True)
        ]
        return self.train(batch, self._factors)

    def _agreed(self, loss: float) -> float:
        asked = (float(self._asked), float(self._snapshot_wanted))
        stop, snapshot, total, last = self.group.sums([*asked, loss, self.last_loss])
        self._stop_agreed = self._stop_agreed or bool(stop)
        self._snapshot_wanted = bool(snapshot)
        self.last_loss = last / self.group.size
        return total / self.group.size

    def _stopping(self) -> bool:
        # Not what was asked of this one: all stop after the same iteration.
        return self._stop_agreed

    def _average(self) -> None:
        for blob in self.train.blobs:
            if blob.tensor.requires_grad and blob.tensor.grad is None:
                blob.tensor.grad = torch.zeros_like(blob.tensor)
        gradients = [blob.tensor.grad for blob in self.train.blobs if blob.tensor.grad is not None]
        self.group.average([*gradients, *self._statistics])

    def _show(self, made: Pass) -> None:
        factors = {blob.name: factor for (blob, _), factor in zip(self.train.terms, self._factors, strict=True)}
        outputs = {name: value.detach() * factors.get(name, 1.0) for name, value in made.outputs.items()}
        self.group.average(list(outputs.values()))
        super()._show(Pass(made.loss, outputs))

    def snapshot(self) -> Snapshot:
        """Writes a snapshot, in worker 0; the others take note of it. Raises: as of Solver."""
        if not self.group.rank:
            return super().snapshot()
        self.last_snapshot = self._snapshots.named(self.iteration)
        return self.last_snapshot
