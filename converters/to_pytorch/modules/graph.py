"""A whole net as one module."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from caffe_port import registry
from caffe_port.errors import GraphError
from caffe_port.net import Blob, Layer, Net, Weight

__all__ = ["GraphModule", "blob_names"]


@dataclass(frozen=True, slots=True)
class _Step:
    """One call: the child, the slots it reads, the slots it writes, the slots nobody reads after it."""

    child: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    frees: tuple[int, ...]


class _View(nn.Module):
    """A blob that shares its memory with one overwritten in place: that one's value in another shape."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *self.shape)


class GraphModule(nn.Module):
    """Runs its children in the order of Caffe's layers. See `to_pytorch`.

    `value_slots` maps each blob of the net to the slot its value has during a pass; `trace` gives them out.
    """

    def __init__(self, net: Net, names: dict[Layer, str]) -> None:
        super().__init__()
        self.input_names = net.inputs
        self.output_names = net.outputs
        self.value_slots: dict[Blob, int] = {}
        taken = set(names.values())
        parameters: dict[int, tuple[nn.Module, str]] = {}
        plan: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []

        def slot_of(blob: Blob) -> int:
            if blob not in self.value_slots:
                assert blob.alias_of is not None
                source = slot_of(blob.alias_of)
                self.value_slots[blob] = len(self.value_slots)
                child = f"view_{self.value_slots[blob]}"
                while child in taken:
                    child += "_"
                self.add_module(child, _View(blob.shape))
                plan.append((child, (source,), (self.value_slots[blob],)))
            return self.value_slots[blob]

        for blob in net.input_blobs:
            self.value_slots[blob] = len(self.value_slots)
        for layer in net.layers:
            if layer.definition.is_input:
                continue
            reads = tuple(slot_of(blob) for blob in layer.bottoms)
            if layer.type == "Split":
                self.value_slots.update(dict.fromkeys(layer.tops, reads[0]))
                continue
            for top in layer.tops:
                self.value_slots[top] = max(self.value_slots.values(), default=-1) + 1
            emit = registry.find_emitter("pytorch", layer.type)
            assert emit is not None
            module: nn.Module = emit(layer, layer.definition)
            _fill(module, layer, parameters)
            self.add_module(names[layer], module)
            plan.append((names[layer], reads, tuple(self.value_slots[top] for top in layer.tops)))
        self._outputs = tuple(slot_of(blob) for blob in net.output_blobs)
        self._inputs = tuple(self.value_slots[blob] for blob in net.input_blobs)
        self._slots = max(self.value_slots.values(), default=-1) + 1
        self._steps = _with_frees(plan, self._outputs)

    def forward(self, *inputs: Tensor) -> Tensor | dict[str, Tensor]:
        values = self._run(inputs, keep=())
        if len(self._outputs) == 1:
            output: Tensor = values[self._outputs[0]]
            return output
        return {name: values[slot] for name, slot in zip(self.output_names, self._outputs, strict=True)}

    def trace(self, *inputs: Tensor) -> dict[Blob, Tensor]:
        """Every value of a forward pass, by blob version."""
        values = self._run(inputs, keep=range(self._slots))
        return {blob: values[slot] for blob, slot in self.value_slots.items()}

    def values_of(self, blobs: Sequence[Blob], *inputs: Tensor) -> list[Tensor]:
        """The values that these blobs of the net have in a forward pass; others are let go as soon as in `forward`."""
        slots = [self.value_slots[blob] for blob in blobs]
        values = self._run(inputs, keep=frozenset(slots))
        return [values[slot] for slot in slots]

    def _run(self, inputs: Sequence[Tensor], keep: Container[int]) -> list[Any]:
        if len(inputs) != len(self._inputs):
            raise GraphError(f"{len(inputs)} inputs for {len(self._inputs)} ({', '.join(self.input_names)})")
        values: list[Any] = [None] * self._slots
        for slot, value in zip(self._inputs, inputs, strict=True):
            values[slot] = value
        for step in self._steps:
            result = getattr(self, step.child)(*[values[slot] for slot in step.reads])
            tops = result if isinstance(result, tuple) else (result,)
            for slot, top in zip(step.writes, tops, strict=True):
                values[slot] = top
            for slot in step.frees:
                if slot not in keep:
                    values[slot] = None
        return values


def blob_names(module: nn.Module) -> tuple[str, ...]:
    """The attributes of a child that hold Caffe's learned blobs, in Caffe's order."""
    names = getattr(module, "blob_names", None)
    if names is not None:
        return tuple(str(name) for name in names)
    return tuple(name for name in ("weight", "bias") if getattr(module, name, None) is not None)


def _fill(module: nn.Module, layer: Layer, parameters: dict[int, tuple[nn.Module, str]]) -> None:
    """Copies the layer's learned blobs into its child; a blob shared by name becomes the same Parameter."""
    names = blob_names(module) if layer.weights else ()
    if len(names) != len(layer.weights):
        raise GraphError(f"layer {layer.name!r}: {len(layer.weights)} learned blobs, its module has {len(names)}")
    for name, weight in zip(names, layer.weights, strict=True):
        tensor: Tensor = getattr(module, name)
        tensor.data.copy_(_tensor(weight).reshape(tensor.shape))
        if weight.owner is None:
            parameters[id(weight)] = (module, name)
            continue
        owner = getattr(*parameters[id(weight.owner)])
        # A PERMISSIVE sharer of another shape keeps a copy: equal here, not tied in training.
        if owner.shape == tensor.shape:
            setattr(module, name, owner)


def _tensor(weight: Weight) -> Tensor:
    assert weight.data is not None
    return torch.from_numpy(np.array(weight.data, dtype=np.float32))


def _with_frees(
    plan: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]], outputs: Sequence[int]
) -> tuple[_Step, ...]:
    last: dict[int, int] = {}
    for position, (_, reads, writes) in enumerate(plan):
        last.update(dict.fromkeys((*reads, *writes), position))
    frees: dict[int, list[int]] = {}
    for slot, position in last.items():
        if slot not in outputs:
            frees.setdefault(position, []).append(slot)
    return tuple(
        _Step(child, reads, writes, tuple(frees.get(position, ())))
        for position, (child, reads, writes) in enumerate(plan)
    )
