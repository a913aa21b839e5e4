"""The pages of the documentation, and the blocks in them."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from places import ROOT

__all__ = ["COMMANDS", "PAGES", "ROOT", "Block", "blocks", "inline_commands", "prose", "shell_lines"]

PAGES = {path.name: path for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]}
"""By file name; the changelog is no documentation."""
del PAGES["CHANGELOG.md"]

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)(?P<text>(?: {4}.*\n)+)")

COMMANDS = ("caffe-port ", "find ", "make ", "mkdocs ", "pip ", "python ", "torchrun ")


@dataclass(frozen=True)
class Block:
    """A fenced block; `line` is its first line's number in the page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str, *languages: str) -> list[Block]:
    """The page's blocks in these languages (default: all), in order. Indented ones that begin with a command are sh."""
    text = PAGES[page].read_text(encoding="utf-8")
    found = [
        Block(page, line_of(text, fence.start("text")), fence["language"], textwrap.dedent(fence["text"]))
        for fence in _FENCE.finditer(text)
    ]
    without = _FENCE.sub(lambda fence: "\n" * fence[0].count("\n"), text)
    for block in _INDENTED.finditer(without):
        if block["text"].lstrip().startswith(COMMANDS):
            found.append(Block(page, line_of(without, block.start("text")), "sh", textwrap.dedent(block["text"])))
    return [
        block for block in sorted(found, key=lambda block: block.line) if not languages or block.language in languages
    ]


def line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def shell_lines(block: Block) -> Iterator[str]:
    """The commands of a block, without comments and without the environment they are called from."""
    for line in block.text.splitlines():
        command = re.sub(r"\s+#.*", "", line).strip().replace(".venv/bin/", "")
        if command and not command.startswith("#"):
            yield command


def prose(page: str) -> str:
    """The page without its blocks."""
    return _FENCE.sub("", PAGES[page].read_text(encoding="utf-8"))


def inline_commands(page: str) -> Iterator[list[str]]:
    """The words behind `caffe-port` in each command that stands in a line of text."""
    for span in re.findall(r"`(caffe-port [^`]+)`", " ".join(prose(page).split("\n"))):
        yield shlex.split(span)[1:]
