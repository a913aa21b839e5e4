"""The seven rate policies."""

from __future__ import annotations

import math

import pytest

from caffe_port.errors import GraphError
from caffe_port.training.schedules import POLICIES, Policy, scheduler


def rates(policy: Policy, iterations: int) -> list[float]:
    step, found = 0, []
    for iteration in range(iterations):
        rate, step = policy.rate(iteration, step)
        found.append(rate)
    return found


@pytest.mark.parametrize(
    ("policy", "want"),
    [
        (Policy("fixed", 2), [2, 2, 2, 2]),
        (Policy("step", 2, gamma=0.5, stepsize=2), [2, 2, 1, 1]),
        (Policy("exp", 2, gamma=0.5), [2, 1, 0.5, 0.25]),
        (Policy("inv", 2, gamma=1, power=2), [2, 2 / 4, 2 / 9, 2 / 16]),
        (Policy("multistep", 2, gamma=0.5, stepvalue=(1, 3)), [2, 1, 1, 0.5]),
        # Equal values count one after the other.
        (Policy("multistep", 2, gamma=0.5, stepvalue=(1, 1)), [2, 1, 0.5, 0.5]),
        (Policy("poly", 2, power=2, max_iter=3), [2, 2 * 4 / 9, 2 / 9, 0]),
        (Policy("sigmoid", 2, gamma=-1, stepsize=1), [2 / (1 + math.exp(i)) for i in (-1, 0, 1, 2)]),
    ],
)
def test_rates(policy: Policy, want: list[float]) -> None:
    assert rates(policy, 4) == pytest.approx(want)
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=policy.base_lr)
    schedule = scheduler(optimizer, policy)
    for rate in want:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate)
        optimizer.step()
        schedule.step()
    # Resumed from its own state.
    again = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=policy.base_lr)
    resumed = scheduler(again, policy)
    resumed.load_state_dict(schedule.state_dict())
    again.load_state_dict(optimizer.state_dict())
    for one in (optimizer, again):
        one.step()
    schedule.step()
    resumed.step()
    assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_the_current_step() -> None:
    assert Policy("step", 1, gamma=0.5, stepsize=3).rate(11)[1] == 3
    assert Policy("multistep", 1, gamma=0.5, stepvalue=(2,)).rate(1, 0)[1] == 0
    assert Policy("exp", 1, gamma=0.5).rate(11, 7)[1] == 7


def test_extremes() -> None:
    assert Policy("sigmoid", 1, gamma=1, stepsize=10**6).rate(0)[0] == 0
    assert Policy("poly", 1, power=0.5, max_iter=2).rate(9)[0] == 0
    for bad in ({"name": "plateau"}, {"name": "step"}, {"name": "poly"}):
        with pytest.raises(GraphError):
            Policy(**{"base_lr": 1.0, **bad})
    assert len(POLICIES) == 7
