"""The registry of layer types, and the promises every type makes."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import subprocess
import sys
from typing import Any

import pytest
from places import ROOT

import caffe_port
from caffe_port import registry
from caffe_port.layers.base import LayerDef

TYPES = [definition.type for definition in registry.layer_types()]


def definition_of(name: str) -> type[LayerDef]:
    found = registry.find_layer(name)
    assert found is not None
    return found


def test_there_are_types() -> None:
    assert len(TYPES) > 30 and sorted(TYPES) == TYPES
    assert {"Input", "Convolution", "Pooling", "LRN", "InnerProduct", "ReLU", "Softmax", "BatchNorm", "Split"} <= set(
        TYPES
    )


@pytest.mark.parametrize("backend", registry.BACKENDS)
@pytest.mark.parametrize("name", TYPES)
def test_every_type_has_an_emitter_or_a_reason(backend: str, name: str) -> None:
    definition = definition_of(name)
    emitter, reason = registry.find_emitter(backend, name), registry.reason_inexpressible(backend, name)
    if definition.is_input or definition.is_pass_through:
        assert emitter is None and reason is None, f"{name} needs none"
        return
    assert (emitter is None) != (reason is None), f"{name} has {'both' if emitter else 'neither'}"
    if reason is not None:
        assert len(reason) > 15 and reason[0].islower() and not reason.endswith("."), "one clause, put behind a colon"
    assert registry.is_expressible(backend, definition) == (emitter is not None)


def test_no_emitter_is_without_its_type() -> None:
    for backend in registry.BACKENDS:
        registry.find_emitter(backend, "Input")
    assert {name for _, name in (*registry._emitters, *registry._reasons)} <= set(TYPES)


@pytest.mark.parametrize("name", TYPES)
def test_every_type_is_documented(name: str) -> None:
    text = definition_of(name).__doc__ or ""
    assert "Shapes:" in text or "Source:" in text
    first = text.split("\n\n")[0]
    assert first.endswith(".") and not first.startswith(name)


@pytest.mark.parametrize("name", TYPES)
def test_every_type_declares_what_the_builder_needs(name: str) -> None:
    definition = definition_of(name)
    assert definition.type == name
    assert definition.in_place in ("ok", "overwrites", "refused")
    if definition.is_input:
        assert "declared_shapes" in {attribute for cls in definition.__mro__[:-2] for attribute in vars(cls)}
        assert 0 in definition.bottoms
    else:
        assert definition.top_shapes is not LayerDef.top_shapes
        assert definition.forward is not LayerDef.forward


def test_double_registration_raises() -> None:
    with pytest.raises(ValueError, match="'ReLU' is declared twice"):
        registry.layer("ReLU")(type("Other", (LayerDef,), {}))
    assert definition_of("ReLU").__name__ == "ReLU"
    registry.find_emitter("onnx", "ReLU")
    with pytest.raises(ValueError, match="onnx emitter for 'ReLU' is registered twice"):
        registry.emitter("onnx", "ReLU")(lambda: None)
    with pytest.raises(ValueError, match="onnx emitter for 'ReLU' is registered twice"):
        registry.inexpressible("onnx", "ReLU", "because")


def test_registration_of_a_new_type(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("_layers", "_emitters", "_reasons"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))

    @registry.layer("Novel")
    class Novel(LayerDef):
        """New."""

    assert registry.find_layer("Novel") is Novel and Novel.type == "Novel"
    assert not registry.is_expressible("onnx", Novel)
    registry.inexpressible("onnx", "Novel", "nobody knows how")
    with pytest.raises(ValueError, match="registered twice"):
        registry.emitter("onnx", "Novel")(lambda: None)
    assert registry.reason_inexpressible("onnx", "Novel") == "nobody knows how"

    @registry.emitter("pytorch", "Novel", "Novel2")
    def emit(*_: Any) -> None:
        """Nothing."""

    assert registry.find_emitter("pytorch", "Novel") is registry.find_emitter("pytorch", "Novel2") is emit


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="unknown backend 'tensorflow'"):
        registry.emitter("tensorflow", "ReLU")


def test_unknown_type() -> None:
    assert registry.find_layer("relu") is None and registry.find_layer("") is None
    assert registry.nearest_types("relu")[0] == "ReLU"
    assert registry.nearest_types("Xyzzy") == []


def modules() -> list[str]:
    """Every module of the package. An editable installation has its packages in several places."""
    found = {"caffe_port"}
    packages = ["caffe_port", "caffe_port.proto", "caffe_port.converters", "caffe_port.reference_outputs"]
    while packages:
        package = importlib.import_module(packages.pop())
        found.add(package.__name__)
        if ".to_pytorch.modules" in package.__name__ and importlib.util.find_spec("torch") is None:
            continue
        for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            found.add(info.name)
            if info.ispkg:
                packages.append(info.name)
    return sorted(found)


def test_there_are_modules() -> None:
    assert {"caffe_port.net", "caffe_port.proto.wire", "caffe_port.converters.to_onnx.export"} <= set(modules())


@pytest.mark.parametrize("name", modules())
def test_names_in_all_exist(name: str) -> None:
    if ".to_pytorch.modules" in name:
        pytest.importorskip("torch")
    module = importlib.import_module(name)
    names = getattr(module, "__all__", None)
    if names is None:
        return
    assert len(set(names)) == len(names)
    missing = [public for public in names if not hasattr(module, public)]
    assert not missing
    assert not [public for public in names if public.startswith("_") and not public.startswith("__")]


def test_dir_of_the_package() -> None:
    assert set(caffe_port.__all__) <= set(dir(caffe_port))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        caffe_port.nothing  # noqa: B018


def test_the_page_of_layer_types_is_up_to_date() -> None:
    page = ROOT / "docs" / "layers.md"
    # In a process of its own: other tests declare types.
    printed = subprocess.run(
        [sys.executable, "-m", "caffe_port.layer_table"], capture_output=True, check=True, text=True
    )
    assert page.read_text() == printed.stdout
    types = [line.split("|")[1].strip() for line in page.read_text().splitlines()[6:] if line.startswith("|")]
    assert len(types) == 92 and types == sorted(types)
