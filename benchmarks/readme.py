"""Puts what a benchmark measured where it is read: between the marks `<!-- NAME: made by … -->` and `<!-- /NAME -->` of
README.md, or of the one page in docs/ that has them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def put(name: str, text: str) -> None:
    """Replaces what stands between the marks of this name. Raises: ValueError unless they are there once."""
    pattern = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- /{name} -->)", re.DOTALL)
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    marked = [(page, len(pattern.findall(page.read_text()))) for page in pages]
    found = [page for page, count in marked if count]
    if sum(count for _, count in marked) != 1:
        raise ValueError(f"{name!r} is marked in {', '.join(map(str, found)) or 'no page'}, not in one place")
    before = found[0].read_text()
    found[0].write_text(pattern.sub(lambda marks: f"{marks[1]}{text}\n{marks[2]}", before))
