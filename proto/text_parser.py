"""The grammar of prototxt: words to the fields of a message.

Every problem is told with its line, and what is behind it is read all the same.
"""

from __future__ import annotations

import contextlib
import re
from array import array
from bisect import bisect_right
from collections.abc import Callable
from functools import cache
from typing import Any, NoReturn

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from caffe_port.errors import Location, Problems, PrototxtError
from caffe_port.limits import hint as limit_hint
from caffe_port.limits import limits
from caffe_port.proto import dialects, schema
from caffe_port.proto.source_map import Fields, SourceMap
from caffe_port.proto.text_tokens import (
    BAD,
    END,
    NAME,
    NUMBER,
    STRING,
    SYMBOL,
    TOKEN,
    UNCLOSED,
    integer_value,
    nearest,
    quote,
    to_float32,
    unescape,
)

__all__ = ["Parser", "Stop"]

_TRUE, _FALSE = ("true", "True", "t"), ("false", "False", "f")
_OPEN, _CLOSE = {"{": "}", "<": ">"}, ("}", ">")

_F = FieldDescriptor
_INT_RANGES: dict[int, tuple[int, int]] = {
    **dict.fromkeys((_F.TYPE_INT32, _F.TYPE_SINT32, _F.TYPE_SFIXED32), (-(2**31), 2**31 - 1)),
    **dict.fromkeys((_F.TYPE_INT64, _F.TYPE_SINT64, _F.TYPE_SFIXED64), (-(2**63), 2**63 - 1)),
    **dict.fromkeys((_F.TYPE_UINT32, _F.TYPE_FIXED32), (0, 2**32 - 1)),
    **dict.fromkeys((_F.TYPE_UINT64, _F.TYPE_FIXED64), (0, 2**64 - 1)),
}


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


class Stop(Exception):
    """Nothing further can be understood, or enough problems are found."""


class _Refused(Exception):
    """A value is wrong and reported; the rest of it is to be skipped."""


class Parser:
    """Reads one text. most_problems: after so many the rest is not looked at."""

    def __init__(self, text: str, file: str, most_problems: int) -> None:
        self.most_problems = most_problems
        self.file = file
        self.text = text
        self.problems = Problems()
        # Few bytes a word: there are as many as a file of many megabytes may have.
        self.kinds = bytearray()
        self.words: list[str] = []
        self.starts = array("Q")
        self.at = 0
        self.long_string = -1
        self._lex()
        self.newlines = [match.start() for match in re.finditer("\n", text)]
        self.source = SourceMap(file, self.newlines, {})

    def _lex(self) -> None:
        add_kind, add_word, add_start = self.kinds.append, self.words.append, self.starts.append
        known: dict[str, str] = {}
        for match in TOKEN.finditer(self.text):
            kind = match.lastindex
            if kind:
                add_kind(kind)
                word = match[kind]
                add_word(known.setdefault(word, word) if kind == NAME else word)
                add_start(match.start())
        add_kind(END)
        add_word("")
        add_start(len(self.text))

    # Problems

    def report(self, at: int, message: str, hint: str = "") -> None:
        """Records a problem at a token."""
        self.problems.add(PrototxtError, message, location=self.source.at(self.starts[at]), hint=hint)
        if len(self.problems.found) >= self.most_problems:
            self.problems.add(
                PrototxtError,
                f"{self.most_problems} problems; the rest of the file was not read",
                hint="",
                location=Location(self.file),
            )
            raise Stop

    def quoted(self, at: int) -> str:
        """The token as an error message shows it."""
        if self.kinds[at] == END:
            return "the end of the file"
        return quote(self.words[at])

    def stop(self, at: int, message: str) -> NoReturn:
        """Records a problem after which nothing can be made sense of."""
        hint = ""
        if self.long_string >= 0:
            line = self.source.at(self.starts[self.long_string]).line
            hint = f"the string that begins in line {line} runs over several lines; is its closing quote missing?"
        self.report(at, message, hint)
        raise Stop

    # Grammar

    def fields(self, message: Any, descriptor: Descriptor, known: Fields, close: str, opened: int, depth: int) -> None:
        """Reads fields up to `close` ("" for the end of the file), and passes over it."""
        kinds, words, starts = self.kinds, self.words, self.starts
        specs = _fields_of(descriptor.full_name, descriptor)
        while True:
            at = self.at
            kind = kinds[at]
            word = words[at]
            if kind == NAME:
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
                    first = self.source.at(entries[0][0]).line
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
            elif kind == SYMBOL and word in _CLOSE:
                if word == close:
                    self.at = at + 1
                    return
                if close:
                    where = self.source.at(starts[opened])
                    self.report(at, f"expected {close!r} to close what opens in line {where.line}, found {word!r}")
                    self.at = at + 1
                    return
                self.report(at, f"{word!r} closes nothing")
                self.at = at + 1
            elif kind == END:
                if not close:
                    return
                where = self.source.at(starts[opened])
                self.stop(
                    at,
                    f"the file ends inside {descriptor.name}, which opens in line {where.line}: {close!r} is missing",
                )
            else:
                self.stray(at, descriptor)

    def message_field(self, message: Any, spec: _Field, entries: list[tuple[int, Any]], at: int, depth: int) -> None:
        words = self.words
        if words[self.at] == ":" and self.kinds[self.at] == SYMBOL:
            self.at += 1
        if words[self.at] == "[" and spec.repeated:
            self.short_list(lambda: self.one_message(message, spec, entries, self.at, depth))
        else:
            self.one_message(message, spec, entries, at, depth)

    def one_message(self, message: Any, spec: _Field, entries: list[tuple[int, Any]], at: int, depth: int) -> None:
        assert spec.message is not None
        opened = self.at
        close = _OPEN.get(self.words[opened]) if self.kinds[opened] == SYMBOL else None
        if close is None:
            self.report(
                opened,
                f"expected '{{' after {spec.name!r}, which is a {spec.message.name}, found {self.quoted(opened)}",
            )
            self.skip_value()
            return
        if depth >= limits.nesting:
            self.stop(opened, f"messages nested deeper than {limits.nesting}; {limit_hint('nesting')}")
        if len(entries) >= limits.layers:
            self.stop(at, f"more than {limits.layers} of {spec.name!r}; {limit_hint('layers')}")
        self.at = opened + 1
        if spec.repeated:
            inner = getattr(message, spec.name).add()
        else:
            inner = getattr(message, spec.name)
            inner.SetInParent()
        known: Fields = {}
        entries.append((self.starts[at], known))
        self.fields(inner, spec.message, known, close, at, depth + 1)

    def scalar_field(self, message: Any, spec: _Field, entries: list[tuple[int, Any]], at: int) -> None:
        if self.words[self.at] != ":" or self.kinds[self.at] != SYMBOL:
            self.report(self.at, f"expected ':' after {spec.name!r}, found {self.quoted(self.at)}")
            if self.words[self.at] in ("{", "<", "["):
                self.skip_value()
            if self.kinds[self.at] not in (NUMBER, STRING) and self.words[self.at] != "-":
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
            if kind == SYMBOL and word == "]":
                self.at += 1
                return
            if kind == SYMBOL and word == ",":
                self.at += 1
                continue
            if kind == END or self.at == before or kind != NUMBER:
                line = self.source.at(self.starts[opened]).line
                self.stop(
                    self.at, f"expected ',' or ']' in the list that opens in line {line}, found {self.quoted(self.at)}"
                )
            self.report(self.at, f"expected ',' or ']' in a list, found {self.quoted(self.at)}")

    # Values

    def refuse(self, at: int, message: str, hint: str = "") -> NoReturn:
        self.report(at, message, hint)
        raise _Refused

    def unclosed(self, at: int) -> NoReturn:
        self.stop(at, f"the string that begins here, {quote(self.words[at])}, has no closing quote")

    def check_end(self, at: int, spec: _Field, kind: str) -> None:
        """Refuses a number with more than a number behind it, as in 1.2.3, 1e or 0x."""
        word = self.words[at]
        end = self.starts[at] + len(word)
        following = self.text[end : end + 1]
        if following == "." or (following in ("e", "E", "x", "X") and following and word.isdigit()):
            more = re.compile(r"[\w.+-]{0,100}").match(self.text, end)
            self.refuse(self.at, f"expected {kind} for {spec.name!r}, found {quote(word + (more[0] if more else ''))}")

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
        if self.kinds[digits] != NUMBER:
            self.refuse(at, f"expected an integer for {spec.name!r}, found {self.quoted(digits)}")
        self.check_end(digits, spec, "an integer")
        if negative and minimum == 0:
            self.refuse(at, f"{spec.name!r} cannot be negative, found {quote('-' + word)}")
        try:
            magnitude = integer_value(word)
        except ValueError:
            self.refuse(at, f"expected an integer for {spec.name!r}, found {quote(('-' if negative else '') + word)}")
        number = -magnitude if negative else magnitude
        if not minimum <= number <= maximum:
            self.refuse(
                at,
                f"{quote(('-' if negative else '') + word)} is out of range for {spec.name!r} ({minimum} to {maximum})",
            )
        self.at = digits + 1
        return number

    def number(self, spec: _Field) -> float:
        at = self.at
        negative = self.words[at] == "-"
        if negative:
            at += 1
        word, kind = self.words[at], self.kinds[at]
        if kind == NUMBER:
            self.check_end(at, spec, "a number")
            if len(word) > 1 and word[0] == "0" and word[1] in "0123456789xX":
                self.refuse(self.at, f"expected a decimal number for {spec.name!r}, found {quote(word)}")
            number = float(word[:-1] if word[-1] in "fF" else word)
        elif kind == NAME and word.lower() in ("inf", "infinity", "nan"):
            number = float(word.lower())
        else:
            self.refuse(self.at, f"expected a number for {spec.name!r}, found {self.quoted(at)}")
        self.at = at + 1
        if spec.is_float:
            number = to_float32(number)
        return -number if negative else number

    def boolean(self, spec: _Field) -> bool:
        at = self.at
        word, kind = self.words[at], self.kinds[at]
        if kind == NAME and word in _TRUE:
            value = True
        elif kind == NAME and word in _FALSE:
            value = False
        else:
            if kind == NUMBER:
                with contextlib.suppress(ValueError):
                    number = integer_value(word)
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
        if self.kinds[at] == NAME:
            found = names.get(word)
            if found is not None:
                self.at = at + 1
                return found
        elif self.kinds[at] == NUMBER or word == "-":
            number = self.integer(spec, -(2**31), 2**31 - 1)
            if number in numbers:
                return number
            self.at = at
            word = str(number)
        near = nearest(word, names)
        hint = f"did you mean {near!r}? " if near else ""
        found_word = self.quoted(at) if self.kinds[at] == END else quote(word)
        # Those of forks are found by their likeness alone; there are too many of them to list.
        valid = [name for name, number in names.items() if number < dialects.FIRST_NUMBER]
        self.refuse(at, f"unknown value {found_word} for {spec.name!r}", f"{hint}valid are {', '.join(valid)}")

    def string(self, spec: _Field) -> str:
        at = self.at
        word = self.words[at]
        if self.kinds[at] == STRING and self.kinds[at + 1] != STRING and "\\" not in word and word.isascii():
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
        if self.kinds[at] != STRING:
            hint = ""
            if self.kinds[at] == UNCLOSED:
                self.unclosed(at)
            elif self.kinds[at] in (NAME, NUMBER):
                hint = "strings stand in quotes"
            self.refuse(at, f"expected a string for {spec.name!r}, found {self.quoted(at)}", hint)
        parts = []
        while self.kinds[at] == STRING:
            word = self.words[at]
            if "\n" in word and self.long_string < 0:
                self.long_string = at
            raw = word[1:-1].encode("utf-8", "surrogateescape")
            if b"\\" in raw:
                try:
                    raw = unescape(raw)
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
                self.stop(at, f"expected a field of {descriptor.name}, found {quote(word)}")
            self.report(
                at,
                f"expected a field of {descriptor.name} and its value, found {quote(word)} "
                f"followed by {self.quoted(at + 1)}",
            )
            self.at = at + 1
            if self.kinds[self.at] in (NUMBER, STRING):
                self.skip_value()
        else:
            near = nearest(word, specs)
            self.report(
                at, f"unknown field {quote(word)} in {descriptor.name}", f"did you mean {near!r}?" if near else ""
            )
            self.at = at + 2 if following == ":" else at + 1
            self.skip_value()
        if self.words[self.at] in (";", ","):
            self.at += 1

    def skip_value(self) -> None:
        """Passes over one value of unknown type: a block, a list, strings, or a number or name with its sign."""
        word, kind = self.words[self.at], self.kinds[self.at]
        if kind == SYMBOL and word in ("{", "<", "["):
            opened = self.at
            nesting = 0
            while True:
                word, kind = self.words[self.at], self.kinds[self.at]
                if kind == END:
                    line = self.source.at(self.starts[opened]).line
                    self.stop(self.at, f"the file ends inside what opens in line {line}")
                self.at += 1
                if kind == SYMBOL:
                    if word in ("{", "<", "["):
                        nesting += 1
                    elif word in ("}", ">", "]"):
                        nesting -= 1
                        if not nesting:
                            return
        if kind == STRING:
            while self.kinds[self.at] == STRING:
                self.at += 1
            return
        if word == "-":
            self.at += 1
            kind = self.kinds[self.at]
        if kind in (NAME, NUMBER, BAD):
            # A name with a colon or a brace behind it is the next field: the value is missing.
            if kind == NAME and self.words[self.at + 1] in (":", "{", "<"):
                return
            self.at += 1
            # `1.2.3` and `0x` are several tokens, but to the author one value.
            while self.kinds[self.at] in (NAME, NUMBER, BAD) and self.starts[self.at] == self.starts[self.at - 1] + len(
                self.words[self.at - 1]
            ):
                self.at += 1
        elif kind == SYMBOL and word not in ("}", ">", "]"):
            line = bisect_right(self.newlines, self.starts[self.at])
            # `$` and the like: the rest of the line is no prototxt.
            while (
                self.kinds[self.at] not in (END, STRING, UNCLOSED)
                and self.words[self.at] not in ("{", "}", ">", ";")
                and bisect_right(self.newlines, self.starts[self.at]) == line
            ):
                self.at += 1

    def stray(self, at: int, descriptor: Descriptor) -> None:
        """Something that can begin no field: reported once, and passed over up to what can."""
        word, kind = self.words[at], self.kinds[at]
        if kind == UNCLOSED:
            self.unclosed(at)
        if kind == BAD and 0xDC80 <= ord(word[0]) <= 0xDCFF:
            self.stop(at, f"byte 0x{ord(word[0]) - 0xDC00:02x} is no valid UTF-8")
        if kind == SYMBOL and word == "[":
            self.report(at, f"expected a field of {descriptor.name}, found an extension or a list: {quote('[')}")
            self.skip_value()
            return
        if self.long_string >= 0:
            self.stop(at, f"expected a field of {descriptor.name}, found {self.quoted(at)}")
        self.report(at, f"expected a field of {descriptor.name}, found {self.quoted(at)}")
        self.at = at + 1
        while self.kinds[self.at] in (NUMBER, STRING, BAD) or self.words[self.at] in (":", ";", ",", "]"):
            self.at += 1
