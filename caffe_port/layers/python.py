"""Layers written in Python: a class found by module and name, run only where the caller allows it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from caffe_port.errors import CaffePortError, GraphError, UnsupportedLayer
from caffe_port.layers.base import Array, Count, LayerDef, LayerSpec, RunContext, refuse
from caffe_port.registry import layer
from caffe_port.shapes import Shape, count, legacy_dim

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["PythonBlob", "PythonLayer", "PythonMaker", "allowing_python_layers", "making_python_layers"]

_allowed: ContextVar[bool] = ContextVar("allow_python_layers", default=False)


@contextmanager
def allowing_python_layers(allowed: bool) -> Iterator[None]:
    """Lets nets built in the block import and run the classes their Python layers name."""
    token = _allowed.set(allowed)
    try:
        yield
    finally:
        _allowed.reset(token)


PythonMaker = Callable[[type[Any], "LayerSpec"], "PythonLayer"]
"""Makes the declaration of one Python layer from its class and its layer in the prototxt."""

_maker: ContextVar[PythonMaker | None] = ContextVar("python_layer_maker", default=None)


@contextmanager
def making_python_layers(maker: PythonMaker) -> Iterator[None]:
    """Lets `maker` declare the Python layers of nets built in the block, where they are allowed."""
    token = _maker.set(maker)
    try:
        yield
    finally:
        _maker.reset(token)


class PythonBlob:
    """What a Python layer's methods get as a bottom or a top: `data`, `diff`, `shape`, `reshape`, as pycaffe's Blob."""

    def __init__(self, data: Array) -> None:
        self.data = data
        self.diff = np.zeros_like(data)

    @property
    def shape(self) -> Shape:
        return self.data.shape

    @property
    def count(self) -> int:
        return self.data.size

    @property
    def num(self) -> int:
        return legacy_dim(self.shape, 0)

    @property
    def channels(self) -> int:
        return legacy_dim(self.shape, 1)

    @property
    def height(self) -> int:
        return legacy_dim(self.shape, 2)

    @property
    def width(self) -> int:
        return legacy_dim(self.shape, 3)

    def reshape(self, *dims: int) -> None:
        """Gives the blob another shape; its values are zeros if the number of them changes."""
        shape = tuple(int(dim) for dim in dims)
        if count(shape) == self.data.size:
            self.data = self.data.reshape(shape)
        else:
            self.data = np.zeros(shape, self.data.dtype)
        self.diff = np.zeros_like(self.data)


@layer("Python")
@dataclass(frozen=True, slots=True)
class PythonLayer(LayerDef):
    """A class with the methods setup, reshape, forward and backward, each taking the bottoms and the tops.

    The class `python_param.layer` of the module `python_param.module` gets the attributes `param_str` and `phase` (0
    TRAIN, 1 TEST). It may derive from `caffe.Layer`: where there is no pycaffe, a `caffe` with that class alone stands
    in while the module is imported. Caffe keeps one object for the life of the net; here each run makes its own and
    calls setup and reshape first, so nothing is remembered between runs.
    Shapes: what `reshape` gives the tops. Raises: UnsupportedLayer unless `allow_python_layers` is set, since it runs
    code the net names; GraphError, with the method, for whatever the class raises.
    Source: BVLC/caffe @ 9b89154, python_layer.hpp, _caffe.cpp.
    """

    bottoms = Count(0, None)
    tops = Count(0, None)
    in_place = "ok"

    made_by: type[Any]
    param_str: str
    phase: str
    num_tops: int

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("python_param")
        module, name = params.text("module"), params.text("layer")
        params.inert("share_in_parallel")
        if not module or not name:
            raise refuse("python_param needs module and layer")
        if not _allowed.get():
            raise UnsupportedLayer(
                f"runs the class {name!r} of the Python module {module!r}, which is code that the net chose; if you "
                "trust it: --allow-python-layers (allow_python_layers=True)"
            )
        maker = _maker.get()
        if maker is not None:
            return cast("Self", maker(_found(module, name), spec))
        return cls(_found(module, name), params.text("param_str"), spec.phase, spec.num_tops)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        _, _, tops = self._set_up([np.zeros(shape, np.float32) for shape in bottoms])
        return [top.shape for top in tops]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        made, blobs, tops = self._set_up([np.array(bottom) for bottom in bottoms])
        _call(made, "forward", blobs, tops)
        return [np.asarray(top.data, dtype=ctx.dtype) for top in tops]

    def _set_up(self, bottoms: Sequence[Array]) -> tuple[Any, list[PythonBlob], list[PythonBlob]]:
        blobs = [PythonBlob(bottom) for bottom in bottoms]
        dtype = bottoms[0].dtype if bottoms else np.dtype(np.float32)
        tops = [PythonBlob(np.zeros((), dtype)) for _ in range(self.num_tops)]
        # Not called with the constructor's arguments: pycaffe's own base class is made by C++.
        made: Any = self.made_by.__new__(self.made_by)  # type: ignore[call-overload]
        made.param_str, made.phase = self.param_str, int(self.phase == "TEST")
        for method in ("setup", "reshape"):
            _call(made, method, blobs, tops)
        return made, blobs, tops


def _call(made: Any, method: str, bottoms: list[PythonBlob], tops: list[PythonBlob]) -> None:
    try:
        getattr(made, method)(bottoms, tops)
    except CaffePortError:
        raise
    except Exception as error:
        raise GraphError(f"{type(made).__name__}.{method} raised {type(error).__name__}: {error}") from error


def _found(module: str, name: str) -> type[Any]:
    stand_in = None
    if "caffe" not in sys.modules and importlib.util.find_spec("caffe") is None:
        stand_in = types.ModuleType("caffe")
        stand_in.Layer = type("Layer", (), {})  # type: ignore[attr-defined]
        sys.modules["caffe"] = stand_in
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:
        raise GraphError(f"the Python module {module!r} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        if stand_in is not None:
            del sys.modules["caffe"]
    if not isinstance(found, type):
        raise GraphError(f"the Python module {module!r} has no class {name!r}")
    return found
