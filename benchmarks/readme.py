"""Puts what a benchmark measured into README.md, between the marks `<!-- NAME: made by … -->` and `<!-- /NAME -->`."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def put(name: str, text: str) -> None:
    """Replaces what stands between the marks of this name. Raises: ValueError unless they are there once."""
    before = README.read_text()
    pattern = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
    after, found = pattern.subn(lambda marks: f"{marks[1]}{text}{marks[2]}", before)
    if found != 1:
        raise ValueError(f"{README}: {found} places marked {name!r}")
    README.write_text(after)
