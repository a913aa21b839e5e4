"""Gradients of every recorded case, of bottoms and learned blobs, through PyTorch's autograd."""

from __future__ import annotations

import pytest
from cases import all_cases
from gradients import assert_gradients

pytest.importorskip("torch")

CASES = sorted(name for name, case in all_cases().items() if case.grads)

TOLERANCE = 1e-4


def test_all_recorded_gradients_are_there() -> None:
    assert len(CASES) == 272


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str) -> None:
    assert_gradients(all_cases()[name], TOLERANCE)
