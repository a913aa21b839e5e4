"""Which layer types exist, and which backend can express them.

A layer type is declared once with `@layer("Type")`; a backend's way of writing it is registered with
`@emitter("onnx", "Type")`, or `inexpressible("onnx", "Type", reason)` says in one sentence why there is none.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from caffe_port.layers.base import LayerDef

__all__ = [
    "BACKENDS",
    "emitter",
    "find_emitter",
    "find_layer",
    "inexpressible",
    "is_expressible",
    "layer",
    "layer_types",
    "nearest_types",
    "reason_inexpressible",
]

BACKENDS = ("pytorch", "onnx")
"""The backends that need an emitter for each layer type. NumPy needs none: a layer's own `forward` is that."""

_EMITTER_PACKAGES = {"pytorch": "caffe_port.converters.to_pytorch", "onnx": "caffe_port.converters.to_onnx"}

_layers: dict[str, type[LayerDef]] = {}
_emitters: dict[tuple[str, str], Callable[..., Any]] = {}
_reasons: dict[tuple[str, str], str] = {}

_L = TypeVar("_L", bound="type[LayerDef]")
_F = TypeVar("_F", bound=Callable[..., Any])


def layer(type_name: str) -> Callable[[_L], _L]:
    """Class decorator: declares the layer type `type_name` (Caffe's string). A second declaration raises ValueError."""

    def register(cls: _L) -> _L:
        if type_name in _layers:
            raise ValueError(f"layer type {type_name!r} is declared twice: {_layers[type_name]!r} and {cls!r}")
        cls.type = type_name
        _layers[type_name] = cls
        return cls

    return register


def emitter(backend: str, *type_names: str) -> Callable[[_F], _F]:
    """Decorator: registers how `backend` expresses the layer types. A second registration raises ValueError."""
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")

    def register(function: _F) -> _F:
        for type_name in type_names:
            key = (backend, type_name)
            if key in _emitters or key in _reasons:
                raise ValueError(f"{backend} emitter for {type_name!r} is registered twice")
            _emitters[key] = function
        return function

    return register


def inexpressible(backend: str, type_name: str, reason: str) -> None:
    """Records in one sentence why `backend` cannot express a layer type."""
    key = (backend, type_name)
    if key in _emitters or key in _reasons:
        raise ValueError(f"{backend} emitter for {type_name!r} is registered twice")
    _reasons[key] = reason


def _load_layers() -> None:
    importlib.import_module("caffe_port.layers")


def find_layer(type_name: str) -> type[LayerDef] | None:
    """The declaration of a layer type, or None."""
    _load_layers()
    return _layers.get(type_name)


def layer_types() -> Iterator[type[LayerDef]]:
    """All declared layer types, sorted by name."""
    _load_layers()
    return iter([_layers[name] for name in sorted(_layers)])


def nearest_types(type_name: str) -> list[str]:
    """Declared types spelled most like `type_name`, the likeliest first."""
    _load_layers()
    by_lower = {name.lower(): name for name in _layers}
    return [by_lower[hit] for hit in difflib.get_close_matches(type_name.lower(), by_lower, n=3, cutoff=0.7)]


def find_emitter(backend: str, type_name: str) -> Callable[..., Any] | None:
    """The emitter of a layer type for `backend`, or None. Imports the backend's emitters, not its framework's rest."""
    importlib.import_module(_EMITTER_PACKAGES[backend])
    return _emitters.get((backend, type_name))


def is_expressible(backend: str, definition: type[LayerDef]) -> bool:
    """Whether `backend` can express a layer type: by an emitter, or because it is an input, or (Split) nothing at all."""
    return definition.is_input or definition.is_pass_through or find_emitter(backend, definition.type) is not None


def reason_inexpressible(backend: str, type_name: str) -> str | None:
    """Why `backend` has no emitter for a type, or None if it has one (or nobody gave a reason)."""
    importlib.import_module(_EMITTER_PACKAGES[backend])
    return _reasons.get((backend, type_name))
