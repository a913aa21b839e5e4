"""The training loop of a pycaffe solver: that of `caffe_port.training`, with nets that scripts have in their hands."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from caffe_port.datasets import Batch
from caffe_port.layers.base import Array
from caffe_port.net import Net as BuiltNet
from caffe_port.pycaffe.net import Net
from caffe_port.pycaffe.settings import set_random_seed
from caffe_port.training.log import Log
from caffe_port.training.settings import NetFile, Settings
from caffe_port.training.snapshots import read_snapshot
from caffe_port.training.solver import Solver, _Fed
from caffe_port.training.trainable import LearnedBlob, Pass, TrainableNet, loss_terms, multipliers

__all__ = ["ScriptNet", "SolverLoop"]

_PHASES = ("TRAIN", "TEST")


class _LoggerLog(Log):
    """Writes to the logger `caffe`, as `caffe.log` does."""

    def __call__(self, text: str, level: str = "I") -> None:
        number = logging.WARNING if level == "W" else logging.INFO
        for line in text.splitlines():
            logging.getLogger("caffe").log(number, "%s", line)


class SolverLoop(Solver):
    """The training loop, with nets of scripts."""

    train: ScriptNet

    def __init__(self, settings: Settings) -> None:
        self.script_nets: list[Net] = []
        if settings.random_seed is not None:
            set_random_seed(settings.random_seed)
        super().__init__(settings, device="cpu", log=_LoggerLog())
        before: list[Array] = []

        def remember(*_: Any) -> None:
            before[:] = [blob.tensor.detach().numpy().copy() for blob in self.train.blobs]

        def show_updates(*_: Any) -> None:
            for blob, old in zip(self.train.blobs, before, strict=True):
                assert blob.tensor.grad is not None
                blob.tensor.grad.copy_(torch.from_numpy(old) - blob.tensor)

        self.optimizer.register_step_pre_hook(remember)
        self.optimizer.register_step_post_hook(show_updates)

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Takes over iteration, history and weights of a snapshot. Raises: WeightsError."""
        state, weights = read_snapshot(path, self.settings.root)
        self._load_history(path, state)
        if weights is not None:
            self.script_nets[0].copy_from(weights)
        self.iteration, self.current_step = state.iteration, state.current_step

    def apply_update(self) -> None:
        """One update of the gradients that stand in the net's learned blobs."""
        self.train.refresh()
        rate, self.current_step = self.settings.policy.rate(self.iteration, self.current_step)
        self.optimizer.set_rate(rate)
        self.optimizer.step()
        self.iteration += 1

    def _fed(
        self,
        file: NetFile,
        weights: Sequence[str | os.PathLike[str]],
        batches: Iterator[Batch] | None,
        skip: int,
        number: int = 0,
    ) -> _Fed:
        with file.opened() as path:
            net = Net(path, _PHASES.index(file.phase), file.level, list(file.stages))
        for weight_file in weights:
            net.copy_from(weight_file)
        self.script_nets.append(net)
        # The nets read their data themselves, and check their labels.
        return _Fed(f"{file.name} ({file.phase})", ScriptNet(net), itertools.repeat({}), [])


class ScriptNet(TrainableNet):
    """A script's net as the loop sees it: tensors that have the memory of its learned blobs, and its own passes."""

    def __init__(self, net: Net) -> None:
        self.script, self.device = net, torch.device("cpu")
        self.on_start: list[Callable[[], object]] = []
        self.net = net._net
        self.terms = loss_terms(self.net)
        lr_mults, decay_mults = (multipliers(self.net, what) for what in ("lr_mult", "decay_mult"))
        self._memory = net._owned()
        self.blobs = tuple(
            LearnedBlob(weight, torch.from_numpy(blob.data), lr_mults[id(weight)], decay_mults[id(weight)])
            for weight, blob in zip(self.net.weights(), self._memory, strict=True)
        )
        self.refresh()

    def refresh(self) -> None:
        """Takes the memory that the blobs have now: a script may have let them share another net's."""
        for learned, blob in zip(self.blobs, self._memory, strict=True):
            learned.tensor.data = torch.from_numpy(blob.data)
            learned.tensor.grad = torch.from_numpy(blob.diff)

    def zero_grad(self) -> None:
        self.refresh()
        self.script.clear_param_diffs()
        for call in self.on_start:
            call()

    def __call__(self, batch: Mapping[str, Array], factors: Sequence[float] = ()) -> Pass:
        assert not factors, "of several processes none has a script"
        loss = self.script._forward(0, len(self.script.layers) - 1)
        outputs = {name: torch.from_numpy(self.script.blobs[name].data) for name in self.script.outputs}
        return Pass(_BackwardOf.apply(torch.zeros((), requires_grad=True), self.script, loss), outputs)  # type: ignore[no-untyped-call]

    def share(self, trained: TrainableNet) -> None:
        assert isinstance(trained, ScriptNet)
        self.script.share_with(trained.script)

    def trained_net(self) -> BuiltNet:
        return self.script._as_it_is()


class _BackwardOf(torch.autograd.Function):
    """A loss whose backward pass is that of the net that made it."""

    @staticmethod
    def forward(ctx: Any, start: Tensor, net: Net, loss: float) -> Tensor:
        ctx.net = net
        return torch.tensor(loss)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[None, None, None]:
        ctx.net._backward(len(ctx.net.layers) - 1, 0)
        return None, None, None
