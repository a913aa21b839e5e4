"""Gradients of layers in place, by hand from Caffe's Backward_cpu: what it reads as the bottom is by then the top, and
what Power multiplies with as the top's gradient is by then its own slope. Source: relu_layer.cpp, elu_layer.cpp,
power_layer.cpp.
"""

from __future__ import annotations

import math

import pytest
import small

pytest.importorskip("torch")

import torch

from caffe_port.converters.to_pytorch import to_pytorch


@pytest.mark.parametrize(
    ("kind", "parameters", "x", "top", "gradient"),
    [
        ("ReLU", "relu_param { negative_slope: 0.25 }", -2.0, -0.5, 0.25 * 3),
        # The top of a negative bottom is positive, so the slope is taken for 1.
        ("ReLU", "relu_param { negative_slope: -0.5 }", -2.0, 1.0, 1 * 3),
        ("ELU", "elu_param { alpha: 2 }", -1.0, 2 * math.expm1(-1), 2 * math.exp(-1) * 3),
        ("ELU", "elu_param { alpha: -2 }", -1.0, -2 * math.expm1(-1), 1 * 3),
        # The square of the slope, whatever comes from above.
        ("Power", "power_param { power: 1 scale: 3 shift: 1 }", 2.0, 7.0, 3.0**2),
        ("Power", "power_param { power: 2 scale: 3 shift: 1 }", 1.0, 16.0, (2 * 3 * (3 * 16 + 1.0)) ** 2),
        ("Power", "power_param { power: 3 scale: 2 }", 0.5, 1.0, (3 * 1 / 1.0) ** 2),
        ("Power", "power_param { power: 3 scale: 2 shift: 1 }", 0.5, 8.0, (3 * 2 * 8 / (2 * 8 + 1.0)) ** 2),
        ("Power", "power_param { power: 0 scale: 2 shift: 1 }", 0.5, 1.0, 0.0),
    ],
)
def test_gradient(kind: str, parameters: str, x: float, top: float, gradient: float) -> None:
    """The gradient that comes from above is 3."""
    net = small.filled(
        small.one_input(1, 1)
        + 'layer { name: "first" type: "Power" bottom: "x" top: "y" }\n'
        + f'layer {{ name: "L" type: "{kind}" bottom: "y" top: "y" {parameters} }}'
    )
    bottom = torch.tensor([[x]], dtype=torch.float64, requires_grad=True)
    result = to_pytorch(net).double()(bottom)
    (3 * result).sum().backward()
    assert result.item() == pytest.approx(top, rel=1e-12)
    assert bottom.grad.item() == pytest.approx(gradient, rel=1e-12, abs=1e-12)
