"""A layer of a fork by every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import assert_agrees
from numpy.typing import NDArray
from small import THROUGH, built

import caffe_port as cp

__all__ = ["TOLERANCE", "everywhere", "layer", "shape_of"]


TOLERANCE = 2e-5
"""Of a blob's scale, as in test_layer_cases."""


def layer(type_name: str, parameters: str = "", bottoms: str = "x", tops: str = "y") -> str:
    ends = "".join(f' bottom: "{name}"' for name in bottoms.split())
    ends += "".join(f' top: "{name}"' for name in tops.split())
    return f'layer {{ name: "L" type: "{type_name}"{ends} {parameters} }}\n'


def everywhere(
    prototxt: str, inputs: dict[str, Any], weights: list[Any] | None = None, **options: Any
) -> dict[str, NDArray[Any]]:
    """The outputs by NumPy in float64, to which NumPy in float32, PyTorch and onnxruntime are held."""
    net = built(prototxt, **options)
    if weights is not None:
        shapes = [weight.shape for one in net.layers for weight in one.weights]
        net = net.with_weights(
            {"L": [np.array(value, np.float32).reshape(s) for value, s in zip(weights, shapes, strict=True)]}
        )
    given = {name: np.asarray(value, np.float32).reshape(net.input_shapes[name]) for name, value in inputs.items()}
    blobs = cp.run(net, given, "float64")
    exact = {name: blobs[name] for name in net.outputs}
    for through in THROUGH.values():
        found = through(net, given)
        assert set(found) == set(exact)
        for name, want in exact.items():
            assert_agrees(found[name], want, name, 1e-5)
    return exact


def shape_of(prototxt: str) -> tuple[int, ...]:
    return built(prototxt).output_blobs[0].shape
