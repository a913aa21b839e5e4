"""A layer of a `caffe.Net` with the blobs it works on: forward on NumPy, backward through PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from caffe_port import datasets
from caffe_port.errors import CaffePortError, GraphError
from caffe_port.layers.activation import Dropout
from caffe_port.layers.base import Array
from caffe_port.layers.data import DummyData, HDF5Output, MemoryData, Parameter
from caffe_port.layers.recurrent import Recurrent
from caffe_port.net import Blob as ValueOf
from caffe_port.net import Layer as BuiltLayer
from caffe_port.pycaffe import backward as back
from caffe_port.pycaffe.blobs import Blob, BlobVec
from caffe_port.pycaffe.errors import ArgumentError, BlobShapeError
from caffe_port.pycaffe.layer import Layer, LivePythonLayer
from caffe_port.runtime import run_layer, shapes_of_tops
from caffe_port.shapes import Shape, count, format_shape

__all__ = ["Step", "fitted"]


@dataclass(slots=True, eq=False)
class Step:
    """A layer with the blobs it works on, and what its step back needs of the last step forward."""

    layer: BuiltLayer
    bottoms: list[Blob]
    tops: list[Blob]
    params: BlobVec
    seen: Layer
    """What `net.layers` has for it; of a Python layer the object itself."""
    batches: Iterator[datasets.Batch] | None = None
    before: list[Array] = field(default_factory=list)
    """The bottoms' values, where the layer overwrote them."""
    rng_state: dict[str, Any] | None = None
    states: list[Array] = field(default_factory=list)
    """Of a recurrent layer: the states after its last run, which the next one starts from."""
    first_states: list[Array] = field(default_factory=list)
    """The states its last run started from."""
    module: tuple[tuple[Shape, ...], Any] | None = None
    """Its PyTorch module, and the bottoms' shapes that is for."""

    @property
    def is_view(self) -> bool:
        """Whether the tops have the bottom's memory (Split, Reshape, …)."""
        return self.layer.definition.views_bottom(len(self.bottoms), len(self.tops))

    # Forward

    def forward(self, wanted: back.Plan, rng: np.random.Generator) -> float:
        """Runs the layer; returns its loss. `wanted`: what its step back will be asked for."""
        layer, definition = self.layer, self.layer.definition
        if isinstance(definition, LivePythonLayer):
            definition.instance.reshape(self.bottoms, self.tops)
            definition.instance.forward(self.bottoms, self.tops)
        elif definition.is_input:
            self._read()
        elif isinstance(definition, DummyData):
            for filler, top in zip(definition.fillers, self.tops, strict=True):
                if filler.is_random:
                    top.data[...] = filler.fill(top.shape, rng)
        elif isinstance(definition, HDF5Output):
            definition.save(definition.file_name, *(blob.data for blob in self.bottoms))
        elif self.is_view:
            self.reshape()
        elif not isinstance(definition, Parameter):
            self._compute(wanted, rng)
        weights = back.loss_weights(layer)
        return sum(float(np.vdot(top.data, top.diff)) for top, weight in zip(self.tops, weights, strict=True) if weight)

    def _compute(self, wanted: back.Plan, rng: np.random.Generator) -> None:
        layer, definition = self.layer, self.layer.definition
        bottoms = [blob.data for blob in self.bottoms]
        if wanted.layer and back.forgets_bottom(layer):
            self.before = [bottom.copy() for bottom in bottoms]
        if wanted.layer and isinstance(definition, Dropout):
            self.rng_state = dict(rng.bit_generator.state)
        if isinstance(definition, Recurrent) and not definition.expose_hidden:
            # Caffe goes on from where the last pass ended.
            state = np.zeros((1, bottoms[0].shape[1], definition.num_output), np.float32)
            fits = self.states and self.states[0].shape == state.shape
            self.first_states = self.states if fits else [state] * definition.states
            layer = _with_states(layer, state.shape)
            bottoms += self.first_states
        values, moved = run_layer(layer, bottoms, self._params(), rng=rng)
        self.states = values[len(self.tops) :]
        for top, value in zip(self.tops, values, strict=False):
            top.reshape(*value.shape)
            top.data[...] = value
        for index, value in moved.items():
            self.params[index].data[...] = value

    def _read(self) -> None:
        if isinstance(self.layer.definition, MemoryData) and self.batches is None:
            raise ArgumentError(f"layer {self.layer.name!r}: MemoryData needs set_input_arrays first")
        if self.batches is None:
            return
        try:
            batch = next(self.batches)
        except CaffePortError as error:
            raise type(error)(f"layer {self.layer.name!r}: {error}") from error
        for blob, value in zip(self.tops, batch.values(), strict=True):
            blob.reshape(*value.shape)
            blob.data[...] = value

    def reshape(self) -> None:
        """Gives the tops the shapes that follow from the bottoms', and a view the bottom's memory.

        Raises: ShapeError where they do not fit the layer.
        """
        try:
            shapes = shapes_of_tops(self.layer, [blob.shape for blob in self.bottoms])
        except CaffePortError as error:
            raise type(error)(f"layer {self.layer.name!r}: {error}") from error
        for top, shape in zip(self.tops, shapes, strict=True):
            top.reshape(*shape)
        if self.is_view:
            self.share()

    def share(self) -> None:
        """Gives a view's tops the bottom's memory; Split keeps gradients apart, to add them up."""
        for top in self.tops:
            top.share_data(self.bottoms[0])
            if self.layer.type != "Split":
                top.share_diff(self.bottoms[0])

    def _params(self) -> list[Array]:
        return [fitted(blob, weight.shape) for blob, weight in zip(self.params, self.layer.weights, strict=True)]

    # Backward

    def backward(self, wanted: back.Plan) -> None:
        """Takes the tops' gradients to the bottoms and the learned blobs that want them.

        Raises: GraphError for Dropout that did not go forward; MissingDependency without torch.
        """
        layer, definition = self.layer, self.layer.definition
        if isinstance(definition, LivePythonLayer):
            definition.instance.backward(self.tops, list(wanted.bottoms), self.bottoms)
        elif layer.type == "Split":
            if wanted.bottoms[0]:
                self.bottoms[0].diff[...] = sum(top.diff for top in self.tops)
        elif layer.type == "Silence":
            for blob, asked in zip(self.bottoms, wanted.bottoms, strict=True):
                if asked:
                    blob.diff[...] = 0
        elif isinstance(definition, Dropout) and layer.phase == "TRAIN":
            if wanted.bottoms[0]:
                if self.rng_state is None:
                    raise GraphError(f"layer {layer.name!r}: Dropout goes backward only after it went forward")
                self.bottoms[0].diff[...] = back.gradient_of_dropout(layer, self.tops[0].diff, self.rng_state)
        elif (
            not self.is_view
            and not isinstance(definition, (HDF5Output, Parameter))
            and (any(wanted.bottoms) or any(wanted.weights))
        ):
            self._pull_back(wanted)

    def _pull_back(self, wanted: back.Plan) -> None:
        of_top = back.gradient_of_top(self.layer, self.tops[0].data, self.tops[0].diff) if self.tops else None
        if of_top is not None:
            self.bottoms[0].diff[...] = of_top
            return
        bottoms = [blob.data for blob in self.bottoms]
        if self.before:
            bottoms = self.before
        shapes = tuple(bottom.shape for bottom in bottoms)
        if self.module is None or self.module[0] != shapes:
            self.module = shapes, back.make_module(self._shaped(shapes))
        tops = [top.diff for top in self.tops]
        if self.first_states:
            # No gradient goes to the states of the pass before.
            bottoms = [*bottoms, *self.first_states]
            tops += [np.zeros_like(state) for state in self.first_states]
            wanted = replace(wanted, bottoms=(*wanted.bottoms, *[False] * len(self.first_states)))
        of_bottoms, of_params = back.gradients(self.layer, self.module[1], bottoms, self._params(), tops, wanted)
        for blob, gradient in zip(self.bottoms, of_bottoms, strict=False):
            if gradient is not None:
                blob.diff[...] = gradient
        for blob, gradient in zip(self.params, of_params, strict=True):
            if gradient is not None:
                blob.diff[...] += gradient.reshape(blob.shape)

    def _shaped(self, shapes: Sequence[Shape]) -> BuiltLayer:
        """The layer as PyTorch is to have it: for bottoms of these shapes, with its states in the open."""
        tops = [ValueOf(value.name, top.shape) for value, top in zip(self.layer.tops, self.tops, strict=True)]
        bottoms = [ValueOf(value.name, shape) for value, shape in zip(self.layer.bottoms, shapes, strict=True)]
        layer = replace(self.layer, bottoms=tuple(bottoms), tops=tuple(tops))
        return _with_states(layer, self.first_states[0].shape) if self.first_states else layer


def fitted(blob: Blob, shape: Shape) -> Array:
    """The blob's values in the shape its layer needs. Raises: BlobShapeError if a script gave it another count."""
    if blob.count != count(shape):
        raise BlobShapeError(f"a learned blob is {format_shape(blob.shape)}, its layer needs {format_shape(shape)}")
    return blob.data.reshape(shape)


def _with_states(layer: BuiltLayer, state: Shape) -> BuiltLayer:
    """A recurrent layer with its states as bottoms and tops, which it otherwise keeps to itself."""
    definition = layer.definition
    assert isinstance(definition, Recurrent)
    states = tuple(ValueOf(f"state {i}", state) for i in range(definition.states))
    return replace(
        layer,
        definition=replace(definition, expose_hidden=True),
        bottoms=(*layer.bottoms, *states),
        tops=(*layer.tops, *states),
    )
