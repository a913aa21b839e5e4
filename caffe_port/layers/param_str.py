"""What known Python layers of forks have in `param_str`: names and values, in YAML or as a Python dict."""

from __future__ import annotations

import math
import re

from caffe_port.layers.base import refuse
from caffe_port.reading import shown

__all__ = ["mapping"]

_LONGEST = 1000
"""Characters; known ones have less than a hundred."""

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_ENTRY = re.compile(
    rf"""(?P<quote>['"]?) (?P<name>[A-Za-z_]\w*) (?P=quote) \s*:\s*
    (?: (?P<number>{_NUMBER})
      | '(?P<single>[^'\\]*)' | "(?P<double>[^"\\]*)"
      | (?:!!python/tuple\s*)? [\[(] \s* (?P<numbers>{_NUMBER} (?:\s*,\s*{_NUMBER})*) \s* ,? \s* [\])] )
    [ \t]* (?:,|\r?\n|$) \s*""",
    re.VERBOSE | re.ASCII,
)


def mapping(text: str) -> dict[str, float | str | tuple[float, ...]]:
    """The entries of a mapping of names to numbers, lists of numbers and quoted words, which is all these strings hold.

    Raises: UnsupportedParameter for any other text, a name given twice, and a number beyond what float64 holds.
    """
    refused = refuse(f"param_str is no mapping of names to numbers, it is {shown(text)}")
    if len(text) > _LONGEST:
        raise refused
    body = text.strip()
    if body.startswith("{") and body.endswith("}"):
        body = body[1:-1].strip()
    found: dict[str, float | str | tuple[float, ...]] = {}
    at = 0
    while at < len(body):
        entry = _ENTRY.match(body, at)
        if entry is None or entry["name"] in found:
            raise refused
        numbers = tuple(map(float, (entry["number"] or entry["numbers"] or "0").split(",")))
        if not all(map(math.isfinite, numbers)):
            raise refused
        word = entry["single"] if entry["double"] is None else entry["double"]
        found[entry["name"]] = word if word is not None else numbers if entry["numbers"] else numbers[0]
        at = entry.end()
    return found
