"""`import caffe` finding the drop-in, and what the module itself has."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator

import pytest

import caffe_port.pycaffe
from caffe_port.errors import CaffePortError


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in sys.modules if name == "caffe" or name.startswith("caffe.")]:
        monkeypatch.delitem(sys.modules, name)
    caffe_port.pycaffe.install()
    yield
    caffe_port.pycaffe.uninstall()


@pytest.mark.usefixtures("installed")
def test_modules_are_the_same_under_both_names() -> None:
    caffe = importlib.import_module("caffe")
    assert caffe is caffe_port.pycaffe and caffe.__spec__.name == caffe.__name__ == "caffe_port.pycaffe"
    scope: dict[str, object] = {}
    exec(
        "import caffe, caffe.io\nfrom caffe.proto import caffe_pb2\nfrom caffe import layers as L, params as P, Net\n"
        "import caffe.net_spec, caffe.pycaffe",
        scope,
    )
    assert scope["caffe"] is caffe and scope["caffe_pb2"] is importlib.import_module(
        "caffe_port.pycaffe.proto.caffe_pb2"
    )
    assert scope["Net"] is caffe.Net is caffe.pycaffe.Net and caffe.io is importlib.import_module(
        "caffe_port.pycaffe.io"
    )
    assert caffe.net_spec.NetSpec is caffe.NetSpec and scope["L"] is caffe.layers
    with pytest.raises(ModuleNotFoundError, match=r"caffe\.nothing"):
        importlib.import_module("caffe.nothing")
    caffe_port.pycaffe.install()
    caffe_port.pycaffe.uninstall()
    assert not caffe_port.pycaffe.is_installed() and "caffe" not in sys.modules and "caffe.io" not in sys.modules
    assert "caffe_port.pycaffe.io" in sys.modules


def test_another_caffe_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = types.ModuleType("caffe")
    monkeypatch.setitem(sys.modules, "caffe", real)
    with pytest.raises(ImportError, match="another caffe is imported already") as caught:
        caffe_port.pycaffe.install()
    assert isinstance(caught.value, CaffePortError)
    caffe_port.pycaffe.uninstall()
    assert sys.modules["caffe"] is real and not caffe_port.pycaffe.is_installed()


def test_importing_it_loads_no_numpy() -> None:
    code = (
        "import sys, caffe_port.pycaffe as ours; ours.install(); import caffe; assert caffe is ours; "
        "print([m for m in ('numpy', 'google.protobuf', 'torch', 'onnx', 'PIL', 'h5py') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_name_is_there() -> None:
    for name in caffe_port.pycaffe.__all__:
        assert getattr(caffe_port.pycaffe, name) is not None
    assert set(caffe_port.pycaffe.__all__) <= set(dir(caffe_port.pycaffe))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = caffe_port.pycaffe.nothing  # type: ignore[attr-defined]


def test_layer_types() -> None:
    types = caffe_port.pycaffe.layer_type_list()
    assert types == sorted(types) and {"Convolution", "Data", "Python", "SoftmaxWithLoss"} <= set(types)


def test_modes_and_counts() -> None:
    caffe = caffe_port.pycaffe
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        caffe.set_mode_cpu()
        caffe.set_device(0)
        caffe.set_multiprocess(True)
        caffe.set_solver_count(1)
        caffe.set_solver_rank(0)
    with pytest.warns(UserWarning, match="no GPU mode: the CPU computes"):
        caffe.set_mode_gpu()
    assert (caffe.solver_count(), caffe.solver_rank(), caffe.has_nccl()) == (1, 0, False)
    timer = caffe.Timer()
    assert timer.ms == 0
    timer.start()
    timer.stop()
    assert 0 <= timer.ms == timer.ms


def test_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="caffe"):
        caffe_port.pycaffe.log("net made")
    assert caplog.messages == ["net made"]
    caffe_port.pycaffe.init_log(2, stderr=False)
    assert logging.getLogger("caffe").level == logging.ERROR
