"""What is missing is said together with how to get it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

import pytest

from caffe_port.errors import MissingDependency
from caffe_port.optional import require_matplotlib, require_onnxruntime, require_torch


@pytest.mark.parametrize(
    ("library", "require", "extra"),
    [
        ("torch", require_torch, "torch"),
        ("onnxruntime", require_onnxruntime, "runtime"),
        ("matplotlib", require_matplotlib, "calibration"),
    ],
)
def test_a_missing_library(
    monkeypatch: pytest.MonkeyPatch, library: str, require: Callable[[], object], extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependency) as caught:
        require()
    assert f"pip install 'caffe_port[{extra}]' (" in str(caught.value)


@pytest.mark.parametrize(
    ("library", "require"), [("onnxruntime", require_onnxruntime), ("matplotlib", require_matplotlib)]
)
def test_how_to_do_without(monkeypatch: pytest.MonkeyPatch, library: str, require: Callable[[str], object]) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependency, match=r"\]', or --no-verify \("):
        require("--no-verify")


@pytest.mark.parametrize("library", ["sklearn", "scipy"])
def test_statistics_without_their_libraries(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.delitem(sys.modules, "caffe_port.calibration.libraries", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependency, match=r"calibration needs scikit-learn and SciPy: pip install .*calibration"):
        importlib.import_module("caffe_port.calibration.libraries")
