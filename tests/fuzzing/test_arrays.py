"""npz and npy files, recordings and safetensors files that lie about what they hold."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffe_port import recording
from caffe_port.arrays import read_npz, write_npz
from caffe_port.converters.from_pytorch import read_safetensors
from caffe_port.errors import CaffePortError, RecordingError, ShapeError, WeightsError
from caffe_port.layer_cases import read_layer_cases
from caffe_port.limits import limits
from caffe_port.scoring.mean import Mean
from tests.fuzzing.hostile import refused


def npy(descr: Any, shape: Any, content: bytes = b"", *, order: bool = False) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": order, "shape": shape})
    return stream.getvalue() + content


def npz(path: Path, method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy("<f4", (1 << 44,), b"1234"), "70,368,744,177,664 bytes of values, 4 are there"),
        (npy("<f8", (1 << 31, 1 << 31, 1 << 31)), "bytes of values, 0 are there"),
        (npy("<f4", (-1, -4), b"1234"), "no shape"),
        (npy("<f4", (1,) * 100, b"1234"), "dim"),
        (npy("|V0", (1 << 60,)), "not an array of numbers"),
        (npy([("a", "<f4", (1 << 20,))], (1,)), "not an array of numbers"),
        (npy("<U1000000", (3,)), "not an array of numbers"),
        (npy("|O", (1,), pickle.dumps([1])), "never loaded"),
        (npy("<f4", (1,), b"12345678"), "more bytes than its shape needs"),
        (b"\x93NUMPY\x09\x00", "version|format"),
        (b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16, "."),
        (b"\x93NUMPY\x01\x00\xff\x00", "."),
        (b"", "."),
    ],
)
def test_arrays_that_are_not_what_they_say(tmp_path: Path, content: bytes, message: str) -> None:
    path = npz(tmp_path / "a.npz", x=content)
    refused(lambda: read_npz(path), message)
    refused(lambda: recording.read(path), message)
    refused(lambda: recording.made_by(path), message)
    single = tmp_path / "mean.npy"
    single.write_bytes(content)
    # A single file may have more behind its array; NumPy's own writers append too.
    if "more bytes" not in message:
        refused(lambda: Mean.read(single), ".")


def test_all_orders_and_kinds_are_read(tmp_path: Path) -> None:
    arrays = {
        "fortran": np.arange(6, dtype=">f8").reshape(2, 3).T,
        "flag": np.array([True, False]),
        "none": np.zeros((3, 0, 2), np.uint16),
        "scalar": np.array(7, np.int64),
        "half": np.ones((2, 2), np.float16),
    }
    write_npz(tmp_path / "a.npz", arrays)
    found = read_npz(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array) and found[name].flags.writeable


def test_a_zip_bomb(tmp_path: Path) -> None:
    size = 8 * 2**20
    path = npz(tmp_path / "bomb.npz", x=npy("|u1", (size,), bytes(size)))
    assert path.stat().st_size < 10_000
    with limits.adjusted(unpacked_free=2**20):
        refused(lambda: read_npz(path), r"would unpack to 8,388,\d+; .*limits unpacked_free and unpacked_ratio", 2**21)
        refused(lambda: recording.read(path), "would unpack to 8,388,", 2**21)
        refused(lambda: list(read_layer_cases(path)), "would unpack to 8,388,", 2**21)
    assert read_npz(path)["x"].size == size
    with limits.adjusted(unpacked_bytes=2**20):
        refused(lambda: read_npz(path), "--limit unpacked_bytes=N", 2**21)


def test_a_member_that_unpacks_to_more_than_it_says(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", x=npy("<f4", (2**18,), bytes(2**20)))
    content = bytearray(path.read_bytes())
    # The sizes before and behind the data, and the array's, say a little.
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.index(mark) + offset, 200)
    path.write_bytes(content)
    refused(lambda: read_npz(path), "bytes of values, 72 are there|Bad CRC-32")


def test_a_method_that_unpacks_without_bound(tmp_path: Path) -> None:
    for number, method in enumerate((zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)):
        path = npz(tmp_path / f"{number}.npz", method, x=npy("<f4", (1,), b"1234"))
        refused(lambda path=path: read_npz(path), "a method that NumPy does not write")  # type: ignore[misc]


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "loop", Path("/dev/zero"), Path("a\0b"), Path("\ud800")):
        with pytest.raises(ShapeError):
            read_npz(path)
        with pytest.raises(WeightsError):
            Mean.read(path)
        with pytest.raises(RecordingError):
            recording.read(path)
        with pytest.raises(WeightsError):
            read_safetensors(path)


def of_meta(path: Path, meta: str) -> Path:
    content = meta.encode()
    return npz(path, meta=npy("|u1", (len(content),), content))


@pytest.mark.parametrize(
    "meta",
    [
        "[" * 100_000,
        "[" * 200 + "]" * 200,
        '{"layers": ' + "1" * 5000 + "}",
        '{"layers": NaN, "inputs": [], "outputs": []}',
        '{"layers": [1], "inputs": [], "outputs": []}',
        '{"layers": [{"index": 0, "layer": "a", "type": "b", "top": "c", "shape": [1e99]}]}',
        '{"layers": [], "layers": [], "inputs": [], "outputs": []}',
        '{"layers": {}, "inputs": 5, "outputs": []}',
        '"layers"',
    ],
)
def test_a_recording_whose_list_of_layers_is_hostile(tmp_path: Path, meta: str) -> None:
    path = of_meta(tmp_path / "r.npz", meta)
    refused(lambda: recording.read(path), r"r\.npz: 'meta' is damaged: ")


def test_a_huge_shape_in_a_recording(tmp_path: Path) -> None:
    layer = {"index": 0, "layer": "a", "type": "b", "top": "c", "shape": [2**62, 2**62]}
    meta = json.dumps({"layers": [layer], "inputs": [], "outputs": []}).encode()
    sample = npy("<f4", (2,), bytes(8))
    path = npz(tmp_path / "r.npz", **{"meta": npy("|u1", (len(meta),), meta), "sample:0:a:c": sample})
    assert recording.read(path).layers[0].size == 2**124  # of which two values were recorded


# safetensors


def safetensors(path: Path, header: Any, content: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}},
        {
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        },
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {"a": {"dtype": "F8_E5M2", "shape": [8], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [1 << 62, 0, 1 << 62], "data_offsets": [0, 0]}},
        {"a": {"dtype": "F32", "shape": [1] * 100 + [2], "data_offsets": [0, 8]}},
        {
            "__metadata__": {"caffe_port.blobs": "[" * 100_000},
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        },
        {"__metadata__": {"caffe_port.blobs": '{"a": 1}'}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
        b"{" * 100_000,
        b'{"a":' * 1000,
        b"\xff\xfe",
        b"",
    ],
)
def test_safetensors_that_are_not_what_they_say(tmp_path: Path, header: Any) -> None:
    path = safetensors(tmp_path / "w.safetensors", header, bytes(8) if b"62" not in str(header).encode() else b"")
    refused(lambda: read_safetensors(path), r"w\.safetensors: ")


def test_safetensors_with_a_header_of_any_length(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for length in (2**63, 2**64 - 1, 10**9):
        path.write_bytes(struct.pack("<Q", length) + b"{}")
        refused(lambda: read_safetensors(path), r"w\.safetensors: ")


class _Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('code of the file ran')",))


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"w": _Harmful()}, tmp_path / "w.pt")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(_Harmful()))
    np.save(tmp_path / "w.npy", np.array([_Harmful()], object), allow_pickle=True)
    np.savez(tmp_path / "w.npz", w=np.array([_Harmful()], object))
    for read, name in (
        (read_safetensors, "w.pt"),
        (read_safetensors, "w.pkl"),
        (Mean.read, "w.npy"),
        (read_npz, "w.npz"),
    ):
        with pytest.raises(CaffePortError):
            read(tmp_path / name)
