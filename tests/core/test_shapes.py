"""Caffe's arithmetic of shapes, against numbers worked out by hand from Caffe's formulas."""

from __future__ import annotations

import pytest

from caffe_port.errors import ShapeError
from caffe_port.shapes import (
    UNKNOWN,
    canonical_axis,
    check_shape,
    conv_output,
    count,
    deconv_output,
    format_shape,
    legacy_dim,
    pool_output,
)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad", "dilation", "output"),
    [
        (224, 7, 2, 3, 1, 112),  # (224 + 6 - 7) / 2 = 111.5 -> 111, + 1
        (11, 3, 1, 0, 2, 7),  # the kernel reaches over 2 * 2 + 1 = 5 cells: 6 + 1
        (9, 4, 3, 2, 3, 2),  # 3 * 3 + 1 = 10 cells: (9 + 4 - 10) / 3 = 1, + 1
        (5, 5, 4, 0, 1, 1),
        # C's division truncates toward zero where Python's rounds down:
        (6, 7, 2, 0, 1, 1),  # -1 / 2 = 0, + 1
        (5, 7, 3, 0, 1, 1),  # -2 / 3 = 0, + 1
        (4, 7, 2, 0, 1, 0),  # -3 / 2 = -1, + 1
        (5, 7, 2, 0, 1, 0),  # -2 / 2 = -1, + 1
        (1, 7, 2, 0, 1, -2),  # -6 / 2 = -3, + 1
        (6, 7, 1, 0, 1, 0),  # -1 / 1 = -1, + 1
    ],
)
def test_convolution(size: int, kernel: int, stride: int, pad: int, dilation: int, output: int) -> None:
    assert conv_output(size, kernel, stride, pad, dilation) == output


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad", "dilation", "output"),
    [
        (4, 3, 2, 1, 1, 7),  # 2 * 3 + 2 + 1 - 2
        (5, 4, 3, 0, 1, 16),  # 3 * 4 + 3 + 1
        (5, 3, 1, 2, 4, 9),  # 4 + 4 * 2 + 1 - 4
        (1, 2, 7, 1, 1, 0),  # 0 + 1 + 1 - 2
    ],
)
def test_deconvolution(size: int, kernel: int, stride: int, pad: int, dilation: int, output: int) -> None:
    assert deconv_output(size, kernel, stride, pad, dilation) == output


def test_a_kernel_is_not_dilated_unless_that_is_said() -> None:
    assert conv_output(9, 3, 2, 1) == conv_output(9, 3, 2, 1, 1) == 5
    assert deconv_output(5, 3, 2, 1) == deconv_output(5, 3, 2, 1, 1) == 9


def test_deconvolution_undoes_convolution() -> None:
    """Where the convolution's division leaves no rest."""
    for kernel, stride, pad, dilation, output in [(3, 2, 1, 1, 6), (5, 3, 2, 2, 4), (2, 1, 0, 3, 9)]:
        size = deconv_output(output, kernel, stride, pad, dilation)
        assert conv_output(size, kernel, stride, pad, dilation) == output


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad", "clip", "ceil", "floor"),
    [
        (112, 3, 2, 0, False, 56, 55),  # 109 / 2 = 54.5
        (7, 3, 2, 0, False, 3, 3),  # 4 / 2 = 2 exactly
        (6, 3, 2, 1, True, 4, 3),  # 5 / 2 = 2.5: 4, whose last window starts at 6 < 6 + 1, so it stays
        (5, 2, 2, 1, True, 3, 3),  # 5 / 2 = 2.5: 4, whose last window would start at 6 >= 5 + 1, so it goes
        (6, 1, 4, 0, False, 3, 2),  # 5 / 4 = 1.25: 3, the last window wholly outside; no pad, so it stays
        (6, 1, 4, 0, True, 2, 2),  # the other axis is padded: 8 >= 6, so it goes
        (5, 3, 5, 1, True, 2, 1),  # 4 / 5 = 0.8: 2, whose last window starts at 5 < 5 + 1, so it stays
        (2, 5, 2, 0, False, 0, -1),  # -3 / 2 = -1.5
        (8, 8, 1, 0, False, 1, 1),
    ],
)
def test_pooling(size: int, kernel: int, stride: int, pad: int, clip: bool, ceil: int, floor: int) -> None:
    assert pool_output(size, kernel, stride, pad, clip=clip) == ceil
    assert pool_output(size, kernel, stride, pad, clip=clip, floor=True) == floor


def test_how_pooling_rounds_is_said_by_name() -> None:
    """Two flags behind four numbers: nobody sees which is which."""
    with pytest.raises(TypeError):
        pool_output(6, 3, 2, 1, True, True)  # type: ignore[misc]


def test_canonical_axis() -> None:
    assert [canonical_axis(axis, 4) for axis in (0, 3, -1, -4)] == [0, 3, 3, 0]


@pytest.mark.parametrize(("axis", "axes"), [(4, 4), (7, 4), (-5, 4), (0, 0), (-1, 0)])
def test_canonical_axis_out_of_range(axis: int, axes: int) -> None:
    with pytest.raises(ShapeError, match=rf"axis {axis} .*{axes} axes"):
        canonical_axis(axis, axes)


def test_count() -> None:
    assert count((2, 3, 5, 7)) == 210
    assert count((2, 3, 5, 7), 1) == 105
    assert count((2, 3, 5, 7), 1, 3) == 15
    assert count((2, 3), 2) == count(()) == 1
    assert count((2, 0, 5)) == 0
    assert count(UNKNOWN) == 0


def test_format_shape() -> None:
    assert format_shape((1, 3, 224, 225)) == "1x3x224x225"
    assert format_shape(()) == "()"
    assert format_shape(UNKNOWN) == "?"


def test_legacy_dim() -> None:
    assert [legacy_dim((2, 3), axis) for axis in range(4)] == [2, 3, 1, 1]
    assert legacy_dim((2, 3, 5, 7), 3) == 7
    with pytest.raises(ShapeError, match="5 axes"):
        legacy_dim((1, 2, 3, 4, 5), 0)


def test_check_shape() -> None:
    assert check_shape([2, 0, 3]) == (2, 0, 3)
    assert check_shape((1,) * 32) == (1,) * 32
    assert check_shape((2**31 - 1,)) == (2**31 - 1,)
    with pytest.raises(ShapeError, match="33 axes"):
        check_shape((1,) * 33)
    with pytest.raises(ShapeError, match="negative"):
        check_shape((2, -1))
    with pytest.raises(ShapeError, match="elements"):
        check_shape((2**16, 2**15))
