"""`caffe.proto.caffe_pb2`: messages, enums, text and bytes, with protobuf's own functions."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from small import CONV_NET, write_model

from caffe_port.proto import schema
from caffe_port.pycaffe.proto import caffe_pb2


def test_every_message_and_enum_is_there() -> None:
    assert len(schema.message_names()) > 60
    for name in schema.message_names():
        message = getattr(caffe_pb2, name)()
        assert message.DESCRIPTOR.full_name == f"caffe.{name}" and type(message).FromString(b"") == message
    assert caffe_pb2.DESCRIPTOR.package == "caffe"
    assert (caffe_pb2.TRAIN, caffe_pb2.TEST, caffe_pb2.Phase.Value("TEST")) == (0, 1, 1)
    assert caffe_pb2.Phase.Name(0) == "TRAIN"
    assert caffe_pb2.V1LayerParameter.CONVOLUTION == 4
    assert caffe_pb2.V1LayerParameter.LayerType.Name(4) == "CONVOLUTION"
    assert caffe_pb2.PoolingParameter.AVE == 1 and caffe_pb2.SolverParameter.GPU == 1
    with pytest.raises(AttributeError, match="NoSuchParameter"):
        _ = caffe_pb2.NoSuchParameter


def test_text_is_read_changed_and_written() -> None:
    net = text_format.Merge(CONV_NET, caffe_pb2.NetParameter())
    assert net.layer[1].convolution_param.kernel_size[0] == 3 and net.layer[3].pooling_param.pool == 0
    net.layer[1].convolution_param.num_output = 9
    added = net.layer.add(name="end", type="Silence")
    added.bottom.append("prob")
    again = text_format.Parse(str(net), caffe_pb2.NetParameter())
    assert again == net and again.layer[-1].name == "end"
    twin = copy.deepcopy(net)
    twin.layer[0].name = "other"
    assert net.layer[0].name == "data"
    with pytest.raises(text_format.ParseError, match="no_such_field"):
        text_format.Merge("no_such_field: 1", caffe_pb2.NetParameter())


def test_a_caffemodel_is_read_and_written(tmp_path: Path) -> None:
    import caffe_port.pycaffe as caffe

    definition, weights = write_model(tmp_path)
    model = caffe_pb2.NetParameter()
    model.ParseFromString(weights.read_bytes())
    (fc,) = [layer for layer in model.layer if layer.name == "fc"]
    assert list(fc.blobs[0].shape.dim) == [5, 48]
    fc.blobs[1].data[2] = 11
    weights.write_bytes(model.SerializeToString())
    net = caffe.Net(str(definition), str(weights), caffe.TEST)
    assert net.params["fc"][1].data[2] == 11
    assert np.array_equal(net.params["fc"][0].data.reshape(-1), np.float32(fc.blobs[0].data))
