"""Fillers: the documented distributions, and what Caffe refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from caffe_port.errors import CaffePortError, ShapeError, UnsupportedParameter
from caffe_port.fillers import FILLER_TYPES, Filler
from caffe_port.proto import schema

SHAPE = (40, 30, 9, 11)
FAN_IN, FAN_OUT = 30 * 9 * 11, 40 * 9 * 11


def message(**fields: Any) -> Any:
    made = schema.message("FillerParameter")
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def filled(shape: tuple[int, ...] = SHAPE, **fields: Any) -> np.ndarray:
    return Filler.parse(message(**fields)).fill(shape, np.random.default_rng(7), np.float64)


def test_nothing_given_is_the_default() -> None:
    assert (Filler.parse(None, default_fill=0.25).fill((3,), np.random.default_rng(0)) == 0.25).all()
    assert (filled((2, 3)) == 0).all()


def test_constant() -> None:
    assert (filled((2, 3), value=1.5) == 1.5).all()


def test_uniform() -> None:
    values = filled(type="uniform", min=-2, max=6)
    assert -2 <= values.min() < -1.99 and 5.99 < values.max() < 6
    assert abs(values.mean() - 2) < 0.02
    assert abs(values.std() - 8 / math.sqrt(12)) < 0.02


def test_gaussian() -> None:
    values = filled(type="gaussian", mean=3, std=0.5)
    assert abs(values.mean() - 3) < 0.01 and abs(values.std() - 0.5) < 0.01


def test_sparse_gaussian_keeps_sparse_values_of_dim_0() -> None:
    values = filled(type="gaussian", std=1, sparse=10)
    assert abs((values != 0).mean() - 10 / 40) < 0.01
    assert abs(values[values != 0].std() - 1) < 0.02
    assert (filled((4, 5), type="gaussian", sparse=0) == 0).all()


def test_positive_unitball() -> None:
    values = filled((5, 3, 4), type="positive_unitball")
    assert (values >= 0).all()
    np.testing.assert_allclose(values.sum(axis=(1, 2)), 1, atol=1e-12)


@pytest.mark.parametrize(("norm", "n"), [(0, FAN_IN), (1, FAN_OUT), (2, (FAN_IN + FAN_OUT) / 2)])
def test_xavier_and_msra(norm: int, n: float) -> None:
    bound = math.sqrt(3 / n)
    values = filled(type="xavier", variance_norm=norm)
    assert -bound <= values.min() < -0.99 * bound and 0.99 * bound < values.max() <= bound
    assert abs(filled(type="msra", variance_norm=norm).std() / math.sqrt(2 / n) - 1) < 0.01


def test_fan_out_of_one_axis_is_the_count() -> None:
    assert Filler.parse(message(type="xavier", variance_norm=1)).fan((12,)) == 12
    assert Filler.parse(message(type="xavier")).fan((12,)) == 1


def test_bilinear() -> None:
    """k = 4: f = 2, c = 3/4, so the weights along an axis are 1/4, 3/4, 3/4, 1/4."""
    values = filled((2, 1, 4, 4), type="bilinear")
    line = np.array([0.25, 0.75, 0.75, 0.25])
    np.testing.assert_allclose(values, np.broadcast_to(np.outer(line, line), (2, 1, 4, 4)))
    # k = 3: f = 2, c = 1/2: 1/2, 1, 1/2.
    line = np.array([0.5, 1, 0.5])
    np.testing.assert_allclose(filled((1, 2, 3, 3), type="bilinear")[0, 1], np.outer(line, line))


@pytest.mark.parametrize("kind", FILLER_TYPES)
def test_the_same_seed_gives_the_same_blob(kind: str) -> None:
    filler = Filler.parse(message(type=kind))
    first, again = (filler.fill((2, 3, 4, 4), np.random.default_rng(3)) for _ in range(2))
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    other = filler.fill((2, 3, 4, 4), np.random.default_rng(4))
    assert filler.is_random == (not np.array_equal(first, other))


@pytest.mark.parametrize(
    ("fields", "shape", "kind", "words"),
    [
        ({"type": "orthogonal"}, (2, 3), UnsupportedParameter, "unknown filler 'orthogonal'"),
        ({"type": "xavier", "sparse": 1}, (2, 3), UnsupportedParameter, "sparse"),
        ({"sparse": 1}, (2, 3), UnsupportedParameter, "sparse"),
        ({"type": "bilinear"}, (2, 3, 4, 5), ShapeError, "square"),
        ({"type": "bilinear"}, (4, 4), ShapeError, "4 axes"),
        ({"type": "xavier"}, (), ShapeError, "1 axis"),
        ({"value": 1}, (0, 3), ShapeError, "values"),
    ],
)
def test_refused(fields: dict[str, Any], shape: tuple[int, ...], kind: type[CaffePortError], words: str) -> None:
    with pytest.raises(kind, match=words):
        filled(shape, **fields)
