from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest
from google.protobuf import descriptor_pb2
from places import SHARED

from caffe_port.proto import compile as schema_compiler
from caffe_port.proto import schema

FACTS = SHARED / "caffe" / "caffe_schema.json"
TYPES = descriptor_pb2.FieldDescriptorProto.Type
LABELS = descriptor_pb2.FieldDescriptorProto.Label


def file_proto() -> descriptor_pb2.FileDescriptorProto:
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(schema_compiler.DESC.read_bytes()).file
    return file


def test_counts() -> None:
    file = file_proto()
    assert (file.package, file.syntax) == ("caffe", "")  # "" is proto2
    assert len(file.message_type) == len(schema.message_names()) == 63
    assert sum(len(message.field) for message in file.message_type) == 423
    assert len(file.enum_type) + sum(len(message.enum_type) for message in file.message_type) == 26


@pytest.mark.skipif(not importlib.util.find_spec("grpc_tools"), reason="grpcio-tools is not installed")
def test_descriptor_set_is_what_protoc_makes() -> None:
    made = descriptor_pb2.FileDescriptorSet.FromString(schema_compiler.compile_schema())
    assert made == descriptor_pb2.FileDescriptorSet.FromString(schema_compiler.DESC.read_bytes())


@pytest.mark.skipif(not FACTS.exists(), reason="the recorded schema is not here")
def test_schema_equals_the_recorded_facts() -> None:
    facts = json.loads(FACTS.read_text())["upstream"]
    file = file_proto()
    enums = {one.name: one for one in file.enum_type}
    enums |= {f"{message.name}.{one.name}": one for message in file.message_type for one in message.enum_type}
    assert {name: [(v.name, v.number) for v in one.value] for name, one in enums.items()} == {
        name: [(v["name"], v["number"]) for v in one["values"]] for name, one in facts["enums"].items()
    }
    assert [message.name for message in file.message_type] == list(facts["messages"])
    for message in file.message_type:
        ours = {}
        for field in message.field:
            ours[field.name] = (
                field.number,
                LABELS.Name(field.label)[6:].lower(),
                TYPES.Name(field.type)[5:].lower(),
                field.type_name.removeprefix(".caffe.") or None,
                field.options.packed,
                field.options.deprecated,
                field.HasField("default_value"),
            )
        theirs = {
            field["name"]: (
                field["number"],
                field["label"],
                field["type"],
                field.get("type_name"),
                field["packed"],
                field["deprecated"],
                field.get("default_explicit", False),
            )
            for field in facts["messages"][message.name]["fields"]
        }
        assert ours == theirs, message.name
        live = schema.message(message.name)
        for field in facts["messages"][message.name]["fields"]:
            if "default" not in field:
                continue
            spec = live.DESCRIPTOR.fields_by_name[field["name"]]
            want = field["default"]
            if spec.enum_type is not None:
                want = spec.enum_type.values_by_name[want].number
            if spec.type == spec.TYPE_BYTES:
                want = want.encode()
            if spec.type == spec.TYPE_FLOAT:
                want = pytest.approx(want, rel=1e-7)
            assert getattr(live, field["name"]) == want, f"{message.name}.{field['name']}"


def test_a_few_known_facts() -> None:
    layer = schema.descriptor("LayerParameter").fields_by_name
    assert (layer["blobs"].number, layer["convolution_param"].number, layer["clip_param"].number) == (7, 106, 148)
    assert schema.message("LRNParameter").beta == 0.75
    assert schema.message("SolverParameter").type == "SGD"
    assert schema.message_class("NetParameter") is schema.message_class("NetParameter")
    assert schema.is_repeated(layer["blobs"]) and not schema.is_repeated(layer["name"])
    with pytest.raises(KeyError):
        schema.message("NoParameter")


def test_a_real_caffe_in_the_default_pool_is_no_hindrance() -> None:
    script = """
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
def other():
    file = descriptor_pb2.FileDescriptorProto(name="other/caffe.proto", package="caffe")
    message = file.message_type.add(name="NetParameter")
    message.field.add(name="theirs", number=1, label=1, type=9)
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    descriptor = descriptor_pool.Default().FindMessageTypeByName("caffe.NetParameter")
    return message_factory.GetMessageClass(descriptor)(theirs="a")
def ours():
    from caffe_port.proto import schema
    return schema.message_class("NetParameter")(name="b")
first, second = (other, ours) if ORDER else (ours, other)
one, two = first(), second()
theirs, mine = (one, two) if ORDER else (two, one)
assert theirs.theirs == "a" and mine.name == "b", (theirs, mine)
assert type(mine).FromString(mine.SerializeToString()) == mine
assert type(theirs).FromString(theirs.SerializeToString()) == theirs
"""
    for order in ("True", "False"):
        subprocess.run([sys.executable, "-c", script.replace("ORDER", order)], check=True)


def test_importing_leaves_the_default_pool_alone() -> None:
    script = """
from caffe_port.proto import schema
schema.message("NetParameter")
from google.protobuf import descriptor_pool
try:
    descriptor_pool.Default().FindMessageTypeByName("caffe.NetParameter")
except KeyError:
    raise SystemExit(0)
raise SystemExit("caffe.NetParameter is in the default pool")
"""
    subprocess.run([sys.executable, "-c", script], check=True)
