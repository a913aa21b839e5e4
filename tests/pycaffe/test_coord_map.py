"""caffe.coord_map: maps between the tops of a NetSpec, and the Crop that aligns them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from caffe_port.errors import CaffePortError, UnsupportedParameter
from caffe_port.netspec import NetSpec
from caffe_port.netspec import layers as L  # noqa: N812
from caffe_port.netspec import params as P  # noqa: N812
from caffe_port.proto import text
from caffe_port.pycaffe.coord_map import (
    AxisMismatchException,
    UndefinedMapException,
    compose,
    coord_map,
    coord_map_from_to,
    crop,
    inverse,
)


def upsampling(
    kernel: Any = 3, stride: Any = 1, pad: Any = 0, pool: int = 2, factor: int = 2, cut: int = 0, dims: int = 2
) -> NetSpec:
    """data → conv → pool → deconv."""
    n = NetSpec()
    n.data = L.Input(shape={"dim": [2, 1, *[100] * dims]})
    n.aux = L.Input(shape={"dim": [2, 1, 20, 20]})
    n.conv = L.Convolution(n.data, num_output=10, kernel_size=kernel, stride=stride, pad=pad)
    n.pool = L.Pooling(n.conv, pool=P.Pooling.MAX, kernel_size=pool, stride=pool)
    up = {"num_output": 10, "kernel_size": 2 * factor, "stride": factor, "pad": cut}
    n.deconv = L.Deconvolution(n.pool, convolution_param=up)
    return n


def mapped(n: NetSpec, top: str = "deconv") -> tuple[Any, Any, Any]:
    return coord_map_from_to(n[top], n.data)


@pytest.mark.parametrize(("factor", "shift"), [(2, 0), (4, -1)])
def test_pooling_and_deconvolution_of_one_factor_cancel_but_for_a_shift(factor: int, shift: int) -> None:
    assert mapped(upsampling(pool=factor, factor=factor)) == (1, 1, shift)


def test_scale_and_shift_against_the_window_of_a_unit() -> None:
    """Where the centre of each window of a convolution lies: at stride * i - pad + (extent - 1) / 2 of its bottom."""
    n = upsampling()
    n.strided = L.Convolution(n.data, num_output=1, kernel_size=5, stride=3, pad=2, dilation=2)
    axis, scale, shift = coord_map_from_to(n.strided, n.data)
    centre = [3 * i - 2 + (2 * 4 + 1 - 1) / 2 for i in range(4)]
    # The map goes from the coordinates of the second top to those of the first, inverted.
    assert axis == 1
    assert [float(scale[0] * i + shift[0]) for i in range(4)] == pytest.approx(centre)
    back = inverse((axis, scale, shift))
    assert compose(back, (axis, scale, shift)) == (1, 1, pytest.approx(0))


def test_layers_of_single_points_keep_coordinates() -> None:
    n = upsampling()
    n.relu = L.ReLU(n.deconv)
    n.point = L.Convolution(n.relu, num_output=10, kernel_size=1)
    for name in ("relu", "point"):
        assert mapped(n, name) == mapped(n)


@pytest.mark.parametrize("pad", [0, 1, 7, 10])
def test_padding(pad: int) -> None:
    """That of a convolution moves one way, that of a deconvolution the other."""
    axis, scale, shift = mapped(upsampling())
    assert mapped(upsampling(pad=pad)) == (axis, scale, shift - pad)
    assert mapped(upsampling(cut=pad)) == (axis, scale, shift + pad)
    assert mapped(upsampling(pad=pad, cut=pad)) == (axis, scale, shift)


def test_all_bottoms_of_a_layer_are_mapped_alike() -> None:
    n = upsampling()
    n.first, n.second = L.Convolution(n.data, n.aux, ntop=2, num_output=10, kernel_size=5, stride=2)
    assert coord_map_from_to(n.first, n.data) == coord_map_from_to(n.second, n.aux)


def test_axes_are_mapped_each_by_itself() -> None:
    tall, wide = mapped(upsampling(3, 1, 0)), mapped(upsampling(5, 2, 10))
    axis, scale, shift = mapped(upsampling([3, 5], [1, 2], [0, 10]))
    assert axis == tall[0] == wide[0] == 1
    assert [*scale] == [tall[1], wide[1]]
    assert [*shift] == [tall[2], wide[2]]


def test_more_axes() -> None:
    axis, scale, shift = mapped(upsampling([3, 3, 3], [1, 1, 1], [0, 1, 2], dims=3))
    assert axis == 1
    assert scale.tolist() == [1, 1, 1]
    assert (shift[0] - 1, shift[1] - 1) == (shift[1], shift[2])


@pytest.mark.parametrize("offset", [0, 3])
def test_a_crop_shifts_and_its_second_bottom_is_not_followed(offset: int) -> None:
    n = upsampling()
    n.crop = L.Crop(n.deconv, n.aux, axis=2, offset=offset)
    axis, scale, shift = mapped(n)
    assert mapped(n, "crop") == (axis, scale, shift + offset)
    with pytest.raises(RuntimeError):
        coord_map_from_to(n.crop, n.aux)


def test_crop_makes_the_layer() -> None:
    n = upsampling(pool=4, factor=4)
    n.score = crop(n.deconv, n.data)
    layer = n.to_proto().layer[-1]
    assert (layer.type, list(layer.bottom), list(layer.top)) == ("Crop", ["deconv", "data"], ["score"])
    assert (layer.crop_param.axis, list(layer.crop_param.offset)) == (2, [1])
    assert "offset: 1" in text.dumps(n.to_proto())


def refused(kind: type[Exception], n: NetSpec, message: str) -> None:
    with pytest.raises(kind, match=message) as raised:
        crop(n.deconv, n.data)
    assert isinstance(raised.value, CaffePortError)


def test_what_no_crop_aligns() -> None:
    refused(AssertionError, upsampling(pool=3, factor=2), "scale mismatch")
    refused(AssertionError, upsampling(cut=10), "negative width")
    refused(AssertionError, upsampling(kernel=4, pool=4, factor=4), "noninteger width")
    n = upsampling()
    n.relu = L.ReLU(n.data)
    with pytest.raises(AssertionError, match="spatial"):
        crop(n.relu, n.data)


def test_tops_that_nothing_connects() -> None:
    n = upsampling()
    n.ip = L.InnerProduct(n.deconv, num_output=10)
    with pytest.raises(RuntimeError, match="connect"):
        coord_map_from_to(n.ip, n.data)
    with pytest.raises(UndefinedMapException, match="InnerProduct"):
        coord_map(n.ip.fn)


def test_maps_of_different_axes() -> None:
    n = upsampling()
    n.deep = L.Convolution(n.conv, num_output=1, kernel_size=3, axis=2)
    with pytest.raises(AxisMismatchException, match="axis 2"):
        coord_map_from_to(n.deep, n.data)
    assert compose((None, 1, 0), (2, 3, 4)) == (2, 3, 4)
    assert compose((2, 3, 4), (None, 1, 0)) == (2, 3, 4)


def test_parameters_that_no_map_is_made_of() -> None:
    n = upsampling()
    n.tall = L.Convolution(n.data, num_output=1, kernel_h=3, kernel_w=5)
    with pytest.raises(UnsupportedParameter, match="kernel_h, kernel_w"):
        coord_map_from_to(n.tall, n.data)
    n.whole = L.Pooling(n.data, global_pooling=True)
    with pytest.raises(AssertionError, match="kernel_size"):
        coord_map_from_to(n.whole, n.data)


def test_a_long_chain_of_forks_is_walked_once() -> None:
    """Each sum reads its bottom twice: 2 ** 40 ways lead to the data."""
    n = NetSpec()
    n.data = top = L.Input(shape={"dim": [1, 1, 9, 9]})
    for _ in range(40):
        top = L.Eltwise(top, top)
    n.conv = L.Convolution(top, num_output=1, kernel_size=3, pad=1)
    axis, scale, shift = coord_map_from_to(n.conv, n.data)
    assert (axis, np.ravel(scale).tolist(), np.ravel(shift).tolist()) == (1, [1], [0])
