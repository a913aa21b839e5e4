"""The wire format of protobuf: fields are found in bytes and written, and nothing of them is understood.

A message (https://protobuf.dev/programming-guides/encoding/) is a row of fields, each a varint tag
(number << 3 | wire type) and a value: 0 varint, 1 eight bytes, 2 a varint length and so many bytes, 5 four bytes;
3 and 4 bracket a group. Every length is checked against what encloses it before it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from caffe_port.limits import limits

__all__ = ["Cut", "Damaged", "FieldAt", "encoded", "field_at", "scan", "signed", "tagged", "varint"]


class Damaged(Exception):
    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset
        self.message = message


class Cut(Damaged):
    """What should stand here goes on beyond the end of the file, up to `needed` bytes at least."""

    def __init__(self, offset: int, needed: int) -> None:
        super().__init__(offset, "the file is truncated")
        self.needed = needed


def varint(data: Any, at: int, end: int) -> tuple[int, int]:
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
            raise Damaged(start, "a number is longer than ten bytes")
    if end == len(data):
        raise Cut(start, end + 1)
    raise Damaged(start, "a number runs over the end of its message")


FieldAt = tuple[int, int, int, int, int]


def field_at(data: Any, start: int, end: int) -> FieldAt:
    """The field that begins at `start`: (number, wire type, start of the tag, start of the value, end of the value).

    For wire type 2 the value is what follows the length; a group is one field of wire type 3 up to behind its end tag.
    """
    tag = data[start]
    at = start + 1
    if tag >= 0x80:
        tag, at = varint(data, start, end)
    number, wire = tag >> 3, tag & 7
    if not number or tag > 0xFFFFFFFF:
        raise Damaged(start, f"{tag} is no field tag")
    value = at
    if wire == 2:
        length, value = varint(data, at, end)
        at = value + length
        if at > end:
            _overrun(data, start, number, at, length, end - value, end)
    elif wire == 0:
        _, at = varint(data, at, end)
    elif wire == 5 or wire == 1:
        at += 4 if wire == 5 else 8
        if at > end:
            _overrun(data, start, number, at, at - value, end - value, end)
    elif wire == 3:
        at = _skip_group(data, start, value, end, number)
    else:
        raise Damaged(start, f"field {number} has the wire type {wire}, which does not belong there")
    return number, wire, start, value, at


def scan(data: Any, at: int, end: int) -> Iterator[FieldAt]:
    """The fields between two offsets, as `field_at` describes them."""
    while at < end:
        found = field_at(data, at, end)
        yield found
        at = found[4]


def _overrun(data: Any, start: int, number: int, needed: int, length: int, left: int, end: int) -> None:
    if end == len(data):
        raise Cut(start, needed)
    raise Damaged(start, f"field {number} claims {length} bytes, of which its message has {left}")


def _skip_group(data: Any, start: int, at: int, end: int, number: int) -> int:
    """The offset behind a group whose content begins at `at`."""
    open_groups = [number]
    while open_groups:
        if at >= end:
            if end == len(data):
                raise Cut(start, end + 1)
            raise Damaged(start, f"group {number} has no end")
        tag_at = at
        tag, at = varint(data, at, end)
        inner, wire = tag >> 3, tag & 7
        if not inner or tag > 0xFFFFFFFF:
            raise Damaged(tag_at, f"{tag} is no field tag")
        if wire == 3:
            open_groups.append(inner)
            if len(open_groups) > limits.nesting:
                raise Damaged(start, f"groups nested deeper than {limits.nesting}")
        elif wire == 4:
            if open_groups.pop() != inner:
                raise Damaged(tag_at, f"group {inner} ends where another is open")
        elif wire == 0:
            _, at = varint(data, at, end)
        elif wire in (1, 2, 5):
            if wire == 2:
                length, at = varint(data, at, end)
            else:
                length = 8 if wire == 1 else 4
            if at + length > end:
                _overrun(data, tag_at, inner, at + length, length, end - at, end)
            at += length
        else:
            raise Damaged(tag_at, f"field {inner} has the wire type {wire}, which does not exist")
    return at


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


# Writing


def encoded(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tagged(number: int, length: int) -> bytes:
    """What stands before the value of a field of wire type 2: its tag, and how many bytes the value has."""
    return encoded(number << 3 | 2) + encoded(length)
