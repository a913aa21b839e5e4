"""Reads and writes Caffe's binary models: .caffemodel (a NetParameter) and .binaryproto (a BlobProto).

The learned numbers, nearly all of a file, are not parsed: the wire format is scanned for them, NumPy looks at them in
the mapped file, and only the rest goes to protobuf. So reading takes no memory to speak of and knows no 2 GiB limit.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from google.protobuf.message import DecodeError

from caffe_port.errors import Problems, WeightsError
from caffe_port.limits import MAX_ELEMENTS, hint, limits
from caffe_port.proto import dialects, schema
from caffe_port.proto.blobs import DATA, DOUBLE_DATA, FLOAT, BlobData, Values, blob_at, blob_chunks
from caffe_port.proto.files import replacing
from caffe_port.proto.schema import Message
from caffe_port.proto.wire_format import Cut, Damaged, scan, tagged, varint
from caffe_port.reading import open_regular, reason

__all__ = [
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

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"

# Field numbers: NetParameter, LayerParameter, V1LayerParameter, V0LayerParameter, BlobProto, BlobShape.
_NET_LAYERS, _NET_LAYER = 2, 100
_V2_NAME, _V2_BLOBS = 1, 7
_V1_LAYER, _V1_NAME, _V1_BLOBS = 1, 4, 6
_V0_NAME, _V0_BLOBS = 1, 50
# What is read of a layer where only its blobs are wanted: name, type, and the V0 layer in a V1 one.
_STABLE = {(_V2_NAME, _V2_BLOBS): (1, 2), (_V1_NAME, _V1_BLOBS): (_V1_LAYER, 4, 5), (_V0_NAME, _V0_BLOBS): (1, 2)}


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


def _append(places: list[tuple[int, int]], start: int, stop: int) -> None:
    """Adds a place to others, as one with the last where it follows it: a file may have millions of tiny fields."""
    if places and places[-1][1] == start:
        places[-1] = places[-1][0], stop
    else:
        places.append((start, stop))


class _Reader:
    """Reads one file; only here because errors want the file, the layer and the offset that it is at."""

    def __init__(self, name: str, data: Any, definition: bool = True) -> None:
        self.name = name
        self.data = data
        self.definition = definition
        self.problems = Problems()
        self.layer: str | None = None
        self.definition_bytes = 0

    def damaged(self, error: Damaged, what: str) -> WeightsError:
        there = f"layer {self.layer!r}" if self.layer is not None else what
        if isinstance(error, Cut):
            return WeightsError(
                f"{self.name}: ends in the middle of {there} at byte {error.offset}: the file is truncated "
                f"({error.needed} bytes expected at least, {len(self.data)} there)"
            )
        return WeightsError(f"{self.name}: byte {error.offset}, in {there}: {error.message}; the file is damaged")

    def net(self) -> tuple[Message, list[list[BlobData]], list[list[tuple[int, int]]]]:
        data, end = self.data, len(self.data)
        rest: list[tuple[int, int]] = []
        layers: dict[int, list[tuple[int, int]]] = {_NET_LAYERS: [], _NET_LAYER: []}
        blobs: dict[int, list[list[BlobData]]] = {_NET_LAYERS: [], _NET_LAYER: []}
        spans: dict[int, list[list[tuple[int, int]]]] = {_NET_LAYERS: [], _NET_LAYER: []}
        try:
            for number, wire, start, value, stop in scan(data, 0, end):
                if number in layers:
                    if wire != 2:
                        raise Damaged(start, f"a layer has the wire type {wire}")
                    layers[number].append((value, stop))
                    if len(layers[number]) > limits.layers:
                        raise WeightsError(f"{self.name}: has more than {limits.layers} layers; {hint('layers')}")
                else:
                    _append(rest, start, stop)
        except Cut as error:
            self.layer = self.cut_layer(error.offset)
            raise self.damaged(error, "the net") from None
        except Damaged as error:
            raise self.damaged(error, "the net") from None
        net = self.parsed("NetParameter", rest if self.definition else [], "the net", 0)
        for number, places in layers.items():
            for index, (value, stop) in enumerate(places):
                self.layer = None
                what = f"the layer with index {index}"
                try:
                    inner, inner_rest = self.one_layer(number, value, stop, blobs[number], spans[number])
                except Damaged as error:
                    # The layer itself was seen to end within the file, so nothing in it is cut off.
                    message = "a field is longer than what it is in" if isinstance(error, Cut) else error.message
                    raise self.damaged(Damaged(error.offset, message), what) from None
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
    ) -> tuple[list[tuple[int, int]] | None, list[tuple[int, int]]]:
        """Appends a layer's blobs to `found` and their places to `spans`.

        Returns where the other bytes of its V0 layer are, if it has one, and those of itself.
        """
        name_field, blob_field = (_V2_NAME, _V2_BLOBS) if number == _NET_LAYER else (_V1_NAME, _V1_BLOBS)
        blobs: list[tuple[int, int, int]] = []
        inner: list[tuple[int, int]] | None = None
        rest, v0 = self.without_blobs(at, end, name_field, blob_field, blobs)
        if v0:
            beside = len(blobs)
            inner = []
            for start, stop in v0:
                # Offsets stay those of the file, for the sake of the errors.
                inner += self.without_blobs(start, stop, _V0_NAME, _V0_BLOBS, blobs)[0]
            if beside:
                message = f"{self.name}: byte {at}: blobs stand beside a V0 layer, where Caffe does not look at them"
                self.problems.add(WeightsError, message, layer=self.layer)
        found.append([self.blob(index, *place) for index, place in enumerate(sorted(blobs))])
        spans.append([(start, stop) for start, stop, _ in sorted(blobs)])
        return inner, rest

    def without_blobs(
        self, at: int, end: int, name_field: int, blob_field: int, blobs: list[tuple[int, int, int]]
    ) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Where the fields of a layer are but its blobs, and where the contents of V0 layers in it; the blobs, as
        (start of the value, end, start of the tag), are appended to `blobs`."""
        rest: list[tuple[int, int]] = []
        v0: list[tuple[int, int]] = []
        v0_field = _V1_LAYER if blob_field == _V1_BLOBS else 0
        for number, wire, start, value, stop in scan(self.data, at, end):
            if number == blob_field:
                if wire != 2:
                    raise Damaged(start, f"a blob has the wire type {wire}")
                blobs.append((value, stop, start))
                if len(blobs) > limits.layer_blobs:
                    raise WeightsError(
                        f"{self.name}: byte {at}: a layer has more than {limits.layer_blobs} learned blobs; "
                        f"{hint('layer_blobs')}"
                    )
            elif number == v0_field and wire == 2:
                v0.append((value, stop))
            elif self.definition or number in _STABLE[name_field, blob_field]:
                if number == name_field and wire == 2:
                    self.layer = bytes(self.data[value : min(stop, value + 200)]).decode("utf-8", "replace")
                _append(rest, start, stop)
        return rest, v0

    def blob(self, index: int, at: int, end: int, start: int) -> BlobData:
        blob, wrong = blob_at(self.data, at, end)
        if wrong and len(self.problems.found) < limits.problems:
            message = f"{self.name}: byte {start}: blob {index} {wrong}"
            self.problems.add(WeightsError, message, layer=self.layer)
        return blob

    def cut_layer(self, offset: int) -> str | None:
        """The name of the layer that is cut off, if that much of it is left."""
        try:
            tag, at = varint(self.data, offset, len(self.data))
            _, at = varint(self.data, at, len(self.data))
            wanted = {_NET_LAYER << 3 | 2: _V2_NAME, _NET_LAYERS << 3 | 2: _V1_NAME}.get(tag)
            if wanted is None:
                return None
            for number, wire, _, value, stop in scan(self.data, at, len(self.data)):
                if number == wanted and wire == 2:
                    return bytes(self.data[value : min(stop, value + 200)]).decode("utf-8", "replace")
        except Damaged:
            # An error is being reported already; the name would have been an extra.
            return None
        return None

    def parsed(self, message_name: str, pieces: list[tuple[int, int]], what: str, offset: int) -> Message:
        message = schema.message(message_name)
        self.fill(message, pieces, what, offset)
        return message

    def fill(self, message: Message, pieces: list[tuple[int, int]], what: str, offset: int) -> None:
        """Parses what stands at these places into a message."""
        # Blobs are out, so this is small in a sane file.
        self.definition_bytes += sum(stop - start for start, stop in pieces)
        if self.definition_bytes > limits.definition_bytes:
            raise WeightsError(
                f"{self.name}: has more than {limits.definition_bytes:,} bytes beside its blobs; "
                f"{hint('definition_bytes')}"
            )
        raw = b"".join(self.data[start:stop] for start, stop in pieces)
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
        with open_regular(path) as stream:
            status = os.fstat(stream.fileno())
            if not status.st_size:
                raise WeightsError(f"{name}: is empty")
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)), _stamp(status)
    except FileNotFoundError:
        raise WeightsError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise WeightsError(f"{name}: is a directory, not a weight file") from None
    except (OSError, ValueError) as error:  # ValueError: it has become empty by now
        raise WeightsError(f"{name}: cannot be read: {reason(error)}") from None


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
        with open_regular(path) as stream:
            return _is_binary(stream.read(4096))
    except OSError as error:
        raise WeightsError(f"{os.fspath(path)}: cannot be read: {reason(error)}") from None


def read(path: str | os.PathLike[str], *, definition: bool = True) -> WeightFile:
    """Reads a .caffemodel: a NetParameter of V2, V1 or V0 with the learned blobs in its layers.

    definition: False reads of each layer only its name, type and blobs. Those stand in the same place in the files of
    all forks, while other numbers may mean other things there, so that reading them could fail or give nonsense.

    Blobs in a V0 layer count as their entry's. Values may be packed, in several pieces, or unpacked; only in the last
    two cases are they copied.
    Raises: WeightsError for a file that is missing, of another format, truncated or damaged, and, all in one, for every
    blob whose dims are negative or beyond MAX_ELEMENTS elements, or whose number of values is not that of its shape.
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
    if not net.layer and not net.layers and (told := _text_hint(name, data, wanted)):
        raise told
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
        blob, wrong = blob_at(data, 0, len(data))
    except Damaged as error:
        raise (_text_hint(name, data, wanted) or _Reader(name, data).damaged(error, "the blob")) from None
    if wrong:
        raise WeightsError(f"{name}: the blob {wrong}")
    return blob


# Writing


def _length(chunks: list[Any]) -> int:
    return sum(map(len, chunks))


def _split(raw: bytes, descriptor: Any, number: int) -> int:
    """The offset in a serialized message at which a field of that number belongs: known fields stand sorted by number,
    and unknown ones behind them all."""
    known = descriptor.fields_by_number
    for found, _, start, _, _ in scan(raw, 0, len(raw)):
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
        chunks = blob_chunks(blob, f"{where} {index}")
        inserted += [tagged(number, _length(chunks)), *chunks]
    raw = holder.SerializeToString(deterministic=True)
    at = _split(raw, holder.DESCRIPTOR, number) if inserted else 0
    chunks = [raw[:at], *inserted, raw[at:]]
    if holder is layer:
        return chunks
    outer = type(layer)()
    outer.CopyFrom(layer)
    outer.ClearField("layer")
    return [tagged(_V1_LAYER, _length(chunks)), *chunks, outer.SerializeToString(deterministic=True)]


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
        written += [tagged(number, _length(chunks)), *chunks]
    written.append(raw[at:])
    total = _length(written)
    if total > MAX_ELEMENTS:
        raise WeightsError(f"{name}: would have {total} bytes; Caffe reads no more than {MAX_ELEMENTS}")
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
        wanted = DATA if old.dtype == FLOAT else DOUBLE_DATA
        used = 0
        for number, _, _, value, stop in scan(data, *file.places[i][j]):
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
    write_pieces(path, blob_chunks(blob, f"{os.fspath(path)}: the blob"))


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
    rest: list[tuple[int, int]] = []
    blobs: list[BlobData] = []
    try:
        for number, wire, start, value, stop in scan(data, 0, len(data)):
            if number != blob_field:
                _append(rest, start, stop)
            elif wire != 2:
                raise Damaged(start, f"a blob has the wire type {wire}")
            else:
                blob, wrong = blob_at(data, value, stop)
                if wrong and len(reader.problems.found) < limits.problems:
                    reader.problems.add(WeightsError, f"{name}: byte {start}: blob {len(blobs)} {wrong}")
                blobs.append(blob)
                if len(blobs) > limits.history_blobs:
                    raise WeightsError(f"{name}: has more than {limits.history_blobs} blobs; {hint('history_blobs')}")
        message = reader.parsed(message_name, rest, wanted, 0)
    except Damaged as error:
        raise (_text_hint(name, data, wanted) or reader.damaged(error, wanted)) from None
    except WeightsError as error:
        raise (_text_hint(name, data, wanted) or error) from None
    reader.problems.raise_if_any()
    return message, blobs
