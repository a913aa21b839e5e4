"""Which layer types exist, and which backend can express them.

A layer type is declared once with `@layer("Type")`; a backend's way of writing it is registered with
`@emitter("onnx", "Type")`, or `inexpressible("onnx", "Type", reason)` says in one sentence why there is none.

A plug-in does the same in a file of its own, which is run by `load_plugin`, or as a module that an installed package
names as an entry point of the group `caffe_port.layers`; those are run when a type is asked for that nobody has
declared yet, or all types are listed. A net of known types runs nobody else's code.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from caffe_port.errors import PluginError, Problems, UnsupportedLayer
from caffe_port.shapes import format_shape

if TYPE_CHECKING:
    from caffe_port.layers.base import LayerDef
    from caffe_port.net import Layer

__all__ = [
    "BACKENDS",
    "ENTRY_POINTS",
    "NOTES",
    "emitter",
    "find_emitter",
    "find_layer",
    "inexpressible",
    "is_expressible",
    "layer",
    "layer_types",
    "load_plugin",
    "nearest_types",
    "reason_inexpressible",
    "require_expressible",
]

BACKENDS = ("pytorch", "onnx")
"""The backends that need an emitter for each layer type. NumPy needs none: a layer's own `forward` is that."""

ENTRY_POINTS = "caffe_port.layers"
"""The group of entry points by which an installed package brings layer types."""

NOTES = {
    "onnx": "A layer that overwrites an input of the net in place: ONNX assigns a name once, and the input has it. The "
    "layer's output is named blob@layer instead (`x@relu`).",
}
"""What a backend cannot keep for any type: a sentence each."""

_TITLES = {"pytorch": "PyTorch", "onnx": "ONNX"}
_EMITTER_PACKAGES = {"pytorch": "caffe_port.converters.to_pytorch", "onnx": "caffe_port.converters.to_onnx"}

_layers: dict[str, type[LayerDef]] = {}
_emitters: dict[tuple[str, str], Callable[..., Any]] = {}
_reasons: dict[tuple[str, str], str] = {}
_origins: dict[tuple[str, str], str] = {}
"""Who registered what: by ("layer" or a backend, type), the module or the plug-in's file."""
_loading: list[str] = []
"""The plug-ins that are being run, the innermost last."""
_plugins: dict[str, str] = {}
"""The plug-ins that were run: by resolved path or name of the entry point, how they were called."""
_entry_points_loaded: list[bool] = []

_L = TypeVar("_L", bound="type[LayerDef]")
_F = TypeVar("_F", bound=Callable[..., Any])


def layer(type_name: str) -> Callable[[_L], _L]:
    """Class decorator: declares the layer type `type_name` (Caffe's string). A second declaration raises ValueError."""

    def register(cls: _L) -> _L:
        if type_name in _layers:
            first = _origins.get(("layer", type_name), _layers[type_name].__module__)
            raise ValueError(
                f"layer type {type_name!r} is declared twice: {first} had it first, {_origin(cls)} declares it again"
            )
        cls.type = type_name
        _layers[type_name] = cls
        _origins["layer", type_name] = _origin(cls)
        return cls

    return register


def emitter(backend: str, *type_names: str) -> Callable[[_F], _F]:
    """Decorator: registers how `backend` expresses the layer types. A second registration raises ValueError."""
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")

    def register(function: _F) -> _F:
        for type_name in type_names:
            key = (backend, type_name)
            _refuse_second(key)
            _emitters[key] = function
            _origins[key] = _origin(function)
        return function

    return register


def inexpressible(backend: str, type_name: str, reason: str) -> None:
    """Records in one sentence why `backend` cannot express a layer type."""
    key = (backend, type_name)
    _refuse_second(key)
    _reasons[key] = reason
    _origins[key] = _loading[-1] if _loading else _EMITTER_PACKAGES.get(backend, backend)


def _origin(what: Any) -> str:
    return _loading[-1] if _loading else str(what.__module__)


def _refuse_second(key: tuple[str, str]) -> None:
    if key in _emitters or key in _reasons:
        first = _origins.get(key)
        told = f": {first} had it first" if first else ""
        raise ValueError(f"{key[0]} emitter for {key[1]!r} is registered twice{told}")


def _load_layers() -> None:
    importlib.import_module("caffe_port.layers")


# Plug-ins


def load_plugin(path: str | os.PathLike[str]) -> None:
    """Runs a plug-in: a Python file with `@layer` declarations and `@emitter` functions. A second time it does nothing.

    It is code, and does whatever it does: run only what you trust. What a plug-in registered before it failed is taken
    back.
    Raises: PluginError, with the line of the plug-in: for a missing file, an error in it, and a type or an emitter that
    somebody declared already, with who it was.
    """
    name = os.fspath(path)
    try:
        resolved = str(Path(path).resolve(strict=True))
        source = Path(path).read_bytes()
    except OSError as error:
        raise PluginError(f"{name}: the plug-in cannot be read: {error.strerror or error}") from None
    if resolved in _plugins:
        return
    digest = hashlib.sha256(resolved.encode()).hexdigest()[:12]
    module_name = f"caffe_port_plugin_{digest}"
    with _running(name, resolved, module_name):
        spec = importlib.util.spec_from_loader(module_name, loader=None, origin=resolved)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        module.__file__ = resolved
        # Dataclasses look their module up.
        sys.modules[module_name] = module
        exec(compile(source, resolved, "exec"), module.__dict__)
    _plugins[resolved] = name


def _load_entry_points() -> None:
    """Imports the modules that installed packages name as plug-ins, sorted by name, once. Raises: PluginError."""
    if _entry_points_loaded:
        return
    _entry_points_loaded.append(True)
    try:
        for entry in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
            told = f"entry point {entry.name} = {entry.value}"
            if entry.value not in _plugins:
                with _running(told, None, None):
                    entry.load()
                _plugins[entry.value] = told
    except BaseException:
        _entry_points_loaded.clear()
        raise


@contextmanager
def _running(name: str, file: str | None, module_name: str | None) -> Iterator[None]:
    """What happens inside is done by a plug-in: its errors become one PluginError, and it then has registered
    nothing.
    """
    # Our own come first, so that it is the plug-in that is told of a double, and not we.
    _load_layers()
    for package in _EMITTER_PACKAGES.values():
        importlib.import_module(package)
    tables: list[dict[Any, Any]] = [_layers, _emitters, _reasons, _origins]
    before = [dict(table) for table in tables]
    _loading.append(name)
    try:
        yield
    except (Exception, SystemExit) as error:
        for table, old in zip(tables, before, strict=True):
            table.clear()
            table.update(old)
        if module_name is not None:
            sys.modules.pop(module_name, None)
        if isinstance(error, PluginError):
            raise
        kind = "" if isinstance(error, ValueError) and "twice" in str(error) else f"{type(error).__name__}: "
        raise PluginError(f"{_place(name, file, error)}: the plug-in cannot be loaded: {kind}{error}") from error
    finally:
        _loading.pop()


def _place(name: str, file: str | None, error: BaseException) -> str:
    """Where in the plug-in's file an error came up: the innermost of its lines."""
    if isinstance(error, SyntaxError) and error.filename == file and error.lineno:
        return f"{name}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{name}:{frames[-1].lineno}" if frames else name


# Look-up


def find_layer(type_name: str) -> type[LayerDef] | None:
    """The declaration of a layer type, or None. Raises: PluginError where an installed plug-in cannot be loaded."""
    _load_layers()
    if type_name not in _layers:
        _load_entry_points()
    return _layers.get(type_name)


def layer_types() -> Iterator[type[LayerDef]]:
    """All declared layer types, those of installed plug-ins too, sorted by name. Raises: PluginError."""
    _load_layers()
    _load_entry_points()
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
    """Whether `backend` can express a layer type: by an emitter, or because it is an input, or (Split) nothing at
    all.
    """
    return definition.is_input or definition.is_pass_through or find_emitter(backend, definition.type) is not None


def reason_inexpressible(backend: str, type_name: str) -> str | None:
    """Why `backend` has no emitter for a type, or None if it has one (or nobody gave a reason)."""
    importlib.import_module(_EMITTER_PACKAGES[backend])
    return _reasons.get((backend, type_name))


def require_expressible(backend: str, layers: Iterable[Layer]) -> None:
    """Raises UnsupportedLayer naming every layer that `backend` cannot express, and why.

    Of blobs without values they compute only those whose batch, axis 0, is 0.
    """
    problems = Problems()
    for layer in layers:
        empty = next((top for top in layer.tops if 0 in top.shape[1:]), None)
        if empty is not None and not layer.automatic:
            problems.add(
                UnsupportedLayer,
                f"{empty.name!r} is {format_shape(empty.shape)}: {_TITLES[backend]} knows no blobs without values but "
                "those of an empty batch",
                layer=layer.name,
                location=layer.location,
            )
        if not is_expressible(backend, type(layer.definition)):
            reason = reason_inexpressible(backend, layer.type) or "no emitter for it yet"
            problems.add(
                UnsupportedLayer,
                f"{layer.type} cannot be written as {_TITLES[backend]}: {reason}",
                layer=layer.name,
                location=layer.location,
            )
    problems.raise_if_any()
