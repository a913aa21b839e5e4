"""Gradients of every recorded case, of bottoms and learned blobs, through PyTorch's autograd."""

from __future__ import annotations

import numpy as np
import pytest
from cases import all_cases, assert_agrees
from gradients import gradients

pytest.importorskip("torch")

CASES = sorted(name for name, case in all_cases().items() if case.grads)

TOLERANCE = 1e-4


def test_all_recorded_gradients_are_there() -> None:
    assert len(CASES) == 272


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str) -> None:
    case = all_cases()[name]
    assert case.grads is not None
    wanted = {key: value for key, value in case.grads.items() if not key.startswith("seed:")}
    found = gradients(case)
    assert wanted and set(wanted) <= set(found)
    for key, want in wanted.items():
        got = found[key]
        # No gradient at all is one of zero: Caffe has a diff for every blob.
        value = np.zeros_like(want) if got is None else got.reshape(want.shape)
        assert_agrees(value, want, key, TOLERANCE)
