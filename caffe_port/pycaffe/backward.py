"""Which layers Caffe takes backward, and one layer's step back, as PyTorch computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe_port import registry
from caffe_port.errors import GraphError
from caffe_port.layers.activation import Dropout, Exp, ReLU, Sigmoid, TanH
from caffe_port.layers.base import Array, RunContext
from caffe_port.layers.loss import Softmax
from caffe_port.net import Layer, Net

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Plan",
    "forgets_bottom",
    "gradient_of_dropout",
    "gradient_of_top",
    "gradients",
    "loss_weights",
    "make_module",
    "plan",
]

_NEVER = {"Accuracy": (0, 1), "ArgMax": (0,), "Threshold": (0,), "Embed": (0,), "BatchReindex": (1,), "Filter": (-1,)}
"""By type, the bottoms to which Caffe refuses to go backward; -1 is the last. For losses see `_refused`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What Net::Init decides about a layer: whether it goes backward, to which bottoms and to which learned blobs."""

    layer: bool
    bottoms: tuple[bool, ...]
    weights: tuple[bool, ...]


def loss_weights(layer: Layer) -> tuple[float, ...]:
    """The weight each top has in the loss: what the prototxt says, else 1 for a loss layer's first."""
    if layer.loss_weights:
        return layer.loss_weights
    return tuple(float(layer.definition.auto_top and i == 0) for i in range(len(layer.tops)))


def plan(net: Net, *, force: bool) -> list[Plan]:
    """The plan of each layer. `force`: the net says force_backward.

    A layer goes backward if one of its learned blobs has an lr_mult other than 0, or a bottom that comes from such a
    layer; but not if it leads to no loss, or only to layers that pass nothing down (propagate_down).
    Source: BVLC/caffe @ 9b89154, net.cpp (Init); layer.hpp, loss_layer.hpp, recurrent_layer.hpp (AllowForceBackward).
    """
    needed: dict[str, bool] = {}
    layers: list[bool] = []
    bottoms: list[list[bool]] = []
    weights: list[list[bool]] = []
    for layer in net.layers:
        names = [blob.name for blob in layer.bottoms]
        told = list(layer.message.propagate_down)
        bottoms.append(told or [needed[name] for name in names])
        weights.append([_is_learned(layer, i) for i in range(len(layer.weights))])
        layers.append(any(needed[name] for name in names) or any(weights[-1]))
        for top in layer.tops:
            needed[top.name] = layers[-1] or needed.get(top.name, False)
    under_loss: set[str] = set()
    skipped: set[str] = set()
    for i, layer in reversed(list(enumerate(net.layers))):
        tops = [top.name for top in layer.tops]
        contributes = any(loss_weights(layer)) or any(name in under_loss for name in tops)
        if all(name in skipped for name in tops):
            layers[i], bottoms[i] = False, [False] * len(bottoms[i]) if layers[i] else bottoms[i]
        layers[i] = layers[i] and contributes
        for j, bottom in enumerate(layer.bottoms):
            if contributes:
                under_loss.add(bottom.name)
            else:
                bottoms[i][j] = False
            if not bottoms[i][j]:
                skipped.add(bottom.name)
    if force:
        for i, layer in enumerate(net.layers):
            allowed = [_may_be_forced(layer, j) for j in range(len(layer.bottoms))]
            bottoms[i] = [own or may for own, may in zip(bottoms[i], allowed, strict=True)]
        return [Plan(True, tuple(b), (True,) * len(w)) for b, w in zip(bottoms, weights, strict=True)]
    return [Plan(own, tuple(b), tuple(w)) for own, b, w in zip(layers, bottoms, weights, strict=True)]


def _is_learned(layer: Layer, index: int) -> bool:
    """By the layer's own lr_mult: a shared blob's gradient is asked of each layer by itself."""
    if layer.definition.frozen_weights:
        return False
    params = layer.message.param
    return bool(index >= len(params) or params[index].lr_mult != 0)


def _may_be_forced(layer: Layer, bottom: int) -> bool:
    if layer.type in ("LSTM", "RNN"):
        return bottom != 1
    if layer.type in ("LSTMUnit", "ContrastiveLoss"):
        return bottom != 2
    return bottom != 1 or not layer.definition.auto_top or layer.type == "EuclideanLoss"


def _refused(layer: Layer, bottom: int) -> bool:
    if layer.definition.auto_top:
        return not _may_be_forced(layer, bottom)
    return bottom in [i % len(layer.bottoms) for i in _NEVER.get(layer.type, ())]


def forgets_bottom(layer: Layer) -> bool:
    """Whether a layer overwrites values that its step back needs: it is in place, and its top alone does not tell."""
    definition = layer.definition
    if isinstance(definition, ReLU):
        return layer.is_in_place and definition.negative_slope < 0
    return layer.is_in_place and not isinstance(definition, (Dropout, Sigmoid, TanH, Exp, Softmax))


def gradient_of_top(layer: Layer, top: Array, top_diff: Array) -> Array | None:
    """The bottom's gradient of a layer whose step back Caffe computes from its top alone; None for other layers.

    A later layer in place may have changed that top: Caffe takes what is there, and so does this.
    Source: BVLC/caffe @ 9b89154, sigmoid_layer.cpp, tanh_layer.cpp, exp_layer.cpp, softmax_layer.cpp (Backward_cpu).
    """
    definition, gradient = layer.definition, None
    if isinstance(definition, Sigmoid):
        gradient = top_diff * top * (1 - top)
    elif isinstance(definition, TanH):
        gradient = top_diff * (1 - top * top)
    elif isinstance(definition, Exp):
        gradient = top_diff * top * np.float32(definition.inner_scale)
    elif isinstance(definition, Softmax):
        gradient = (top_diff - (top_diff * top).sum(axis=definition.axis, keepdims=True)) * top
    return gradient


def make_module(layer: Layer) -> nn.Module:
    """The layer's PyTorch module. Raises: MissingDependency without torch; UnsupportedLayer."""
    from caffe_port.optional import require_torch

    require_torch()
    registry.require_expressible("pytorch", [layer])
    emit = registry.find_emitter("pytorch", layer.type)
    assert emit is not None
    # Never in training mode: then BatchNorm would move its blobs again. What differs otherwise is Dropout.
    module: nn.Module = emit(layer, layer.definition).eval()
    return module


def gradients(
    layer: Layer,
    module: nn.Module,
    bottoms: Sequence[Array],
    weights: Sequence[Array],
    top_diffs: Sequence[Array],
    wanted: Plan,
) -> tuple[list[Array | None], list[Array | None]]:
    """Gradients by the bottoms and by the learned blobs: those that are wanted, zeros where nothing depends on one.

    `bottoms` as the layer read them, `top_diffs` the gradients by its tops.
    Raises: GraphError for a bottom that Caffe refuses to go back to: labels, indices.
    """
    import torch

    from caffe_port.converters.to_pytorch.modules.graph import blob_names

    for i, asked in enumerate(wanted.bottoms):
        if asked and _refused(layer, i):
            raise GraphError(f"layer {layer.name!r}: {layer.type} cannot go backward to bottom {i}, as in Caffe")
    xs = [torch.from_numpy(x).requires_grad_(asked) for x, asked in zip(bottoms, wanted.bottoms, strict=True)]
    learned = []
    names = blob_names(module) if weights else ()
    for name, values, asked in zip(names, weights, wanted.weights, strict=True):
        tensor = getattr(module, name)
        tensor.data = torch.from_numpy(values).reshape(tensor.shape)
        # BatchNorm's are no parameters: nothing goes back to them.
        learned.append(tensor.requires_grad_(asked) if isinstance(tensor, torch.nn.Parameter) else None)
    with torch.enable_grad():
        result = module(*xs)
    tops = result if isinstance(result, tuple) else (result,)
    paired = [
        (top, torch.from_numpy(diff).reshape(top.shape))
        for top, diff in zip(tops, top_diffs, strict=True)
        if top.requires_grad
    ]
    sources = [x for x in (*xs, *learned) if x is not None and x.requires_grad]
    found: dict[int, Any] = {}
    if paired and sources:
        outputs, seeds = zip(*paired, strict=True)
        results = torch.autograd.grad(outputs, sources, seeds, allow_unused=True)
        found = {id(source): gradient for source, gradient in zip(sources, results, strict=True)}

    def array(source: Any, shape: tuple[int, ...], asked: bool) -> Array | None:
        if not asked:
            return None
        gradient = found.get(id(source))
        return np.zeros(shape, np.float32) if gradient is None else gradient.numpy().reshape(shape)

    return (
        [array(x, b.shape, asked) for x, b, asked in zip(xs, bottoms, wanted.bottoms, strict=True)],
        [array(x, w.shape, asked) for x, w, asked in zip(learned, weights, wanted.weights, strict=True)],
    )


def gradient_of_dropout(layer: Layer, top_diff: Array, state: dict[str, Any]) -> Array:
    """The gradient through Dropout in TRAIN: its own pass again, on the gradient, with the same random numbers.

    state: of the bit generator before the layer ran forward.
    """
    rng = np.random.default_rng()
    rng.bit_generator.state = state
    context = RunContext(phase=layer.phase, dtype=np.float32, rng=rng)
    return layer.definition.forward(context, [top_diff], [])[0]
