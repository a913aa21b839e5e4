"""Convolutions that neither torch nor ONNX has as such: several bottoms, another channel axis, no spatial axis, a
window that ends beyond the padded input. Held to the sum that defines a convolution."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import small
from numpy.typing import NDArray

Array = NDArray[Any]


def convolution(x: Array, weight: Array, bias: Array, stride: int, pad: int, shape: tuple[int, ...]) -> Array:
    """By definition, in float64: x (items, channels, …), weight (outputs, channels, …); what is outside of x is 0."""
    top = np.zeros((len(x), len(weight), *shape))
    for place in itertools.product(*map(range, shape)):
        for cell in itertools.product(*map(range, weight.shape[2:])):
            at = [step * stride - pad + offset for step, offset in zip(place, cell, strict=True)]
            if all(0 <= i < side for i, side in zip(at, x.shape[2:], strict=True)):
                values = x[(..., *at)].astype(np.float64)
                top[(..., *place)] += values @ weight[(..., *cell)].T.astype(np.float64)
    return top + bias.reshape(-1, *[1] * len(shape))


def net(bottoms: dict[str, tuple[int, ...]], parameters: str, kind: str = "Convolution") -> str:
    inputs = "".join(small.one_input(*shape, name=name) for name, shape in bottoms.items())
    ends = " ".join(f'bottom: "{name}" top: "y{name}"' for name in bottoms)
    return f'{inputs} layer {{ name: "c" type: "{kind}" {ends} convolution_param {{ num_output: 3 {parameters} }} }}'


def values(prototxt: str, through: str) -> tuple[dict[str, Array], dict[str, Array], list[Array]]:
    """The inputs, the outputs, and the learned blobs."""
    made = small.filled(prototxt)
    inputs = small.inputs_of(made)
    weights = [np.asarray(weight.data) for weight in made.layer("c").weights]
    return inputs, small.THROUGH[through](made, inputs), weights


@pytest.fixture(params=["numpy", "torch", "onnx"])
def through(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def near(got: Array, want: Array) -> bool:
    return got.shape == want.shape and bool(np.abs(got - want).max() <= 2e-6 * max(1, np.abs(want).max()))


def test_several_bottoms_share_the_weights(through: str) -> None:
    inputs, outputs, (weight, bias) = values(
        net({"a": (2, 2, 5, 6), "b": (2, 2, 5, 6)}, "kernel_size: 3 pad: 1 stride: 2"), through
    )
    for name, x in inputs.items():
        assert near(outputs[f"y{name}"], convolution(x, weight, bias, 2, 1, (3, 3)))
    assert not np.allclose(outputs["ya"], outputs["yb"])


def test_a_channel_axis_further_back(through: str) -> None:
    inputs, outputs, (weight, bias) = values(net({"a": (2, 3, 2, 5, 4)}, "kernel_size: 3 axis: 2"), through)
    want = [convolution(items, weight, bias, 1, 0, (3, 2)) for items in inputs["a"]]
    assert near(outputs["ya"], np.stack(want))


def test_no_spatial_axis(through: str) -> None:
    inputs, outputs, (weight, bias) = values(net({"a": (4, 5)}, "axis: 1"), through)
    assert near(outputs["ya"], convolution(inputs["a"], weight, bias, 1, 0, ()))


def test_a_kernel_beyond_the_input_by_less_than_the_stride(through: str) -> None:
    """4 - 7 = -3, and -3 / 5 is 0 in C: one window, of which the last cells lie outside."""
    inputs, outputs, (weight, bias) = values(net({"a": (1, 2, 4, 4)}, "kernel_size: 7 stride: 5"), through)
    assert near(outputs["ya"], convolution(inputs["a"], weight, bias, 5, 0, (1, 1)))


def test_several_bottoms_of_a_deconvolution(through: str) -> None:
    """Without stride and pad it is the convolution, with full padding, of the weights turned about."""
    inputs, outputs, (weight, bias) = values(
        net({"a": (1, 2, 3, 4), "b": (1, 2, 3, 4)}, "kernel_size: 2", "Deconvolution"), through
    )
    turned = weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    for name, x in inputs.items():
        assert near(outputs[f"y{name}"], convolution(x, turned, bias, 1, 1, (4, 5)))
