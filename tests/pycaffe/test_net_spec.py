"""Nets written with `caffe.NetSpec` and run by `caffe.Net`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import caffe_port.pycaffe as caffe
from caffe_port.pycaffe import layers as L  # noqa: N812 - as scripts have it
from caffe_port.pycaffe import params as P  # noqa: N812


def lenet(batch_size: int) -> Any:
    n = caffe.NetSpec()
    n.data, n.label = L.DummyData(
        shape=[{"dim": [batch_size, 1, 28, 28]}, {"dim": [batch_size, 1, 1, 1]}], transform_param={"scale": 1 / 255},
        ntop=2,
    )  # fmt: skip
    n.conv1 = L.Convolution(n.data, kernel_size=5, num_output=20, weight_filler={"type": "xavier"})
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.conv2 = L.Convolution(n.pool1, kernel_size=5, num_output=50, weight_filler={"type": "xavier"})
    n.pool2 = L.Pooling(n.conv2, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.ip1 = L.InnerProduct(n.pool2, num_output=500, weight_filler={"type": "xavier"})
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.ip2 = L.InnerProduct(n.relu1, num_output=10, weight_filler={"type": "xavier"})
    n.loss = L.SoftmaxWithLoss(n.ip2, n.label)
    return n.to_proto()


def anonymous_lenet(batch_size: int) -> Any:
    data, label = L.DummyData(shape=[{"dim": [batch_size, 1, 28, 28]}, {"dim": [batch_size, 1, 1, 1]}], ntop=2)
    conv1 = L.Convolution(data, kernel_size=5, num_output=20, weight_filler={"type": "xavier"})
    pool1 = L.Pooling(conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    conv2 = L.Convolution(pool1, kernel_size=5, num_output=50, weight_filler={"type": "xavier"})
    pool2 = L.Pooling(conv2, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    ip1 = L.InnerProduct(pool2, num_output=500, weight_filler={"type": "xavier"})
    relu1 = L.ReLU(ip1, in_place=True)
    ip2 = L.InnerProduct(relu1, num_output=10, weight_filler={"type": "xavier"})
    return caffe.to_proto(L.SoftmaxWithLoss(ip2, label))


def loaded(folder: Path, proto: Any) -> caffe.Net:
    file = folder / "net.prototxt"
    file.write_text(str(proto))
    return caffe.Net(str(file), caffe.TEST)


@pytest.mark.parametrize("make", [lenet, anonymous_lenet])
def test_lenet(tmp_path: Path, make: Any) -> None:
    proto = make(5)
    relu = proto.layer[6]
    assert relu.type == "ReLU" and relu.bottom == relu.top
    net = loaded(tmp_path, proto)
    assert net.layers[6].type == "ReLU"
    loss = net.forward()
    (value,) = loss.values()
    assert np.allclose(value, np.log(10))


def test_no_tops(tmp_path: Path) -> None:
    n = caffe.NetSpec()
    n.data, n.data2 = L.DummyData(shape={"dim": 3}, ntop=2)
    n.silence_data = L.Silence(n.data, ntop=0)
    n.silence_data2 = L.Silence(n.data2, ntop=0)
    net = loaded(tmp_path, n.to_proto())
    assert len(net.forward()) == 0


def test_what_is_no_top_is_refused() -> None:
    data = L.DummyData(ntop=2, shape={"dim": 3})
    with pytest.raises(TypeError, match="Silence"):
        L.Silence(data, ntop=0)
