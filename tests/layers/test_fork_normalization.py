"""Forks' kinds of batch normalization, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from everywhere import everywhere, layer
from numpy.typing import NDArray
from small import built, one_input

SEGNET = "bn_param { scale_filler { } shift_filler { } bn_mode: INFERENCE }"


def test_bn_of_segnet() -> None:
    x = {"x": [1, 3, 5, 7, 2, 2, 4, 4]}
    net = one_input(1, 2, 2, 2)
    (y,) = everywhere(net + layer("BN", SEGNET), x, [[2, 3], [1, -1]]).values()
    assert y.tolist() == [[[[3, 7], [11, 15]], [[5, 5], [11, 11]]]]
    # LEARN: the batch's mean 4 and 3, its variance 5 and 1.
    learn = SEGNET.replace("INFERENCE", "LEARN")
    tops = everywhere(net + layer("BN", learn, tops="y mean variance"), x, [[2, 3], [1, -1]])
    assert np.allclose(tops["mean"].ravel(), [4, 3]) and np.allclose(tops["variance"].ravel(), [5, 1])
    assert tops["mean"].shape == tops["variance"].shape == (1, 2, 1, 1)
    assert np.allclose(tops["y"][0, 0].ravel(), 1 + 2 * np.array([-3, -1, 1, 3]) / np.sqrt(5))
    assert np.allclose(tops["y"][0, 1].ravel(), [-4, -4, 2, 2])


PSPNET = "bn_param { slope_filler { value: 1 } bias_filler { } momentum: 0.75 eps: 0.25 }"


def test_bn_of_pspnet() -> None:
    net = one_input(1, 2, 1, 2) + layer("BN", PSPNET)
    weights = [[2, 3], [1, -1], [1, 2], [0.75, 3.75]]
    (y,) = everywhere(net, {"x": [1, 3, 2, 6]}, weights).values()
    # (x - mean) / sqrt(var + 1/4): the roots are 1 and 2.
    assert y.tolist() == [[[[1, 5]], [[-1, 5]]]]
    frozen = PSPNET.replace("momentum", "frozen: true momentum")
    trained = everywhere(net.replace(PSPNET, frozen), {"x": [1, 3, 2, 6]}, weights, phase="TRAIN")["y"]
    assert np.array_equal(trained, y)


def test_bn_of_pspnet_moves_its_averages() -> None:
    from caffe_port.runtime import run_layers

    net = built(one_input(1, 1, 1, 2) + layer("BN", PSPNET), phase="TRAIN")
    net = net.with_weights({"L": [np.full((1, 1), value, np.float32) for value in (1, 0, 8, 16)]})
    moved: dict[str, dict[int, NDArray[Any]]] = {}
    for _ in run_layers(net, {"x": np.array([[[[1.0, 5.0]]]], np.float32)}, new_weights=moved):
        pass
    # 0.75 * 8 + 0.25 * 3 and 0.75 * 16 + 0.25 * 4
    assert moved["L"][2].ravel() == 6.75 and moved["L"][3].ravel() == 13


def test_bn_of_ctpn_uses_its_averages_if_told() -> None:
    net = one_input(1, 1, 1, 2) + layer("BN", "bn_param { var_eps: 1 decay: 0.5 moving_average: true }")
    weights = [[2], [1], [1], [8]]
    (y,) = everywhere(net, {"x": [1, 4]}, weights).values()
    assert y.tolist() == [[[[1, 3]]]]
    # Without moving_average the batch's: mean 2.5, variance 2.25.
    (y,) = everywhere(net.replace("moving_average: true", "moving_average: false"), {"x": [1, 4]}, weights).values()
    assert np.allclose(y.ravel(), 1 + 2 * np.array([-1.5, 1.5]) / np.sqrt(3.25))


SCALED = "batch_norm_param { scale_bias: true eps: 0.25 }"


def test_batch_norm_of_nvidia() -> None:
    net = one_input(1, 2, 1, 2) + layer("BatchNorm", SCALED)
    # Stored sums of factor 2: means 1 and 2, variances 0.75 and 3.75.
    weights = [[2, 4], [1.5, 7.5], [2], [2, 3], [1, -1]]
    (y,) = everywhere(net, {"x": [1, 3, 2, 6]}, weights).values()
    assert y.tolist() == [[[[1, 5]], [[-1, 5]]]]
    without = layer("BatchNorm", "batch_norm_param { scale_bias: false eps: 0.25 }")
    (y,) = everywhere(one_input(1, 2, 1, 2) + without, {"x": [1, 3, 2, 6]}, weights[:3]).values()
    assert y.tolist() == [[[[0, 2]], [[0, 2]]]]
    (y,) = everywhere(net, {"x": [1, 3, 2, 6]}, weights, phase="TRAIN").values()
    assert np.allclose(
        y.ravel(), [1 - 2 / np.sqrt(1.25), 1 + 2 / np.sqrt(1.25), -1 - 6 / np.sqrt(4.25), -1 + 6 / np.sqrt(4.25)]
    )


def test_batch_norm_of_nvidia_has_an_eps_of_its_own() -> None:
    net = built(one_input(1, 2, 1, 2) + layer("BatchNorm", SCALED.replace("0.25", "1e-9")))
    assert net.layers[1].definition.eps == 1e-5  # type: ignore[attr-defined]
