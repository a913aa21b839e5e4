"""Files of reduced precision are held to a budget that can be missed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from small import CONV_NET, filled, inputs_of

from caffe_port.budget import BudgetReport, Case, expected_of, held_to
from caffe_port.errors import GraphError
from caffe_port.layers.base import Array


def case(values: list[float]) -> Case:
    return Case("one", {}, {"y": np.array(values, np.float32)})


def giving(values: list[float]) -> object:
    return lambda inputs: {"y": np.array(values, np.float32)}


@pytest.mark.parametrize(
    ("got", "ok", "largest"),
    [
        ([1.0, -4.0], True, 0.0),
        ([1.0, -4.03], True, 0.03),  # 0.75 % of 4
        ([1.0, -4.05], False, 0.05),  # 1.25 %
        ([1.05, -4.0], False, 0.05),  # a share of the output's largest magnitude, not of the value's own
        ([1.0, float("nan")], False, np.inf),
    ],
)
def test_the_budget_is_a_share_of_the_largest_magnitude(got: list[float], ok: bool, largest: float) -> None:
    report = held_to(0.01, "file", giving(got), [case([1.0, -4.0])])  # type: ignore[arg-type]
    assert report.ok is ok
    assert report.outputs[0].largest == pytest.approx(largest, abs=1e-6)
    assert ("FAILED" in report.explanation()) is not ok


def test_nothing_compared_is_no_success() -> None:
    assert not held_to(1.0, "file", giving([]), []).ok  # type: ignore[arg-type]
    assert not held_to(1.0, "file", giving([]), [case([])]).ok  # type: ignore[arg-type]
    assert not BudgetReport("file", (), 1.0, ()).ok


def test_an_output_of_another_size_is_an_error() -> None:
    with pytest.raises(GraphError, match="'y' has 1 values, the reference 2"):
        held_to(1.0, "file", giving([1.0]), [case([1.0, 2.0])])  # type: ignore[arg-type]


def test_what_is_right_is_the_float64_run() -> None:
    net = filled(CONV_NET)
    given = inputs_of(net)
    right = expected_of(net, "seeded", given)
    assert right.outputs["prob"].dtype == np.float64
    larger = expected_of(net, "more", {name: np.concatenate([x, x]) for name, x in given.items()})
    assert np.allclose(larger.outputs["prob"][:2], right.outputs["prob"], rtol=1e-12, atol=0)

    def perturbed(inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {"prob": right.outputs["prob"] + 1e-3}

    report = held_to(0.1, "file", perturbed, [right])
    assert report.outputs[0].mean == pytest.approx(1e-3)
    with pytest.raises(GraphError, match="no array for input data"):
        expected_of(net, "none", {})
