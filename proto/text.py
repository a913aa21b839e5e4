"""Reads and writes prototxt: protobuf's text format, by the rules of its C++ parser, which is the one Caffe uses.

Why not protobuf's own Python parser: it stops at the first error, says no file name, knows no better field name, keeps
no line numbers, and differs from the C++ one in what it accepts.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import re
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from caffe_port.errors import Location, Problems, PrototxtError
from caffe_port.proto import dialects, schema
from caffe_port.proto.files import replacing
from caffe_port.proto.schema import Message

__all__ = ["MAX_DEPTH", "MAX_PROBLEMS", "SourceMap", "dumps", "parse", "read", "write"]

MAX_DEPTH = 100
"""Messages nested deeper than this are refused. Caffe's own go six deep."""

MAX_PROBLEMS = 50
"""After so many problems the rest of a file is not looked at."""

_QUOTE = 40

# One alternative a kind of token, told apart by their first characters, so that reading is linear in the text.
_TOKEN = re.compile(
    r"""
      [ \t\r\n\v\f]+ | \#[^\n\0]*
    | ([A-Za-z_][A-Za-z0-9_]*)                                                                      # 1 name
    | (0[xX][0-9A-Fa-f]+ | 0[0-7]+(?![0-9])
       | (?:(?!0[0-9])[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?)                       # 2 number
    | ("[^"\\\0]*(?:\\[^\0][^"\\\0]*)*" | '[^'\\\0]*(?:\\[^\0][^'\\\0]*)*')                         # 3 string
    | ([!$-&(-/:-@\[-^`{-~])                                                                       # 4 symbol
    | (["'].*)                                                                # 5 string that never ends
    | (0[0-9]+ | .)                                                           # 6 none of these
    """,
    re.VERBOSE | re.ASCII | re.DOTALL,
)
_NAME, _NUMBER, _STRING, _SYMBOL, _UNCLOSED, _BAD, _END = 1, 2, 3, 4, 5, 6, 7

_ESCAPE = re.compile(
    rb"""\\(?: ([0-7]{1,3}) | x([0-9A-Fa-f]{1,2})
       | u([Dd][89ABab][0-9A-Fa-f]{2})\\u([Dd][C-Fc-f][0-9A-Fa-f]{2})      # two halves of one code point
       | u([0-9A-Fa-f]{4}) | U(00[01][0-9A-Fa-f]{5}) | (.) )""",
    re.VERBOSE | re.DOTALL,
)
_SIMPLE = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_SIMPLE |= {c: c for c in (b"\\", b"?", b"'", b'"')}

_TRUE, _FALSE = ("true", "True", "t"), ("false", "False", "f")
_OPEN, _CLOSE = {"{": "}", "<": ">"}, ("}", ">")
_UTF8_BOM = b"\xef\xbb\xbf"
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"

_F = FieldDescriptor
_INT_RANGES: dict[int, tuple[int, int]] = {
    **dict.fromkeys((_F.TYPE_INT32, _F.TYPE_SINT32, _F.TYPE_SFIXED32), (-(2**31), 2**31 - 1)),
    **dict.fromkeys((_F.TYPE_INT64, _F.TYPE_SINT64, _F.TYPE_SFIXED64), (-(2**63), 2**63 - 1)),
    **dict.fromkeys((_F.TYPE_UINT32, _F.TYPE_FIXED32), (0, 2**32 - 1)),
    **dict.fromkeys((_F.TYPE_UINT64, _F.TYPE_FIXED64), (0, 2**64 - 1)),
}

# The fields of a message as they stand in the text: name → an (offset, fields of that message or None) each time.
_Fields = dict[str, "list[tuple[int, Any]]"]


class SourceMap:
    """Where each field of a parsed message stands in its text."""

    __slots__ = ("_newlines", "_root", "file")

    def __init__(self, file: str, newlines: list[int], root: _Fields) -> None:
        self.file = file
        self._newlines = newlines
        self._root = root

    def location(self, path: Sequence[str | int]) -> Location:
        """The place of a field, e.g. ("layer", 3, "convolution_param", "pad", 0), or of its nearest known ancestor.

        A repeated field named without an index means its first entry. The empty path is the file alone.
        """
        fields: Any = self._root
        offset = -1
        parts = list(path)
        while parts and fields is not None:
            entries = fields.get(parts.pop(0))
            if not entries:
                break
            index = parts.pop(0) if parts and isinstance(parts[0], int) else 0
            if not 0 <= int(index) < len(entries):
                break
            offset, fields = entries[int(index)]
        return self._at(offset) if offset >= 0 else Location(self.file)

    def _at(self, offset: int) -> Location:
        line = bisect_right(self._newlines, offset - 1)
        start = self._newlines[line - 1] + 1 if line else 0
        return Location(self.file, line + 1, offset - start + 1)


class _Field:
    """What the parser needs to know of a field, looked up once a schema."""

    __slots__ = ("enum", "is_float", "kind", "maximum", "message", "minimum", "name", "repeated")

    def __init__(self, field: FieldDescriptor) -> None:
        self.name: str = field.name
        self.repeated = schema.is_repeated(field)
        self.kind: int = field.type
        self.message: Descriptor | None = field.message_type
        self.enum: EnumDescriptor | None = field.enum_type
        self.minimum, self.maximum = _INT_RANGES.get(field.type, (0, 0))
        self.is_float = field.type == _F.TYPE_FLOAT


@cache
def _fields_of(full_name: str, descriptor: Descriptor) -> dict[str, _Field]:
    return {field.name: _Field(field) for field in descriptor.fields}


@cache
def _enum_values(descriptor: EnumDescriptor) -> tuple[dict[str, int], frozenset[int]]:
    names = {value.name: value.number for value in descriptor.values}
    return names, frozenset(names.values())


class _Stop(Exception):
    """Nothing further can be understood, or enough problems are found."""


class _Refused(Exception):
    """A value is wrong and reported; the rest of it is to be skipped."""


class _Parser:
    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.text = text
        self.problems = Problems()
        self.kinds: list[int] = []
        self.words: list[str] = []
        self.starts: list[int] = []
        self.at = 0
        self.long_string = -1
        self._lex()
        self.newlines = [match.start() for match in re.finditer("\n", text)]
        self.source = SourceMap(file, self.newlines, {})

    def _lex(self) -> None:
        add_kind, add_word, add_start = self.kinds.append, self.words.append, self.starts.append
        for match in _TOKEN.finditer(self.text):
            kind = match.lastindex
            if kind:
                add_kind(kind)
                add_word(match.group())
                add_start(match.start())
        add_kind(_END)
        add_word("")
        add_start(len(self.text))

    # Problems

    def report(self, at: int, message: str, hint: str = "") -> None:
        """Records a problem at a token."""
        self.problems.add(PrototxtError, message, location=self.source._at(self.starts[at]), hint=hint)
        if len(self.problems.found) >= MAX_PROBLEMS:
            self.problems.add(
                PrototxtError,
                f"{MAX_PROBLEMS} problems; the rest of the file was not read",
                hint="",
                location=Location(self.file),
            )
            raise _Stop

    def quoted(self, at: int) -> str:
        """The token as an error message shows it."""
        if self.kinds[at] == _END:
            return "the end of the file"
        return _quote(self.words[at])

    def stop(self, at: int, message: str) -> NoReturn:
        """Records a problem after which nothing can be made sense of."""
        hint = ""
        if self.long_string >= 0:
            line = self.source._at(self.starts[self.long_string]).line
            hint = f"the string that begins in line {line} runs over several lines; is its closing quote missing?"
        self.report(at, message, hint)
        raise _Stop

    # Grammar

    def fields(self, message: Any, descriptor: Descriptor, known: _Fields, close: str, opened: int, depth: int) -> None:
        """Reads fields up to `close` ("" for the end of the file), and passes over it."""
        kinds, words, starts = self.kinds, self.words, self.starts
        specs = _fields_of(descriptor.full_name, descriptor)
        while True:
            at = self.at
            kind = kinds[at]
            word = words[at]
            if kind == _NAME:
                spec = specs.get(word)
                if spec is None:
                    self.unknown(at, word, descriptor, specs)
                    continue
                self.at = at + 1
                target = message
                entries = known.get(word)
                if not entries:
                    entries = known[word] = []
                elif not spec.repeated:
                    first = self.source._at(entries[0][0]).line
                    self.report(at, f"field {word!r} of {descriptor.name} is given twice, first in line {first}")
                    # What follows is still looked at for problems, but must not overwrite the first.
                    target, entries = type(message)(), []
                if spec.message is not None:
                    self.message_field(target, spec, entries, at, depth)
                else:
                    self.scalar_field(target, spec, entries, at)
                word = words[self.at]
                if word == ";" or word == ",":
                    self.at += 1
            elif kind == _SYMBOL and word in _CLOSE:
                if word == close:
                    self.at = at + 1
                    return
                if close:
                    where = self.source._at(starts[opened])
                    self.report(at, f"expected {close!r} to close what opens in line {where.line}, found {word!r}")
                    self.at = at + 1
                    return
                self.report(at, f"{word!r} closes nothing")
                self.at = at + 1
            elif kind == _END:
                if not close:
                    return
                where = self.source._at(starts[opened])
                self.stop(
                    at,
                    f"the file ends inside {descriptor.name}, which opens in line {where.line}: {close!r} is missing",
                )
            else:
                self.stray(at, descriptor)

    def message_field(self, message: Any, spec: _Field, entries: list[tuple[int, Any]], at: int, depth: int) -> None:
        words = self.words
        if words[self.at] == ":" and self.kinds[self.at] == _SYMBOL:
            self.at += 1
        if words[self.at] == "[" and spec.repeated:
            self.short_list(lambda: self.one_message(message, spec, entries, self.at, depth))
        else:
            self.one_message(message, spec, entries, at, depth)

    def one_message(self, message: Any, spec: _Field, entries: list[tuple[int, Any]], at: int, depth: int) -> None:
        assert spec.message is not None
        opened = self.at
        close = _OPEN.get(self.words[opened]) if self.kinds[opened] == _SYMBOL else None
        if close is None:
            self.report(
                opened,
                f"expected '{{' after {spec.name!r}, which is a {spec.message.name}, found {self.quoted(opened)}",
            )
            self.skip_value()
            return
        if depth >= MAX_DEPTH:
            self.stop(opened, f"messages nested deeper than {MAX_DEPTH}")
        self.at = opened + 1
        if spec.repeated:
            inner = getattr(message, spec.name).add()
        else:
            inner = getattr(message, spec.name)
            inner.SetInParent()
        known: _Fields = {}
        entries.append((self.starts[at], known))
        self.fields(inner, spec.message, known, close, at, depth + 1)

    def scalar_field(self, message: Any, spec: _Field, entries: list[tuple[int, Any]], at: int) -> None:
        if self.words[self.at] != ":" or self.kinds[self.at] != _SYMBOL:
            self.report(self.at, f"expected ':' after {spec.name!r}, found {self.quoted(self.at)}")
            if self.words[self.at] in ("{", "<", "["):
                self.skip_value()
            if self.kinds[self.at] not in (_NUMBER, _STRING) and self.words[self.at] != "-":
                return
        else:
            self.at += 1
        if not spec.repeated:
            try:
                value = self.value(spec)
            except _Refused:
                self.skip_value()
                entries.append((self.starts[at], None))
                return
            entries.append((self.starts[at], None))
            setattr(message, spec.name, value)
            return
        values = getattr(message, spec.name)

        def one() -> None:
            start = self.starts[self.at] if listed else self.starts[at]
            try:
                value = self.value(spec)
            except _Refused:
                self.skip_value()
                return
            values.append(value)
            entries.append((start, None))

        listed = self.words[self.at] == "["
        if listed:
            self.short_list(one)
        else:
            one()

    def short_list(self, one: Callable[[], None]) -> None:
        """Reads `[a, b]`, the short form of a repeated field."""
        opened = self.at
        self.at += 1
        if self.words[self.at] == "]":
            self.at += 1
            return
        while True:
            before = self.at
            one()
            word, kind = self.words[self.at], self.kinds[self.at]
            if kind == _SYMBOL and word == "]":
                self.at += 1
                return
            if kind == _SYMBOL and word == ",":
                self.at += 1
                continue
            if kind == _END or self.at == before or kind != _NUMBER:
                line = self.source._at(self.starts[opened]).line
                self.stop(
                    self.at, f"expected ',' or ']' in the list that opens in line {line}, found {self.quoted(self.at)}"
                )
            self.report(self.at, f"expected ',' or ']' in a list, found {self.quoted(self.at)}")

    # Values

    def refuse(self, at: int, message: str, hint: str = "") -> NoReturn:
        self.report(at, message, hint)
        raise _Refused

    def unclosed(self, at: int) -> NoReturn:
        self.stop(at, f"the string that begins here, {_quote(self.words[at])}, has no closing quote")

    def check_end(self, at: int, spec: _Field, kind: str) -> None:
        """Refuses a number with more than a number behind it, as in 1.2.3, 1e or 0x."""
        word = self.words[at]
        end = self.starts[at] + len(word)
        following = self.text[end : end + 1]
        if following == "." or (following in ("e", "E", "x", "X") and following and word.isdigit()):
            more = re.compile(r"[\w.+-]{0,100}").match(self.text, end)
            self.refuse(self.at, f"expected {kind} for {spec.name!r}, found {_quote(word + (more[0] if more else ''))}")

    def value(self, spec: _Field) -> Any:
        kind = spec.kind
        if kind == _F.TYPE_STRING:
            return self.string(spec)
        if kind == _F.TYPE_FLOAT or kind == _F.TYPE_DOUBLE:
            return self.number(spec)
        if kind == _F.TYPE_ENUM:
            return self.enum(spec)
        if kind == _F.TYPE_BOOL:
            return self.boolean(spec)
        if kind == _F.TYPE_BYTES:
            return self.joined(spec)
        return self.integer(spec, spec.minimum, spec.maximum)

    def integer(self, spec: _Field, minimum: int, maximum: int) -> int:
        at = self.at
        negative = self.words[at] == "-"
        digits = at + 1 if negative else at
        word = self.words[digits]
        if self.kinds[digits] != _NUMBER:
            self.refuse(at, f"expected an integer for {spec.name!r}, found {self.quoted(digits)}")
        self.check_end(digits, spec, "an integer")
        if negative and minimum == 0:
            self.refuse(at, f"{spec.name!r} cannot be negative, found {_quote('-' + word)}")
        try:
            magnitude = _integer(word)
        except ValueError:
            self.refuse(at, f"expected an integer for {spec.name!r}, found {_quote(('-' if negative else '') + word)}")
        number = -magnitude if negative else magnitude
        if not minimum <= number <= maximum:
            self.refuse(
                at,
                f"{_quote(('-' if negative else '') + word)} is out of range for {spec.name!r} "
                f"({minimum} to {maximum})",
            )
        self.at = digits + 1
        return number

    def number(self, spec: _Field) -> float:
        at = self.at
        negative = self.words[at] == "-"
        if negative:
            at += 1
        word, kind = self.words[at], self.kinds[at]
        if kind == _NUMBER:
            self.check_end(at, spec, "a number")
            if len(word) > 1 and word[0] == "0" and word[1] in "0123456789xX":
                self.refuse(self.at, f"expected a decimal number for {spec.name!r}, found {_quote(word)}")
            number = float(word[:-1] if word[-1] in "fF" else word)
        elif kind == _NAME and word.lower() in ("inf", "infinity", "nan"):
            number = float(word.lower())
        else:
            self.refuse(self.at, f"expected a number for {spec.name!r}, found {self.quoted(at)}")
        self.at = at + 1
        if spec.is_float:
            number = _to_float32(number)
        return -number if negative else number

    def boolean(self, spec: _Field) -> bool:
        at = self.at
        word, kind = self.words[at], self.kinds[at]
        if kind == _NAME and word in _TRUE:
            value = True
        elif kind == _NAME and word in _FALSE:
            value = False
        else:
            if kind == _NUMBER:
                with contextlib.suppress(ValueError):
                    number = _integer(word)
                    if number in (0, 1):
                        self.at = at + 1
                        return bool(number)
            self.refuse(
                at,
                f"expected true or false for {spec.name!r}, found {self.quoted(at)}",
                f"{', '.join(_TRUE)}, 1, {', '.join(_FALSE)} and 0 are valid",
            )
        self.at = at + 1
        return value

    def enum(self, spec: _Field) -> int:
        assert spec.enum is not None
        names, numbers = _enum_values(spec.enum)
        at = self.at
        word = self.words[at]
        if self.kinds[at] == _NAME:
            found = names.get(word)
            if found is not None:
                self.at = at + 1
                return found
        elif self.kinds[at] == _NUMBER or word == "-":
            number = self.integer(spec, -(2**31), 2**31 - 1)
            if number in numbers:
                return number
            self.at = at
            word = str(number)
        near = _nearest(word, names)
        hint = f"did you mean {near!r}? " if near else ""
        found_word = self.quoted(at) if self.kinds[at] == _END else _quote(word)
        # Those of forks are found by their likeness alone; there are too many of them to list.
        valid = [name for name, number in names.items() if number < dialects.FIRST_NUMBER]
        self.refuse(at, f"unknown value {found_word} for {spec.name!r}", f"{hint}valid are {', '.join(valid)}")

    def string(self, spec: _Field) -> str:
        at = self.at
        word = self.words[at]
        if self.kinds[at] == _STRING and self.kinds[at + 1] != _STRING and "\\" not in word and word.isascii():
            if "\n" in word and self.long_string < 0:
                self.long_string = at
            self.at = at + 1
            return word[1:-1]
        joined = self.joined(spec)
        try:
            return joined.decode()
        except UnicodeDecodeError as error:
            bad = joined[error.start]
            self.at = at
            self.refuse(
                at, f"the string for {spec.name!r} is no valid UTF-8: byte 0x{bad:02x} at its position {error.start}"
            )

    def joined(self, spec: _Field) -> bytes:
        """The bytes of adjacent strings, which are one value."""
        at = self.at
        if self.kinds[at] != _STRING:
            hint = ""
            if self.kinds[at] == _UNCLOSED:
                self.unclosed(at)
            elif self.kinds[at] in (_NAME, _NUMBER):
                hint = "strings stand in quotes"
            self.refuse(at, f"expected a string for {spec.name!r}, found {self.quoted(at)}", hint)
        parts = []
        while self.kinds[at] == _STRING:
            word = self.words[at]
            if "\n" in word and self.long_string < 0:
                self.long_string = at
            raw = word[1:-1].encode("utf-8", "surrogateescape")
            if b"\\" in raw:
                try:
                    raw = _unescape(raw)
                except ValueError as error:
                    self.refuse(at, f"the string for {spec.name!r} has {error}")
            parts.append(raw)
            at += 1
        self.at = at
        return b"".join(parts)

    # Recovery

    def unknown(self, at: int, word: str, descriptor: Descriptor, specs: dict[str, _Field]) -> None:
        following = self.words[at + 1]
        if following not in (":", "{", "<"):
            if self.long_string >= 0:
                self.stop(at, f"expected a field of {descriptor.name}, found {_quote(word)}")
            self.report(
                at,
                f"expected a field of {descriptor.name} and its value, found {_quote(word)} "
                f"followed by {self.quoted(at + 1)}",
            )
            self.at = at + 1
            if self.kinds[self.at] in (_NUMBER, _STRING):
                self.skip_value()
        else:
            near = _nearest(word, specs)
            self.report(
                at, f"unknown field {_quote(word)} in {descriptor.name}", f"did you mean {near!r}?" if near else ""
            )
            self.at = at + 2 if following == ":" else at + 1
            self.skip_value()
        if self.words[self.at] in (";", ","):
            self.at += 1

    def skip_value(self) -> None:
        """Passes over one value of unknown type: a block, a list, strings, or a number or name with its sign."""
        word, kind = self.words[self.at], self.kinds[self.at]
        if kind == _SYMBOL and word in ("{", "<", "["):
            opened = self.at
            nesting = 0
            while True:
                word, kind = self.words[self.at], self.kinds[self.at]
                if kind == _END:
                    line = self.source._at(self.starts[opened]).line
                    self.stop(self.at, f"the file ends inside what opens in line {line}")
                self.at += 1
                if kind == _SYMBOL:
                    if word in ("{", "<", "["):
                        nesting += 1
                    elif word in ("}", ">", "]"):
                        nesting -= 1
                        if not nesting:
                            return
        if kind == _STRING:
            while self.kinds[self.at] == _STRING:
                self.at += 1
            return
        if word == "-":
            self.at += 1
            kind = self.kinds[self.at]
        if kind in (_NAME, _NUMBER, _BAD):
            # A name with a colon or a brace behind it is the next field: the value is missing.
            if kind == _NAME and self.words[self.at + 1] in (":", "{", "<"):
                return
            self.at += 1
            # `1.2.3` and `0x` are several tokens, but to the author one value.
            while self.kinds[self.at] in (_NAME, _NUMBER, _BAD) and self.starts[self.at] == self.starts[
                self.at - 1
            ] + len(self.words[self.at - 1]):
                self.at += 1
        elif kind == _SYMBOL and word not in ("}", ">", "]"):
            line = bisect_right(self.newlines, self.starts[self.at])
            # `$` and the like: the rest of the line is no prototxt.
            while (
                self.kinds[self.at] not in (_END, _STRING, _UNCLOSED)
                and self.words[self.at] not in ("{", "}", ">", ";")
                and bisect_right(self.newlines, self.starts[self.at]) == line
            ):
                self.at += 1

    def stray(self, at: int, descriptor: Descriptor) -> None:
        """Something that can begin no field: reported once, and passed over up to what can."""
        word, kind = self.words[at], self.kinds[at]
        if kind == _UNCLOSED:
            self.unclosed(at)
        if kind == _BAD and 0xDC80 <= ord(word[0]) <= 0xDCFF:
            self.stop(at, f"byte 0x{ord(word[0]) - 0xDC00:02x} is no valid UTF-8")
        if kind == _SYMBOL and word == "[":
            self.report(at, f"expected a field of {descriptor.name}, found an extension or a list: {_quote('[')}")
            self.skip_value()
            return
        if self.long_string >= 0:
            self.stop(at, f"expected a field of {descriptor.name}, found {self.quoted(at)}")
        self.report(at, f"expected a field of {descriptor.name}, found {self.quoted(at)}")
        self.at = at + 1
        while self.kinds[self.at] in (_NUMBER, _STRING, _BAD) or self.words[self.at] in (":", ";", ",", "]"):
            self.at += 1


def _quote(word: str) -> str:
    """A piece of the text as an error message shows it: on one line, shortened, in quotes."""
    line = word.split("\n", 1)[0]
    short = line if len(line) <= _QUOTE else line[:_QUOTE]
    return repr(short.encode("utf-8", "replace").decode()) + ("…" if short != word else "")


def _nearest(word: str, names: Iterable[str]) -> str | None:
    """The name most like a word, however it is capitalized."""
    folded = {name.lower(): name for name in names}
    found = difflib.get_close_matches(word[:100].lower(), folded, n=1)
    return folded[found[0]] if found else None


def _integer(word: str) -> int:
    """The value of an integer token: decimal, hexadecimal, or octal with a leading zero. Raises: ValueError."""
    if word[:2] in ("0x", "0X"):
        return int(word, 16)
    if not word.isdigit():
        raise ValueError(word)
    if len(word.lstrip("0")) > 30:
        return 1 << 100  # out of every range; int() refuses thousands of digits
    return int(word, 8) if word[0] == "0" else int(word)


def _to_float32(number: float) -> float:
    """Rounds to float32; what is too large becomes infinite, as in C++."""
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", number))[0]
    except OverflowError:
        return math.copysign(math.inf, number)
    return rounded


def _unescape(raw: bytes) -> bytes:
    """Resolves C escapes. Raises: ValueError saying which is wrong."""

    def one(match: re.Match[bytes]) -> bytes:
        octal, hexadecimal, high, low, short, long, simple = match.groups()
        if octal is not None:
            return bytes([int(octal, 8) & 0xFF])
        if hexadecimal is not None:
            return bytes([int(hexadecimal, 16)])
        if high is not None:
            return chr(0x10000 + (int(high, 16) - 0xD800 << 10) + int(low, 16) - 0xDC00).encode()
        if short is not None or long is not None:
            code = int(short or long, 16)
            if code > 0x10FFFF:
                raise ValueError(f"the escape {match.group().decode()!r}, which is no code point")
            return chr(code).encode("utf-8", "surrogatepass")
        try:
            return _SIMPLE[simple]
        except KeyError:
            raise ValueError(f"the invalid escape {_quote(match.group().decode('utf-8', 'replace'))}") from None

    return _ESCAPE.sub(one, raw)


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
    Raises: PrototxtError with every problem of the text, up to MAX_PROBLEMS, each as file:line:column.
    Source: protobuf's text format as its C++ parser reads it, in the one mode Caffe uses. Stricter in one thing: a
    string (not bytes) that is no valid UTF-8 is refused. An unpaired surrogate is none.
    """
    if text.startswith("\ufeff"):
        text = text[1:]
    message, parser = _parsed(text, file, schema.message(message_name))
    if parser.problems and forks:
        # Maybe a fork's. Upstream comes first, so that what upstream can read is a message of upstream.
        message, parser = _parsed(text, file, dialects.union_message(message_name))
    parser.problems.raise_if_any()
    return message, parser.source


def _parsed(text: str, file: str, message: Message) -> tuple[Message, _Parser]:
    parser = _Parser(text, file)
    with contextlib.suppress(_Stop):
        parser.fields(message, cast("Descriptor", message.DESCRIPTOR), parser.source._root, "", 0, 0)
    return message, parser


def read(
    path: str | os.PathLike[str], message_name: str = "NetParameter", *, forks: bool = True
) -> tuple[Message, SourceMap]:
    """Reads a message from a prototxt file; as `parse` otherwise.

    The file is UTF-8, with or without a byte order mark; other bytes are passed over in comments, as Caffe does.
    Raises: PrototxtError also for a file that is missing, unreadable, a directory or binary.
    """
    name = os.fspath(path)
    try:
        data = Path(path).read_bytes()
    except IsADirectoryError:
        raise PrototxtError(f"{name}: is a directory, not a prototxt file") from None
    except FileNotFoundError:
        raise PrototxtError(f"{name}: no such file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise PrototxtError(f"{name}: cannot be read: {reason}") from None
    if data.startswith(_HDF5_MAGIC):
        raise PrototxtError(f"{name}: is an HDF5 file, not a prototxt (text)")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise PrototxtError(f"{name}: is UTF-16 text; a prototxt is UTF-8")
    head = data[:4096]
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
        if (_to_float32(float(text)) if narrow else float(text)) == value:
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
