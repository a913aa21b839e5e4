"""The words of a prototxt: names, numbers, strings and symbols, and what they mean by themselves.

Source: protobuf's C++ tokenizer (io/tokenizer.cc), in the one mode Caffe uses.
"""

from __future__ import annotations

import difflib
import math
import re
import struct
from collections.abc import Iterable

__all__ = [
    "BAD",
    "END",
    "NAME",
    "NUMBER",
    "STRING",
    "SYMBOL",
    "TOKEN",
    "UNCLOSED",
    "integer_value",
    "nearest",
    "quote",
    "to_float32",
    "unescape",
]

_QUOTE = 40

# One alternative a kind of token, told apart by their first characters, so that reading is linear in the text.
TOKEN = re.compile(
    r"""
      [ \t\r\n\v\f]+ | \#[^\n\0]*
    | (?: ([A-Za-z_][A-Za-z0-9_]*)                                                                  # 1 name
    | (0[xX][0-9A-Fa-f]+ | 0[0-7]+(?![0-9])
       | (?:(?!0[0-9])[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?)                       # 2 number
    | ("[^"\\\0]*(?:\\[^\0][^"\\\0]*)*" | '[^'\\\0]*(?:\\[^\0][^'\\\0]*)*')                         # 3 string
    | ([!$-&(-/:-@\[-^`{-~])                                                                       # 4 symbol
    | (["'].*)                                                                # 5 string that never ends
    | (0[0-9]+ | .)                                                           # 6 none of these
    ) [ \t\r\n\v\f]*
    """,
    re.VERBOSE | re.ASCII | re.DOTALL,
)
NAME, NUMBER, STRING, SYMBOL, UNCLOSED, BAD, END = 1, 2, 3, 4, 5, 6, 7

_ESCAPE = re.compile(
    rb"""\\(?: ([0-7]{1,3}) | x([0-9A-Fa-f]{1,2})
       | u([Dd][89ABab][0-9A-Fa-f]{2})\\u([Dd][C-Fc-f][0-9A-Fa-f]{2})      # two halves of one code point
       | u([0-9A-Fa-f]{4}) | U(00[01][0-9A-Fa-f]{5}) | (.) )""",
    re.VERBOSE | re.DOTALL,
)
_SIMPLE = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_SIMPLE |= {c: c for c in (b"\\", b"?", b"'", b'"')}


def quote(word: str) -> str:
    """A piece of the text as an error message shows it: on one line, shortened, in quotes."""
    line = word.split("\n", 1)[0]
    short = line if len(line) <= _QUOTE else line[:_QUOTE]
    return repr(short.encode("utf-8", "replace").decode()) + ("…" if short != word else "")


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name most like a word, however it is capitalized."""
    folded = {name.lower(): name for name in names}
    found = difflib.get_close_matches(word[:100].lower(), folded, n=1)
    return folded[found[0]] if found else None


def integer_value(word: str) -> int:
    """The value of an integer token: decimal, hexadecimal, or octal with a leading zero. Raises: ValueError."""
    if word[:2] in ("0x", "0X"):
        return int(word, 16)
    if not word.isdigit():
        raise ValueError(word)
    if len(word.lstrip("0")) > 30:
        return 1 << 100  # out of every range; int() refuses thousands of digits
    return int(word, 8) if word[0] == "0" else int(word)


def to_float32(number: float) -> float:
    """Rounds to float32; what is too large becomes infinite, as in C++."""
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", number))[0]
    except OverflowError:
        return math.copysign(math.inf, number)
    return rounded


def unescape(raw: bytes) -> bytes:
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
            raise ValueError(f"the invalid escape {quote(match.group().decode('utf-8', 'replace'))}") from None

    return _ESCAPE.sub(one, raw)
