"""A stand-in for pycaffe: its interface as far as record.py uses it, and its memory, computing with caffe_port's NumPy.

Blobs are memory: a layer that works in place overwrites its bottom's, and the tops of Split, Flatten and Reshape share
their bottom's. FAKE_PYCAFFE=2015 makes it one of 2015: no `_top_ids`, no types of layers, no keywords, inputs that are
no layers. FAKE_PYCAFFE_ABORTS makes what real Caffe refuses end the process, as there.
"""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from caffe_port import loading
from caffe_port.errors import CaffePortError
from caffe_port.layer_plans import AUTOMATIC_TOP
from caffe_port.layers.base import RunContext
from caffe_port.net import Layer as NetLayer
from caffe_port.net import Net as PortNet
from caffe_port.proto import schema

from . import io, proto

__all__ = ["TEST", "TRAIN", "Net", "io", "proto", "set_mode_cpu"]

OLD = os.environ.get("FAKE_PYCAFFE") == "2015"
TRAIN, TEST = 0, 1

if not OLD:
    __version__ = "1.0.0-fake"


def set_mode_cpu() -> None:
    Net.mode = "CPU"


class Blob:
    def __init__(self, shape: tuple[int, ...], base: Blob | None = None) -> None:
        self.base, self.dims = base, tuple(shape)
        self.array = np.zeros(self.dims, np.float32)

    @property
    def data(self) -> np.ndarray:
        return self.array if self.base is None else self.base.data.reshape(self.dims)

    @property
    def shape(self) -> list[int]:
        return list(self.dims)

    def reshape(self, *dims: int) -> None:
        assert all(type(dim) is int for dim in dims)
        if tuple(dims) != self.dims:
            self.__init__(dims, self.base)


class Layer:
    def __init__(self, layer: NetLayer) -> None:
        if not OLD:
            self.type = layer.type
        self.blobs = [Blob(weight.shape) for weight in layer.weights]


class Net:
    mode = "GPU"

    def __init__(self, network_file: str, *args: Any, **rules: Any) -> None:
        if OLD and rules:
            raise TypeError("Python argument types in Net.__init__(Net, str, int) did not match C++ signature")
        (*weights, phase) = args
        self._options = {"phase": {TRAIN: "TRAIN", TEST: "TEST"}[phase], **rules}
        self._file, self._weights = network_file, [*weights, *rules.pop("weights", ())]
        self._load()

    def _load(self) -> None:
        with fatal():
            net = loading.load(self._file, self._weights, allow_missing_weights=True, **self._options)
        self._build(net.filled(0))

    def _build(self, net: PortNet) -> None:
        self._net = net
        self._blob_names: list[str] = []
        self._blobs: list[Blob] = []
        self._tops: list[list[int]] = []
        self._bottoms: list[list[int]] = []
        now: dict[str, int] = {}
        for layer in net.layers:
            bottoms = [now[blob.name] for blob in layer.bottoms]
            shares = layer.definition.views_bottom(len(layer.bottoms), len(layer.tops))
            for top in layer.tops:
                if top.name not in {blob.name for blob in layer.bottoms}:
                    now[top.name] = len(self._blobs)
                    self._blob_names.append(top.name)
                    self._blobs.append(Blob(top.shape, self._blobs[bottoms[0]] if shares else None))
            self._bottoms.append(bottoms)
            self._tops.append([now[top.name] for top in layer.tops])
        self._running = [i for i, layer in enumerate(net.layers) if not (OLD and layer.type == "Input")]
        self._inputs = [now[top.name] for layer in net.layers if layer.type == "Input" for top in layer.tops]
        self._outputs = [now[blob.name] for blob in net.output_blobs]
        self.layers = [Layer(net.layers[i]) for i in self._running]
        self._layer_names = [net.layers[i].name for i in self._running]

    @property
    def blobs(self) -> OrderedDict[str, Blob]:
        return OrderedDict(zip(self._blob_names, self._blobs, strict=True))

    @property
    def inputs(self) -> list[str]:
        return [self._blob_names[k] for k in self._inputs]

    @property
    def outputs(self) -> list[str]:
        return [self._blob_names[k] for k in self._outputs]

    if not OLD:

        def _top_ids(self, i: int) -> list[int]:
            return self._tops[i]

        def _bottom_ids(self, i: int) -> list[int]:
            return self._bottoms[i]

    def copy_from(self, path: str) -> None:
        self._weights.append(path)
        self._load()

    def reshape(self) -> None:
        shapes = {self._blob_names[k]: self._blobs[k].dims for k in self._inputs}
        with fatal():
            self._net = self._net.with_input_shapes(shapes)
        for layer, tops in zip(self._net.layers, self._tops, strict=True):
            for top, k in zip(layer.tops, tops, strict=True):
                self._blobs[k].reshape(*top.shape)

    def _forward(self, start: int, end: int) -> float:
        assert self.mode == "CPU"
        for i in self._running[start : end + 1]:
            layer, tops = self._net.layers[i], [self._blobs[k] for k in self._tops[i]]
            if layer.type == "Input" or layer.definition.views_bottom(len(layer.bottoms), len(layer.tops)):
                continue
            if layer.definition.is_input:
                for top in tops:
                    top.data[...] = np.arange(top.array.size).reshape(top.dims) % 7
                continue
            context = RunContext(
                layer.phase, np.dtype(np.float32), np.random.default_rng(0), layer.is_in_place, [b.dims for b in tops]
            )
            bottoms = [self._blobs[k].data for k in self._bottoms[i]]
            weights = [np.asarray(weight.data, np.float32) for weight in layer.weights]
            made = [np.array(value, np.float32) for value in layer.definition.forward(context, bottoms, weights)]
            for top, value in zip(tops, made, strict=True):
                top.reshape(*value.shape)
                top.data[...] = value
        return 0.0

    def save(self, path: str) -> None:
        message = schema.message("NetParameter")
        message.input.extend(self.inputs if OLD else [])
        for i in self._running:
            layer = self._net.layers[i]
            names = [top.name for top in layer.tops if top.name != AUTOMATIC_TOP]
            message.layer.add(name=layer.name, type=layer.type, bottom=[blob.name for blob in layer.bottoms], top=names)
        Path(path).write_bytes(message.SerializeToString())


class fatal:  # noqa: N801
    """Turns a refusal into what glog's FATAL does."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, CaffePortError) and "FAKE_PYCAFFE_ABORTS" in os.environ:
            sys.stderr.write(f"F0101 net.cpp:1] Check failed: {error}\n")
            sys.stderr.flush()
            os._exit(134)
