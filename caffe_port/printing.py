"""Text from strangers' files, made fit to be printed.

A layer's name may steer the terminal (`\\x1b[2J`), go back to the start of a line, or turn the direction of what
follows it, and so make a line say something else. Whatever a person reads goes through `printable`.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Any

__all__ = ["printable", "printable_json"]


def printable(text: object, keep: str = "") -> str:
    """The text in one line: each character that is not seen, or steers, is escaped as in Python (`\\n`, `\\x1b`).

    These are control characters, line and paragraph separators, marks that turn the direction of writing, what has no
    width or no meaning, and halves of surrogate pairs. Letters of all scripts and spaces of every width stay, and so
    does a backslash, so doing it twice changes nothing. `keep`: further characters that stay.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if _is_seen(c) or c in keep else c.encode("unicode_escape").decode() for c in text)


def printable_json(value: Any, indent: int | None = None) -> str:
    """A JSON document in printable ASCII; names in it are exactly what they are."""
    # Of ASCII's control characters json lets one through.
    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f")


def _is_seen(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"
