"""A net as Caffe's solver sees it: its loss, its learned blobs in order with their multipliers, its labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np
import torch
from torch import Tensor, nn

from caffe_port.converters.to_pytorch import child_names, to_pytorch
from caffe_port.converters.to_pytorch.modules.graph import GraphModule, blob_names
from caffe_port.errors import DataError, GraphError, Problems
from caffe_port.layers.base import Array
from caffe_port.layers.loss import Accuracy, HingeLoss, InfogainLoss, MultinomialLogisticLoss, SoftmaxWithLoss
from caffe_port.net import Blob, Layer, Net, Weight
from caffe_port.shapes import canonical_axis, count

__all__ = ["Labels", "LearnedBlob", "Pass", "TrainableNet", "labels_of", "loss_terms", "multipliers"]


@dataclass(frozen=True, slots=True, eq=False)
class LearnedBlob:
    """A learned blob of a net, shared ones once: its place, the tensor that has its values, and its multipliers.

    The tensor is a Parameter, or a buffer where the layer computes it (BatchNorm's statistics).
    """

    weight: Weight
    tensor: Tensor
    lr_mult: float
    decay_mult: float


@dataclass(frozen=True, slots=True)
class Pass:
    """What a forward pass gives: the loss, each top times its loss weight, all summed; and the net's outputs."""

    loss: Tensor
    outputs: dict[str, Tensor]


class TrainableNet:
    """A net as a module that can be trained; its values start as those of the net.

    device: where it computes. force_backward: compute the gradients of blobs with lr_mult 0 too, as the net's field of
    that name has it; they then count in `clip_gradients`.
    Raises: WeightsError, UnsupportedLayer, MissingDependency as `to_pytorch`; GraphError.
    """

    def __init__(self, net: Net, device: str | torch.device = "cpu", *, force_backward: bool = False) -> None:
        self.net, self.device = net, torch.device(device)
        module = to_pytorch(net).to(self.device)
        assert isinstance(module, GraphModule)
        self.module = module
        self._children = child_names(net)
        tensors: dict[int, Tensor] = {}
        for _, weight, child, name in self._places():
            tensor: Tensor = getattr(child, name)
            if weight.owner is None:
                tensors[id(weight)] = tensor
            else:
                self._tie(child, name, tensors[id(weight.owner)])
        lr_mults, decay_mults = (multipliers(net, what) for what in ("lr_mult", "decay_mult"))
        self.blobs = tuple(
            LearnedBlob(weight, tensors[id(weight)], lr_mults[id(weight)], decay_mults[id(weight)])
            for weight in net.weights()
        )
        for blob in self.blobs:
            if isinstance(blob.tensor, nn.Parameter):
                blob.tensor.requires_grad_(blob.lr_mult != 0 or force_backward)
        for layer, child_name in self._children.items():
            stopped = [i for i, down in enumerate(layer.message.propagate_down) if not down]
            if stopped:
                getattr(module, child_name).register_forward_pre_hook(_detaching(stopped))
        self.terms = loss_terms(net)
        self._wanted = [*(blob for blob, _ in self.terms), *net.output_blobs]

    def _places(self) -> Iterator[tuple[Layer, Weight, nn.Module, str]]:
        """Every learned blob of every layer, with the module and the attribute that have its values."""
        for layer in self.net.layers:
            if layer.weights:
                child = getattr(self.module, self._children[layer])
                for weight, name in zip(layer.weights, blob_names(child), strict=True):
                    yield layer, weight, child, name

    @staticmethod
    def _tie(child: nn.Module, name: str, owner: Tensor) -> None:
        """Lets an attribute have the memory of another blob; of another shape (PERMISSIVE) the gradient's too."""
        own: Tensor = getattr(child, name)
        if own.shape == owner.shape:
            setattr(child, name, owner)
            return
        own.data = owner.data.view(own.shape)
        # The accumulated gradient is added into memory that is there already.
        if owner.grad is None:
            owner.grad = torch.zeros_like(owner)
        own.grad = owner.grad.view(own.shape)

    def zero_grad(self) -> None:
        """Sets the gradients to zero, in place: shared ones stay shared."""
        for blob in self.blobs:
            if blob.tensor.grad is not None:
                blob.tensor.grad.zero_()

    def __call__(self, batch: Mapping[str, Array], factors: Sequence[float] = ()) -> Pass:
        """A forward pass over an array for each input of the net. factors: of the terms of the loss (default: 1)."""
        inputs = [torch.from_numpy(batch[name]).to(self.device, non_blocking=True) for name in self.net.inputs]
        values = self.module.values_of(self._wanted, *inputs)
        loss = torch.zeros((), device=self.device)
        for (_, weight), value, factor in zip(self.terms, values, factors or repeat(1.0), strict=False):
            loss = loss + value.sum() * (weight * factor)
        return Pass(loss, dict(zip(self.net.outputs, values[len(self.terms) :], strict=True)))

    def share(self, trained: TrainableNet) -> None:
        """Gives layers the learned blobs of the other net's layers of the same name, as Caffe's test nets have them.

        They are the same tensors from then on. Raises: GraphError where number or shapes differ.
        """
        theirs: dict[str, list[Tensor]] = {}
        for layer, _, child, name in trained._places():
            theirs.setdefault(layer.name, []).append(getattr(child, name))
        problems = Problems()
        renewed: dict[int, Tensor] = {}
        seen: dict[str, Layer] = {}
        positions: dict[int, int] = {}
        for layer, weight, child, name in self._places():
            given = theirs.get(layer.name)
            if given is None or seen.setdefault(layer.name, layer) is not layer:
                continue
            position = positions[layer.index] = positions.get(layer.index, -1) + 1
            if len(given) != len(layer.weights) or count(tuple(given[position].shape)) != count(weight.shape):
                problems.add(
                    GraphError,
                    f"its learned blobs differ between the nets of phase {trained.net.phase} and {self.net.phase}",
                    layer=layer.name,
                    location=layer.location,
                )
                continue
            tensor = given[position]
            if tensor.shape != getattr(child, name).shape:
                getattr(child, name).data = tensor.data.view(getattr(child, name).shape)
            else:
                setattr(child, name, tensor)
            renewed[id(weight.owner or weight)] = getattr(child, name)
        problems.raise_if_any()
        self.blobs = tuple(replace(b, tensor=renewed.get(id(b.weight), b.tensor)) for b in self.blobs)

    def trained_net(self) -> Net:
        """The net with the values that the learned blobs have now, copied; without the files it came from."""
        values = {
            id(blob.weight): blob.tensor.detach().cpu().numpy().reshape(blob.weight.shape).copy() for blob in self.blobs
        }
        for array in values.values():
            array.flags.writeable = False
        return replace(self.net.with_values(values), sources=())

    def is_finite(self) -> bool:
        """Whether every learned value is a number."""
        return all(bool(torch.isfinite(blob.tensor).all()) for blob in self.blobs)


def _detaching(stopped: Sequence[int]) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """A hook that lets no gradient through to these bottoms (`propagate_down: false`)."""

    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(value.detach() if i in stopped else value for i, value in enumerate(inputs))

    return hook


def multipliers(net: Net, what: str) -> dict[int, float]:
    """`lr_mult` or `decay_mult` of each learned blob, by id of the Weight that owns it.

    Of those who share a blob the first that sets it decides (net.cpp, AppendParam).
    """
    found: dict[int, float] = {}
    for layer in net.layers:
        for weight, param in zip(layer.weights, layer.message.param, strict=False):
            if param.HasField(what):
                found.setdefault(id(weight.owner or weight), getattr(param, what))
    return {id(weight): found.get(id(weight), getattr(weight, what)) for weight in net.weights()}


def loss_terms(net: Net) -> list[tuple[Blob, float]]:
    """The blobs that make the loss of a net, and the weight of each: loss = sum of weight * sum of the blob's values.

    A loss layer without `loss_weight` counts with 1; one whose top is used again has its weight at the Split.
    """
    weighted_splits = {layer.bottoms[0] for layer in net.layers if layer.automatic and any(layer.loss_weights)}
    terms: list[tuple[Blob, float]] = []
    for layer in net.layers:
        weights = layer.loss_weights
        if layer.definition.auto_top and not weights and layer.tops[0] not in weighted_splits:
            weights = (1.0,)
        terms.extend((top, weight) for top, weight in zip(layer.tops, weights, strict=False) if weight)
    return terms


@dataclass(frozen=True, slots=True)
class Labels:
    """An input blob that a layer reads as labels: which they may be.

    ignored: a label that does not count, whatever its value. learned: whether a loss learns from them.
    """

    blob: str
    layer: str
    classes: int
    ignored: int | None = None
    learned: bool = True

    def check(self, batch: Mapping[str, Array], where: str) -> None:
        """Raises DataError, with the first item that is wrong, unless every label is a class."""
        values = batch[self.blob]
        # As Caffe, which cuts a fraction off. NaN is no class.
        wrong = ~((values > -1) & (values < self.classes))
        if self.ignored is not None:
            wrong &= values != self.ignored
        if wrong.any():
            first = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise DataError(
                f"{where}: layer {self.layer!r}: item {first[0] if first else 0} of blob {self.blob!r} has label "
                f"{values[first]:g}; there are {self.classes} classes, 0 to {self.classes - 1}"
            )


def labels_of(net: Net) -> list[Labels]:
    """The inputs of a net that losses and measures read as labels, through Split layers."""
    found = []
    split_of = {top: layer.bottoms[0] for layer in net.layers if layer.type == "Split" for top in layer.tops}
    for layer in net.layers:
        definition = layer.definition
        known = (SoftmaxWithLoss, Accuracy, InfogainLoss, MultinomialLogisticLoss, HingeLoss)
        if not isinstance(definition, known) or len(layer.bottoms) < 2:
            continue
        blob, scores = layer.bottoms[1], layer.bottoms[0].shape
        while blob in split_of:
            blob = split_of[blob]
        if blob not in net.input_blobs:
            continue
        ignored = None
        if isinstance(definition, Accuracy):
            ignored = definition.ignore_label
        elif isinstance(definition, (SoftmaxWithLoss, InfogainLoss)):
            ignored = definition.normalizer.ignore_label
        if isinstance(definition, (SoftmaxWithLoss, Accuracy, InfogainLoss)):
            classes = scores[canonical_axis(definition.axis, len(scores))]
        else:
            classes = count(scores, 1)
        learned = not isinstance(definition, Accuracy)
        found.append(Labels(blob.name, layer.name, classes, ignored, learned))
    return found
