"""Nets written in Python: names, order, parameters, and what is refused. As pycaffe's net_spec where that has a say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import caffe_port as cp
from caffe_port.errors import CaffePortError, GraphError, UnsupportedLayer, UnsupportedParameter
from caffe_port.netspec import (
    Function,
    NetSpec,
    NotATop,
    Top,
    UnknownLayerType,
    UnknownParameter,
    assign_proto,
    param_name_dict,
    to_proto,
)
from caffe_port.netspec import layers as L  # noqa: N812
from caffe_port.netspec import params as P  # noqa: N812
from caffe_port.proto import dialects, schema, text
from caffe_port.registry import layer_types


def lines(net: Any) -> list[tuple[str, str, list[str], list[str]]]:
    return [(layer.name, layer.type, list(layer.bottom), list(layer.top)) for layer in net.layer]


def lenet() -> NetSpec:
    n = NetSpec()
    n.data, n.label = L.DummyData(
        shape=[{"dim": [5, 1, 28, 28]}, {"dim": [5, 1, 1, 1]}], transform_param={"scale": 1 / 255}, ntop=2
    )
    n.conv1 = L.Convolution(n.data, kernel_size=5, num_output=20, weight_filler={"type": "xavier"})
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.ip1 = L.InnerProduct(n.pool1, num_output=10, weight_filler={"type": "xavier"})
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.loss = L.SoftmaxWithLoss(n.relu1, n.label)
    return n


def test_a_net_as_text() -> None:
    """Written out by hand from what Caffe's schema says."""
    n = NetSpec()
    n.data = L.Input(shape={"dim": [1, 3, 8, 8]})
    n.conv1 = L.Convolution(n.data, num_output=4, kernel_size=3, pad=1, param=[{"lr_mult": 1}, {"lr_mult": 2}])
    n.relu1 = L.ReLU(n.conv1, in_place=True, include={"phase": "TEST"})
    want = """
        layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
        layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" param { lr_mult: 1 } param { lr_mult: 2 }
                convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }
        layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" include { phase: TEST } }"""
    assert n.to_proto() == text.parse(want)[0]


def test_names_and_order() -> None:
    assert lines(lenet().to_proto()) == [
        ("data", "DummyData", [], ["data", "label"]),
        ("conv1", "Convolution", ["data"], ["conv1"]),
        ("pool1", "Pooling", ["conv1"], ["pool1"]),
        ("ip1", "InnerProduct", ["pool1"], ["ip1"]),
        ("relu1", "ReLU", ["ip1"], ["ip1"]),
        ("loss", "SoftmaxWithLoss", ["ip1", "label"], ["loss"]),
    ]


@pytest.mark.parametrize("printed", [str, text.dumps])
@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_printed_it_is_read_again_and_loads(printed: Any, phase: str, tmp_path: Path) -> None:
    net = lenet().to_proto()
    assert text.parse(printed(net))[0] == net
    path = tmp_path / "net.prototxt"
    path.write_text(printed(net))
    assert [layer.name for layer in cp.load(path, phase=phase).layers][-1] == "loss"


def test_automatic_names_count_by_type_depth_first() -> None:
    """Tops get their names when their layer is written, behind those it reads, bottom by bottom."""
    data, label = L.DummyData(shape=[{"dim": [2, 3]}, {"dim": [2]}], ntop=2)
    left = L.InnerProduct(data, num_output=2)
    right = L.InnerProduct(L.ReLU(data), num_output=2)
    both = L.Eltwise(right, left)
    loss = L.SoftmaxWithLoss(L.ReLU(both, in_place=True), label)
    found = lines(loss.to_proto())
    assert found == lines(to_proto(loss))
    assert found == [
        ("DummyData1", "DummyData", [], ["DummyData1", "DummyData2"]),
        ("ReLU1", "ReLU", ["DummyData1"], ["ReLU1"]),
        ("InnerProduct1", "InnerProduct", ["ReLU1"], ["InnerProduct1"]),
        ("InnerProduct2", "InnerProduct", ["DummyData1"], ["InnerProduct2"]),
        ("Eltwise1", "Eltwise", ["InnerProduct1", "InnerProduct2"], ["Eltwise1"]),
        ("ReLU2", "ReLU", ["Eltwise1"], ["Eltwise1"]),
        ("SoftmaxWithLoss1", "SoftmaxWithLoss", ["Eltwise1", "DummyData2"], ["SoftmaxWithLoss1"]),
    ]


def test_only_what_is_needed_is_written_and_once() -> None:
    data = L.Input(shape={"dim": [1]})
    one, two = L.ReLU(data), L.TanH(data)
    L.Sigmoid(data)
    assert [line[1] for line in lines(to_proto(one, two, one))] == ["Input", "ReLU", "TanH"]


def test_unassigned_tops_between_assigned_ones_get_automatic_names() -> None:
    n = NetSpec()
    n.data = L.Input(shape={"dim": [1, 4]})
    n.out = L.TanH(L.ReLU(n.data))
    assert [line[0] for line in lines(n.to_proto())] == ["data", "ReLU1", "out"]


def test_layer_name_apart_from_its_top() -> None:
    n = NetSpec()
    n.data = L.Input(shape={"dim": [1, 4]})
    n["loss1/loss1"] = L.TanH(n.data, name="loss1/loss")
    assert lines(n.to_proto())[1] == ("loss1/loss", "TanH", ["data"], ["loss1/loss1"])


def test_a_layer_without_tops() -> None:
    n = NetSpec()
    n.data, n.data2 = L.DummyData(shape={"dim": [3]}, ntop=2)
    n.silence = L.Silence(n.data, ntop=0)
    silent = L.Silence(n.data2, ntop=0)
    assert lines(n.to_proto())[1:] == [("silence", "Silence", ["data"], [])]
    assert lines(to_proto(n.silence, silent))[1:] == [
        ("Silence1", "Silence", ["DummyData1"], []),
        ("Silence2", "Silence", ["DummyData2"], []),
    ]


def test_in_place_has_the_tops_asked_for() -> None:
    n = NetSpec()
    n.x = L.Input(shape={"dim": [2, 4]})
    n.factor = L.Input(shape={"dim": [2]})
    n.scaled = L.Scale(n.x, n.factor, axis=0, in_place=True)
    assert lines(n.to_proto())[-1] == ("scaled", "Scale", ["x", "factor"], ["x"])
    with pytest.raises(GraphError, match=r"ReLU in place: 1 tops of 0 bottoms"):
        L.ReLU(in_place=True)


def test_tops_as_attributes_and_items() -> None:
    n = lenet()
    assert list(n.tops) == ["data", "label", "conv1", "pool1", "ip1", "relu1", "loss"]
    assert n["conv1"] is n.conv1 and isinstance(n.conv1, Top)
    n["fire2/squeeze1x1"] = L.ReLU(n.conv1)
    assert n.to_proto().layer[-1].name == "fire2/squeeze1x1"
    assert not hasattr(n, "missing")
    with pytest.raises(KeyError):
        n["missing"]


def test_a_name_assigned_again_is_the_later_one() -> None:
    """As with any attribute; the earlier layer stays where another reads it."""
    n = NetSpec()
    n.x = L.Input(shape={"dim": [1, 4]})
    n.y = L.ReLU(n.x)
    n.y = L.TanH(n.y)
    assert [line[:2] for line in lines(n.to_proto())] == [("x", "Input"), ("ReLU1", "ReLU"), ("y", "TanH")]


def test_what_is_no_top() -> None:
    """With the words of pycaffe's TypeError."""
    pair = L.DummyData(ntop=2)
    with pytest.raises(TypeError, match=r"^Silence input 0 is not a Top \(type is <class 'tuple'>\)$"):
        L.Silence(pair, ntop=0)
    assert L.Silence(*pair, ntop=0).inputs == pair
    n = NetSpec()
    with pytest.raises(NotATop, match="'data' is assigned <class 'tuple'>"):
        n.data = pair
    assert issubclass(NotATop, CaffePortError)


def test_layer_types_of_caffe_are_known() -> None:
    for definition in layer_types():
        assert callable(getattr(L, definition.type))


@pytest.mark.parametrize("name", ["Convolutoin", "SOFTMAX_LOSS", "DENSE_CRF", "convolution"])
def test_an_unknown_layer_type(name: str) -> None:
    with pytest.raises(UnknownLayerType, match=f"layer type {name!r} is neither Caffe's nor of a known fork"):
        getattr(L, name)
    assert not hasattr(L, name)
    assert issubclass(UnknownLayerType, UnsupportedLayer)


def test_the_nearest_layer_type_is_named() -> None:
    with pytest.raises(UnknownLayerType, match="did you mean Convolution"):
        _ = L.Convolutoin


def test_an_unknown_type_can_be_written_all_the_same() -> None:
    n = NetSpec()
    n.x = L.Input(shape={"dim": [1]})
    n.y = Function("Mine", [n.x], {"loss_weight": 1}).tops[0]
    assert lines(n.to_proto())[1] == ("y", "Mine", ["x"], ["y"])


def test_all_wrong_parameters_at_once() -> None:
    n = NetSpec()
    n.x = L.Input(shape={"dim": [1, 3, 8, 8]})
    n.conv = L.Convolution(n.x, num_outputs=3, kernel_size="a", weight_filler="xavier")
    n.pool = L.Pooling(n.conv, pool="MEAN", pooling_param={"kernel_sise": 3})
    n.up = L.Deconvolution(n.pool, num_output=3)
    n.bn = L.BatchNorm(n.up, batchnorm_param={})
    with pytest.raises(UnsupportedParameter) as error:
        n.to_proto()
    told = str(error.value)
    assert told.startswith("7 problems:")
    assert "layer 'conv': ConvolutionParameter has no field 'num_outputs'; did you mean 'num_output'?" in told
    assert "layer 'conv': kernel_size of ConvolutionParameter cannot be 'a'" in told
    assert "layer 'conv': weight_filler is a FillerParameter, written as a dict, not as 'xavier'" in told
    assert "layer 'pool': pool of PoolingParameter is one of MAX, AVE, STOCHASTIC" in told and "not 'MEAN'" in told
    assert "layer 'pool': PoolingParameter has no field 'kernel_sise'; did you mean 'kernel_size'?" in told
    assert "layer 'up': LayerParameter has no field 'num_output'; Deconvolution has no message of its own" in told
    assert "layer 'bn': LayerParameter has no field 'batchnorm_param'; did you mean 'batch_norm_param'?" in told
    assert isinstance(error.value, AttributeError)


@pytest.mark.parametrize("value", [-1, 2**40, 3.5])
def test_a_number_out_of_range(value: Any) -> None:
    with pytest.raises(UnsupportedParameter, match="num_output of ConvolutionParameter cannot be"):
        L.Convolution(L.Input(), num_output=value).to_proto()


def test_where_parameters_go() -> None:
    """A name of the type's message goes there, of LayerParameter alone there, one that ends in param always there."""
    x = L.Input(shape={"dim": [1, 3, 8, 8]})
    made = L.Convolution(
        x, num_output=2, kernel_size=[3, 5], convolution_param={"group": 1}, loss_weight=0.5, propagate_down=False
    )
    layer = made.to_proto().layer[1]
    assert (layer.convolution_param.num_output, list(layer.convolution_param.kernel_size)) == (2, [3, 5])
    assert layer.convolution_param.group == 1
    assert (list(layer.loss_weight), list(layer.propagate_down)) == ([0.5], [False])
    # A type without a message of its own takes LayerParameter's fields, and the message it shares by name.
    up = L.Deconvolution(x, convolution_param={"num_output": 3, "kernel_size": 2}, name="up").to_proto().layer[1]
    assert (up.name, up.convolution_param.num_output) == ("up", 3)


def test_assign_proto() -> None:
    layer = schema.message("LayerParameter")
    assign_proto(layer, "param", {"lr_mult": 3})
    assign_proto(layer, "param", ({"lr_mult": 4}, {}))
    assign_proto(layer, "bottom", ("a", "b"))
    assign_proto(layer, "phase", "TEST")
    assign_proto(layer, "relu_param", {})
    assert [spec.lr_mult for spec in layer.param] == [3, 4, 1]
    assert (list(layer.bottom), layer.phase, layer.HasField("relu_param")) == (["a", "b"], 1, True)
    with pytest.raises(UnknownParameter, match="LayerParameter has no field 'botom'; did you mean 'bottom'"):
        assign_proto(layer, "botom", "a")


def test_enum_values() -> None:
    assert (P.Pooling.MAX, P.Pooling.AVE, P.Pooling.STOCHASTIC) == (0, 1, 2)
    assert (P.Eltwise.PROD, P.Eltwise.SUM, P.Data.LMDB, P.LRN.WITHIN_CHANNEL, P.Loss.NONE) == (0, 1, 1, 1, 3)
    with pytest.raises(UnknownParameter, match="PoolingParameter has no value 'MEAN'; it has MAX"):
        _ = P.Pooling.MEAN
    with pytest.raises(UnknownParameter, match="there is no message PoolParameter"):
        _ = P.Pool.MAX


def test_param_name_dict() -> None:
    names = param_name_dict()
    assert names["Convolution"] == "convolution" and names["InnerProduct"] == "inner_product"
    assert (names["LRN"], names["PReLU"], names["Transformation"]) == ("lrn", "prelu", "transform")
    assert "Deconvolution" not in names and names["Permute"] == "permute"
    own = schema.descriptor("LayerParameter").fields_by_name
    assert sum(f"{name}_param" in own for name in names.values()) == sum(name.endswith("_param") for name in own)


def test_forks() -> None:
    """A net without a fork's fields is upstream's message; with one it is the union's, and so it is read again."""
    assert not dialects.is_union(lenet().to_proto())
    n = NetSpec()
    n.x = L.Input(shape={"dim": [1, 3, 8, 8]})
    n.y = L.Permute(n.x, order=[0, 2, 3, 1])
    n.out = L.DetectionOutput(n.y, num_classes=2, code_type=P.PriorBox.CENTER_SIZE)
    net = n.to_proto()
    assert dialects.is_union(net)
    assert list(net.layer[1].permute_param.order) == [0, 2, 3, 1]
    assert "code_type: CENTER_SIZE" in str(net)
    again = text.parse(str(net))[0]
    assert again == net and [one.name for one in dialects.detect(again)] == [one.name for one in dialects.detect(net)]


def test_a_deep_net_without_names() -> None:
    """Deeper than Python recurses."""
    top = L.Input(shape={"dim": [1, 2]})
    depth = 2 * sys.getrecursionlimit()
    for _ in range(depth):
        top = L.ReLU(top)
    assert top.to_proto().layer[-1].name == f"ReLU{depth}"


def test_to_proto_leaves_the_spec_as_it_is() -> None:
    n = lenet()
    assert n.to_proto() == n.to_proto()
    n.prob = L.Softmax(n.ip1)
    assert len(n.to_proto().layer) == 7
