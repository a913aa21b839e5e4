"""Means: per pixel and per channel, read, written, applied."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from caffe_port.errors import ShapeError, WeightsError
from caffe_port.proto import schema, wire
from caffe_port.proto.blobs import BlobData
from caffe_port.scoring.mean import Mean

IMAGE = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4) / 2
"""A mean image of 2 channels, 3 rows, 4 columns: values 0, 0.5, … 11.5."""


def by_hand(dims: tuple[int, ...], values: list[float]) -> bytes:
    """A legacy BlobProto byte by byte: fields 1 to 4 are varints, field 5 packed little-endian floats."""
    head = b"".join(bytes([number << 3, dim]) for number, dim in enumerate(dims, 1))
    packed = struct.pack(f"<{len(values)}f", *values)
    return head + bytes([5 << 3 | 2, len(packed)]) + packed


def test_a_file_made_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "mean.binaryproto"
    path.write_bytes(by_hand((1, 2, 3, 4), IMAGE.reshape(-1).tolist()))
    mean = Mean.read(path)
    assert mean.size == (3, 4) and mean.channels == 2
    assert mean.values.dtype == np.float32 and np.array_equal(mean.values, IMAGE)
    assert not mean.values.flags.writeable
    # Byte for byte what was read.
    mean.write(tmp_path / "again.binaryproto")
    assert (tmp_path / "again.binaryproto").read_bytes() == path.read_bytes()


def test_a_file_written_by_protobuf(tmp_path: Path) -> None:
    blob = schema.message("BlobProto")
    blob.shape.dim.extend([2, 3, 4])
    blob.double_data.extend((IMAGE.astype(np.float64).reshape(-1) / 3).tolist())
    (tmp_path / "m").write_bytes(blob.SerializeToString())
    mean = Mean.read(tmp_path / "m")
    assert mean.values.dtype == np.float64 and np.array_equal(mean.values, IMAGE.astype(np.float64) / 3)


def test_per_channel(tmp_path: Path) -> None:
    path = tmp_path / "mean.binaryproto"
    wire.write_blob(path, BlobData((1, 3, 1, 1), True, np.array([104, 117, 123], np.float32)))
    mean = Mean.read(path)
    assert mean.size is None and mean.values.tolist() == [104, 117, 123]
    # The average of 0, 0.5, … 5.5 is 2.75, of 6 … 11.5 it is 8.75.
    assert Mean(IMAGE).per_channel().values.tolist() == [2.75, 8.75]
    assert mean.per_channel() is mean
    mean.write(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 2, 3, 4)])
def test_npy(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "mean.npy", IMAGE.reshape(shape).astype(np.float64))
    mean = Mean.read(tmp_path / "mean.npy")
    assert mean.values.dtype == np.float64 and np.array_equal(mean.values, IMAGE)
    mean.write(tmp_path / "again.npy")
    assert np.array_equal(np.load(tmp_path / "again.npy"), IMAGE)


def test_the_mean_is_looked_at_where_the_crop_was() -> None:
    # 2x2 cut at row 1, column 2 of the 3x4 image: the mean there is, in channel 0, rows (3, 3.5), (5, 5.5); channel 1
    # has 6 more.
    cut = np.full((2, 2, 2), 100, np.uint8)
    got = Mean(IMAGE).apply(cut, offset=(1, 2))
    assert got.dtype == np.float32
    assert got.tolist() == [[[97, 96.5], [95, 94.5]], [[91, 90.5], [89, 88.5]]]
    batch = Mean(IMAGE).apply(np.stack([cut, cut]), offset=(1, 2))
    assert batch.shape == (2, 2, 2, 2) and np.array_equal(batch[1], got)
    assert Mean(np.array([1, 2])).apply(cut, offset=(9, 9))[:, 0, 0].tolist() == [99, 98]
    # One value is replicated over the channels.
    assert Mean(np.array([1])).apply(cut)[:, 0, 0].tolist() == [99, 99]


def test_float64_stays() -> None:
    mean = Mean(np.array([1e-9, 0]))
    assert mean.apply(np.ones((2, 1, 1))).reshape(-1).tolist() == [1 - 1e-9, 1]
    # float32 images minus a float64 mean: worked out in float64, then rounded, as NumPy does in place.
    assert mean.apply(np.ones((2, 1, 1), np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    ("shape", "offset", "want"),
    [
        ((3, 2, 2), (0, 0), "2 channels does not fit an image 3x2x2"),
        ((2, 2), (0, 0), "does not fit"),
        ((2, 2, 2), (2, 0), "does not reach over 2x2 at row 2, column 0"),
        ((2, 2, 2), (0, 3), "does not reach"),
        ((2, 2, 2), (-1, 0), "does not reach"),
    ],
)
def test_what_does_not_fit(shape: tuple[int, ...], offset: tuple[int, int], want: str) -> None:
    with pytest.raises(ShapeError, match=want):
        Mean(IMAGE).apply(np.zeros(shape), offset)


def test_files_without_a_mean(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        Mean.read(tmp_path / "none")
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01")
    with pytest.raises(WeightsError, match=r"cut\.npy: no \.npy file that can be read"):
        Mean.read(tmp_path / "cut.npy")
    np.save(tmp_path / "text.npy", np.array(["a"]))
    with pytest.raises(WeightsError, match=r"an array of numbers"):
        Mean.read(tmp_path / "text.npy")
    np.save(tmp_path / "two.npy", np.zeros((2, 3)))
    with pytest.raises(WeightsError, match=r"two\.npy: a mean has the shape .*, not 2x3"):
        Mean.read(tmp_path / "two.npy")
    (tmp_path / "many").write_bytes(by_hand((2, 1, 1, 2), [1, 2, 3, 4]))
    with pytest.raises(WeightsError, match=r"many: a mean has the shape .*, not 2x1x1x2"):
        Mean.read(tmp_path / "many")
    (tmp_path / "short").write_bytes(by_hand((1, 2, 3, 4), [1, 2]))
    with pytest.raises(WeightsError, match="has 2 values, its shape 1x2x3x4 needs 24"):
        Mean.read(tmp_path / "short")
