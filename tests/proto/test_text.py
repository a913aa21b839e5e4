from __future__ import annotations

import contextlib
import json
import math
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from places import CONFORMANCE

from caffe_port.errors import ArtifactError, PrototxtError
from caffe_port.limits import limits
from caffe_port.proto import schema, text

CORPUS = CONFORMANCE / "prototxt"


def parsed(source: str, name: str = "NetParameter") -> Any:
    return text.parse(source, name)[0]


def problems(source: str, name: str = "NetParameter") -> list[str]:
    with pytest.raises(PrototxtError) as caught:
        text.parse(source, name, file="f")
    return [line.strip() for line in str(caught.value).splitlines() if line.strip().startswith("f:")]


def one_problem(source: str, name: str = "NetParameter") -> str:
    (only,) = problems(source, name)
    return only


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ("", ""),
        ("# only a comment", ""),
        ('\ufeffname: "a"\r\n', 'name: "a"'),
        ('name: "a" # c "\n', 'name: "a"'),
        ("name: 'it\"s'", 'name: "it\\"s"'),
        ('name: "a" \'b\'\n"c"', 'name: "abc"'),
        ('name: "a\nb"', 'name: "a\\nb"'),
        (r'name: "\x41\102\u0043\U00000044\n\t\\\"\'\?\a\b\f\v\r"', r'name: "ABCD\n\t\\\"\'?\007\010\014\013\r"'),
        (r'name: "\ud83d\ude00"', r'name: "\360\237\230\200"'),
        ('name: "ä"', r'name: "\303\244"'),
        (r'name: "\303\244"', r'name: "\303\244"'),
        ('name: "a"; force_backward: t, debug_info: 0', 'name: "a" force_backward: true debug_info: false'),
        ("force_backward: True debug_info: f", "force_backward: true debug_info: false"),
        ("force_backward: 0x1 debug_info: 00", "force_backward: true debug_info: false"),
        ('layer { name: "a" } layer: < name: "b" >; layer{}', 'layer { name: "a" } layer { name: "b" } layer { }'),
        ('layer: [{ name: "a" }, < name: "b" >] layer []', 'layer { name: "a" } layer { name: "b" }'),
        ("input_dim: [1, 0x10, 010, -3] input_dim: []", "input_dim: 1 input_dim: 16 input_dim: 8 input_dim: -3"),
        ("input_dim:1input_dim:2", "input_dim: 1 input_dim: 2"),
        ("state { phase: TEST level: - 5 }", "state { phase: TEST level: -5 }"),
        ("state { phase: 1 }", "state { phase: TEST }"),
        ("layer { loss_weight: 1 loss_weight: 1f loss_weight: .5 loss_weight: 5. loss_weight: 1e-2F }",
         "layer { loss_weight: 1 loss_weight: 1 loss_weight: 0.5 loss_weight: 5 loss_weight: 0.01 }"),
        ("layer { loss_weight: [inf, -INF, Infinity, nan, 1e60, 123456789012345678901234567890] }",
         "layer { loss_weight: inf loss_weight: -inf loss_weight: inf loss_weight: nan loss_weight: inf "
         "loss_weight: 1.2345679e+29 }"),
    ],
)  # fmt: skip
def test_accepted(source: str, want: str) -> None:
    assert " ".join(text.dumps(parsed(source)).split()) == want


def test_bytes_take_any_byte() -> None:
    assert parsed(r'data: "\377\x00\0z"', "Datum").data == b"\xff\0\0z"


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ("layer {\n  convolution_param {\n    kernal_size: 3\n  }\n}",
         "f:3:5: unknown field 'kernal_size' in ConvolutionParameter (did you mean 'kernel_size'?)"),
        ("Name: 'a'", "f:1:1: unknown field 'Name' in NetParameter (did you mean 'name'?)"),
        ("zzz { a: [ { b: 'x' } ] }", "f:1:1: unknown field 'zzz' in NetParameter"),
        ("layer { phase: TRIAN }",
         "f:1:16: unknown value 'TRIAN' for 'phase' (did you mean 'TRAIN'? valid are TRAIN, TEST)"),
        ("layer { phase: 2 }", "f:1:16: unknown value '2' for 'phase' (valid are TRAIN, TEST)"),
        ("force_backward: yes",
         "f:1:17: expected true or false for 'force_backward', found 'yes' "
         "(true, True, t, 1, false, False, f and 0 are valid)"),
        ("force_backward: 2",
         "f:1:17: expected true or false for 'force_backward', found '2' "
         "(true, True, t, 1, false, False, f and 0 are valid)"),
        ("input_dim: 2147483648",
         "f:1:12: '2147483648' is out of range for 'input_dim' (-2147483648 to 2147483647)"),
        ("input_dim: -2147483649",
         "f:1:12: '-2147483649' is out of range for 'input_dim' (-2147483648 to 2147483647)"),
        ("layer { convolution_param { num_output: -1 } }", "f:1:41: 'num_output' cannot be negative, found '-1'"),
        ("layer { convolution_param { num_output: 4294967296 } }",
         "f:1:41: '4294967296' is out of range for 'num_output' (0 to 4294967295)"),
        ("input_dim: 1.5", "f:1:12: expected an integer for 'input_dim', found '1.5'"),
        ("input_dim: 1f", "f:1:12: expected an integer for 'input_dim', found '1f'"),
        ("input_dim: 09", "f:1:12: expected an integer for 'input_dim', found '09'"),
        ("input_dim: 0x", "f:1:12: expected an integer for 'input_dim', found '0x'"),
        ("layer { loss_weight: 1.2.3 }", "f:1:22: expected a number for 'loss_weight', found '1.2.3'"),
        ("layer { loss_weight: 1e }", "f:1:22: expected a number for 'loss_weight', found '1e'"),
        ("layer { loss_weight: 0x10 }", "f:1:22: expected a decimal number for 'loss_weight', found '0x10'"),
        ("layer { loss_weight: 010 }", "f:1:22: expected a decimal number for 'loss_weight', found '010'"),
        ("name: abc", "f:1:7: expected a string for 'name', found 'abc' (strings stand in quotes)"),
        ('name: "\\q"', "f:1:7: the string for 'name' has the invalid escape '\\\\q'"),
        ('name: "\\377"', "f:1:7: the string for 'name' is no valid UTF-8: byte 0xff at its position 0"),
        ("name: 'a' name: 'b'", "f:1:11: field 'name' of NetParameter is given twice, first in line 1"),
        ("state { } state { }", "f:1:11: field 'state' of NetParameter is given twice, first in line 1"),
        ("name 'a'", "f:1:6: expected ':' after 'name', found \"'a'\""),
        ("layer: 5", "f:1:8: expected '{' after 'layer', which is a LayerParameter, found '5'"),
        ("layer {\n", "f:2:1: the file ends inside LayerParameter, which opens in line 1: '}' is missing"),
        ("layer { > name: 'a'", "f:1:9: expected '}' to close what opens in line 1, found '>'"),
        ("layer { } }", "f:1:11: '}' closes nothing"),
        ("name: 'a';;", "f:1:11: expected a field of NetParameter, found ';'"),
        ("name: 'abc", "f:1:7: the string that begins here, \"'abc\", has no closing quote"),
        ("input_dim: [1 2]", "f:1:15: expected ',' or ']' in a list, found '2'"),
        ("name: ['a']", "f:1:7: expected a string for 'name', found '['"),
        ("name: 'a\0b'", "f:1:7: the string that begins here, \"'a\\x00b'\", has no closing quote"),
    ],
)  # fmt: skip
def test_refused(source: str, want: str) -> None:
    assert one_problem(source) == want


def test_all_problems_of_a_file_at_once() -> None:
    source = """
name: "net"
layer { name: "a" kernal: 3 type: Convolution }
layer { convolution_param { num_output: -3 pad: 1 stride: x group: 2 } }
layer { pooling_param { pool: AVG kernel_size: 3 } unknown_param { deep { er: 1 } } }
layer { name: "ok" bottom: "a" }
inptu: "data"
"""
    assert [(line.split(": ")[0], line.split("'")[1]) for line in problems(source)] == [
        ("f:3:19", "kernal"),
        ("f:3:35", "type"),
        ("f:4:41", "num_output"),
        ("f:4:59", "stride"),
        ("f:5:31", "AVG"),
        ("f:5:52", "unknown_param"),
        ("f:7:1", "inptu"),
    ]


def test_a_missing_quote_is_found_where_it_is() -> None:
    found = problems('layer { name: "a\n type: "X" }\nlayer { name: "b" }\n')
    assert "the string that begins in line 1 runs over several lines; is its closing quote missing?" in found[-1]


def test_stops_after_fifty() -> None:
    with pytest.raises(PrototxtError) as caught:
        text.parse("x: 1\n" * 1000, file="f")
    lines = str(caught.value).splitlines()
    assert len(lines) == limits.problems + 2
    assert "the rest of the file was not read" in lines[-1]


def test_deep_nesting_is_no_recursion_error() -> None:
    depth = 10 * sys.getrecursionlimit()
    assert "unknown field 'x'" in one_problem("x {" * depth + "}" * depth)
    assert "the file ends inside" in problems("x {" * depth)[-1]
    assert problems("layer {" * depth)
    assert problems("[" * depth)


def test_nesting_limit() -> None:
    source = "layer { convolution_param { weight_filler { value: 1 } } }"
    with limits.adjusted(nesting=3):
        parsed(source)
    with limits.adjusted(nesting=2):
        assert one_problem(source).startswith("f:1:43: messages nested deeper than 2; the limit nesting is 2")


@pytest.mark.parametrize(
    "piece",
    [
        'layer { name: "a" }\n',
        "# comment\n",
        '"',
        "layer {",
        "input_dim: 1 ",
        "1",
        "a",
        '"\\',
        "input: 'a' 'b' ",
        "x{",
        "}",
    ],
)
def test_linear_time(piece: str) -> None:
    def took(count: int) -> float:
        start = time.perf_counter()
        with contextlib.suppress(PrototxtError):
            text.parse(piece * count)
        return time.perf_counter() - start

    took(10)
    assert took(40_000) < 100 * took(4_000) + 0.5  # a quadratic one takes minutes


def test_locations() -> None:
    source = '\nname: "n"\nlayer { name: "a" }\nlayer {\n  convolution_param {\n    pad: 1 pad: [2,\n 3]\n } }\n'
    _, where = text.parse(source, file="net.prototxt")
    assert where.file == "net.prototxt"
    for path, want in {
        ("name",): "2:1",
        ("layer",): "3:1",
        ("layer", 0): "3:1",
        ("layer", 0, "name"): "3:9",
        ("layer", 1): "4:1",
        ("layer", 1, "convolution_param"): "5:3",
        ("layer", 1, "convolution_param", 0, "pad", 0): "6:5",
        ("layer", 1, "convolution_param", "pad", 0): "6:5",
        ("layer", 1, "convolution_param", "pad", 1): "6:18",
        ("layer", 1, "convolution_param", "pad", 2): "7:2",
        ("layer", 1, "convolution_param", "stride", 0): "5:3",
        ("layer", 1, "name"): "4:1",
    }.items():
        assert str(where.location(path)) == f"net.prototxt:{want}", path
    for nowhere in ((), ("layer", 2), ("layer", -1), ("nothing", "at", "all")):
        assert str(where.location(nowhere)) == "net.prototxt"


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "a.prototxt"
    file.write_bytes(b"\xef\xbb\xbf# \xff\xfe comments may hold any bytes\r\nname: 'x'\r\n")
    assert text.read(file)[0].name == "x"
    for data, want in {
        b"name: '\xff'": r"a\.prototxt:1:7: the string for 'name' is no valid UTF-8: byte 0xff at its position 0",
        b"name: 'a'\n\xff\n": r"a\.prototxt:2:1: byte 0xff is no valid UTF-8",
        b"\xff\xfen\0a\0": r"a\.prototxt: is UTF-16 text",
        b"\n\x05LeNet\xa2\x06\x00\x00": r"a\.prototxt: looks like a caffemodel",
        b"\x7fELF\0\0": r"a\.prototxt: looks like a binary file",
        b"\x89HDF\r\n\x1a\n": r"a\.prototxt: is an HDF5 file",
    }.items():
        file.write_bytes(data)
        with pytest.raises(PrototxtError, match=want):
            text.read(file)
    with pytest.raises(PrototxtError, match=r"none\.prototxt: no such file"):
        text.read(tmp_path / "none.prototxt")
    with pytest.raises(PrototxtError, match="is a directory"):
        text.read(tmp_path)
    with pytest.raises(PrototxtError, match="cannot be read"):
        text.read("a\0b")


def test_write_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.prototxt"
    text.write(file, parsed("name: 'x'"))
    assert file.read_bytes() == b'name: "x"\n'

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(ArtifactError, match=r"a\.prototxt: cannot be written: No space left"):
        text.write(file, parsed("name: 'y'"))
    assert file.read_bytes() == b'name: "x"\n'
    assert list(tmp_path.iterdir()) == [file]


def test_floats_are_printed_short() -> None:
    values = [
        "0.1",
        "0.33333334",
        "1",
        "100000",
        "1e+06",
        "16777216",
        "1e-05",
        "3.4028235e+38",
        "1.4013e-45",
        "-0",
        "0.0039215684",
    ]
    source = "layer {\n" + "".join(f"  loss_weight: {value}\n" for value in values) + "}\n"
    assert text.dumps(parsed(source)) == source


@settings(max_examples=500, deadline=None)
@given(st.floats(width=32))
def test_floats_survive(value: float) -> None:
    message = schema.message("LayerParameter")
    message.loss_weight.append(value)
    again = parsed(text.dumps(message), "LayerParameter").loss_weight[0]
    assert again == value or (math.isnan(again) and math.isnan(value))
    assert math.copysign(1, again) == math.copysign(1, value) or math.isnan(value)


def scalars(spec: Any) -> st.SearchStrategy[Any]:
    if spec.enum_type is not None:
        return st.sampled_from([value.number for value in spec.enum_type.values])
    simple: dict[int, st.SearchStrategy[Any]] = {
        spec.TYPE_STRING: st.text(max_size=8),
        spec.TYPE_BYTES: st.binary(max_size=8),
        spec.TYPE_BOOL: st.booleans(),
        spec.TYPE_FLOAT: st.floats(width=32, allow_nan=False),
        spec.TYPE_DOUBLE: st.floats(allow_nan=False),
        spec.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
        spec.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
        spec.TYPE_UINT32: st.integers(0, 2**32 - 1),
    }
    return simple[spec.type]


@st.composite
def messages(draw: Any, name: str, depth: int = 3) -> Any:
    message = schema.message(name)
    specs = [spec for spec in message.DESCRIPTOR.fields if depth or spec.message_type is None]
    for spec in draw(st.lists(st.sampled_from(specs), max_size=5, unique_by=lambda spec: spec.name)) if specs else ():
        inner = messages(spec.message_type.name, depth - 1) if spec.message_type else scalars(spec)
        if schema.is_repeated(spec):
            getattr(message, spec.name).extend(draw(st.lists(inner, max_size=3)))
        elif spec.message_type:
            getattr(message, spec.name).SetInParent()
            getattr(message, spec.name).CopyFrom(draw(inner))
        else:
            setattr(message, spec.name, draw(inner))
    return message


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_round_trip(data: Any) -> None:
    name = data.draw(st.sampled_from(schema.message_names()))
    message = data.draw(messages(name))
    printed = text.dumps(message)
    assert parsed(printed, name) == message
    assert text_format.Parse(printed, schema.message(name)) == message
    assert parsed(text_format.MessageToString(message, as_one_line=True), name) == message


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(
    ["layer", "name", "input_dim", "state", "zzz",
     "{", "}", "<", ">", "[", "]", ":", ";", ",", "-", "1", "0x1", "09", "1.5",
     "'a'", '"b', "'", "\\", "#c\n", "\n", " ", "true", "inf", "\0", "é", "\udcff", "$"]
), max_size=30))  # fmt: skip
def test_any_mess_is_a_message_or_our_error(pieces: list[str]) -> None:
    try:
        text.parse(" ".join(pieces))
    except PrototxtError as error:
        assert str(error)
        str(error).encode()


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_message_or_our_error(source: str) -> None:
    with contextlib.suppress(PrototxtError):
        text.parse(source)


@pytest.mark.skipif(not CORPUS.exists(), reason="the prototxts of public repositories are not here")
def test_corpus_against_protobuf() -> None:
    accepted = 0
    for file in sorted(CORPUS.glob("*.prototxt"))[::4]:  # protobuf's parser is slow
        try:
            theirs = text_format.Parse(file.read_bytes().decode("utf-8-sig", "replace"), schema.message("NetParameter"))
        except text_format.ParseError:
            theirs = None
        try:
            ours = text.read(file, forks=False)[0]
        except PrototxtError:
            ours = None
        assert (ours is None) == (theirs is None), file.name
        assert ours == theirs, file.name
        accepted += ours is not None
    assert accepted >= 90


@pytest.mark.skipif(not CORPUS.exists(), reason="the prototxts of public repositories are not here")
def test_corpus_against_caffe() -> None:
    """What real Caffe's parser refused, and in which line, was recorded."""
    refused = 0
    for name, phases in sorted(json.loads((CONFORMANCE / "shapes.json").read_text()).items())[::2]:
        said = re.search(
            r"text_format\.cc:\d+\] Error parsing text-format caffe\.NetParameter: (\d+):(\d+):", str(phases)
        )
        try:
            text.read(CORPUS / name, forks=False)
        except PrototxtError as error:
            assert said, name
            first = re.search(r"\.prototxt:(\d+):", str(error))
            # For an enum Caffe names the place behind the value, which may be the next line.
            assert first and int(said[1]) - 1 <= int(first[1]) <= int(said[1]), name
            refused += 1
        else:
            assert not said, name
    assert refused >= 150
