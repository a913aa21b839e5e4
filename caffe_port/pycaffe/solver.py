"""Solvers: Caffe's training loop around nets that scripts can read and write between its steps.

Loop, update rules, rates and snapshots are those of `caffe_port.training`; the passes are the nets' own, so what a
script sees of blobs, callbacks and Python layers is as in `Net.forward` and `Net.backward`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from caffe_port.proto import text, upgrade
from caffe_port.pycaffe.errors import FileError
from caffe_port.pycaffe.net import Net
from caffe_port.training.settings import read_settings

if TYPE_CHECKING:
    from caffe_port.pycaffe.solver_loop import SolverLoop

__all__ = [
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "NesterovSolver",
    "RMSPropSolver",
    "SGDSolver",
    "Solver",
    "get_solver",
]


class Solver:
    """A solver as pycaffe has it, made of the path of its prototxt; paths in it are relative to the working directory.

    `net` and `test_nets` are Nets that are read and changed between steps: a step begins with what stands in
    `net.params` then. After it a learned blob's `diff` is what was taken off its `data`, as in Caffe. `param` is the
    SolverParameter; of it `base_lr`, `max_iter` and `display` may be changed at any time.
    Raises: FileError for a file that is not there; TrainingError and what else `caffe_port.training` raises; what `Net`
    does; MissingDependency without torch.
    """

    type: ClassVar[str] = ""
    """The rule of the class, whatever the prototxt says; "" for the one that it says."""

    def __init__(self, param_file: str | os.PathLike[str]) -> None:
        if not Path(param_file).is_file():
            raise FileError(f"Could not open file {os.fspath(param_file)}")
        message, where = text.read(param_file, "SolverParameter")
        self.param = upgrade.upgrade_solver(message, where)
        from caffe_port.optional import require_torch

        require_torch()
        from caffe_port.pycaffe.solver_loop import SolverLoop

        self._loop: SolverLoop = SolverLoop(read_settings(param_file, kind=self.type or None))

    @property
    def net(self) -> Net:
        return self._loop.script_nets[0]

    @property
    def test_nets(self) -> list[Net]:
        return self._loop.script_nets[1:]

    @property
    def iter(self) -> int:
        """How many updates were made."""
        return self._loop.iteration

    @property
    def max_iter(self) -> int:
        return int(self.param.max_iter)

    def step(self, iterations: int) -> None:
        """Makes so many iterations, with the tests, the display and the snapshots between them.

        Raises: TrainingError for a loss that is no number; what the nets raise.
        """
        self._renew_settings()
        self._loop.step(iterations)

    def solve(self, resume_file: str | os.PathLike[str] | None = None) -> None:
        """Trains up to max_iter, from a .solverstate if one is given. Raises: as `step` and `restore`."""
        if resume_file is not None:
            self.restore(resume_file)
        self._renew_settings()
        self._loop.solve()

    def restore(self, state_file: str | os.PathLike[str]) -> None:
        """Takes over the iteration, the history and the weights of a .solverstate (.h5), of Caffe's or of ours.

        The data go on where they are, as in Caffe. Raises: FileError; WeightsError.
        """
        if not Path(state_file).is_file():
            raise FileError(f"Could not open file {os.fspath(state_file)}")
        self._loop.restore(state_file)

    def snapshot(self) -> None:
        """Writes the weights and the solver's state under `snapshot_prefix`. Raises: as `Snapshots.write`."""
        self._loop.snapshot()

    def apply_update(self) -> None:
        """Makes an update of the gradients that stand in `net.params`, which counts as an iteration."""
        self._renew_settings()
        self._loop.apply_update()

    def add_callback(self, on_start: Callable[[], object], on_gradients: Callable[[], object]) -> None:
        """Has `on_start` called when an iteration begins, and `on_gradients` when its gradients are there."""
        self._loop.train.on_start.append(on_start)

        def call(_: object) -> None:
            on_gradients()

        self._loop.on_gradients.append(call)

    def share_weights(self, net: Net) -> None:
        """Gives a net the memory of this one's learned blobs, by layer name. Raises: as `Net.share_with`."""
        net.share_with(self.net)

    def _renew_settings(self) -> None:
        settings, param = self._loop.settings, self.param
        policy = replace(settings.policy, base_lr=param.base_lr, max_iter=param.max_iter)
        self._loop.settings = replace(settings, policy=policy, max_iter=param.max_iter, display=param.display)


class SGDSolver(Solver):
    """Stochastic gradient descent with momentum. See Solver."""

    type = "SGD"


class NesterovSolver(Solver):
    """Nesterov's accelerated gradient. See Solver."""

    type = "Nesterov"


class AdaGradSolver(Solver):
    """AdaGrad. See Solver."""

    type = "AdaGrad"


class RMSPropSolver(Solver):
    """RMSProp. See Solver."""

    type = "RMSProp"


class AdaDeltaSolver(Solver):
    """AdaDelta. See Solver."""

    type = "AdaDelta"


class AdamSolver(Solver):
    """Adam. See Solver."""

    type = "Adam"


_CLASSES = {
    one.type: one for one in (SGDSolver, NesterovSolver, AdaGradSolver, RMSPropSolver, AdaDeltaSolver, AdamSolver)
}


def get_solver(param_file: str | os.PathLike[str]) -> Solver:
    """The solver of the class that the prototxt names. Raises: as Solver."""
    if not Path(param_file).is_file():
        raise FileError(f"Could not open file {os.fspath(param_file)}")
    message, where = text.read(param_file, "SolverParameter")
    # One that nobody knows is told by reading the settings.
    return _CLASSES.get(upgrade.upgrade_solver(message, where).type, Solver)(param_file)
