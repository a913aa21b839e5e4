"""A learned blob as caffemodels have it: a BlobProto, read without copying its values, checked, and written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from caffe_port.errors import WeightsError
from caffe_port.limits import MAX_AXES, MAX_ELEMENTS
from caffe_port.proto.wire_format import Damaged, encoded, field_at, scan, signed, tagged, varint

__all__ = ["DATA", "DOUBLE_DATA", "FLOAT", "BlobData", "Values", "blob_at", "blob_chunks"]

# Field numbers of BlobProto and BlobShape.
DATA, _DIFF, _SHAPE, DOUBLE_DATA, _DOUBLE_DIFF = 5, 6, 7, 8, 9
_DIM = 1
FLOAT: np.dtype[Any] = np.dtype("<f4")
_DOUBLE: np.dtype[Any] = np.dtype("<f8")
_VALUES: dict[int, np.dtype[Any]] = {DATA: FLOAT, _DIFF: FLOAT, DOUBLE_DATA: _DOUBLE, _DOUBLE_DIFF: _DOUBLE}

Values = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class BlobData:
    """One learned blob.

    shape: the dims; of a legacy blob the four numbers (num, channels, height, width), where absent ones are 0.
    legacy: whether the file gives num, channels, height and width (they win over `shape`, as in Caffe).
    data: 1-D in C order, float32 or float64 (`double_data`), read-only; from a file a view of it, so maybe unaligned.
    diff: the gradients, in the same way, or None where the file has none.
    """

    shape: tuple[int, ...]
    legacy: bool
    data: Values
    diff: Values | None = None


def _unpacked(data: Any, tag: int, at: int, end: int, width: int) -> int:
    """How many records of one tag byte and `width` bytes follow each other from `at` on."""
    step = 1 + width
    most = (end - at) // step
    count = 0
    block = 64
    while count < most:
        size = min(block, most - count)
        tags = np.frombuffer(data, np.uint8, size * step, at + count * step)[::step]
        other = np.flatnonzero(tags != tag)
        if other.size:
            return count + int(other[0])
        count += size
        block *= 4
    return count


def _read_dims(data: Any, at: int, end: int, dims: list[int]) -> None:
    for number, wire, start, value, stop in scan(data, at, end):
        if number != _DIM:
            continue
        if wire == 0:
            dims.append(signed(varint(data, value, stop)[0], 64))
        elif wire == 2:
            while value < stop:
                dim, value = varint(data, value, stop)
                dims.append(signed(dim, 64))
                if len(dims) > MAX_AXES:
                    raise Damaged(start, f"a blob has more than {MAX_AXES} axes")
        else:
            raise Damaged(start, f"the dims of a blob have the wire type {wire}")
        if len(dims) > MAX_AXES:
            raise Damaged(start, f"a blob has more than {MAX_AXES} axes")


def blob_at(data: Any, at: int, end: int) -> tuple[BlobData, str]:
    """A BlobProto, and what is wrong with it ("" for nothing)."""
    dims: list[int] = []
    legacy = [0, 0, 0, 0]
    has_legacy = False
    pieces: dict[int, list[Values | bytearray]] = {}
    unknown: set[int] = set()
    while at < end:
        number, wire, start, value, at = field_at(data, at, end)
        if number in _VALUES:
            dtype = _VALUES[number]
            width = dtype.itemsize
            if wire == 2:
                if (at - value) % width:
                    raise Damaged(start, f"{at - value} bytes of blob values are no multiple of {width}")
                if at > value:
                    _add(pieces.setdefault(number, []), np.frombuffer(data, dtype, (at - value) // width, value))
            elif wire == (5 if width == 4 else 1):
                own = pieces.setdefault(number, [])
                if value - start == 1 and at < end and data[at] == data[start]:
                    count = _unpacked(data, data[start], start, end, width)
                    at = start + count * (1 + width)
                    records = np.frombuffer(data, np.uint8, count * (1 + width), start).reshape(count, 1 + width)
                    _add(own, np.ascontiguousarray(records[:, 1:]).reshape(-1).view(dtype))
                else:
                    _add_bytes(own, data[value:at])
            else:
                raise Damaged(start, f"blob values have the wire type {wire}")
        elif number == _SHAPE:
            if wire != 2:
                raise Damaged(start, f"the shape of a blob has the wire type {wire}")
            _read_dims(data, value, at, dims)
        elif number <= 4:
            if wire:
                raise Damaged(start, f"num, channels, height or width of a blob has the wire type {wire}")
            legacy[number - 1] = signed(varint(data, value, at)[0], 32)
            has_legacy = True
        else:
            unknown.add(number)
    # Caffe takes the doubles wherever there are any.
    values = _joined(pieces, DOUBLE_DATA, DATA)
    diff = _joined(pieces, _DOUBLE_DIFF, _DIFF)
    shape = tuple(legacy if has_legacy else dims)
    blob = BlobData(shape, has_legacy, values if values.size else _EMPTY, diff if diff.size else None)
    return blob, _wrong(blob, unknown)


def _add(pieces: list[Values | bytearray], values: Values) -> None:
    if not pieces or values.size > 64:
        pieces.append(values)
    else:
        _add_bytes(pieces, values.tobytes())


def _add_bytes(pieces: list[Values | bytearray], raw: Any) -> None:
    # Millions of tiny pieces, as only a damaged file has them, must not become millions of arrays.
    if not pieces or not isinstance(pieces[-1], bytearray):
        pieces.append(bytearray())
    last = pieces[-1]
    assert isinstance(last, bytearray)
    last += raw


def _joined(pieces: dict[int, list[Values | bytearray]], wide: int, narrow: int) -> Values:
    number = wide if wide in pieces else narrow
    dtype = _VALUES[number]
    arrays = [np.frombuffer(one, dtype) if isinstance(one, bytearray) else one for one in pieces.get(number, [])]
    if not arrays:
        return _EMPTY
    values = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    values.flags.writeable = False
    return values


_EMPTY: Values = np.empty(0, FLOAT)
_EMPTY.flags.writeable = False


def _wrong(blob: BlobData, unknown: set[int]) -> str:
    count = 1
    for dim in blob.shape:
        if dim < 0:
            return f"has a negative dim in its shape {_shape(blob)}"
        count *= dim
    if max(blob.shape, default=0) > MAX_ELEMENTS or count > MAX_ELEMENTS:
        return f"has more than {MAX_ELEMENTS} elements by its shape {_shape(blob)}"
    if count != blob.data.size:
        hint = ""
        if unknown and not blob.data.size:
            numbers = ", ".join(map(str, sorted(unknown)))
            hint = f"; its fields {numbers} are a fork's (NVIDIA's keeps half precision values in such)"
        return f"has {blob.data.size} values, its shape {_shape(blob)} needs {count}{hint}"
    if blob.diff is not None and blob.diff.size != count:
        return f"has {blob.diff.size} gradients, its shape {_shape(blob)} needs {count}"
    return ""


def _shape(blob: BlobData) -> str:
    return "x".join(map(str, blob.shape)) or "without axes"


def blob_chunks(blob: BlobData, where: str) -> list[Any]:
    """A BlobProto in pieces, its fields by number, as protobuf writes them."""
    wrong = _wrong(blob, set())
    if wrong:
        raise WeightsError(f"{where} {wrong}")
    if blob.legacy and len(blob.shape) != 4:
        raise WeightsError(f"{where} is a legacy blob with {len(blob.shape)} dims instead of 4")
    fields: list[tuple[int, Any]] = []
    for values, narrow, wide in ((blob.data, DATA, DOUBLE_DATA), (blob.diff, _DIFF, _DOUBLE_DIFF)):
        if values is None or not values.size:
            continue
        dtype: np.dtype[Any] | None = None
        if values.dtype.kind == "f":
            dtype = {4: FLOAT, 8: _DOUBLE}.get(values.dtype.itemsize)
        if dtype is None:
            raise WeightsError(f"{where} is {values.dtype}; Caffe has float32 and float64")
        flat = np.ascontiguousarray(values, dtype).reshape(-1)
        fields.append((narrow if dtype is FLOAT else wide, flat.view(np.uint8).data))
    chunks: list[Any] = []
    if blob.legacy:
        chunks.append(b"".join(encoded(number << 3) + encoded(dim) for number, dim in enumerate(blob.shape, 1)))
    else:
        dims = b"".join(map(encoded, blob.shape))
        if dims:
            fields.append((_SHAPE, tagged(_DIM, len(dims)) + dims))
    for number, payload in sorted(fields, key=lambda entry: entry[0]):
        chunks += [tagged(number, len(payload)), payload]
    return chunks
