"""A state dict comes back to Caffe's learned blobs, in Caffe's order, for layers of forks and of plug-ins too."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import small
from everywhere import layer

pytest.importorskip("torch")

import caffe_port as cp
from caffe_port import registry
from caffe_port.converters.to_pytorch.names import learned_names
from caffe_port.errors import MissingDependency

pytestmark = pytest.mark.usefixtures("registry_as_it_was")

PLUGIN = """\
import numpy as np
from caffe_port.layers.activation import Neuron
from caffe_port.layers.base import WeightSpec
from caffe_port.registry import emitter, layer

@layer("Affine")
class Affine(Neuron):
    def weight_specs(self, bottoms):
        return [WeightSpec((3,)), WeightSpec((3,))]

    def forward(self, ctx, bottoms, weights):
        return [bottoms[0] * weights[1] + weights[0]]

@emitter("pytorch", "Affine")
def affine(layer, definition):
    import torch
    from torch import nn

    class Module(nn.Module):
        blob_names = "shift", "factor"

        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.empty(3))
            self.shift = nn.Parameter(torch.empty(3))

        def forward(self, x):
            return x * self.factor + self.shift

    return Module()
"""


def comes_back(prototxt: str) -> None:
    """Every blob has values of its own, so an exchange is seen."""
    net = small.built(prototxt)
    weights = {
        one.name: [
            np.arange(100 * i + 1, 100 * i + 1 + np.prod(w.shape)).reshape(w.shape) for i, w in enumerate(one.weights)
        ]
        for one in net.layers
        if one.weights
    }
    assert weights
    state = cp.to_pytorch(net.with_weights(weights)).state_dict()
    assert len(state) == sum(map(len, weights.values()))
    back = cp.with_state_dict(net, state)
    for name, arrays in weights.items():
        for array, weight in zip(arrays, back.layer(name).weights, strict=True):
            np.testing.assert_array_equal(np.asarray(weight.data), array)


@pytest.mark.parametrize(
    "text",
    [
        layer("BN", "bn_param { slope_filler { type: 'constant' } frozen: true }"),
        layer("BN", "bn_param { bn_mode: INFERENCE }"),
        layer("BatchNorm", "batch_norm_param { scale_bias: true }"),
    ],
)
def test_normalization_of_forks(text: str) -> None:
    comes_back(small.one_input(2, 3, 2, 2) + text)


def test_the_lstm_of_caffe_lstm() -> None:
    comes_back(
        small.one_input(4, 2) + layer("Lstm", "lstm_param { num_output: 3 batch_size: 2 clipping_threshold: 1 }")
    )


def test_a_layer_of_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module alone knows what its learned blobs are called."""
    (tmp_path / "plugin.py").write_text(PLUGIN)
    registry.load_plugin(tmp_path / "plugin.py")
    text = small.one_input(2, 3) + layer("Affine")
    comes_back(text)
    net = small.filled(text)
    x = {"x": np.float32([[1, 2, 3], [4, 5, 6]])}
    np.testing.assert_allclose(small.through_torch(net, x)["y"], small.through_numpy(net, x)["y"], rtol=1e-6)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependency, match=r"caffe_port\[torch\]"):
        learned_names(net.layer("L"))
