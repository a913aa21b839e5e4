"""`caffe.Net`: blobs and learned blobs that scripts read and write; forward on NumPy, backward through PyTorch."""

from __future__ import annotations

import itertools
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from caffe_port import datasets
from caffe_port.errors import WeightsError
from caffe_port.layers.base import Array
from caffe_port.layers.data import DataSource, DummyData, MemoryData, Parameter
from caffe_port.loading import with_weight_file
from caffe_port.net import Layer as BuiltLayer
from caffe_port.net import Net as BuiltNet
from caffe_port.pycaffe import backward as back
from caffe_port.pycaffe.blobs import Blob, BlobVec
from caffe_port.pycaffe.errors import ArgumentError, BlobShapeError, FileError, LayerNameError
from caffe_port.pycaffe.layer import Layer, LivePythonLayer, built_layer
from caffe_port.pycaffe.opening import Options, PathLike, forces_backward, loaded, started
from caffe_port.pycaffe.settings import next_seed
from caffe_port.pycaffe.step import Step, fitted
from caffe_port.shapes import format_shape
from caffe_port.weights import write_hdf5

__all__ = ["Net"]

Callback = Callable[[int], object]


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
        given = Options(*args, **options)
        for path in (network_file, given.weights):
            if path is not None and not Path(path).is_file():
                raise FileError(f"Could not open file {os.fspath(path)}")
        net = loaded(network_file, given)
        self._rng = np.random.default_rng(next_seed())
        self._net = started(net)
        self._force = forces_backward(network_file)
        self._steps: list[Step] = []
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
            step = Step(layer, bottoms, tops, seen.blobs, seen)
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
                step.share()
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
            loss += self._steps[i].forward(self._plan[i], self._rng)
            self._call("after_forward", i)
        return loss

    def reshape(self) -> None:
        """Gives every blob the shape that follows from the inputs'. `forward` does so by itself, layer by layer.

        Raises: ShapeError where the shapes do not fit a layer.
        """
        for step in self._steps:
            if isinstance(step.layer.definition, LivePythonLayer):
                step.layer.definition.instance.reshape(step.bottoms, step.tops)
            elif not (step.layer.definition.is_input or isinstance(step.layer.definition, (DummyData, Parameter))):
                step.reshape()

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
                self._steps[i].backward(self._plan[i])
            self._call("after_backward", i)

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
        filled = with_weight_file(self._net, path, allow_missing=True)
        for old, new, blob in zip(self._net.weights(), filled.weights(), self._owned(), strict=True):
            if new.data is not old.data and new.data is not None:
                fitted(blob, old.shape)[...] = new.data

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
        values = {id(weight): fitted(blob, weight.shape) for weight, blob in owned}
        # Without the files it came from, of which otherwise the whole would be saved again.
        return replace(self._net.with_values(values), sources=())

    def __repr__(self) -> str:
        return f"<caffe.Net {self.name!r} {self._net.phase} {len(self._steps)} layers>"


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


def _trimmed(found: Mapping[str, list[Array]], given: Mapping[str, Any]) -> dict[str, Array]:
    """The items, without those of the zeros that filled up the last batch."""
    number = len(next(iter(given.values())))
    return {name: np.asarray(items[:number]) for name, items in found.items()}
