"""Files of more than 4 GB, as sparse files: their holes take no room on disk and no memory where they are mapped."""

from __future__ import annotations

import struct
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import built, one_input

import caffe_port as cp
from caffe_port.arrays import read_npz, write_npz
from caffe_port.errors import ShapeError, WeightValuesError
from caffe_port.summary import summarize

NET = f"""{one_input(1, 15_000, name="data")}
layer {{ name: "fc2" type: "InnerProduct" bottom: "data" top: "fc2"
        inner_product_param {{ num_output: 20_000 bias_term: false }} }}
layer {{ name: "fc3" type: "InnerProduct" bottom: "fc2" top: "fc3" inner_product_param {{ num_output: 2 }} }}
""".replace("20_000", "20000")
"""Of a file with 2.4 GB in front of fc2, whose blob has 1.2, and as much behind it."""

FULLY = 'layer { name: "l" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: N } }'
CONVOLUTION = (
    'layer { name: "l" type: "Convolution" bottom: "x" top: "y" '
    "convolution_param { num_output: 1 kernel_size: 3 pad: 1 } }"
)

PEAK = """
import sys, time
import caffe_port as cp
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) // 1024
cp.load(sys.argv[1])  # what the code itself takes
before = peak()
net = cp.load(sys.argv[2], sys.argv[3])
print(peak() - before, *net.layer("fc3").weights[0].data[:, -1], *net.layer("fc3").weights[1].data)
"""


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def tagged(number: int, length: int) -> bytes:
    return varint(number << 3 | 2) + varint(length)


def field(number: int, payload: bytes) -> bytes:
    return tagged(number, len(payload)) + payload


def write_sparse(path: Path, layers: dict[str, Sequence[Any]]) -> None:
    """A caffemodel of InnerProduct layers; a blob is an array, or a shape, for zeros that are a hole in the file."""
    with path.open("wb") as stream:
        for name, blobs in layers.items():
            pieces: list[bytes | int] = [field(1, name.encode()), field(2, b"InnerProduct")]
            for blob in blobs:
                shape = blob if isinstance(blob, tuple) else blob.shape
                dims = field(7, field(1, b"".join(map(varint, shape))))
                size = 4 * int(np.prod(shape, dtype=np.int64))
                values = tagged(5, size)
                pieces += [tagged(7, len(dims) + len(values) + size), dims, values]
                pieces.append(size if isinstance(blob, tuple) else blob.astype("<f4").tobytes())
            stream.write(tagged(100, sum(len(piece) if isinstance(piece, bytes) else piece for piece in pieces)))
            for piece in pieces:
                if isinstance(piece, bytes):
                    stream.write(piece)
                else:
                    stream.seek(piece, 1)
        stream.truncate()


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """A folder whose files can have holes."""
    probe = tmp_path / "probe"
    with probe.open("wb") as stream:
        stream.truncate(1 << 24)
    if probe.stat().st_blocks * 512 >= 1 << 24:
        pytest.skip("files here have no holes")
    return tmp_path


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak of memory is read from Linux's /proc")
def test_a_caffemodel_of_4_8_gb_is_loaded_in_next_to_no_memory(sparse: Path) -> None:
    """Blobs begin behind 2^31 and behind 2^32 bytes; one of 1.2 GB is looked at value by value."""
    last = np.arange(40_000, dtype=np.float32).reshape(2, -1)
    blobs: dict[str, Sequence[Any]] = {
        "fc1": [(20_000, 30_000)],
        "fc2": [(20_000, 15_000)],
        "more": [(20_000, 15_000)],
        "fc3": [last, np.array([7, 8], np.float32)],
    }
    model, small, net = sparse / "net.caffemodel", sparse / "small.prototxt", sparse / "net.prototxt"
    write_sparse(model, blobs)
    assert model.stat().st_size > 4.8e9
    assert model.stat().st_blocks * 512 < 1e6
    small.write_text(one_input(1, 2) + 'layer { name: "r" type: "ReLU" bottom: "x" top: "y" }')
    net.write_text(NET)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, small, net, model], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    megabytes, *values = map(float, done.stdout.split())
    assert values == [19_999, 39_999, 7, 8]
    assert megabytes < 64, f"{megabytes} MB for a file of 4800"


def test_a_nan_at_the_end_of_a_huge_file_is_found(sparse: Path) -> None:
    model, net = sparse / "net.caffemodel", sparse / "net.prototxt"
    write_sparse(model, {"fc1": [(20_000, 55_000)], "fc3": [np.ones((2, 4), np.float32), np.array([7, np.nan])]})
    assert model.stat().st_size > 1 << 32
    fc3 = 'layer { name: "fc3" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 2 } }'
    net.write_text(one_input(1, 4) + fc3)
    with pytest.raises(WeightValuesError, match=r"^layer 'fc3': learned blob 1 \(2\) .* 1 NaN, the first at \[1\]"):
        cp.load(net, model)


# On paper: what Caffe's 32-bit counts do not hold

TOO_MANY = {
    "an input": (one_input(65_536, 32_768), "65536x32768 has more than 2147483647 elements"),
    "a learned blob": (
        one_input(1, 65_536) + FULLY.replace("N", "32768"),
        "shape 32768x65536 has more than 2147483647 elements",
    ),
    "the columns of a convolution": (
        one_input(1, 256, 1024, 1024) + CONVOLUTION,
        "the columns of one item would be 2304x1024x1024",
    ),
    "the columns of a deconvolution": (
        one_input(1, 1, 4096, 4096)
        + CONVOLUTION.replace("Convolution", "Deconvolution").replace("num_output: 1", "num_output: 16"),
        "the columns of one item would be 144x4096x4096",
    ),
    "a top": (
        one_input(2, 16_384, 256, 256)
        + 'layer { name: "l" type: "Tile" bottom: "x" top: "y" tile_param { tiles: 2 } }',
        "more than 2147483647 elements",
    ),
    "5 dims of which one is 0": (one_input(0, 65_536, 65_536), ""),
}


@pytest.mark.parametrize("case", TOO_MANY)
def test_a_count_beyond_int_is_refused_as_by_caffe(case: str) -> None:
    """Without being allocated: nothing here has so much memory."""
    text, told = TOO_MANY[case]
    if not told:
        assert built(text).input_shapes == {"x": (0, 65_536, 65_536)}
        return
    with pytest.raises(ShapeError, match=told):
        built(text)


def test_a_blob_of_8_gb_can_be_described() -> None:
    """The largest that Caffe allows is 2^31 - 1 elements; shapes and sums over them are Python's integers."""
    net = built(one_input(1, 2**31 - 1) + 'layer { name: "r" type: "ReLU" bottom: "x" top: "y" }')
    assert summarize(net).outputs == {"y": (1, 2**31 - 1)}


def test_npz_files_are_written_for_members_of_any_size(tmp_path: Path) -> None:
    """Each member says so (the zip64 field) before its size is known; beyond 4 GB nothing else would do."""
    write_npz(tmp_path / "a.npz", {"x": np.ones(3)})
    raw = (tmp_path / "a.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        (member,) = archive.infolist()
    name_length, extra_length = struct.unpack_from("<HH", raw, member.header_offset + 26)
    extra = raw[member.header_offset + 30 + name_length :][:extra_length]
    assert struct.unpack_from("<HH", extra) == (1, 16)
    np.testing.assert_array_equal(read_npz(tmp_path / "a.npz")["x"], np.ones(3))
