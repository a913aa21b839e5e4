"""`caffe.Net`: blobs and learned blobs that scripts read and write; forward on NumPy, backward through PyTorch."""

from __future__ import annotations

import itertools
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from caffe_port import datasets
from caffe_port.errors import CaffePortError, GraphError, ShapeError, WeightsError
from caffe_port.layers.activation import Dropout
from caffe_port.layers.base import Array
from caffe_port.layers.data import DataSource, DummyData, HDF5Output, MemoryData, Parameter
from caffe_port.layers.python import making_python_layers
from caffe_port.layers.recurrent import Recurrent
from caffe_port.loading import load, with_weight_file
from caffe_port.net import Blob as ValueOf
from caffe_port.net import Layer as BuiltLayer
from caffe_port.net import Net as BuiltNet
from caffe_port.proto import text, wire
from caffe_port.pycaffe import backward as back
from caffe_port.pycaffe.blobs import Blob, BlobVec
from caffe_port.pycaffe.errors import ArgumentError, BlobShapeError, FileError, LayerNameError
from caffe_port.pycaffe.layer import Layer, LivePythonLayer, built_layer
from caffe_port.pycaffe.settings import next_seed
from caffe_port.runtime import run_layer, shapes_of_tops
from caffe_port.shapes import Shape, count, format_shape
from caffe_port.weights import write_hdf5

__all__ = ["Net"]

PathLike = str | os.PathLike[str]
Callback = Callable[[int], object]
_PHASES = ("TRAIN", "TEST")
"""By the numbers of caffe.proto."""


@dataclass(slots=True, eq=False)
class _Step:
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


class Net:
    """A net as pycaffe has it.

    `Net(prototxt, phase, level=0, stages=None, weights=None)`, or the old `Net(prototxt, weights, phase)`; phase is
    `caffe.TRAIN` or `caffe.TEST`. Layers that the weights have nothing for keep their fillers' values. Python layers
    are imported and run, and data layers read their files (relative to the working directory), as in Caffe: open only
    nets that you trust.

    `blobs`, `params` (lists of learned blobs by layer) and `layer_dict` are OrderedDicts in Caffe's order; `layers` is
    a list, `inputs` and `outputs` are names. What `forward` and `backward` return are the blobs' own arrays, which the
    next pass overwrites.
    Raises: FileError for a file that is not there, and the errors of `caffe_port.load`.
    """

    def __init__(self, network_file: PathLike, *args: Any, **options: Any) -> None:
        if args and isinstance(args[0], (str, os.PathLike)):
            options["weights"], *args = args  # type: ignore[assignment]
        given = _Options(*args, **options)
        for path in (network_file, given.weights):
            if path is not None and not Path(path).is_file():
                raise FileError(f"Could not open file {os.fspath(path)}")
        net = _loaded(network_file, given)
        self._rng = np.random.default_rng(next_seed())
        self._net = _started(net)
        self._force = _forces_backward(network_file)
        self._steps: list[_Step] = []
        self._names: list[str] = []
        self._blobs: list[Blob] = []
        self._make_steps()
        self._plan = back.plan(self._net, force=self._force)
        self._callbacks: dict[str, list[Callback]] = {}
        self._set_loss_weights()

    # What it has

    def _make_steps(self) -> None:
        current: dict[str, Blob] = {}
        owned: dict[int, Blob] = {}
        for layer in self._net.layers:
            definition = layer.definition
            bottoms = [current[blob.name] for blob in layer.bottoms]
            seen = definition.instance if isinstance(definition, LivePythonLayer) else _built(layer)
            _fill(seen.blobs, layer, owned)
            tops: list[Blob] = []
            for i, value in enumerate(layer.tops):
                if i < len(bottoms) and value.name == layer.bottoms[i].name:
                    tops.append(bottoms[i])
                    continue
                top = definition.set_up_tops[i] if isinstance(definition, LivePythonLayer) else Blob(*value.shape)
                tops.append(top)
                self._names.append(value.name)
                self._blobs.append(top)
                current[value.name] = top
            step = _Step(layer, bottoms, tops, seen.blobs, seen)
            if isinstance(definition, DataSource) and not isinstance(definition, MemoryData):
                names = [top.name for top in layer.tops]
                step.batches = datasets.open_source(definition, names, phase=layer.phase, seed=next_seed() % 2**31)
            if isinstance(definition, Parameter):
                tops[0].share_data(step.params[0])
                tops[0].share_diff(step.params[0])
            if isinstance(definition, DummyData):
                for filler, top in zip(definition.fillers, tops, strict=True):
                    top.data[...] = filler.fill(top.shape, self._rng)
            if step.is_view:
                _share(step)
            self._steps.append(step)
        self.layers = [step.seen for step in self._steps]
        self.blobs = OrderedDict(zip(self._names, self._blobs, strict=True))
        self.params = OrderedDict((step.layer.name, step.params) for step in self._steps if step.params)

    def _set_loss_weights(self) -> None:
        """The weights stand in the loss tops' gradients from the start: that is where backward begins."""
        self._blob_loss_weights = [0.0] * len(self._blobs)
        for step in self._steps:
            for top, weight in zip(step.tops, back.loss_weights(step.layer), strict=True):
                self._blob_loss_weights[self._index_of(top)] = weight
                if weight:
                    top.diff[...] = weight

    def _index_of(self, blob: Blob) -> int:
        return next(i for i, own in enumerate(self._blobs) if own is blob)

    @property
    def name(self) -> str:
        return self._net.name

    @property
    def _layer_names(self) -> list[str]:
        return [step.layer.name for step in self._steps]

    @property
    def _blob_names(self) -> list[str]:
        return list(self._names)

    @property
    def layer_dict(self) -> OrderedDict[str, Layer]:
        return OrderedDict(zip(self._layer_names, self.layers, strict=True))

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        return OrderedDict(zip(self._names, self._blob_loss_weights, strict=True))

    @property
    def inputs(self) -> list[str]:
        """The tops of Input layers."""
        return [top.name for step in self._steps if step.layer.type == "Input" for top in step.layer.tops]

    @property
    def outputs(self) -> list[str]:
        """The blobs that no layer consumes, sorted by name."""
        return list(self._net.outputs)

    @property
    def _inputs(self) -> list[int]:
        return [self._names.index(name) for name in self.inputs]

    @property
    def _outputs(self) -> list[int]:
        return [self._names.index(name) for name in self.outputs]

    @property
    def top_names(self) -> OrderedDict[str, list[str]]:
        return OrderedDict((step.layer.name, [top.name for top in step.layer.tops]) for step in self._steps)

    @property
    def bottom_names(self) -> OrderedDict[str, list[str]]:
        return OrderedDict((step.layer.name, [blob.name for blob in step.layer.bottoms]) for step in self._steps)

    def _top_ids(self, layer: int) -> list[int]:
        return [self._index_of(blob) for blob in self._steps[layer].tops]

    def _bottom_ids(self, layer: int) -> list[int]:
        return [self._index_of(blob) for blob in self._steps[layer].bottoms]

    # Forward

    def forward(
        self, blobs: Iterable[str] | None = None, start: str | None = None, end: str | None = None, **inputs: Any
    ) -> dict[str, Array]:
        """Runs the layers from `start` to `end` (names, both included; default all of them).

        blobs: names of blobs to be returned too. inputs: values for each of the net's inputs, by name, if any is given.
        Returns the tops of `end`, or the net's outputs, and `blobs`: the blobs' own arrays, by name.
        Raises: ArgumentError unless `inputs` are just the net's; BlobShapeError for values that do not fit;
        LayerNameError; KeyError for a blob that is none; and what a layer raises.
        """
        first = 0 if start is None else self._position(start)
        last = len(self._steps) - 1 if end is None else self._position(end)
        wanted = [*(self.outputs if end is None else self.top_names[end]), *(blobs or ())]
        self._take(inputs, self.inputs, "Input blob arguments do not match net inputs", "data")
        self._forward(first, last)
        return {name: self.blobs[name].data for name in wanted}

    def _take(self, values: Mapping[str, Any], names: Iterable[str], message: str, what: str) -> None:
        """Writes values or gradients given by name to their blobs."""
        if values and set(values) != set(names):
            raise ArgumentError(f"{message}: {', '.join(sorted(values))} given, {', '.join(sorted(names))} needed")
        for name, value in values.items():
            blob = self.blobs[name]
            array = np.asarray(value)
            if array.shape[:1] != blob.shape[:1]:
                raise BlobShapeError(
                    f"{name!r} is not batch sized: {format_shape(array.shape)} for {format_shape(blob.shape)} "
                    "(reshape the blob first)"
                )
            try:
                getattr(blob, what)[...] = array
            except ValueError as error:
                raise BlobShapeError(f"{name!r}: {error}") from None

    def _position(self, name: str) -> int:
        try:
            return self._layer_names.index(name)
        except ValueError:
            raise LayerNameError(f"net {self.name!r} has no layer {name!r}") from None

    def _forward(self, start: int, end: int) -> float:
        """Runs layers by position, both included; returns their loss."""
        loss = 0.0
        for i in range(start, end + 1):
            self._call("before_forward", i)
            loss += self._step_forward(i)
            self._call("after_forward", i)
        return loss

    def _step_forward(self, i: int) -> float:
        step = self._steps[i]
        layer, definition = step.layer, step.layer.definition
        if isinstance(definition, LivePythonLayer):
            definition.instance.reshape(step.bottoms, step.tops)
            definition.instance.forward(step.bottoms, step.tops)
        elif definition.is_input:
            self._read(step)
        elif isinstance(definition, DummyData):
            for filler, top in zip(definition.fillers, step.tops, strict=True):
                if filler.is_random:
                    top.data[...] = filler.fill(top.shape, self._rng)
        elif isinstance(definition, HDF5Output):
            definition.save(definition.file_name, *(blob.data for blob in step.bottoms))
        elif step.is_view:
            _reshape(step)
        elif not isinstance(definition, Parameter):
            self._compute(step, self._plan[i])
        weights = back.loss_weights(layer)
        return sum(float(np.vdot(top.data, top.diff)) for top, weight in zip(step.tops, weights, strict=True) if weight)

    def _compute(self, step: _Step, wanted: back.Plan) -> None:
        layer, definition = step.layer, step.layer.definition
        bottoms = [blob.data for blob in step.bottoms]
        if wanted.layer and back.forgets_bottom(layer):
            step.before = [bottom.copy() for bottom in bottoms]
        if wanted.layer and isinstance(definition, Dropout):
            step.rng_state = dict(self._rng.bit_generator.state)
        if isinstance(definition, Recurrent) and not definition.expose_hidden:
            # Caffe goes on from where the last pass ended.
            state = np.zeros((1, bottoms[0].shape[1], definition.num_output), np.float32)
            fits = step.states and step.states[0].shape == state.shape
            step.first_states = step.states if fits else [state] * definition.states
            layer = _with_states(layer, state.shape)
            bottoms += step.first_states
        values, moved = run_layer(layer, bottoms, _params(step), rng=self._rng)
        step.states = values[len(step.tops) :]
        for top, value in zip(step.tops, values, strict=False):
            top.reshape(*value.shape)
            top.data[...] = value
        for index, value in moved.items():
            step.params[index].data[...] = value

    def _read(self, step: _Step) -> None:
        if isinstance(step.layer.definition, MemoryData) and step.batches is None:
            raise ArgumentError(f"layer {step.layer.name!r}: MemoryData needs set_input_arrays first")
        if step.batches is None:
            return
        try:
            batch = next(step.batches)
        except CaffePortError as error:
            raise type(error)(f"layer {step.layer.name!r}: {error}") from error
        for blob, value in zip(step.tops, batch.values(), strict=True):
            blob.reshape(*value.shape)
            blob.data[...] = value

    def reshape(self) -> None:
        """Gives every blob the shape that follows from the inputs'. `forward` does so by itself, layer by layer.

        Raises: ShapeError where the shapes do not fit a layer.
        """
        for step in self._steps:
            if isinstance(step.layer.definition, LivePythonLayer):
                step.layer.definition.instance.reshape(step.bottoms, step.tops)
            elif not (step.layer.definition.is_input or isinstance(step.layer.definition, (DummyData, Parameter))):
                _reshape(step)

    def forward_all(self, blobs: Iterable[str] | None = None, **inputs: Any) -> dict[str, Array]:
        """Runs any number of items, a batch at a time, the last one filled up with zeros.

        inputs: items for each of the net's inputs. Returns the outputs, and `blobs`, of all items.
        Raises: as `forward`.
        """
        names = list(blobs or ())
        found: dict[str, list[Array]] = {name: [] for name in [*self.outputs, *names]}
        for batch in self._batch(inputs):
            for name, values in self.forward(blobs=names, **batch).items():
                found[name].extend(values.copy())
        return _trimmed(found, inputs)

    def _batch(self, values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The items in batches of the first input's, the last one filled up with zeros."""
        if not values:
            raise ArgumentError("no items are given: name the net's inputs")
        number = len(next(iter(values.values())))
        size = self.blobs[next(iter(values))].num
        for start in range(0, number, size):
            batch = {}
            for name, items in values.items():
                part = np.asarray(items[start : start + size])
                missing = np.zeros((size - len(part), *part.shape[1:]), part.dtype)
                batch[name] = np.concatenate([part, missing]) if len(missing) else part
            yield batch

    def set_input_arrays(self, data: npt.ArrayLike, labels: npt.ArrayLike) -> None:
        """Gives a MemoryData layer, which must be the first, its items: (n, C, H, W) and n labels; n fills batches.

        Raises: ArgumentError for another first layer, for arrays that are not float32 or that do not fit it.
        """
        step = self._steps[0]
        definition = step.layer.definition
        if not isinstance(definition, MemoryData):
            raise ArgumentError("set_input_arrays may only be called if the first layer is a MemoryDataLayer")
        arrays = [np.asarray(data), np.asarray(labels)]
        for array, name in zip(arrays, ("data", "labels"), strict=True):
            if array.dtype != np.float32:
                raise ArgumentError(f"{name} array must be float32, it is {array.dtype}")
        items, size = arrays[0], definition.shape[0]
        if items.ndim != 4 or items.shape[1:] != definition.shape[1:] or arrays[1].size != len(items):
            raise ArgumentError(
                f"{step.layer.name!r} takes n x {format_shape(definition.shape[1:])} and n labels, "
                f"given are {format_shape(items.shape)} and {arrays[1].size}"
            )
        if not len(items) or len(items) % size:
            raise ArgumentError(f"first dimension of input arrays must be a multiple of batch size {size}")
        names = [top.name for top in step.layer.tops]
        step.batches = datasets.open_source(definition, names, arrays=(items, arrays[1]))

    # Backward

    def backward(
        self, diffs: Iterable[str] | None = None, start: str | None = None, end: str | None = None, **gradients: Any
    ) -> dict[str, Array]:
        """Runs the layers backward, from `start` (default the last) to `end` (default the first), both included.

        Gradients of bottoms are overwritten, those of learned blobs added to. diffs: names of blobs whose gradients are
        to be returned too. gradients: those of each of the net's outputs, by name, if any is given; else they are what
        stands in the blobs, for a loss its weight.
        Returns the gradients of `end`'s bottoms, or of the net's inputs, and of `diffs`.
        Raises: as `forward`; MissingDependency without torch, which computes them.
        """
        first = len(self._steps) - 1 if start is None else self._position(start)
        last = 0 if end is None else self._position(end)
        wanted = [*(self.inputs if end is None else self.bottom_names[end]), *(diffs or ())]
        self._take(gradients, self.outputs, "Top diff arguments do not match net outputs", "diff")
        self._backward(first, last)
        return {name: self.blobs[name].diff for name in wanted}

    def _backward(self, start: int, end: int) -> None:
        for i in range(start, end - 1, -1):
            self._call("before_backward", i)
            if self._plan[i].layer:
                self._step_backward(i)
            self._call("after_backward", i)

    def _step_backward(self, i: int) -> None:
        step, wanted = self._steps[i], self._plan[i]
        layer, definition = step.layer, step.layer.definition
        if isinstance(definition, LivePythonLayer):
            definition.instance.backward(step.tops, list(wanted.bottoms), step.bottoms)
        elif layer.type == "Split":
            if wanted.bottoms[0]:
                step.bottoms[0].diff[...] = sum(top.diff for top in step.tops)
        elif layer.type == "Silence":
            for blob, asked in zip(step.bottoms, wanted.bottoms, strict=True):
                if asked:
                    blob.diff[...] = 0
        elif isinstance(definition, Dropout) and layer.phase == "TRAIN":
            if wanted.bottoms[0]:
                if step.rng_state is None:
                    raise GraphError(f"layer {layer.name!r}: Dropout goes backward only after it went forward")
                step.bottoms[0].diff[...] = back.gradient_of_dropout(layer, step.tops[0].diff, step.rng_state)
        elif (
            not step.is_view
            and not isinstance(definition, (HDF5Output, Parameter))
            and (any(wanted.bottoms) or any(wanted.weights))
        ):
            self._pull_back(step, wanted)

    def _pull_back(self, step: _Step, wanted: back.Plan) -> None:
        of_top = back.gradient_of_top(step.layer, step.tops[0].data, step.tops[0].diff) if step.tops else None
        if of_top is not None:
            step.bottoms[0].diff[...] = of_top
            return
        bottoms = [blob.data for blob in step.bottoms]
        if step.before:
            bottoms = step.before
        shapes = tuple(bottom.shape for bottom in bottoms)
        if step.module is None or step.module[0] != shapes:
            step.module = shapes, back.make_module(self._shaped(step, shapes))
        tops = [top.diff for top in step.tops]
        if step.first_states:
            # No gradient goes to the states of the pass before.
            bottoms = [*bottoms, *step.first_states]
            tops += [np.zeros_like(state) for state in step.first_states]
            wanted = replace(wanted, bottoms=(*wanted.bottoms, *[False] * len(step.first_states)))
        of_bottoms, of_params = back.gradients(step.layer, step.module[1], bottoms, _params(step), tops, wanted)
        for blob, gradient in zip(step.bottoms, of_bottoms, strict=False):
            if gradient is not None:
                blob.diff[...] = gradient
        for blob, gradient in zip(step.params, of_params, strict=True):
            if gradient is not None:
                blob.diff[...] += gradient.reshape(blob.shape)

    def _shaped(self, step: _Step, shapes: Sequence[Shape]) -> BuiltLayer:
        """The layer as PyTorch is to have it: for bottoms of these shapes, with its states in the open."""
        tops = [ValueOf(value.name, top.shape) for value, top in zip(step.layer.tops, step.tops, strict=True)]
        bottoms = [ValueOf(value.name, shape) for value, shape in zip(step.layer.bottoms, shapes, strict=True)]
        layer = replace(step.layer, bottoms=tuple(bottoms), tops=tuple(tops))
        return _with_states(layer, step.first_states[0].shape) if step.first_states else layer

    def forward_backward_all(
        self, blobs: Iterable[str] | None = None, diffs: Iterable[str] | None = None, **values: Any
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Any number of items forward and backward, a batch at a time, the last one filled up with zeros.

        values: items for each of the net's inputs, and gradients for each of its outputs.
        Returns the outputs and `blobs`, and the inputs' gradients and `diffs`, of all items. Raises: as `forward`.
        """
        names, names_back = list(blobs or ()), list(diffs or ())
        found: dict[str, list[Array]] = {name: [] for name in [*self.outputs, *names]}
        found_back: dict[str, list[Array]] = {name: [] for name in [*self.inputs, *names_back]}
        forward = self._batch({name: values[name] for name in self.inputs if name in values})
        given = {name: values[name] for name in self.outputs if name in values}
        backward: Iterator[dict[str, Any]] = self._batch(given) if given else itertools.repeat({})
        for batch, gradients in zip(forward, backward, strict=False):
            for name, value in self.forward(blobs=names, **batch).items():
                found[name].extend(value.copy())
            for name, value in self.backward(diffs=names_back, **gradients).items():
                found_back[name].extend(value.copy())
        return _trimmed(found, values), _trimmed(found_back, values)

    def clear_param_diffs(self) -> None:
        """Sets the gradients of all learned blobs to zero."""
        for blob in itertools.chain.from_iterable(step.params for step in self._steps):
            blob.diff[...] = 0

    def before_forward(self, function: Callback) -> None:
        """Has `function` called with a layer's position before it runs forward."""
        self._callbacks.setdefault("before_forward", []).append(function)

    def after_forward(self, function: Callback) -> None:
        self._callbacks.setdefault("after_forward", []).append(function)

    def before_backward(self, function: Callback) -> None:
        self._callbacks.setdefault("before_backward", []).append(function)

    def after_backward(self, function: Callback) -> None:
        self._callbacks.setdefault("after_backward", []).append(function)

    def _call(self, when: str, position: int) -> None:
        for function in self._callbacks.get(when, ()):
            function(position)

    # Learned blobs in and out

    def copy_from(self, path: PathLike) -> None:
        """Takes the learned blobs of a .caffemodel or .caffemodel.h5, by layer name; layers it lacks keep theirs.

        Raises: FileError; WeightsError, for all layers at once, where number or shape do not fit.
        """
        if not Path(path).is_file():
            raise FileError(f"Could not open file {os.fspath(path)}")
        loaded = with_weight_file(self._net, path, allow_missing=True)
        for old, new, blob in zip(self._net.weights(), loaded.weights(), self._owned(), strict=True):
            if new.data is not old.data and new.data is not None:
                _fit(blob, old.shape)[...] = new.data

    def load_hdf5(self, path: PathLike) -> None:
        """`copy_from` for a .caffemodel.h5."""
        self.copy_from(path)

    def share_with(self, other: Net) -> None:
        """Takes the memory of the other net's learned blobs for its own, where it has a layer of the same name.

        Raises: WeightsError where number or shapes differ.
        """
        own = {step.layer.name: step for step in reversed(self._steps)}
        for theirs in other._steps:
            mine = own.get(theirs.layer.name)
            if mine is None:
                continue
            shapes = [[blob.shape for blob in step.params] for step in (mine, theirs)]
            if shapes[0] != shapes[1]:
                raise WeightsError(
                    f"layer {mine.layer.name!r}: learned blobs {', '.join(map(format_shape, shapes[0])) or '(none)'} "
                    f"cannot share those of {', '.join(map(format_shape, shapes[1])) or '(none)'}"
                )
            for blob, source in zip(mine.params, theirs.params, strict=True):
                blob.share_data(source)

    def save(self, path: PathLike) -> None:
        """Writes a .caffemodel as Caffe does: this net's layers, with their learned blobs as they are now.

        Raises: as `caffe_port.converters.to_caffemodel.write_caffemodel`.
        """
        from caffe_port.converters.to_caffemodel import write_caffemodel

        write_caffemodel(self._as_it_is(), path)

    def save_hdf5(self, path: PathLike) -> None:
        """Writes a .caffemodel.h5. Raises: as `caffe_port.weights.write_hdf5`."""
        write_hdf5(self._as_it_is(), path)

    def _owned(self) -> list[Blob]:
        """The learned blobs, shared ones once, in the order of `self._net.weights()`."""
        return [
            blob
            for step in self._steps
            for blob, weight in zip(step.params, step.layer.weights, strict=True)
            if weight.owner is None
        ]

    def _as_it_is(self) -> BuiltNet:
        owned = zip(self._net.weights(), self._owned(), strict=True)
        values = {id(weight): _fit(blob, weight.shape) for weight, blob in owned}
        # Without the files it came from, of which otherwise the whole would be saved again.
        return replace(self._net.with_values(values), sources=())

    def __repr__(self) -> str:
        return f"<caffe.Net {self.name!r} {self._net.phase} {len(self._steps)} layers>"


# How it is made


@dataclass(frozen=True, slots=True)
class _Options:
    """The arguments of Net behind the first, in their order."""

    phase: int
    level: int = 0
    stages: Sequence[str] | None = None
    weights: PathLike | None = None

    def __post_init__(self) -> None:
        if self.phase not in (0, 1):
            raise TypeError(f"phase must be caffe.TRAIN or caffe.TEST, not {self.phase!r}")

    @property
    def state(self) -> dict[str, Any]:
        """What include and exclude rules are held against."""
        return {"phase": _PHASES[self.phase], "level": self.level, "stages": list(self.stages or ())}


def _loaded(prototxt: PathLike, given: _Options) -> BuiltNet:
    """The net, its Python layers set up, its data layers' shapes from their files."""
    from caffe_port.pycaffe.install import stand_in

    weights, state = given.weights, given.state
    options: dict[str, Any] = {**state, "allow_missing_weights": True, "allow_python_layers": True}
    with stand_in(), making_python_layers(LivePythonLayer.make):
        try:
            net = load(prototxt, weights, **options)
        except ShapeError:
            # A data layer may have its shape from its file alone.
            net = load(prototxt, allow_unknown=True, **options)
            if not _reads_data(net):
                raise
        if not _reads_data(net):
            return net
        batch = next(datasets.open_sources(prototxt, **state))
        shapes = {name: array.shape for name, array in batch.items()}
        return load(prototxt, weights, input_shapes=shapes, **options)


def _reads_data(net: BuiltNet) -> bool:
    return any(layer.definition.is_input and layer.type not in ("Input", "MemoryData") for layer in net.layers)


def _started(net: BuiltNet) -> BuiltNet:
    """The net with values for all learned blobs: what files and Python layers have not set is filled."""
    values = {
        id(weight): blob.data
        for layer in net.layers
        if isinstance(layer.definition, LivePythonLayer)
        for weight, blob in zip(layer.weights, layer.definition.instance.blobs, strict=True)
        if weight.data is None
    }
    return net.with_values(values).filled(next_seed())


def _forces_backward(prototxt: PathLike) -> bool:
    path = Path(prototxt)
    if wire.looks_binary(path):
        return bool(wire.read(path).net.force_backward)
    return b"force_backward" in path.read_bytes() and bool(text.read(path)[0].force_backward)


# What a layer works on


def _built(layer: BuiltLayer) -> Layer:
    """A layer that is not written in Python, as scripts see it."""
    return built_layer(layer.type, BlobVec(Blob(*weight.shape) for weight in layer.weights))


def _fill(blobs: BlobVec, layer: BuiltLayer, owned: dict[int, Blob]) -> None:
    """Gives a layer's learned blobs their values; `owned` has those of earlier layers, by id of their Weight."""
    for blob, weight in zip(blobs, layer.weights, strict=True):
        if weight.owner is not None:
            blob.share_data(owned[id(weight.owner)])
            blob.share_diff(owned[id(weight.owner)])
            continue
        assert weight.data is not None
        owned[id(weight)] = blob
        if isinstance(layer.definition, LivePythonLayer):
            # The object may have kept an array of it.
            blob.data[...] = weight.data
        else:
            blob.fill(weight.data)


def _reshape(step: _Step) -> None:
    """Gives the tops the shapes that follow from the bottoms', and a view the bottom's memory."""
    try:
        shapes = shapes_of_tops(step.layer, [blob.shape for blob in step.bottoms])
    except CaffePortError as error:
        raise type(error)(f"layer {step.layer.name!r}: {error}") from error
    for top, shape in zip(step.tops, shapes, strict=True):
        top.reshape(*shape)
    if step.is_view:
        _share(step)


def _share(step: _Step) -> None:
    """Split keeps gradients apart, to add them up."""
    for top in step.tops:
        top.share_data(step.bottoms[0])
        if step.layer.type != "Split":
            top.share_diff(step.bottoms[0])


def _params(step: _Step) -> list[Array]:
    return [_fit(blob, weight.shape) for blob, weight in zip(step.params, step.layer.weights, strict=True)]


def _fit(blob: Blob, shape: Shape) -> Array:
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


def _trimmed(found: Mapping[str, list[Array]], given: Mapping[str, Any]) -> dict[str, Array]:
    """The items, without those of the zeros that filled up the last batch."""
    number = len(next(iter(given.values())))
    return {name: np.asarray(items)[:number] if len(items) > number else np.asarray(items)
            for name, items in found.items()}  # fmt: skip
