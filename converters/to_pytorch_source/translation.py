"""Layers as calls: the walk over a net, and the table of what writes a layer of each type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from caffe_port.converters.to_pytorch_source.graph import (
    Argument,
    Graph,
    Module,
    Op,
    Tensor,
    Value,
    Written,
)
from caffe_port.errors import Problems, UnsupportedLayer
from caffe_port.layers.base import LayerDef
from caffe_port.net import Blob, Layer, Net, Weight
from caffe_port.shapes import Shape

__all__ = ["Translation", "to_graph", "writes"]

ELSEWHERE = "convert with the target pytorch, which has every type"


def to_graph(net: Net) -> Graph:
    """The calls of a net. Raises: UnsupportedLayer naming every layer that there is no plain PyTorch for."""
    translation = Translation(net)
    problems = Problems()
    for layer in net.layers:
        if layer in translation.done or layer.definition.is_input:
            continue
        inputs = [translation.value(blob) for blob in layer.bottoms]
        try:
            write = _WRITERS.get(type(layer.definition))
            if write is None:
                raise UnsupportedLayer(f"{layer.type} has no plain form in PyTorch here")
            write(translation, layer, layer.definition, inputs)
        except UnsupportedLayer as error:
            problems.add(UnsupportedLayer, str(error), layer=layer.name, location=layer.location, hint=ELSEWHERE)
            for top in layer.tops:
                translation.values[top] = Value(top.shape)
    problems.raise_if_any()
    outputs = tuple((blob.name, translation.value(blob)) for blob in net.output_blobs)
    return Graph(tuple(translation.values[blob] for blob in net.input_blobs), outputs, translation.ops)


class Translation:
    """The state of a walk over a net."""

    def __init__(self, net: Net) -> None:
        self.values = {blob: Value(blob.shape, blob) for blob in net.input_blobs}
        self.ops: list[Op] = []
        self.done: set[Layer] = set()
        self._modules: dict[tuple[int, ...], Module] = {}
        self._holders: dict[int, tuple[Module, str]] = {}
        self._readers: dict[Blob, list[Layer]] = {}
        for layer in net.layers:
            for blob in layer.bottoms:
                self._readers.setdefault(blob.origin, []).append(layer)
        self._taken = {blob.origin for blob in net.output_blobs}

    def value(self, blob: Blob) -> Value:
        """The value of a blob; one that shares overwritten memory is that value in another shape."""
        if blob not in self.values:
            assert blob.alias_of is not None
            source = self.value(blob.alias_of)
            dims = "".join(f", {dim}" for dim in blob.shape[1:])
            self.values[blob] = Value(blob.shape)
            self.ops.append(Op(f"{{0}}.reshape(-1{dims})", (source,), (self.values[blob],), "view"))
        return self.values[blob]

    def add(
        self,
        layer: Layer,
        expression: str,
        inputs: Sequence[Value],
        *,
        role: str = "heavy",
        modules: Sequence[Module] = (),
        tops: Sequence[Blob] | None = None,
        keeps_channels: bool = False,
    ) -> None:
        """A call that makes `tops` (the layer's)."""
        made = layer.tops if tops is None else tops
        outputs = tuple(self.values.setdefault(top, Value(top.shape, top)) for top in made)
        layers = () if modules else (layer.name,)
        op = Op(expression, tuple(inputs), outputs, role, tuple(modules), layers, keeps_channels)
        if expression == "{m0}({0})" and len(outputs) == 1:
            (module,) = modules
            # Not where it is called twice: which of the values would it be?
            if any(module in earlier.modules for earlier in self.ops):
                module.hooks.clear()
            elif outputs[0].blob is not None:
                module.hooks[""] = outputs[0].blob
        self.ops.append(op)

    def module(
        self,
        layer: Layer,
        constructor: str,
        arguments: Sequence[tuple[str, Argument]],
        kind: str,
        blobs: Sequence[tuple[str, Weight, str]],
        suffix: str = "",
    ) -> Module:
        """A module with the learned blobs `blobs` (own name, blob, kind); an earlier one, if it shares all of them."""
        key = tuple(id(weight.owner or weight) for _, weight, _ in blobs)
        earlier = self._modules.get(key) if any(weight.owner for _, weight, _ in blobs) else None
        if earlier is not None and _made_alike(earlier, constructor, arguments):
            earlier.layers = (*earlier.layers, layer.name)
            return earlier
        name = f"{layer.name}_{suffix}" if suffix else layer.name
        module = Module(constructor, tuple(arguments), name, kind, (layer.name,))
        tied = []
        for own, weight, how in blobs:
            module.tensors[own] = Tensor.of(weight, how)
            if weight.owner is not None:
                holder, other = self._holders[id(weight.owner)]
                if holder.tensors[other].data.shape != module.tensors[own].data.shape:
                    raise UnsupportedLayer("shares a learned blob in another shape")
                tied.append((own, holder, other))
            self._holders.setdefault(id(weight.owner or weight), (module, own))
        module.tied = tuple(tied)
        self._modules.setdefault(key, module)
        return module

    def parameter(self, layer: Layer, index: int, shape: Shape, dims: Sequence[Argument], suffix: str) -> Module:
        """A learned blob as an attribute, in a shape that broadcasts."""
        make = "torch.zeros" if suffix == "bias" else "torch.ones"
        blobs = [("", layer.weights[index], "same")]
        module = self.module(layer, make, [("", dim) for dim in dims], "scale", blobs, suffix)
        if module.tensors[""].data.shape != shape:
            module.tensors[""] = module.tensors[""].reshaped(shape)
        return module

    def only_reader(self, blob: Blob) -> Layer | None:
        """The one layer that reads a blob, if no other and no caller does."""
        readers = self._readers.get(blob, [])
        return readers[0] if len(readers) == 1 and blob not in self._taken else None


def _made_alike(module: Module, constructor: str, arguments: Sequence[tuple[str, Argument]]) -> bool:
    def plain(of: Sequence[tuple[str, Argument]]) -> list[tuple[str, object]]:
        return [(key, value if isinstance(value, int | Written) else value.number) for key, value in of]

    return module.constructor == constructor and plain(module.arguments) == plain(arguments)


_Writer = Callable[[Translation, Layer, Any, list[Value]], None]
_W = TypeVar("_W", bound=_Writer)
_WRITERS: dict[type[LayerDef], _Writer] = {}


def writes(*definitions: type[LayerDef]) -> Callable[[_W], _W]:
    """Decorator: registers what writes layers of the types: it calls `add` and `module` of a `Translation`."""

    def register(write: _W) -> _W:
        _WRITERS.update(dict.fromkeys(definitions, write))
        return write

    return register
