"""`verify --self`: backends compared with each other."""

from __future__ import annotations

import json

import numpy as np
import pytest
import small

from caffe_port.backends import NumpyBackend, TorchBackend
from caffe_port.errors import MissingDependency, ParityError
from caffe_port.self_comparison import verify_self


def test_backends_are_compared_with_each_other() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    compared = verify_self(small.filled(small.CONV_NET))
    assert compared.ok
    compared.raise_if_failed()
    assert [report.backend for report in compared.reports] == ["torch (without oneDNN)", "onnxruntime"]
    assert len(compared.pairs) == 6 and all(pair.blobs == 5 for pair in compared.pairs)
    assert {pair.first for pair in compared.pairs} == {"numpy float64", "numpy float32", "torch (without oneDNN)"}
    assert all(0 < pair.multiple < 8 for pair in compared.pairs)
    assert "not that Caffe computes that" in list(compared.lines())[-1]
    assert len(list(compared.lines())) == 2 + 6 + 1
    json.dumps(compared.as_json(), allow_nan=False)


def test_a_backend_that_computes_something_else_is_found() -> None:
    torch = pytest.importorskip("torch")
    from caffe_port.converters.to_pytorch import to_pytorch

    net = small.filled(small.CONV_NET)
    module = to_pytorch(net)
    with torch.no_grad():
        dict(module.named_parameters())["fc.weight"][0, 0] += 0.5
    compared = verify_self(net, backends=[NumpyBackend("float64"), TorchBackend(module)])
    assert not compared.ok
    with pytest.raises(ParityError, match="first layer 'fc'"):
        compared.raise_if_failed()
    far = [pair for pair in compared.pairs if "torch" in pair.second]
    assert len(far) == 2 and all(pair.multiple > 100 and pair.layer in ("fc", "prob") for pair in far)


def test_numpy_alone_proves_nothing() -> None:
    with pytest.raises(MissingDependency, match="nothing to compare"):
        verify_self(small.filled(small.CONV_NET), backends=[NumpyBackend("float64"), NumpyBackend("float32")])


def test_self_comparison_takes_inputs() -> None:
    pytest.importorskip("torch")
    net = small.filled(small.CONV_NET)
    zero = verify_self(net, {"data": np.zeros((1, 3, 8, 7), np.float32)}, [TorchBackend()])
    assert zero.ok and zero.reports[0].comparisons[0].shape == (1, 4, 8, 7)


def test_a_net_that_computes_nothing_is_no_success() -> None:
    pytest.importorskip("torch")
    compared = verify_self(small.built(small.one_input(1, 2)), backends=[TorchBackend()])
    assert not compared.ok and "nothing was compared" in next(compared.lines())
