"""Layer types from elsewhere: the example of the documentation, and plug-ins that go wrong."""

from __future__ import annotations

import importlib.metadata
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import ROOT
from small import THROUGH, one_input

import caffe_port as cp
from caffe_port import cli, registry
from caffe_port.errors import CaffePortError, PluginError, UnsupportedLayer, UnsupportedParameter

pytestmark = pytest.mark.usefixtures("registry_as_it_was")

EXAMPLE = ROOT / "docs" / "example_plugin.py"

NET = one_input(2, 3, 5) + (
    'layer { name: "gelu" type: "Gelu" bottom: "x" top: "g" }\n'
    'layer { name: "plus" type: "Softplus" bottom: "x" top: "p" python_param { param_str: "2.5" } }\n'
    'layer { name: "sum" type: "Eltwise" bottom: "g" bottom: "p" top: "y" }\n'
)

DECLARED = """\
from caffe_port.layers.base import LayerDef
from caffe_port.registry import emitter, layer
@layer("Novel")
class Novel(LayerDef):
    pass
"""


def plugin(folder: Path, text: str, name: str = "plugin.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def net_file(folder: Path, text: str = NET) -> Path:
    path = folder / "net.prototxt"
    path.write_text(text)
    return path


@pytest.mark.parametrize("backend", sorted(THROUGH))
def test_the_example_in_every_backend(tmp_path: Path, backend: str) -> None:
    registry.load_plugin(EXAMPLE)
    net = cp.load(net_file(tmp_path))
    x = np.linspace(-4, 4, 30, dtype=np.float32).reshape(2, 3, 5)
    got = THROUGH[backend](net, {"x": x})["y"]

    def by_formula(v: float) -> float:
        gelu = 0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))
        return gelu + math.log(1 + math.exp(2.5 * v)) / 2.5

    want = np.array([by_formula(float(v)) for v in x.reshape(-1)]).reshape(x.shape)
    assert got.shape == x.shape and got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=4e-6)


def test_a_plugin_is_run_once(tmp_path: Path) -> None:
    path = plugin(tmp_path, DECLARED)
    registry.load_plugin(path)
    found = registry.find_layer("Novel")
    registry.load_plugin(tmp_path / "." / "plugin.py")
    assert found is not None and registry.find_layer("Novel") is found
    assert found in set(registry.layer_types())


def test_without_it_the_type_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedLayer, match="unknown layer type 'Gelu'"):
        cp.load(net_file(tmp_path))


def test_a_refused_parameter(tmp_path: Path) -> None:
    registry.load_plugin(EXAMPLE)
    for text, want in (("-1", "beta must be positive, it is -1"), ("x", "param_str must be a number, not 'x'")):
        with pytest.raises(UnsupportedParameter, match=want):
            cp.load(net_file(tmp_path, NET.replace("2.5", text)))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("import os\n\nos.nothing\n", "plugin.py:3: the plug-in cannot be loaded: AttributeError"),
        ("x = 1\ndef f(:\n", "plugin.py:2: the plug-in cannot be loaded: SyntaxError"),
        ("import nothing_like_this\n", "plugin.py:1: the plug-in cannot be loaded: ModuleNotFoundError"),
        ("raise SystemExit(3)\n", "plugin.py:1: the plug-in cannot be loaded: SystemExit"),
        (
            DECLARED.replace("Novel", "ReLU"),
            "plugin.py:3: the plug-in cannot be loaded: layer type 'ReLU' is declared twice: "
            "caffe_port.layers.activation had it first",
        ),
        (
            DECLARED + '@emitter("onnx", "Novel", "ReLU")\ndef emit(): ...\n',
            "plugin.py:6: the plug-in cannot be loaded: onnx emitter for 'ReLU' is registered twice: "
            "caffe_port.converters.to_onnx.activation had it first",
        ),
        (DECLARED + "1 / 0\n", "plugin.py:6: the plug-in cannot be loaded: ZeroDivisionError"),
        ('from caffe_port.registry import emitter\nemitter("tensorflow", "X")\n', r"plugin.py:2: .*'tensorflow'"),
        ("\0", "plugin.py"),
    ],
)
def test_plugins_that_go_wrong(tmp_path: Path, text: str, want: str) -> None:
    before = dict(registry._layers), dict(registry._emitters)
    with pytest.raises(PluginError, match=want):
        registry.load_plugin(plugin(tmp_path, text))
    assert (registry._layers, registry._emitters) == before, "something of it is left"
    # Once it is right, it loads.
    registry.load_plugin(plugin(tmp_path, DECLARED))
    assert registry.find_layer("Novel") is not None


def test_two_plugins_with_one_type(tmp_path: Path) -> None:
    registry.load_plugin(plugin(tmp_path, DECLARED, "first.py"))
    with pytest.raises(PluginError, match=r"second\.py:3: .*'Novel' is declared twice: .*first\.py had it first"):
        registry.load_plugin(plugin(tmp_path, DECLARED, "second.py"))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"none\.py: the plug-in cannot be read"):
        registry.load_plugin(tmp_path / "none.py")


def entry_points(monkeypatch: pytest.MonkeyPatch, folder: Path, value: str) -> None:
    found = [importlib.metadata.EntryPoint("mine", value, registry.ENTRY_POINTS)]
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda *, group: found if group == "caffe_port.layers" else []
    )
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, value, raising=False)


def test_an_entry_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plugin(tmp_path, DECLARED, "package_with_layers.py")
    entry_points(monkeypatch, tmp_path, "package_with_layers")
    assert registry.find_layer("ReLU") is not None
    assert "package_with_layers" not in sys.modules, "a known type needs nobody else's code"
    found = registry.find_layer("Novel")
    assert found is not None and found.__module__ == "package_with_layers"
    monkeypatch.delitem(sys.modules, "package_with_layers")


def test_a_broken_entry_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry_points(monkeypatch, tmp_path, "not_installed_at_all")
    for _ in range(2):
        with pytest.raises(PluginError, match=r"entry point mine = not_installed_at_all: .*ModuleNotFoundError"):
            registry.find_layer("Unheard")


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["layers", "--json", "--plugin", str(EXAMPLE)]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    gelu = next(row for row in rows if row["type"] == "Gelu")
    assert gelu["numpy"] is gelu["pytorch"] is gelu["onnx"] is True
    assert cli.main(["inspect", str(net_file(tmp_path)), "--plugin", str(EXAMPLE)]) == 0
    assert "Softplus" in capsys.readouterr().out
    assert cli.main(["inspect", str(net_file(tmp_path)), "--plugin", str(plugin(tmp_path, "1/0"))]) == 2
    assert "plugin.py:1: the plug-in cannot be loaded: ZeroDivisionError" in capsys.readouterr().err


def test_a_plugin_error_is_ours() -> None:
    assert issubclass(PluginError, CaffePortError)
