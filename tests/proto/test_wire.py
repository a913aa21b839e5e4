from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import CONFORMANCE

from caffe_port.errors import ArtifactError, WeightsError
from caffe_port.proto import schema, wire
from caffe_port.proto.blobs import BlobData
from caffe_port.proto.wire_format import scan

MODELS = sorted(CONFORMANCE.glob("**/*.caffemodel"))


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def shape(*dims: int) -> bytes:
    return field(7, field(1, b"".join(map(varint, dims))))


def layer(*blobs: bytes, name: bytes = b"conv") -> bytes:
    return field(100, field(1, name) + b"".join(field(7, blob) for blob in blobs))


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def doubles(*values: float) -> bytes:
    return np.array(values, "<f8").tobytes()


@pytest.fixture
def load(tmp_path: Path) -> Callable[[bytes], wire.WeightFile]:
    def loads(data: bytes) -> wire.WeightFile:
        path = tmp_path / "x.caffemodel"
        path.write_bytes(data)
        return wire.read(path)

    return loads


def sample() -> Any:
    net = schema.message("NetParameter")
    net.name = "sample"
    net.input.append("data")
    for index, name in enumerate(("conv1", "relu", "conv2")):
        one = net.layer.add(name=name, type="Convolution", bottom=["a"], top=["b", "c"])
        one.param.add(lr_mult=2)
        one.convolution_param.num_output = 3
        for _ in range(index):
            blob = one.blobs.add()
            blob.shape.dim.extend([2, 3])
            blob.data.extend(range(6))
    return net


def test_reads_what_protobuf_reads(load: Callable[[bytes], wire.WeightFile]) -> None:
    net = sample()
    data = net.SerializeToString()
    file = load(data)
    assert [[(blob.shape, blob.legacy, blob.data.tolist(), blob.diff) for blob in own] for own in file.blobs] == [
        [((2, 3), False, [0, 1, 2, 3, 4, 5], None)] * index for index in range(3)
    ]
    for one in net.layer:
        one.ClearField("blobs")
    assert file.net == net
    assert file.size == len(data)
    assert file.sha256() == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("blob", "dtype", "values"),
    [
        (field(5, floats(1, 2, 3)) + shape(3), "float32", [1, 2, 3]),
        (field(5, floats(1)) + shape(3) + field(5, floats(2, 3)), "float32", [1, 2, 3]),
        (b"".join(b"\x2d" + floats(v) for v in range(3)) + shape(3), "float32", [0, 1, 2]),
        (b"\xad\x00" + floats(7) + b"\x2d" + floats(8) + field(5, floats(9)) + shape(3), "float32", [7, 8, 9]),
        (field(8, doubles(1, 2, 3)) + shape(3), "float64", [1, 2, 3]),
        (b"\x41" + doubles(5) + field(8, doubles(6)) + shape(2), "float64", [5, 6]),
        (field(5, floats(1, 2)) + field(8, doubles(3)) + shape(1), "float64", [3]),
        (field(5, floats(1, 2)) + field(8, b"") + shape(2), "float32", [1, 2]),
        (field(5, b"") + shape(0, 4), "float32", []),
        (field(5, floats(4)), "float32", [4]),
        (field(5, floats(1, 2)) + field(7, b"\x08\x01") + field(7, b"\x08\x02"), "float32", [1, 2]),
    ],
)
def test_every_way_to_write_values(
    load: Callable[[bytes], wire.WeightFile], blob: bytes, dtype: str, values: list[float]
) -> None:
    ((one,),) = load(layer(blob)).blobs
    assert one.data.dtype == dtype
    assert one.data.tolist() == values
    assert not one.data.flags.writeable
    theirs = schema.message_class("BlobProto").FromString(blob)
    assert list(theirs.double_data or theirs.data) == values
    assert tuple(theirs.shape.dim) == one.shape


def test_many_unpacked_values(load: Callable[[bytes], wire.WeightFile]) -> None:
    count = 300_000
    records = np.empty((count, 5), np.uint8)
    records[:, 0] = 0x2D
    records[:, 1:] = np.arange(count, dtype="<f4").view(np.uint8).reshape(-1, 4)
    start = time.perf_counter()
    ((blob,),) = load(layer(records.tobytes() + shape(count))).blobs
    assert time.perf_counter() - start < 1
    assert np.array_equal(blob.data, np.arange(count))


def test_interleaved_tiny_pieces_take_little_memory(load: Callable[[bytes], wire.WeightFile]) -> None:
    count = 50_000
    data = layer((b"\x2d" + floats(1) + b"\x35" + floats(2)) * count + shape(count))
    tracemalloc.start()
    ((blob,),) = load(data).blobs
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * len(data)
    assert blob.diff is not None
    assert (blob.data.sum(), blob.diff.sum()) == (count, 2 * count)


def test_values_are_not_copied(load: Callable[[bytes], wire.WeightFile]) -> None:
    data = layer(field(5, bytes(4_000_000)) + field(6, bytes(4_000_000)) + shape(1_000_000))
    tracemalloc.start()
    ((blob,),) = load(data).blobs
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert blob.diff is not None
    assert blob.data.size == blob.diff.size == 1_000_000
    assert peak < 200_000


def test_legacy_shape_wins(load: Callable[[bytes], wire.WeightFile]) -> None:
    numbers = b"\x08\x02\x10\x03\x18\x01\x20\x01"
    ((blob,),) = load(layer(numbers + field(5, floats(*range(6))) + shape(6))).blobs
    assert (blob.shape, blob.legacy) == ((2, 3, 1, 1), True)
    with pytest.raises(WeightsError, match=r"blob 0 has 1 values, its shape 1x0x0x0 needs 0"):
        load(layer(b"\x08\x01" + field(5, floats(1))))


def test_v1_and_v0(load: Callable[[bytes], wire.WeightFile]) -> None:
    net = schema.message("NetParameter")
    old = net.layers.add(name="v1", type=4, bottom=["a"])
    blob = old.blobs.add(num=1, channels=1, height=1, width=2)
    blob.data.extend([1, 2])
    net.layers.add(name="empty")
    file = load(net.SerializeToString())
    assert [[blob.data.tolist() for blob in own] for own in file.blobs] == [[[1, 2]], []]
    old.ClearField("blobs")
    assert file.net == net

    net = schema.message("NetParameter")
    entry = net.layers.add(bottom=["a"], top=["b"])
    entry.layer.name = "v0"
    entry.layer.blobs_lr.append(1)
    blob = entry.layer.blobs.add(num=1, channels=1, height=1, width=2)
    blob.data.extend([3, 4])
    data = net.SerializeToString()
    file = load(data)
    assert [[blob.data.tolist() for blob in own] for own in file.blobs] == [[[3, 4]]]
    entry.layer.ClearField("blobs")
    assert file.net == net
    with pytest.raises(WeightsError, match=r"x\.caffemodel: .*layer 'v0'.* 3 values|layer 'v0'.*has 3 values"):
        entry.layer.blobs.add(num=1, channels=1, height=1, width=2).data.extend([1, 2, 3])
        load(net.SerializeToString())


def test_all_wrong_blobs_in_one_error(load: Callable[[bytes], wire.WeightFile]) -> None:
    data = layer(field(5, floats(1, 2)) + shape(3), shape(-1), name=b"one")
    data += layer(shape(1 << 40), shape(1 << 20, 1 << 20), shape(1 << 62, 1 << 62), name=b"two")
    data += layer(
        field(5, floats(1)) + shape(1), field(5, floats(1)) + field(6, floats(1, 2)) + shape(1), name=b"three"
    )
    data += layer(field(12, b"halves") + shape(3), name=b"four")
    tracemalloc.start()
    with pytest.raises(WeightsError) as caught:
        load(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000
    said = [line.split("layer ")[1] for line in str(caught.value).splitlines()[1:]]
    assert [line.split(":")[0] for line in said] == ["'one'", "'one'", "'two'", "'two'", "'two'", "'three'", "'four'"]
    for line, want in zip(
        said,
        [
            "blob 0 has 2 values, its shape 3 needs 3",
            "blob 1 has a negative dim in its shape -1",
            "blob 0 has more than 2147483647 elements by its shape 1099511627776",
            "blob 1 has more than 2147483647 elements by its shape 1048576x1048576",
            "blob 2 has more than 2147483647 elements",
            "blob 1 has 2 gradients, its shape 1 needs 1",
            "blob 0 has 0 values, its shape 3 needs 3; its fields 12 are a fork's",
        ],
        strict=True,
    ):
        assert want in line


@pytest.mark.parametrize(
    ("data", "want"),
    [
        (b"", "is empty"),
        (b"\x89HDF\r\n\x1a\n" + bytes(8), "HDF5"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"PK\x03\x04aaaa", "compressed"),
        (b'name: "net"\nlayer { }\n', "looks like text"),
        (b"\x00\x00", "byte 0, in the net: 0 is no field tag"),
        (b"\xa4\x06", "byte 0, in the net: field 100 has the wire type 4"),
        (b"\x0a\x01\x00" + b"\xff" * 12, "byte 3, in the net: a number is longer than ten bytes"),
        (field(100, b"\x0a\x09\x01"), "byte 3, in the layer with index 0: a field is longer than what it is in"),
        (field(100, b"\x0a\x09\x01") + layer(), "field 1 claims 9 bytes, of which its message has 1"),
        (layer(b"\x2a\x03abc"), "in layer 'conv': 3 bytes of blob values are no multiple of 4"),
        (layer(b"\x28\x01"), "in layer 'conv': blob values have the wire type 0"),
        (layer(b"\x38\x01"), "in layer 'conv': the shape of a blob has the wire type 0"),
        (layer(shape(*[1] * 33)), "a blob has more than 32 axes"),
        (b"\xa0\x06\x01", "a layer has the wire type 0"),
        (layer(name=b"\xff"), "is no valid UTF-8"),
        (layer(name=b"a\0"), "name contains a NUL"),
        (field(1, b"\xff"), "the net at byte 0 cannot be read"),
        (layer() + field(2, b""), "both `layer` and `layers`"),
        (b"\x13" * 200 + b"\x14" * 200, "groups nested deeper than 100"),
        (b"\x1b\x14", "group 2 ends where another is open"),
        (field(100, field(106, b"\xff\xff")), "cannot be read"),
    ],
)
def test_damaged_files(load: Callable[[bytes], wire.WeightFile], data: bytes, want: str) -> None:
    with pytest.raises(WeightsError) as caught:
        load(data)
    assert "x.caffemodel: " in str(caught.value)
    assert want in str(caught.value)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    for path, want in {
        tmp_path / "none": "no such file",
        tmp_path: "is a directory",
        Path("a\0"): "cannot be read",
    }.items():
        for reader in (wire.read, wire.read_blob):
            with pytest.raises(WeightsError, match=want):
                reader(path)
    with pytest.raises(WeightsError, match="cannot be read"):
        wire.looks_binary(tmp_path / "none")


def test_truncated_anywhere(tmp_path: Path) -> None:
    net = sample()
    net.name = ""
    net.ClearField("input")
    data = net.SerializeToString()
    path = tmp_path / "x.caffemodel"
    ends = {0}
    at = 0
    for number, _, _, _, stop in scan(data, 0, len(data)):
        assert number in (1, 100)
        ends.add(stop)
    for at in range(len(data)):
        path.write_bytes(data[:at])
        if at in ends and at:
            wire.read(path)  # ends behind a whole layer: nothing can tell
            continue
        with pytest.raises(WeightsError):
            wire.read(path)
    path.write_bytes(data[:-10])
    with pytest.raises(WeightsError) as caught:
        wire.read(path)
    start = sorted(ends)[-2]
    assert str(caught.value) == (
        f"{path}: ends in the middle of layer 'conv2' at byte {start}: the file is truncated "
        f"({len(data)} bytes expected at least, {len(data) - 10} there)"
    )


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_flipped_bytes(tmp_path: Path, data: Any) -> None:
    raw = bytearray(sample().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.caffemodel"
    path.write_bytes(raw)
    with contextlib.suppress(WeightsError):
        file = wire.read(path)
        assert sum(blob.data.nbytes for own in file.blobs for blob in own) <= len(raw)
        wire.write(tmp_path / "y.caffemodel", file.net, file.blobs)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.caffemodel"
    path.write_bytes(data)
    for reader in (wire.read, wire.read_blob):
        with contextlib.suppress(WeightsError):
            reader(path)


def test_more_than_2_gib(tmp_path: Path) -> None:
    count = 590_000_000
    tail = shape(count)
    inner = field(1, b"huge")
    blob_length = 1 + len(varint(4 * count)) + 4 * count + len(tail)
    head = inner + b"\x3a" + varint(blob_length) + b"\x2a" + varint(4 * count)
    layer_length = len(head) + 4 * count + len(tail)
    path = tmp_path / "x.caffemodel"
    with path.open("wb") as stream:
        stream.write(varint(100 << 3 | 2) + varint(layer_length) + head)
        stream.truncate(stream.tell() + 4 * count)
        stream.seek(0, 2)
        stream.write(tail)
    assert path.stat().st_size > 2**31
    start = time.perf_counter()
    file = wire.read(path)
    assert time.perf_counter() - start < 0.5
    ((blob,),) = file.blobs
    assert blob.shape == (count,) and blob.data.size == count and blob.data[-1] == 0
    with pytest.raises(WeightsError, match="Caffe reads no more than"):
        wire.write(tmp_path / "y.caffemodel", file.net, file.blobs)


def test_binaryproto(tmp_path: Path) -> None:
    mean = schema.message("BlobProto")
    mean.num, mean.channels, mean.height, mean.width = 1, 3, 1, 2
    mean.data.extend(range(6))
    path = tmp_path / "mean.binaryproto"
    path.write_bytes(mean.SerializeToString())
    blob = wire.read_blob(path)
    assert (blob.shape, blob.legacy, blob.data.tolist()) == ((1, 3, 1, 2), True, [0, 1, 2, 3, 4, 5])
    mean.width = 3
    path.write_bytes(mean.SerializeToString())
    with pytest.raises(WeightsError, match=r"mean\.binaryproto: the blob has 6 values, its shape 1x3x1x3 needs 9"):
        wire.read_blob(path)
    path.write_bytes(mean.SerializeToString()[:-3])
    with pytest.raises(WeightsError, match="truncated"):
        wire.read_blob(path)


def test_looks_binary(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for data, want in {
        sample().SerializeToString(): True,
        b"\x89HDF\r\n\x1a\n": True,
        b'\xef\xbb\xbf# \xe4\xbd\xa0\xff\r\nname: "x"\t\n': False,
        b"": False,
    }.items():
        path.write_bytes(data)
        assert wire.looks_binary(path) is want


# Writing


def in_memory(*values: float, shape: tuple[int, ...] | None = None, dtype: str = "float32") -> BlobData:
    return BlobData((len(values),) if shape is None else shape, False, np.array(values, dtype))


def test_written_as_protobuf_writes(tmp_path: Path) -> None:
    path = tmp_path / "x.caffemodel"
    for name in ("layer", "layers"):
        net = schema.message("NetParameter")
        net.name, net.force_backward = "n", True
        net.input_dim.extend([1, 2])
        one = getattr(net, name).add(name="a", bottom=["b"], top=["c"])
        one.convolution_param.num_output = 1
        one.convolution_param.pad.extend([1, 2])
        one.include.add(phase=1)
        # Fields of a fork: within a parameter, in the layer, in the net.
        one.convolution_param.MergeFromString(varint(3000 << 3) + b"\x05")
        one.MergeFromString(varint(900 << 3) + b"\x05")
        net.MergeFromString(varint(50 << 3) + b"\x05")
        getattr(net, name).add(name="d")
        blobs = [
            [
                BlobData((2, 1), False, np.array([1, 2], "f4"), np.array([3, 4], "f4")),
                BlobData((1, 1, 1, 2), True, np.array([1, 2], "f8")),
                BlobData((2,), False, np.arange(4, dtype="f4")[::2], np.array([3, 4], "f8")),
                BlobData((), False, np.array([7], "f4")),
            ],
            [],
        ]
        wire.write(path, net, blobs)
        whole = type(net)()
        whole.CopyFrom(net)
        target = getattr(whole, name)[0].blobs
        blob = target.add(data=[1, 2], diff=[3, 4])
        blob.shape.dim.extend([2, 1])
        target.add(num=1, channels=1, height=1, width=2).double_data.extend([1, 2])
        blob = target.add(data=[0, 2], double_diff=[3, 4])
        blob.shape.dim.append(2)
        target.add(data=[7])
        assert path.read_bytes() == whole.SerializeToString(deterministic=True)
        again = wire.read(path)
        assert again.net == net
        assert [[blob.shape for blob in own] for own in again.blobs] == [[(2, 1), (1, 1, 1, 2), (2,), ()], []]


def test_v0_is_written_too(tmp_path: Path) -> None:
    net = schema.message("NetParameter")
    entry = net.layers.add(bottom=["a"])
    entry.layer.name = "v0"
    entry.layer.blobs_lr.append(1)
    wire.write(tmp_path / "x", net, [[in_memory(1, 2)]])
    blob = entry.layer.blobs.add(data=[1, 2])
    blob.shape.dim.append(2)
    assert (tmp_path / "x").read_bytes() == net.SerializeToString()


def test_refuses_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.caffemodel"
    net = schema.message("NetParameter")
    net.layer.add(name="a")
    for blobs, want in (
        ([], "blobs of 0 layers are given for 1 layers"),
        ([[in_memory(1, 2, shape=(3,))]], "layer 'a': blob 0 has 2 values, its shape 3 needs 3"),
        ([[in_memory(1, dtype="float16")]], "layer 'a': blob 0 is float16; Caffe has float32 and float64"),
        ([[in_memory(1, dtype="int32")]], "is int32"),
        ([[BlobData((1,), True, np.zeros(1, "f4"))]], "legacy blob with 1 dims"),
    ):
        with pytest.raises(WeightsError, match=want):
            wire.write(path, net, blobs)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ArtifactError, match="cannot be written"):
        wire.write(tmp_path / "none" / "x", net, [[]])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path.write_bytes(b"before")
    monkeypatch.setattr(wire, "_write_all", full)
    with pytest.raises(ArtifactError, match=r"x\.caffemodel: cannot be written: No space left on device"):
        wire.write(path, net, [[]])
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    net.layers.add()
    with pytest.raises(WeightsError, match="both"):
        wire.write(path, net, [[]])


def test_a_file_may_be_rewritten_from_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.caffemodel"
    data = sample().SerializeToString()
    path.write_bytes(data)
    file = wire.read(path)
    wire.write(path, file.net, file.blobs)
    assert path.read_bytes() == data
    assert file.sha256() == hashlib.sha256(data).hexdigest()


def models() -> Iterator[Any]:
    for path in MODELS:
        yield pytest.param(path, id=str(path.relative_to(CONFORMANCE).parent))


@pytest.mark.skipif(not MODELS, reason="the recorded models are not here")
def test_real_files_come_out_the_same(tmp_path: Path) -> None:
    for path in MODELS:
        file = wire.read(path)
        wire.write(tmp_path / "x", file.net, file.blobs)
        assert (tmp_path / "x").read_bytes() == path.read_bytes(), path.name
        theirs = schema.message_class("NetParameter").FromString(path.read_bytes())
        for one, own in zip(theirs.layer or theirs.layers, file.blobs, strict=True):
            for want, blob in zip(one.blobs, own, strict=True):
                assert np.array_equal(np.array(want.data, "f4"), blob.data), (path.name, one.name)
                assert tuple(want.shape.dim) == blob.shape or blob.legacy


def test_imports_nothing_heavy() -> None:
    script = (
        "import sys, caffe_port.proto.wire as w; "
        "print([name for name in ('torch', 'onnx', 'PIL', 'h5py', 'onnxruntime', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
