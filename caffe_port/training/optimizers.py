"""Caffe's solvers as torch.optim.Optimizers, with Caffe's rules, which are not PyTorch's.

The rate is inside SGD's momentum buffer; epsilon is added to the root of the uncorrected second moment; decay, clipping
and `iter_size` come in Caffe's order. Source: BVLC/caffe @ 9b89154, solvers/*.cpp.

    optimizer = SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

Each parameter group may have a `lr_mult` and a `decay_mult` of its own. One step:

    scale  = clip / norm of all gradients together, where that is larger than `clip_gradients`
    g      = gradient * scale / iter_size + weight_decay * decay_mult * (w, or sign(w) with regularization "L1")
    r      = lr * lr_mult
    w     -= the update that the class makes of g and r

A gradient that is None is one of zero, and tensors that need none (BatchNorm's statistics) may be among the parameters:
Caffe moves the history of every learned blob, also where its rate is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from caffe_port.errors import GraphError, WeightsError
from caffe_port.shapes import count, format_shape

__all__ = ["OPTIMIZERS", "SGD", "AdaDelta", "AdaGrad", "Adam", "CaffeOptimizer", "Nesterov", "RMSProp"]

State = list[Tensor]
"""The history of one blob: one tensor of its shape, or two."""


class CaffeOptimizer(torch.optim.Optimizer):
    """What all have in common.

    params: tensors, or groups {"params": …, "lr_mult": 1, "decay_mult": 1}. lr: the rate before `lr_mult`.
    regularization: "L2" or "L1". clip_gradients: the largest L2 norm of all gradients together, as they are summed over
    `iter_size` passes; negative for none. iter_size: how many backward passes the gradients are the sum of.
    Raises: GraphError for settings that Caffe refuses.
    """

    moments: ClassVar[int] = 1
    """How many tensors the history of a blob has."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        weight_decay: float = 0.0,
        regularization: str = "L2",
        clip_gradients: float = -1.0,
        iter_size: int = 1,
        **hyperparameters: float,
    ) -> None:
        if regularization not in ("L1", "L2"):
            raise GraphError(f"unknown regularization_type {regularization!r}; there are L1 and L2")
        if iter_size < 1:
            raise GraphError(f"iter_size must be at least 1, it is {iter_size}")
        self.regularization, self.clip_gradients, self.iter_size = regularization, clip_gradients, iter_size
        defaults = {"lr": lr, "lr_mult": 1.0, "decay_mult": 1.0, "weight_decay": weight_decay, **hyperparameters}
        super().__init__(params, defaults)

    def set_rate(self, lr: float) -> None:
        """Sets the rate of all groups; each multiplies it by its `lr_mult`."""
        for group in self.param_groups:
            group["lr"] = lr

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update. closure: computes the gradients again and returns the loss, as everywhere in PyTorch."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale = self._clip_scale() / self.iter_size
        for group in self.param_groups:
            decay = group["weight_decay"] * group["decay_mult"]
            rate = group["lr"] * group["lr_mult"]
            for blob in group["params"]:
                gradient = torch.zeros_like(blob) if blob.grad is None else blob.grad
                if scale != 1:
                    gradient = gradient * scale
                if decay:
                    gradient = gradient.add(blob.sign() if self.regularization == "L1" else blob, alpha=decay)
                history, step = self._state_of(blob)
                self._update(blob, gradient, rate, history, step, group)
                self.state[blob]["step"] = step
        return loss

    def _clip_scale(self) -> float:
        if self.clip_gradients < 0:
            return 1.0
        norm = self.gradient_norm()
        return self.clip_gradients / norm if norm > self.clip_gradients else 1.0

    def gradient_norm(self) -> float:
        """The L2 norm of all gradients together, as they are."""
        norms = [blob.grad.norm() for group in self.param_groups for blob in group["params"] if blob.grad is not None]
        return float(torch.stack(norms).norm()) if norms else 0.0

    def _state_of(self, blob: Tensor) -> tuple[State, int]:
        """The history of a blob, zeros at first, and the number of the step that is being made, from 1 on."""
        state = self.state[blob]
        if "history" not in state:
            state["history"] = [torch.zeros_like(blob, requires_grad=False) for _ in range(self.moments)]
            state["step"] = 0
        return state["history"], state["step"] + 1

    def _update(
        self, blob: Tensor, gradient: Tensor, rate: float, history: State, step: int, group: dict[str, Any]
    ) -> None:
        """Changes `blob` and its `history` in place. `gradient` may be the blob's own, and is not to be changed."""
        raise NotImplementedError

    def history(self) -> list[Tensor]:
        """The history in the order of Caffe's solverstate: one tensor a blob; of two moments the second ones behind."""
        blobs = [blob for group in self.param_groups for blob in group["params"]]
        return [self._state_of(blob)[0][moment] for moment in range(self.moments) for blob in blobs]

    @torch.no_grad()
    def load_history(self, history: Sequence[Tensor], step: int) -> None:
        """Takes over a history, in the order of `history()`, after `step` updates.

        Raises: WeightsError for another number of tensors, or of values in one.
        """
        blobs = [blob for group in self.param_groups for blob in group["params"]]
        if len(history) != self.moments * len(blobs):
            raise WeightsError(
                f"the history has {len(history)} blobs; {type(self).__name__} needs {self.moments * len(blobs)} "
                f"for {len(blobs)} learned blobs"
            )
        for index, values in enumerate(history):
            blob = blobs[index % len(blobs)]
            if values.numel() != blob.numel():
                raise WeightsError(
                    f"blob {index} of the history is {format_shape(tuple(values.shape))}, "
                    f"{count(tuple(blob.shape))} values are needed ({format_shape(tuple(blob.shape))})"
                )
            self._state_of(blob)[0][index // len(blobs)].copy_(values.reshape(blob.shape))
            self.state[blob]["step"] = step


class SGD(CaffeOptimizer):
    """h = momentum * h + r * g; w -= h."""

    def __init__(self, params: Any, lr: float, *, momentum: float = 0.0, **common: Any) -> None:
        super().__init__(params, lr, momentum=momentum, **common)

    def _update(
        self, blob: Tensor, gradient: Tensor, rate: float, history: State, step: int, group: dict[str, Any]
    ) -> None:
        blob.sub_(history[0].mul_(group["momentum"]).add_(gradient, alpha=rate))


class Nesterov(CaffeOptimizer):
    """h' = momentum * h + r * g; w -= (1 + momentum) * h' - momentum * h."""

    def __init__(self, params: Any, lr: float, *, momentum: float = 0.0, **common: Any) -> None:
        super().__init__(params, lr, momentum=momentum, **common)

    def _update(
        self, blob: Tensor, gradient: Tensor, rate: float, history: State, step: int, group: dict[str, Any]
    ) -> None:
        momentum = group["momentum"]
        blob.add_(history[0], alpha=momentum)
        blob.sub_(history[0].mul_(momentum).add_(gradient, alpha=rate), alpha=1 + momentum)


class AdaGrad(CaffeOptimizer):
    """h += g²; w -= r * g / (sqrt(h) + delta)."""

    def __init__(self, params: Any, lr: float, *, delta: float = 1e-8, **common: Any) -> None:
        super().__init__(params, lr, delta=delta, **common)

    def _update(
        self, blob: Tensor, gradient: Tensor, rate: float, history: State, step: int, group: dict[str, Any]
    ) -> None:
        history[0].addcmul_(gradient, gradient)
        blob.addcdiv_(gradient, history[0].sqrt().add_(group["delta"]), value=-rate)


class RMSProp(CaffeOptimizer):
    """h = rms_decay * h + (1 - rms_decay) * g²; w -= r * g / (sqrt(h) + delta). Raises: GraphError."""

    def __init__(self, params: Any, lr: float, *, rms_decay: float = 0.99, delta: float = 1e-8, **common: Any) -> None:
        if not 0 <= rms_decay < 1:
            raise GraphError(f"rms_decay must be at least 0 and less than 1, it is {rms_decay:g}")
        super().__init__(params, lr, rms_decay=rms_decay, delta=delta, **common)

    def _update(
        self, blob: Tensor, gradient: Tensor, rate: float, history: State, step: int, group: dict[str, Any]
    ) -> None:
        decay = group["rms_decay"]
        history[0].mul_(decay).addcmul_(gradient, gradient, value=1 - decay)
        blob.addcdiv_(gradient, history[0].sqrt().add_(group["delta"]), value=-rate)


class AdaDelta(CaffeOptimizer):
    """h1 = m * h1 + (1 - m) * g²; v = g * sqrt((h2 + delta) / (h1 + delta)); h2 = m * h2 + (1 - m) * v²; w -= r * v.

    m is the momentum.
    """

    moments = 2

    def __init__(self, params: Any, lr: float, *, momentum: float = 0.0, delta: float = 1e-8, **common: Any) -> None:
        super().__init__(params, lr, momentum=momentum, delta=delta, **common)

    def _update(
        self, blob: Tensor, gradient: Tensor, rate: float, history: State, step: int, group: dict[str, Any]
    ) -> None:
        momentum, delta = group["momentum"], group["delta"]
        squares, updates = history
        squares.mul_(momentum).addcmul_(gradient, gradient, value=1 - momentum)
        update = (updates + delta).div_(squares + delta).sqrt_().mul_(gradient)
        updates.mul_(momentum).addcmul_(update, update, value=1 - momentum)
        blob.sub_(update, alpha=rate)


class Adam(CaffeOptimizer):
    """m = b1 * m + (1 - b1) * g; v = b2 * v + (1 - b2) * g²; t the number of the step, from 1 on:

    w -= r * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + delta). b1 is momentum, b2 momentum2.
    """

    moments = 2

    def __init__(
        self,
        params: Any,
        lr: float,
        *,
        momentum: float = 0.0,
        momentum2: float = 0.999,
        delta: float = 1e-8,
        **common: Any,
    ) -> None:
        super().__init__(params, lr, momentum=momentum, momentum2=momentum2, delta=delta, **common)

    def _update(
        self, blob: Tensor, gradient: Tensor, rate: float, history: State, step: int, group: dict[str, Any]
    ) -> None:
        beta1, beta2 = group["momentum"], group["momentum2"]
        first, second = history
        first.mul_(beta1).add_(gradient, alpha=1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        correction = (1 - beta2**step) ** 0.5 / (1 - beta1**step)
        blob.addcdiv_(first, second.sqrt().add_(group["delta"]), value=-rate * correction)


OPTIMIZERS: dict[str, type[CaffeOptimizer]] = {
    one.__name__: one for one in (SGD, Nesterov, AdaGrad, RMSProp, AdaDelta, Adam)
}
"""By the `type` of a solver prototxt."""
