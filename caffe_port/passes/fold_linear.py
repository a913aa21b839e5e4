"""Folds layers that are linear in their bottom into the linear layers beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from caffe_port.layers.activation import Dropout, Power
from caffe_port.layers.affine import Bias, Scale
from caffe_port.layers.base import Array, LayerSpec
from caffe_port.layers.convolution import Convolution, Deconvolution
from caffe_port.layers.dense import InnerProduct
from caffe_port.layers.normalization import BatchNorm
from caffe_port.net import Blob, Layer, Net, Weight
from caffe_port.shapes import count

__all__ = ["FoldResult", "fold_linear"]


@dataclass(frozen=True, slots=True)
class FoldResult:
    """The new net, and for each layer that took others in, by its name, the names of those in the net's order.

    Every top of `net` is a Blob of the net that was folded, the same object, and has that blob's value: where a layer
    took in layers behind it, its top is the last one's top. So a layer of `net` is compared with what the original net
    has for `layer.tops`. Blobs that only stood between folded layers are gone, and a name whose last version is gone is
    not in `net.blobs`.
    """

    net: Net
    folded: dict[str, tuple[str, ...]]


def fold_linear(net: Net) -> FoldResult:
    """Folds what is linear where nothing else uses the blob in between.

    - BatchNorm with stored statistics, learned Scale and Bias, Power that is affine, and Dropout in TEST go into the
      Convolution, Deconvolution or InnerProduct before them;
    - else into the InnerProduct behind them, or the Convolution that pads no zeros (or where nothing is added);
    - what is left of them in a row becomes one Scale;
    - an InnerProduct goes into the InnerProduct before it, and a 1x1 Convolution into the Convolution before it, where
      that takes no more multiply-accumulates.

    Layers whose weights are shared, or that have a loss weight, stay as they are. The new weights are computed in
    float64 and rounded to float32 once. The result is no longer the net of its weight files, so `to_caffemodel` makes a
    file of its own of it.
    Raises: WeightsError if learned blobs have no values.
    """
    return _fold(net, np.float32)


@np.errstate(all="ignore")
def _fold(net: Net, dtype: npt.DTypeLike) -> FoldResult:
    """`fold_linear`, the new weights rounded to `dtype`."""
    net.require_weights()
    graph = _Graph(net)
    graph.sweep(_into_before)
    # From the back, so that a row of layers is taken in one after the other.
    graph.sweep(_into_behind, backwards=True)
    graph.sweep(_joined)
    graph.sweep(_multiplied)
    layers = tuple(_layer(node, index, dtype) for index, node in enumerate(graph.nodes))
    tops = {id(blob) for layer in layers for blob in layer.tops}
    any_taken = any(node.taken for node in graph.nodes)
    folded = replace(
        net,
        layers=layers,
        sources=tuple(replace(source, stored=None) for source in net.sources) if any_taken else net.sources,
        blobs=MappingProxyType({name: blob for name, blob in net.blobs.items() if id(blob.origin) in tops}),
    )
    taken = {
        node.layer.name: tuple(layer.name for layer in sorted(node.taken, key=lambda layer: layer.index))
        for node in graph.nodes
        if node.taken
    }
    return FoldResult(folded, taken)


@dataclass(slots=True)
class _Affine:
    """x * factor + shift, both with the bottom's number of axes, 1 where they are the same along an axis.

    `axes` are the bottom's axes, from the first to behind the last, that the layer gives them by; none for scalars.
    """

    factor: Array
    shift: Array
    axes: tuple[int, int] | None

    @property
    def is_identity(self) -> bool:
        return bool((self.factor == 1).all() and not self.shift.any())

    def along(self, axis: int, size: int) -> tuple[Array, Array]:
        """Factor and shift (size,) along one axis; only where they vary along no other."""
        return np.broadcast_to(self.factor.reshape(-1), size), np.broadcast_to(self.shift.reshape(-1), size)

    def varies_along(self, axis: int) -> bool:
        """Whether `axis` is the only one they may vary along."""
        return self.axes is None or self.axes == (axis, axis + 1)


@dataclass(slots=True, eq=False)
class _Node:
    """A layer while it is folded. `values` are its learned blobs in float64, once they are others than the layer's."""

    layer: Layer
    bottoms: tuple[Blob, ...]
    tops: tuple[Blob, ...]
    values: list[Array] | None = None
    scale: _Affine | None = None
    """Set where the layer is to become a Scale."""
    num_output: int | None = None
    taken: list[Layer] = field(default_factory=list)

    @property
    def definition(self) -> Any:
        return self.layer.definition

    def blobs(self) -> list[Array]:
        return self.values if self.values is not None else [_exact(weight) for weight in self.layer.weights]

    def outputs(self) -> int:
        return int(self.num_output or self.definition.num_output)

    def set(self, weight: Array, bias: Array | None) -> None:
        # A bias of zeros that the layer did not have would only cost time.
        keep = bias is not None and (len(self.blobs()) == 2 or bias.any())
        self.values = [weight, bias] if keep and bias is not None else [weight]

    def bias(self) -> Array:
        blobs = self.blobs()
        return blobs[1] if len(blobs) == 2 else np.zeros(self.outputs())


_Rule = Callable[[_Node, _Node], "_Node | None"]
"""Of two layers in a row: the one that takes in the other, changed already, or None."""


@dataclass(slots=True)
class _Graph:
    net: Net
    nodes: list[_Node] = field(init=False)
    _fixed: set[int] = field(init=False)
    _shared: set[int] = field(init=False)

    def __post_init__(self) -> None:
        net = self.net
        self.nodes = [_Node(layer, layer.bottoms, layer.tops) for layer in net.layers]
        # Blobs that must stay: outputs, and what other names share the memory of.
        blobs = [*net.blobs.values(), *(blob for layer in net.layers for blob in layer.bottoms)]
        self._fixed = {id(blob.origin) for blob in net.output_blobs}
        self._fixed |= {id(blob.origin) for blob in blobs if blob.alias_of is not None}
        owners = [weight.owner for layer in net.layers for weight in layer.weights if weight.owner is not None]
        self._shared = {id(owner) for owner in owners}

    def sweep(self, rule: _Rule, *, backwards: bool = False) -> None:
        """Applies a rule to every pair of layers in a row, again to what comes of it, until it fits nowhere."""
        uses = Counter(id(blob.origin) for node in self.nodes for blob in node.bottoms)
        reader = {id(blob): node for node in self.nodes for blob in node.bottoms}
        gone: set[int] = set()
        for first in reversed(self.nodes) if backwards else list(self.nodes):
            node = first
            while id(node) not in gone and len(node.tops) == 1:
                top = node.tops[0]
                if uses[id(top)] != 1 or id(top) in self._fixed or id(top) not in reader:
                    break
                behind = reader[id(top)]
                if not (self._may(node) and self._may(behind)):
                    break
                kept = rule(node, behind)
                if kept is None:
                    break
                taken = behind if kept is node else node
                gone.add(id(taken))
                kept.taken += [taken.layer, *taken.taken]
                if kept is node:
                    node.tops = behind.tops
                else:
                    behind.bottoms = node.bottoms
                    reader[id(node.bottoms[0])] = behind
                    break
        self.nodes = [node for node in self.nodes if id(node) not in gone]

    def _may(self, node: _Node) -> bool:
        layer = node.layer
        return (
            len(node.bottoms) == len(node.tops) == 1
            and not any(layer.loss_weights)
            and not any(weight.owner is not None or id(weight) in self._shared for weight in layer.weights)
        )


def _affine(node: _Node) -> _Affine | None:
    """What a layer does to its one bottom, if that is a product and a sum, by element."""
    if node.scale is not None:
        return node.scale
    definition, shape = node.definition, node.layer.bottoms[0].shape
    one, zero = np.ones((1,) * len(shape)), np.zeros((1,) * len(shape))
    # Not subclasses, here and below: a plug-in's might do something else.
    kind = type(definition)
    if kind is BatchNorm and definition.use_global_stats:
        mean, variance = definition.stored_statistics(node.blobs())
        factor = (1 / np.sqrt(variance + definition.eps)).reshape(1, -1, *[1] * (len(shape) - 2))
        return _Affine(factor, -mean.reshape(factor.shape) * factor, (1, 2))
    if kind in (Scale, Bias):
        blobs = node.blobs()
        column = definition.broadcast.column(shape, blobs[0].shape)
        first = definition.broadcast.axis % max(1, len(shape))
        axes = (first, first + blobs[0].ndim) if blobs[0].ndim else None
        operands = [blob.reshape(column) for blob in blobs]
        factor, shift = (one, *operands) if kind is Bias else (*operands, zero)[:2]
        return _Affine(factor, shift, axes)
    if kind is Power and definition.power == 1 and definition.constant is None:
        return _Affine(one * definition.scale, zero + definition.shift, None)
    if kind is Dropout and node.layer.phase == "TEST":
        return _Affine(one, zero, None)
    return None


def _linear(node: _Node) -> bool:
    return type(node.definition) in (Convolution, Deconvolution, InnerProduct)


def _output_axis(node: _Node) -> int:
    """The axis of the top that a Convolution's or an InnerProduct's outputs are."""
    shape = node.layer.bottoms[0].shape
    if isinstance(node.definition, InnerProduct):
        return node.definition.start(shape)
    return int(node.definition.channel_axis(shape))


def _into_before(node: _Node, behind: _Node) -> _Node | None:
    """Convolution, Deconvolution or InnerProduct, then a product and a sum by output."""
    affine = _affine(behind)
    axis = _output_axis(node) if _linear(node) else -1
    if axis < 0 or affine is None or not affine.varies_along(axis):
        return None
    if affine.is_identity:
        return node
    outputs = node.outputs()
    factor, shift = affine.along(axis, outputs)
    weight = node.blobs()[0]
    if isinstance(node.definition, InnerProduct):
        scaled = weight * factor.reshape((1, outputs) if node.definition.transpose else (outputs, 1))
    elif isinstance(node.definition, Deconvolution):
        # (C, outputs of the group, …): the channels of a group make the outputs of the same group.
        group = node.definition.group
        parts = weight.reshape(group, -1, *weight.shape[1:])
        by_group = factor.reshape(group, 1, outputs // group, *[1] * (weight.ndim - 2))
        scaled = (parts * by_group).reshape(weight.shape)
    else:
        scaled = weight * factor.reshape(outputs, *[1] * (weight.ndim - 1))
    node.set(scaled, node.bias() * factor + shift)
    return node


def _into_behind(node: _Node, behind: _Node) -> _Node | None:
    """A product and a sum by channel, then an InnerProduct, or a Convolution that meets no padding."""
    affine = _affine(node)
    if affine is None or not _linear(behind) or isinstance(behind.definition, Deconvolution):
        return None
    definition, shape = behind.definition, behind.layer.bottoms[0].shape
    axis = _output_axis(behind)
    weight = behind.blobs()[0]
    if isinstance(definition, InnerProduct):
        if affine.axes is not None and affine.axes[0] < axis:
            return None
        if affine.is_identity:
            return behind
        factor, shift = (
            np.broadcast_to(part, (*[1] * axis, *shape[axis:])).reshape(-1) for part in (affine.factor, affine.shift)
        )
        matrix = weight.T if definition.transpose else weight
        scaled = matrix * factor
        behind.set(scaled.T if definition.transpose else scaled, behind.bias() + matrix @ shift)
        return behind
    window = definition.window(shape)
    if not affine.varies_along(axis):
        return None
    if affine.shift.any() and any((*window.pad, *window.pad_after(shape[axis + 1 :]))):
        return None
    if affine.is_identity:
        return behind
    group, outputs = definition.group, behind.outputs()
    factor, shift = (part.reshape(group, 1, -1, *[1] * window.axes) for part in affine.along(axis, shape[axis]))
    parts = weight.reshape(group, outputs // group, *weight.shape[1:])
    moved = (parts * shift).sum(axis=tuple(range(2, parts.ndim))).reshape(outputs)
    behind.set((parts * factor).reshape(weight.shape), behind.bias() + moved)
    return behind


def _joined(node: _Node, behind: _Node) -> _Node | None:
    """Two products and sums by element, one of which is by all the axes that the other is by."""
    first, second = _affine(node), _affine(behind)
    if first is None or second is None:
        return None
    if second.is_identity:
        return node
    if first.is_identity:
        return behind
    spans = [affine.axes for affine in (first, second) if affine.axes is not None]
    axes = (min(start for start, _ in spans), max(stop for _, stop in spans)) if spans else None
    if axes is not None and axes not in spans:
        return None
    node.scale = _Affine(first.factor * second.factor, first.shift * second.factor + second.shift, axes)
    return node


def _multiplied(node: _Node, behind: _Node) -> _Node | None:
    """Two matrices in a row, where their product takes no more multiply-accumulates than both."""
    one, other = node.definition, behind.definition
    axis = _output_axis(node) if _linear(node) and _linear(behind) else -1
    if axis < 0 or type(one) is not type(other) or _output_axis(behind) != axis:
        return None
    middle = behind.layer.bottoms[0].shape
    weight, then = node.blobs()[0], behind.blobs()[0]
    if isinstance(one, InnerProduct):
        weight, then = (w.T if d.transpose else w for w, d in ((weight, one), (then, other)))
    elif type(one) is Convolution:
        window = other.window(middle)
        plain = window.is_pointwise and all(stride == 1 for stride in window.stride)
        if not plain or one.group != 1 or other.group != 1:
            return None
    else:
        return None
    then = then.reshape(then.shape[:2])
    # For each position; both have the same ones.
    if count((len(then), *weight.shape[1:])) > weight.size + then.size:
        return None
    product = np.tensordot(then, weight, axes=1)
    bias = then @ node.bias() + behind.bias()
    node.num_output = behind.outputs()
    node.set(product.T if getattr(one, "transpose", False) else product, bias)
    return node


# Back to layers


def _layer(node: _Node, index: int, dtype: npt.DTypeLike) -> Layer:
    """The layer a node stands for."""
    layer = node.layer
    definition, message, weights = layer.definition, layer.message, layer.weights
    if node.scale is not None:
        message, values = _scale_message(layer, node.scale)
    elif node.values is not None:
        message, values = _copy(layer.message), node.values
        params = message.inner_product_param if isinstance(definition, InnerProduct) else message.convolution_param
        params.num_output = node.outputs()
        params.bias_term = len(values) == 2
    else:
        values = None
    if node.bottoms != layer.bottoms or node.tops != layer.tops:
        message = _copy(message)
        for names, blobs in ((message.bottom, node.bottoms), (message.top, node.tops)):
            del names[:]
            names.extend(blob.name for blob in blobs)
    if values is not None:
        definition_class = Scale if node.scale is not None else type(definition)
        definition = definition_class.parse(LayerSpec(message, layer.phase, layer.location))
        weights = tuple(_weights(layer, weights if node.scale is None else (), values, dtype))
    return replace(
        layer,
        index=index,
        definition=definition,
        bottoms=node.bottoms,
        tops=node.tops,
        weights=weights,
        message=message,
    )


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    copy.ClearField("blobs")
    return copy


def _scale_message(layer: Layer, affine: _Affine) -> tuple[Any, list[Array]]:
    """The message of a Scale that does what `affine` does, and its learned blobs."""
    message = type(layer.message)()
    message.name, message.type = layer.name, "Scale"
    message.bottom.extend(blob.name for blob in layer.bottoms)
    message.top.extend(blob.name for blob in layer.tops)
    first, stop = affine.axes or (0, 0)
    message.scale_param.axis = first
    message.scale_param.num_axes = stop - first
    message.scale_param.bias_term = True
    shape = layer.bottoms[0].shape
    whole = [1] * len(shape)
    whole[first:stop] = shape[first:stop]
    return message, [np.broadcast_to(part, whole).reshape(shape[first:stop]) for part in (affine.factor, affine.shift)]


def _weights(layer: Layer, known: Sequence[Weight], values: Sequence[Array], dtype: npt.DTypeLike) -> Iterator[Weight]:
    """The learned blobs with these values: the known ones changed, others new."""
    for index, value in enumerate(values):
        data = value.astype(dtype, order="C")
        data.flags.writeable = False
        weight = known[index] if index < len(known) else Weight(layer.name, index, data.shape)
        yield replace(weight, shape=data.shape, data=data)


def _exact(weight: Weight) -> Array:
    return np.asarray(weight.data, dtype=np.float64)
