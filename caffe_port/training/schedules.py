"""Caffe's rate policies. Source: BVLC/caffe @ 9b89154, solvers/sgd_solver.cpp (GetLearningRate)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from caffe_port.errors import GraphError

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LambdaLR

__all__ = ["POLICIES", "Policy", "scheduler"]

POLICIES: dict[str, tuple[str, ...]] = {
    "fixed": (),
    "step": ("gamma", "stepsize"),
    "exp": ("gamma",),
    "inv": ("gamma", "power"),
    "multistep": ("gamma", "stepvalue"),
    "poly": ("power", "max_iter"),
    "sigmoid": ("gamma", "stepsize"),
}
"""The names of the policies, and the solver's fields that each looks at."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How the rate follows the iteration.

    name: one of POLICIES; the other fields are the solver's, and count where the policy looks at them.
    Raises: GraphError for an unknown policy, and for values that give no rate.
    """

    name: str
    base_lr: float
    gamma: float = 0.0
    power: float = 0.0
    stepsize: int = 0
    stepvalue: tuple[int, ...] = ()
    max_iter: int = 0

    def __post_init__(self) -> None:
        if self.name not in POLICIES:
            raise GraphError(f"unknown lr_policy {self.name!r}; known: {', '.join(POLICIES)}")
        if self.name == "step" and self.stepsize <= 0:
            raise GraphError("lr_policy step needs a positive stepsize")
        if self.name == "poly" and self.max_iter <= 0:
            raise GraphError("lr_policy poly needs a positive max_iter")

    def rate(self, iteration: int, current_step: int = 0) -> tuple[float, int]:
        """The rate of the update that makes iteration + 1 of `iteration` finished ones, and the new current step.

        current_step: what the call before gave, 0 at first. It is state: `multistep` advances it by at most one an
        iteration, so that equal step values count one after the other; `step` sets it; others leave it.
        """
        base, gamma = self.base_lr, self.gamma
        if self.name == "step":
            current_step = iteration // self.stepsize
            return base * gamma**current_step, current_step
        if self.name == "multistep":
            if current_step < len(self.stepvalue) and iteration >= self.stepvalue[current_step]:
                current_step += 1
            return base * gamma**current_step, current_step
        return self._closed(iteration), current_step

    def _closed(self, iteration: int) -> float:
        if self.name == "exp":
            return float(self.base_lr * self.gamma**iteration)
        if self.name == "inv":
            return float(self.base_lr * (1 + self.gamma * iteration) ** -self.power)
        if self.name == "poly":
            # Beyond max_iter there is nothing left.
            return float(self.base_lr * max(0.0, 1 - iteration / self.max_iter) ** self.power)
        if self.name == "sigmoid":
            exponent = -self.gamma * (iteration - self.stepsize)
            return self.base_lr / (1 + math.exp(exponent)) if exponent < 700 else 0.0
        return self.base_lr


def scheduler(optimizer: Optimizer, policy: Policy) -> LambdaLR:
    """The policy as a torch scheduler, for a loop of one's own: `step()` after each `optimizer.step()`.

    The optimizer's lr must be the policy's `base_lr`; it may be any optimizer of PyTorch.
    """
    from torch.optim.lr_scheduler import LambdaLR

    # The current step follows from the iteration, so it is no state to be saved.
    iteration, current_step, rate = -1, 0, policy.base_lr

    def factor(wanted: int) -> float:
        nonlocal iteration, current_step, rate
        if wanted < iteration:
            iteration, current_step = -1, 0
        while iteration < wanted:
            iteration += 1
            rate, current_step = policy.rate(iteration, current_step)
        return rate / policy.base_lr if policy.base_lr else 1.0

    return LambdaLR(optimizer, factor)
