"""Reads and writes Caffe's binary models: .caffemodel (a NetParameter) and .binaryproto (a BlobProto).

The learned numbers, nearly all of a file, are not parsed: the wire format is scanned for them, NumPy looks at them in
the mapped file, and only the rest goes to protobuf. So reading takes no memory to speak of and knows no 2 GiB limit.
Every length is checked against what encloses it before it is used.

The wire format (https://protobuf.dev/programming-guides/encoding/): a message is a row of fields, each a varint tag
(number << 3 | wire type) and a value: 0 varint, 1 eight bytes, 2 a varint length and so many bytes, 5 four bytes;
3 and 4 bracket a group.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from caffe_port.errors import Problems, WeightsError
from caffe_port.proto import dialects, schema
from caffe_port.proto.files import replacing
from caffe_port.proto.schema import Message

__all__ = [
    "MAX_AXES",
    "MAX_COUNT",
    "BlobData",
    "WeightFile",
    "looks_binary",
    "patched",
    "read",
    "read_blob",
    "read_with_blobs",
    "serialized",
    "write",
    "write_blob",
    "write_pieces",
]

MAX_COUNT = 2**31 - 1
"""Caffe counts the elements of a blob in an int, and refuses more; protobuf's C++ refuses files of more bytes."""

MAX_AXES = 32
"""Caffe refuses blobs of more axes."""

MAX_PROBLEMS = 50
"""Of so many damaged blobs an error tells; more would help nobody."""

_MAX_GROUPS = 100
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"

# Field numbers: NetParameter, LayerParameter, V1LayerParameter, V0LayerParameter, BlobProto, BlobShape.
_NET_LAYERS, _NET_LAYER = 2, 100
_V2_NAME, _V2_BLOBS = 1, 7
_V1_LAYER, _V1_NAME, _V1_BLOBS = 1, 4, 6
_V0_NAME, _V0_BLOBS = 1, 50
# What is read of a layer where only its blobs are wanted: name, type, and the V0 layer in a V1 one.
_STABLE = {(_V2_NAME, _V2_BLOBS): (1, 2), (_V1_NAME, _V1_BLOBS): (_V1_LAYER, 4, 5), (_V0_NAME, _V0_BLOBS): (1, 2)}
_DATA, _DIFF, _SHAPE, _DOUBLE_DATA, _DOUBLE_DIFF = 5, 6, 7, 8, 9
_DIM = 1
_FLOAT: np.dtype[Any] = np.dtype("<f4")
_DOUBLE: np.dtype[Any] = np.dtype("<f8")
_VALUES: dict[int, np.dtype[Any]] = {_DATA: _FLOAT, _DIFF: _FLOAT, _DOUBLE_DATA: _DOUBLE, _DOUBLE_DIFF: _DOUBLE}

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


@dataclass(slots=True)
class WeightFile:
    """What a .caffemodel holds.

    net: the NetParameter, of V2, V1 or V0, without any blobs in its layers.
    blobs: the blobs of each layer, parallel to net.layer where that has entries, else to net.layers.
    size: bytes of the file.
    places: where each blob's message begins and ends in the file, parallel to `blobs`.
    The arrays look at the mapped file: who overwrites it in place changes them, who truncates it kills the process.
    """

    path: Path
    net: Message
    blobs: list[list[BlobData]]
    size: int
    places: list[list[tuple[int, int]]] = field(repr=False)
    _buffer: Any = field(repr=False)
    _stamp: tuple[int, int, int] = field(repr=False)
    _sha256: str | None = field(default=None, repr=False)

    def sha256(self) -> str:
        """The SHA-256 of the file in hexadecimal, worked out at the first call."""
        if self._sha256 is None:
            self._sha256 = hashlib.sha256(self._buffer).hexdigest()
        return self._sha256

    def require_unchanged(self) -> None:
        """Raises WeightsError where the file was written into since it was read.

        One that another file took the place of, or that was deleted, is still whole in memory.
        """
        try:
            now = _stamp(self.path.stat())
        except OSError:
            return
        if now[0] == self._stamp[0] and now != self._stamp:
            raise WeightsError(f"{self.path}: was changed after the net was loaded from it; load it again")


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    """What tells a file from another, and from itself after a change."""
    return status.st_ino, status.st_size, status.st_mtime_ns


class _Damaged(Exception):
    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset
        self.message = message


class _Cut(_Damaged):
    """What should stand here goes on beyond the end of the file, up to `needed` bytes at least."""

    def __init__(self, offset: int, needed: int) -> None:
        super().__init__(offset, "the file is truncated")
        self.needed = needed


def _varint(data: Any, at: int, end: int) -> tuple[int, int]:
    """A varint and the offset behind it. Bits beyond 64 are dropped, as protobuf does."""
    result = shift = 0
    start = at
    while at < end:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise _Damaged(start, "a number is longer than ten bytes")
    if end == len(data):
        raise _Cut(start, end + 1)
    raise _Damaged(start, "a number runs over the end of its message")


_FieldAt = tuple[int, int, int, int, int]


def _field_at(data: Any, start: int, end: int) -> _FieldAt:
    """The field that begins at `start`: (number, wire type, start of the tag, start of the value, end of the value).

    For wire type 2 the value is what follows the length; a group is one field of wire type 3 up to behind its end tag.
    """
    tag = data[start]
    at = start + 1
    if tag >= 0x80:
        tag, at = _varint(data, start, end)
    number, wire = tag >> 3, tag & 7
    if not number or tag > 0xFFFFFFFF:
        raise _Damaged(start, f"{tag} is no field tag")
    value = at
    if wire == 2:
        length, value = _varint(data, at, end)
        at = value + length
        if at > end:
            _overrun(data, start, number, at, length, end - value, end)
    elif wire == 0:
        _, at = _varint(data, at, end)
    elif wire == 5 or wire == 1:
        at += 4 if wire == 5 else 8
        if at > end:
            _overrun(data, start, number, at, at - value, end - value, end)
    elif wire == 3:
        at = _skip_group(data, start, value, end, number)
    else:
        raise _Damaged(start, f"field {number} has the wire type {wire}, which does not belong there")
    return number, wire, start, value, at


def _scan(data: Any, at: int, end: int) -> Iterator[_FieldAt]:
    """The fields between two offsets, as `_field_at` describes them."""
    while at < end:
        found = _field_at(data, at, end)
        yield found
        at = found[4]


def _overrun(data: Any, start: int, number: int, needed: int, length: int, left: int, end: int) -> None:
    if end == len(data):
        raise _Cut(start, needed)
    raise _Damaged(start, f"field {number} claims {length} bytes, of which its message has {left}")


def _skip_group(data: Any, start: int, at: int, end: int, number: int) -> int:
    """The offset behind a group whose content begins at `at`."""
    open_groups = [number]
    while open_groups:
        if at >= end:
            if end == len(data):
                raise _Cut(start, end + 1)
            raise _Damaged(start, f"group {number} has no end")
        tag_at = at
        tag, at = _varint(data, at, end)
        inner, wire = tag >> 3, tag & 7
        if not inner or tag > 0xFFFFFFFF:
            raise _Damaged(tag_at, f"{tag} is no field tag")
        if wire == 3:
            open_groups.append(inner)
            if len(open_groups) > _MAX_GROUPS:
                raise _Damaged(start, f"groups nested deeper than {_MAX_GROUPS}")
        elif wire == 4:
            if open_groups.pop() != inner:
                raise _Damaged(tag_at, f"group {inner} ends where another is open")
        elif wire == 0:
            _, at = _varint(data, at, end)
        elif wire in (1, 2, 5):
            if wire == 2:
                length, at = _varint(data, at, end)
            else:
                length = 8 if wire == 1 else 4
            if at + length > end:
                _overrun(data, tag_at, inner, at + length, length, end - at, end)
            at += length
        else:
            raise _Damaged(tag_at, f"field {inner} has the wire type {wire}, which does not exist")
    return at


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
    for number, wire, start, value, stop in _scan(data, at, end):
        if number != _DIM:
            continue
        if wire == 0:
            dims.append(_signed(_varint(data, value, stop)[0], 64))
        elif wire == 2:
            while value < stop:
                dim, value = _varint(data, value, stop)
                dims.append(_signed(dim, 64))
                if len(dims) > MAX_AXES:
                    raise _Damaged(start, f"a blob has more than {MAX_AXES} axes")
        else:
            raise _Damaged(start, f"the dims of a blob have the wire type {wire}")
        if len(dims) > MAX_AXES:
            raise _Damaged(start, f"a blob has more than {MAX_AXES} axes")


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _read_blob(data: Any, at: int, end: int) -> tuple[BlobData, str]:
    """A BlobProto, and what is wrong with it ("" for nothing)."""
    dims: list[int] = []
    legacy = [0, 0, 0, 0]
    has_legacy = False
    pieces: dict[int, list[Values | bytearray]] = {}
    unknown: set[int] = set()
    while at < end:
        number, wire, start, value, at = _field_at(data, at, end)
        if number in _VALUES:
            dtype = _VALUES[number]
            width = dtype.itemsize
            if wire == 2:
                if (at - value) % width:
                    raise _Damaged(start, f"{at - value} bytes of blob values are no multiple of {width}")
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
                raise _Damaged(start, f"blob values have the wire type {wire}")
        elif number == _SHAPE:
            if wire != 2:
                raise _Damaged(start, f"the shape of a blob has the wire type {wire}")
            _read_dims(data, value, at, dims)
        elif number <= 4:
            if wire:
                raise _Damaged(start, f"num, channels, height or width of a blob has the wire type {wire}")
            legacy[number - 1] = _signed(_varint(data, value, at)[0], 32)
            has_legacy = True
        else:
            unknown.add(number)
    # Caffe takes the doubles wherever there are any.
    values = _joined(pieces, _DOUBLE_DATA, _DATA)
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


_EMPTY: Values = np.empty(0, _FLOAT)
_EMPTY.flags.writeable = False


def _wrong(blob: BlobData, unknown: set[int]) -> str:
    count = 1
    for dim in blob.shape:
        if dim < 0:
            return f"has a negative dim in its shape {_shape(blob)}"
        count *= dim
    if max(blob.shape, default=0) > MAX_COUNT or count > MAX_COUNT:
        return f"has more than {MAX_COUNT} elements by its shape {_shape(blob)}"
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


class _Reader:
    """Reads one file; only here because errors want the file, the layer and the offset that it is at."""

    def __init__(self, name: str, data: Any, definition: bool = True) -> None:
        self.name = name
        self.data = data
        self.definition = definition
        self.problems = Problems()
        self.layer: str | None = None

    def damaged(self, error: _Damaged, what: str) -> WeightsError:
        there = f"layer {self.layer!r}" if self.layer is not None else what
        if isinstance(error, _Cut):
            return WeightsError(
                f"{self.name}: ends in the middle of {there} at byte {error.offset}: the file is truncated "
                f"({error.needed} bytes expected at least, {len(self.data)} there)"
            )
        return WeightsError(f"{self.name}: byte {error.offset}, in {there}: {error.message}; the file is damaged")

    def net(self) -> tuple[Message, list[list[BlobData]], list[list[tuple[int, int]]]]:
        data, end = self.data, len(self.data)
        rest: list[Any] = []
        layers: dict[int, list[tuple[int, int]]] = {_NET_LAYERS: [], _NET_LAYER: []}
        blobs: dict[int, list[list[BlobData]]] = {_NET_LAYERS: [], _NET_LAYER: []}
        spans: dict[int, list[list[tuple[int, int]]]] = {_NET_LAYERS: [], _NET_LAYER: []}
        try:
            for number, wire, start, value, stop in _scan(data, 0, end):
                if number in layers:
                    if wire != 2:
                        raise _Damaged(start, f"a layer has the wire type {wire}")
                    layers[number].append((value, stop))
                else:
                    rest.append(data[start:stop])
        except _Cut as error:
            self.layer = self.cut_layer(error.offset)
            raise self.damaged(error, "the net") from None
        except _Damaged as error:
            raise self.damaged(error, "the net") from None
        net = self.parsed("NetParameter", rest if self.definition else [], "the net", 0)
        for number, places in layers.items():
            for index, (value, stop) in enumerate(places):
                self.layer = None
                what = f"the layer with index {index}"
                try:
                    inner, inner_rest = self.one_layer(number, value, stop, blobs[number], spans[number])
                except _Damaged as error:
                    # The layer itself was seen to end within the file, so nothing in it is cut off.
                    message = "a field is longer than what it is in" if isinstance(error, _Cut) else error.message
                    raise self.damaged(_Damaged(error.offset, message), what) from None
                added = (net.layer if number == _NET_LAYER else net.layers).add()
                self.fill(added, inner_rest, what, value)
                if inner is not None:
                    self.fill(added.layer, inner, what, value)
        self.layer = None
        if layers[_NET_LAYER] and layers[_NET_LAYERS]:
            message = f"{self.name}: has both `layer` and `layers` entries, of which Caffe reads only one kind"
            self.problems.add(WeightsError, message)
        self.problems.raise_if_any()
        kind = _NET_LAYER if layers[_NET_LAYER] else _NET_LAYERS
        return net, blobs[kind], spans[kind]

    def one_layer(
        self, number: int, at: int, end: int, found: list[list[BlobData]], spans: list[list[tuple[int, int]]]
    ) -> tuple[list[Any] | None, list[Any]]:
        """Appends a layer's blobs to `found` and their places to `spans`.

        Returns the other bytes of its V0 layer, if it has one, and of itself.
        """
        name_field, blob_field = (_V2_NAME, _V2_BLOBS) if number == _NET_LAYER else (_V1_NAME, _V1_BLOBS)
        blobs: list[tuple[int, int, int]] = []
        inner: list[Any] | None = None
        rest = self.without_blobs(at, end, name_field, blob_field, blobs)
        if number == _NET_LAYERS:
            outer, rest = rest, []
            beside = len(blobs)
            for piece in outer:
                if piece[0] == (_V1_LAYER << 3 | 2):
                    # Offsets stay those of the file, for the sake of the errors.
                    start, stop = piece[1], piece[2]
                    inner = (inner or []) + self.without_blobs(start, stop, _V0_NAME, _V0_BLOBS, blobs)
                else:
                    rest.append(piece)
            if beside and inner is not None:
                message = f"{self.name}: byte {at}: blobs stand beside a V0 layer, where Caffe does not look at them"
                self.problems.add(WeightsError, message, layer=self.layer)
        found.append([self.blob(index, *place) for index, place in enumerate(sorted(blobs))])
        spans.append([(start, stop) for start, stop, _ in sorted(blobs)])
        return (None if inner is None else self.bytes_of(inner)), self.bytes_of(rest)

    def bytes_of(self, pieces: list[Any]) -> list[Any]:
        return [self.data[piece[3] : piece[2]] for piece in pieces]

    def without_blobs(
        self, at: int, end: int, name_field: int, blob_field: int, blobs: list[tuple[int, int, int]]
    ) -> list[Any]:
        """The fields of a layer but its blobs as (tag, start of the value, end, start of the tag)."""
        rest = []
        for number, wire, start, value, stop in _scan(self.data, at, end):
            if number == blob_field:
                if wire != 2:
                    raise _Damaged(start, f"a blob has the wire type {wire}")
                blobs.append((value, stop, start))
            elif self.definition or number in _STABLE[name_field, blob_field]:
                if number == name_field and wire == 2:
                    self.layer = bytes(self.data[value : min(stop, value + 200)]).decode("utf-8", "replace")
                rest.append((number << 3 | wire, value, stop, start))
        return rest

    def blob(self, index: int, at: int, end: int, start: int) -> BlobData:
        blob, wrong = _read_blob(self.data, at, end)
        if wrong and len(self.problems.found) < MAX_PROBLEMS:
            message = f"{self.name}: byte {start}: blob {index} {wrong}"
            self.problems.add(WeightsError, message, layer=self.layer)
        return blob

    def cut_layer(self, offset: int) -> str | None:
        """The name of the layer that is cut off, if that much of it is left."""
        try:
            tag, at = _varint(self.data, offset, len(self.data))
            _, at = _varint(self.data, at, len(self.data))
            wanted = {_NET_LAYER << 3 | 2: _V2_NAME, _NET_LAYERS << 3 | 2: _V1_NAME}.get(tag)
            if wanted is None:
                return None
            for number, wire, _, value, stop in _scan(self.data, at, len(self.data)):
                if number == wanted and wire == 2:
                    return bytes(self.data[value : min(stop, value + 200)]).decode("utf-8", "replace")
        except _Damaged:
            # An error is being reported already; the name would have been an extra.
            return None
        return None

    def parsed(self, message_name: str, pieces: list[Any], what: str, offset: int) -> Message:
        message = schema.message(message_name)
        self.fill(message, pieces, what, offset)
        return message

    def fill(self, message: Message, pieces: list[Any], what: str, offset: int) -> None:
        # Blobs are out, so this is small in a sane file; in a mad one it is bounded by the file's size.
        raw = b"".join(pieces)
        # An empty layer must count as present too.
        message.SetInParent()
        try:
            message.MergeFromString(raw)
            self.check_strings(message)
        except (DecodeError, UnicodeDecodeError, RecursionError) as error:
            reason = "text in it is no valid UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            there = f"layer {self.layer!r}" if self.layer is not None else what
            raise WeightsError(
                f"{self.name}: {there} at byte {offset} cannot be read ({reason}); the file is damaged, "
                "or a fork's that means other things by some field numbers: then its prototxt is needed too"
            ) from None

    def check_strings(self, message: Any) -> None:
        """Looks at every string, since protobuf finds invalid UTF-8 only then.

        Raises: UnicodeDecodeError; DecodeError for a NUL.
        """
        for spec, value in message.ListFields():
            if spec.message_type is not None:
                for one in value if schema.is_repeated(spec) else (value,):
                    self.check_strings(one)
            elif spec.type == spec.TYPE_STRING:
                for one in value if schema.is_repeated(spec) else (value,):
                    # Some versions of protobuf hand out invalid UTF-8 as bytes, others raise.
                    if isinstance(one, bytes):
                        one.decode()
                    elif "\0" in one:
                        raise DecodeError(f"{spec.name} contains a NUL character")


def _map(path: str | os.PathLike[str]) -> tuple[Any, tuple[int, int, int]]:
    """The bytes of a file, as a read-only view that is loaded as it is looked at, and the file's stamp."""
    name = os.fspath(path)
    try:
        with Path(path).open("rb") as stream:
            status = os.fstat(stream.fileno())
            if not status.st_size:
                raise WeightsError(f"{name}: is empty")
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)), _stamp(status)
    except FileNotFoundError:
        raise WeightsError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise WeightsError(f"{name}: is a directory, not a weight file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WeightsError(f"{name}: cannot be read: {reason}") from None


def _refuse_others(name: str, data: Any, wanted: str) -> None:
    head = bytes(data[:4096])
    if head.startswith(_HDF5_MAGIC):
        raise WeightsError(f"{name}: HDF5 weights (.caffemodel.h5) are another format than {wanted}")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{name}: is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")
    if re.match(rb"\s*<(!doctype|html|\?xml)", head, re.IGNORECASE):
        raise WeightsError(f"{name}: is a web page, not {wanted}; the download went wrong")
    if head.startswith((b"PK\x03\x04", b"\x1f\x8b", b"BZh")):
        raise WeightsError(f"{name}: is a compressed archive, not {wanted}; unpack it first")


def _text_hint(name: str, data: Any, wanted: str) -> WeightsError | None:
    if _is_binary(bytes(data[:4096])):
        return None
    return WeightsError(f"{name}: looks like text (a prototxt?), not like {wanted}")


def _is_binary(head: bytes) -> bool:
    return re.search(rb"[\x00-\x08\x0e-\x1f]", head.removeprefix(b"\xef\xbb\xbf")) is not None


def looks_binary(path: str | os.PathLike[str]) -> bool:
    """Whether a file is binary (a caffemodel, HDF5) and no text: whether control characters stand in its first 4 KiB.

    Raises: WeightsError where it cannot be read.
    """
    try:
        with Path(path).open("rb") as stream:
            return _is_binary(stream.read(4096))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WeightsError(f"{os.fspath(path)}: cannot be read: {reason}") from None


def read(path: str | os.PathLike[str], *, definition: bool = True) -> WeightFile:
    """Reads a .caffemodel: a NetParameter of V2, V1 or V0 with the learned blobs in its layers.

    definition: False reads of each layer only its name, type and blobs. Those stand in the same place in the files of
    all forks, while other numbers may mean other things there, so that reading them could fail or give nonsense.

    Blobs in a V0 layer count as their entry's. Values may be packed, in several pieces, or unpacked; only in the last
    two cases are they copied.
    Raises: WeightsError for a file that is missing, of another format, truncated or damaged, and, all in one, for every
    blob whose dims are negative or beyond MAX_COUNT elements, or whose number of values is not that of its shape.
    Source: BVLC/caffe @ 9b89154, blob.cpp (FromProto) and caffe.proto.
    """
    name = os.fspath(path)
    data, stamp = _map(path)
    wanted = "a caffemodel"
    _refuse_others(name, data, wanted)
    reader = _Reader(name, data, definition)
    try:
        net, blobs, places = reader.net()
    except WeightsError as error:
        raise (_text_hint(name, data, wanted) or error) from None
    if not net.layer and not net.layers and (hint := _text_hint(name, data, wanted)):
        raise hint
    return WeightFile(Path(path), net, blobs, len(data), places, data, stamp)


def read_blob(path: str | os.PathLike[str]) -> BlobData:
    """Reads a .binaryproto: one BlobProto, such as a mean image of legacy shape (1, channels, height, width), BGR.

    Raises: WeightsError as `read`.
    """
    name = os.fspath(path)
    data, _ = _map(path)
    wanted = "a binaryproto"
    _refuse_others(name, data, wanted)
    try:
        blob, wrong = _read_blob(data, 0, len(data))
    except _Damaged as error:
        raise (_text_hint(name, data, wanted) or _Reader(name, data).damaged(error, "the blob")) from None
    if wrong:
        raise WeightsError(f"{name}: the blob {wrong}")
    return blob


# Writing


def _encoded(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tagged(number: int, length: int) -> bytes:
    return _encoded(number << 3 | 2) + _encoded(length)


def _blob_chunks(blob: BlobData, where: str) -> list[Any]:
    """A BlobProto in pieces, its fields by number, as protobuf writes them."""
    wrong = _wrong(blob, set())
    if wrong:
        raise WeightsError(f"{where} {wrong}")
    if blob.legacy and len(blob.shape) != 4:
        raise WeightsError(f"{where} is a legacy blob with {len(blob.shape)} dims instead of 4")
    fields: list[tuple[int, Any]] = []
    for values, narrow, wide in ((blob.data, _DATA, _DOUBLE_DATA), (blob.diff, _DIFF, _DOUBLE_DIFF)):
        if values is None or not values.size:
            continue
        dtype: np.dtype[Any] | None = None
        if values.dtype.kind == "f":
            dtype = {4: _FLOAT, 8: _DOUBLE}.get(values.dtype.itemsize)
        if dtype is None:
            raise WeightsError(f"{where} is {values.dtype}; Caffe has float32 and float64")
        flat = np.ascontiguousarray(values, dtype).reshape(-1)
        fields.append((narrow if dtype is _FLOAT else wide, flat.view(np.uint8).data))
    chunks: list[Any] = []
    if blob.legacy:
        chunks.append(b"".join(_encoded(number << 3) + _encoded(dim) for number, dim in enumerate(blob.shape, 1)))
    else:
        dims = b"".join(map(_encoded, blob.shape))
        if dims:
            fields.append((_SHAPE, _tagged(_DIM, len(dims)) + dims))
    for number, payload in sorted(fields, key=lambda entry: entry[0]):
        chunks += [_tagged(number, len(payload)), payload]
    return chunks


def _length(chunks: list[Any]) -> int:
    return sum(map(len, chunks))


def _split(raw: bytes, descriptor: Any, number: int) -> int:
    """The offset in a serialized message at which a field of that number belongs: known fields stand sorted by number,
    and unknown ones behind them all."""
    known = descriptor.fields_by_number
    for found, _, start, _, _ in _scan(raw, 0, len(raw)):
        if found > number or found not in known:
            return start
    return len(raw)


def _layer_chunks(layer: Any, blobs: Sequence[BlobData], name: str) -> list[Any]:
    """A layer in pieces, its blobs among its fields."""
    where = f"{name}: layer {layer.layer.name if _is_v0(layer) else layer.name!r}: blob"
    holder = layer.layer if _is_v0(layer) else layer
    if blobs and len(holder.blobs):
        raise WeightsError(f"{where}s are given twice, in the layer and beside it")
    inserted: list[Any] = []
    number = {"V0LayerParameter": _V0_BLOBS, "V1LayerParameter": _V1_BLOBS}.get(holder.DESCRIPTOR.name, _V2_BLOBS)
    for index, blob in enumerate(blobs):
        chunks = _blob_chunks(blob, f"{where} {index}")
        inserted += [_tagged(number, _length(chunks)), *chunks]
    raw = holder.SerializeToString(deterministic=True)
    at = _split(raw, holder.DESCRIPTOR, number) if inserted else 0
    chunks = [raw[:at], *inserted, raw[at:]]
    if holder is layer:
        return chunks
    outer = type(layer)()
    outer.CopyFrom(layer)
    outer.ClearField("layer")
    return [_tagged(_V1_LAYER, _length(chunks)), *chunks, outer.SerializeToString(deterministic=True)]


def _is_v0(layer: Any) -> bool:
    return layer.DESCRIPTOR.name == "V1LayerParameter" and bool(layer.HasField("layer"))


def serialized(net: Message, blobs: Sequence[Sequence[BlobData]], name: str) -> list[Any]:
    """A .caffemodel in pieces, byte for byte as protobuf's C++ would write it.

    net: a NetParameter without blobs in its layers; unknown fields are kept.
    blobs: those of each layer, parallel to net.layer, or to net.layers in a V1 or V0 net.
    name: what the errors call it.
    Raises: WeightsError for blobs that do not fit their shape, for another number of entries than layers, and for more
    than the 2 GiB that Caffe can read.
    """
    if dialects.is_union(net):
        raise WeightsError(
            f"{name}: the net has what only forks of Caffe have, which has no number that all would read"
        )
    if len(net.layer) and len(net.layers):
        raise WeightsError(f"{name}: a net with both `layer` and `layers` entries is none that Caffe reads")
    number, layers = (_NET_LAYERS, net.layers) if len(net.layers) else (_NET_LAYER, net.layer)
    if len(blobs) != len(layers):
        raise WeightsError(f"{name}: blobs of {len(blobs)} layers are given for {len(layers)} layers")
    shell = type(net)()
    shell.CopyFrom(net)
    shell.ClearField("layers")
    shell.ClearField("layer")
    raw = shell.SerializeToString(deterministic=True)
    at = _split(raw, shell.DESCRIPTOR, number)
    written: list[Any] = [raw[:at]]
    for layer, own in zip(layers, blobs, strict=True):
        chunks = _layer_chunks(layer, own, name)
        written += [_tagged(number, _length(chunks)), *chunks]
    written.append(raw[at:])
    total = _length(written)
    if total > MAX_COUNT:
        raise WeightsError(f"{name}: would have {total} bytes; Caffe reads no more than {MAX_COUNT}")
    return written


def write(path: str | os.PathLike[str], net: Message, blobs: Sequence[Sequence[BlobData]]) -> None:
    """Writes what `serialized` makes; it appears complete or not at all.

    Raises: as `serialized`; ArtifactError where it cannot be written.
    """
    write_pieces(path, serialized(net, blobs, os.fspath(path)))


def patched(file: WeightFile, values: Mapping[tuple[int, int], Values]) -> list[Any]:
    """The bytes of a file that was read, in pieces, with other values in some blobs; no other byte differs.

    values: by the positions of the layer and of the blob in `file.blobs`; as many as the blob has, and of its dtype.
    Raises: WeightsError where the file was changed since it was read.
    """
    file.require_unchanged()
    data = file._buffer
    pieces: list[Any] = []
    done = 0
    for i, j in sorted(values, key=lambda key: file.places[key[0]][key[1]]):
        old = file.blobs[i][j].data
        raw = np.ascontiguousarray(values[i, j], old.dtype).reshape(-1).view(np.uint8).data
        assert len(raw) == old.nbytes
        wanted = _DATA if old.dtype == _FLOAT else _DOUBLE_DATA
        used = 0
        for number, _, _, value, stop in _scan(data, *file.places[i][j]):
            if number == wanted:
                pieces += [data[done:value], raw[used : used + stop - value]]
                used += stop - value
                done = stop
    return [*pieces, data[done:]]


def write_pieces(path: str | os.PathLike[str], pieces: list[Any]) -> None:
    """Writes a file that consists of these pieces; it appears complete or not at all.

    Raises: ArtifactError where it cannot be written.
    """
    with replacing(path) as stream:
        _write_all(stream, pieces)


def _write_all(stream: BinaryIO, pieces: list[Any]) -> None:
    for piece in pieces:
        stream.write(piece)


def write_blob(path: str | os.PathLike[str], blob: BlobData) -> None:
    """Writes a .binaryproto: one BlobProto; it appears complete or not at all.

    Raises: WeightsError for a blob that does not fit its shape; ArtifactError where it cannot be written.
    """
    write_pieces(path, _blob_chunks(blob, f"{os.fspath(path)}: the blob"))


def read_with_blobs(
    path: str | os.PathLike[str], message_name: str, blob_field: int, wanted: str
) -> tuple[Message, list[BlobData]]:
    """Reads a message with one repeated field of blobs, such as a SolverState; the blobs are views of the file.

    message_name: of the schema; it comes back without the blobs. blob_field: the number of their field.
    wanted: what the file should be, in words, for the errors. Raises: WeightsError as `read`.
    """
    name = os.fspath(path)
    data, _ = _map(path)
    _refuse_others(name, data, wanted)
    reader = _Reader(name, data)
    rest: list[Any] = []
    blobs: list[BlobData] = []
    try:
        for number, wire, start, value, stop in _scan(data, 0, len(data)):
            if number != blob_field:
                rest.append(data[start:stop])
            elif wire != 2:
                raise _Damaged(start, f"a blob has the wire type {wire}")
            else:
                blob, wrong = _read_blob(data, value, stop)
                if wrong and len(reader.problems.found) < MAX_PROBLEMS:
                    reader.problems.add(WeightsError, f"{name}: byte {start}: blob {len(blobs)} {wrong}")
                blobs.append(blob)
        message = reader.parsed(message_name, rest, wanted, 0)
    except _Damaged as error:
        raise (_text_hint(name, data, wanted) or reader.damaged(error, wanted)) from None
    except WeightsError as error:
        raise (_text_hint(name, data, wanted) or error) from None
    reader.problems.raise_if_any()
    return message, blobs
