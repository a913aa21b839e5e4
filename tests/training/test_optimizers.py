"""Caffe's update rules, worked out by hand in float64; tests/training/test_recorded_runs.py has what Caffe computed."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from caffe_port.errors import GraphError, WeightsError
from caffe_port.training import optimizers, settings


def steps(kind: str, gradients: list[float], start: float = 1.0, **options: Any) -> list[float]:
    """What a single weight is after each gradient."""
    weight = torch.nn.Parameter(torch.tensor([start], dtype=torch.float64))
    optimizer = optimizers.OPTIMIZERS[kind]([weight], **{"lr": 0.1, **options})
    found = []
    for gradient in gradients:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        found.append(weight.item())
    return found


def test_the_rate_is_inside_the_momentum() -> None:
    # h = 0.1 * 2 = 0.2; then 0.9 * 0.2 + 0.1 * 1 = 0.28.
    assert steps("SGD", [2, 1], momentum=0.9) == pytest.approx([0.8, 0.52])
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = optimizers.SGD([weight], lr=0.1, momentum=0.9)
    weight.grad = torch.tensor([2.0])
    optimizer.step()
    # With another rate the buffer keeps the old one: PyTorch's would give 0.9 * 2 + 1 = 2.8, times 0.01.
    optimizer.set_rate(0.01)
    weight.grad = torch.tensor([1.0])
    optimizer.step()
    assert weight.item() == pytest.approx(0.8 - (0.18 + 0.01))


def test_nesterov() -> None:
    # h1 = 0.2, u = 1.9 * 0.2 = 0.38; h2 = 0.28, u = 1.9 * 0.28 - 0.9 * 0.2 = 0.352.
    assert steps("Nesterov", [2, 1], momentum=0.9) == pytest.approx([0.62, 0.268])


def test_adagrad_and_rmsprop() -> None:
    # h = 4, 5.
    assert steps("AdaGrad", [2, 1], delta=1) == pytest.approx([1 - 0.2 / 3, 1 - 0.2 / 3 - 0.1 / (math.sqrt(5) + 1)])
    # h = 0.1 * 4 = 0.4; 0.36 + 0.1 = 0.46.
    first = 1 - 0.2 / (math.sqrt(0.4) + 1)
    want = [first, first - 0.1 / (math.sqrt(0.46) + 1)]
    assert steps("RMSProp", [2, 1], delta=1, rms_decay=0.9) == pytest.approx(want)


def test_adadelta() -> None:
    # h1 = 0.1 * 4 = 0.4, v = 2 * sqrt(1 / 1.4), h2 = 0.1 * v².
    v = 2 * math.sqrt(1 / 1.4)
    second = math.sqrt((0.1 * v * v + 1) / (0.36 + 0.1 + 1))
    want = [1 - 0.1 * v, 1 - 0.1 * v - 0.1 * second]
    assert steps("AdaDelta", [2, 1], delta=1, momentum=0.9) == pytest.approx(want)


def test_adam_adds_epsilon_to_the_uncorrected_root() -> None:
    # m = 0.2, v = 0.004; u = 0.1 * sqrt(0.001) / 0.1 * 0.2 / (sqrt(0.004) + 1).
    want = 1 - 0.1 * math.sqrt(0.001) / 0.1 * 0.2 / (math.sqrt(0.004) + 1)
    assert steps("Adam", [2], delta=1, momentum=0.9, momentum2=0.999) == pytest.approx([want])


def test_decay_and_multipliers() -> None:
    # L2: g = 2 + 0.5 * 0.5 * 3; L1: g = 2 + 0.5 * 0.5 * sign. Rate 0.1 * 3.
    for regularization, decay in (("L2", 0.25 * -3.0), ("L1", -0.25)):
        weight = torch.nn.Parameter(torch.tensor([-3.0, 0.0]))
        group = {"params": [weight], "lr_mult": 3.0, "decay_mult": 0.5}
        optimizer = optimizers.SGD([group], lr=0.1, weight_decay=0.5, regularization=regularization)
        weight.grad = torch.tensor([2.0, 2.0])
        optimizer.step()
        assert weight.tolist() == pytest.approx([-3 - 0.3 * (2 + decay), -0.6])


def test_clipping_is_of_the_sum_before_iter_size_and_decay() -> None:
    first, second = (torch.nn.Parameter(torch.tensor([1.0])) for _ in range(2))
    optimizer = optimizers.SGD([first, second], lr=1.0, clip_gradients=1, iter_size=2, weight_decay=0.5)
    first.grad, second.grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert optimizer.gradient_norm() == pytest.approx(5)
    optimizer.step()
    # 3 / 5 / 2 + 0.5 and 4 / 5 / 2 + 0.5.
    assert [first.item(), second.item()] == pytest.approx([1 - 0.8, 1 - 0.9])
    assert first.grad.tolist() == [3], "the gradient is the caller's"


def test_no_gradient_is_one_of_zero() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = optimizers.SGD([weight], lr=0.1, momentum=0.5)
    weight.grad = torch.tensor([2.0])
    optimizer.step()
    optimizer.zero_grad()
    optimizer.step()
    assert weight.item() == pytest.approx(1 - 0.2 - 0.1)


@pytest.mark.parametrize("kind", optimizers.OPTIMIZERS)
def test_state_is_saved_and_loaded(kind: str) -> None:
    torch.manual_seed(0)

    def made() -> tuple[Any, Any]:
        blobs = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(4))]
        return blobs, optimizers.OPTIMIZERS[kind](blobs, lr=0.1)

    gradients = [[torch.randn(2, 3), torch.randn(4)] for _ in range(4)]

    def run(blobs: Any, optimizer: Any, which: Any) -> None:
        for pair in which:
            for blob, gradient in zip(blobs, pair, strict=True):
                blob.grad = gradient.clone()
            optimizer.step()

    whole, optimizer = made()
    run(whole, optimizer, gradients[:2])
    saved, history = copy.deepcopy(optimizer.state_dict()), [tensor.clone() for tensor in optimizer.history()]
    assert len(history) == 2 * optimizer.moments
    middle = [blob.detach().clone() for blob in whole]
    run(whole, optimizer, gradients[2:])
    for load in (lambda o: o.load_state_dict(saved), lambda o: o.load_history(history, 2)):
        blobs, resumed = made()
        load(resumed)
        with torch.no_grad():
            for blob, value in zip(blobs, middle, strict=True):
                blob.copy_(value)
        run(blobs, resumed, gradients[2:])
        assert all(torch.equal(a, b) for a, b in zip(blobs, whole, strict=True))
    with pytest.raises(WeightsError, match="the history has 1 blobs"):
        made()[1].load_history(history[:1], 2)
    with pytest.raises(WeightsError, match=r"blob 0 of the history is 4, 6 values are needed \(2x3\)"):
        made()[1].load_history(history[::-1], 2)


def test_what_caffe_refuses() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    for options in ({"rms_decay": 1.0}, {"regularization": "L3"}, {"iter_size": 0}):
        with pytest.raises(GraphError):
            optimizers.RMSProp([weight], lr=0.1, **options)


def test_every_type_of_the_solver_is_there() -> None:
    assert set(optimizers.OPTIMIZERS) == set(settings.SOLVER_TYPES)
