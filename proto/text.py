"""Reads and writes prototxt: protobuf's text format, by the rules of its C++ parser, which is the one Caffe uses.

Why not protobuf's own Python parser: it stops at the first error, says no file name, knows no better field name, keeps
no line numbers, and differs from the C++ one in what it accepts.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from caffe_port.errors import PrototxtError
from caffe_port.limits import hint, limits
from caffe_port.proto import dialects, schema
from caffe_port.proto.files import replacing
from caffe_port.proto.schema import Message
from caffe_port.proto.source_map import SourceMap
from caffe_port.proto.text_parser import Parser, Stop
from caffe_port.proto.text_tokens import to_float32
from caffe_port.reading import open_regular, reason

__all__ = ["dumps", "parse", "read", "write"]

_UTF8_BOM = b"\xef\xbb\xbf"
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_F = FieldDescriptor


def parse(
    text: str, message_name: str = "NetParameter", *, file: str = "<string>", forks: bool = True
) -> tuple[Message, SourceMap]:
    """Reads a message from text.

    text: the prototxt; a leading byte order mark is passed over.
    message_name: the type of the message, e.g. "NetParameter" or "SolverParameter".
    file: the name that errors give.
    forks: whether what forks of Caffe added is read too.
    Returns: the message and where its fields stand. It is of the private pool of `caffe_port.proto.schema`; only where
    that does not have all fields or enum values of the text, of the union of `caffe_port.proto.dialects`.
    Raises: PrototxtError with every problem of the text, up to limits.problems, each as file:line:column.
    Source: protobuf's text format as its C++ parser reads it, in the one mode Caffe uses. Stricter in one thing: a
    string (not bytes) that is no valid UTF-8 is refused. An unpaired surrogate is none.
    """
    if text.startswith("\ufeff"):
        text = text[1:]
    if len(text) > limits.definition_bytes:
        size = f"{len(text):,} characters; more than {limits.definition_bytes:,} are not read"
        raise PrototxtError(f"{file}: has {size}; {hint('definition_bytes')}")
    message, parser = _parsed(text, file, schema.message(message_name), 1 if forks else limits.problems)
    if parser.problems and forks:
        # Maybe a fork's. Upstream comes first, so that what upstream can read is a message of upstream.
        message, parser = _parsed(text, file, dialects.union_message(message_name), limits.problems)
    parser.problems.raise_if_any()
    return message, parser.source


def _parsed(text: str, file: str, message: Message, most_problems: int) -> tuple[Message, Parser]:
    parser = Parser(text, file, most_problems)
    with contextlib.suppress(Stop):
        parser.fields(message, cast("Descriptor", message.DESCRIPTOR), parser.source._root, "", 0, 0)
    return message, parser


def read(
    path: str | os.PathLike[str], message_name: str = "NetParameter", *, forks: bool = True
) -> tuple[Message, SourceMap]:
    """Reads a message from a prototxt file; as `parse` otherwise.

    The file is UTF-8, with or without a byte order mark; other bytes are passed over in comments, as Caffe does.
    Raises: PrototxtError also for a file that is missing, unreadable, binary, or none (a directory, a pipe).
    """
    name = os.fspath(path)
    try:
        with open_regular(path) as stream:
            data = stream.read(limits.definition_bytes + 1)
    except IsADirectoryError:
        raise PrototxtError(f"{name}: is a directory, not a prototxt file") from None
    except FileNotFoundError:
        raise PrototxtError(f"{name}: no such file") from None
    except OSError as error:
        raise PrototxtError(f"{name}: cannot be read: {reason(error)}") from None
    if data.startswith(_HDF5_MAGIC):
        raise PrototxtError(f"{name}: is an HDF5 file, not a prototxt (text)")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise PrototxtError(f"{name}: is UTF-16 text; a prototxt is UTF-8")
    head = data[:4096]
    if len(data) > limits.definition_bytes:
        told = f"has more than {limits.definition_bytes:,} bytes, which is much for a prototxt"
        raise PrototxtError(f"{name}: {told}; {hint('definition_bytes')}")
    if b"\0" in data or re.search(rb"[\x01-\x08\x0e-\x1f]", head):
        looks = data[:1] in (b"\n", b"\x12", b"\xa2", b"\x1a")
        what = "a caffemodel (binary weights)" if looks else "a binary file"
        raise PrototxtError(f"{name}: looks like {what}, not like a prototxt (text)")
    return parse(data.removeprefix(_UTF8_BOM).decode("utf-8", "surrogateescape"), message_name, file=name, forks=forks)


# Writing


def _float_text(value: float, narrow: bool) -> str:
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    for digits in range(6, 9) if narrow else (15, 16):
        text = f"{value:.{digits}g}"
        if (to_float32(float(text)) if narrow else float(text)) == value:
            return text
    return f"{value:.9g}" if narrow else f"{value:.17g}"


def _escape(data: bytes) -> str:
    named = {0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x22: '\\"', 0x27: "\\'", 0x5C: "\\\\"}
    return "".join(named.get(c) or (chr(c) if 0x20 <= c < 0x7F else f"\\{c:03o}") for c in data)


def _scalar_text(field: FieldDescriptor, value: Any) -> str:
    kind = field.type
    if kind == _F.TYPE_STRING:
        return f'"{_escape(value.encode())}"'
    if kind == _F.TYPE_BYTES:
        return f'"{_escape(value)}"'
    if kind == _F.TYPE_BOOL:
        return "true" if value else "false"
    if kind == _F.TYPE_ENUM:
        assert field.enum_type is not None
        known = field.enum_type.values_by_number.get(value)
        return str(value) if known is None else str(known.name)
    if kind in (_F.TYPE_FLOAT, _F.TYPE_DOUBLE):
        return _float_text(value, kind == _F.TYPE_FLOAT)
    return str(value)


def _print(message: Any, indent: str, lines: list[str]) -> None:
    for field, value in message.ListFields():
        for one in value if schema.is_repeated(field) else (value,):
            if field.message_type is None:
                lines.append(f"{indent}{field.name}: {_scalar_text(field, one)}")
            else:
                lines.append(f"{indent}{field.name} {{")
                _print(one, indent + "  ", lines)
                lines.append(f"{indent}}}")


def dumps(message: Message) -> str:
    """The text of a message as Caffe's own tools print it: fields by number, two spaces a level, bytes beyond ASCII in
    octal, and of each number the fewest digits (six at least considered) that give it back.

    Fields the schema does not know have no name, so text cannot hold them: they are left out.
    """
    lines: list[str] = []
    _print(message, "", lines)
    return "".join(line + "\n" for line in lines)


def write(path: str | os.PathLike[str], message: Message) -> None:
    """Writes `dumps(message)` to a file, which appears complete or not at all. Raises: ArtifactError."""
    data = dumps(message).encode("ascii")
    with replacing(path) as stream:
        stream.write(data)
