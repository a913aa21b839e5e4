"""Changes to a source text at the places of its syntax tree."""

from __future__ import annotations

import ast
import difflib
import re
from dataclasses import dataclass, field

from caffe_port.errors import ArtifactError

__all__ = ["Change", "Edits"]

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
"""Lines as Python counts them: a form feed ends none."""


@dataclass(frozen=True, slots=True)
class Change:
    """What was changed at a line, and why."""

    line: int
    before: str
    after: str
    why: str


@dataclass(slots=True)
class Edits:
    """Replacements of parts of a text, which do not overlap."""

    text: str
    changes: list[Change] = field(default_factory=list)
    _replaced: dict[tuple[int, int], str] = field(default_factory=dict)
    _starts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        position = 0
        for line in _LINE.findall(self.text):
            self._starts.append(position)
            position += len(line)
        self._starts.append(position)

    def offset(self, line: int, column: int) -> int:
        """Of a line and a column of the syntax tree, which counts the bytes of UTF-8."""
        start = self._starts[line - 1]
        end = self._starts[line] if line < len(self._starts) else len(self.text)
        return start + len(self.text[start:end].encode()[:column].decode())

    def span(self, node: ast.expr) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def source(self, node: ast.expr) -> str:
        start, end = self.span(node)
        return self.text[start:end]

    def replace(self, node: ast.expr, new: str, why: str) -> None:
        """Puts `new` in the place of an expression."""
        self._note(node.lineno, self.source(node), new, why)
        self._replaced[self.span(node)] = new

    def rename(self, function: ast.expr, new: str) -> None:
        """Gives the last name of a dotted expression another one."""
        _, end = self.span(function)
        length = len(function.attr if isinstance(function, ast.Attribute) else ast.unparse(function))
        self._replaced[end - length, end] = new

    def brackets(self, call: ast.Call) -> tuple[int, int]:
        """Where the arguments of a call begin and end, without the brackets."""
        (_, function_end), (_, end) = self.span(call.func), self.span(call)
        return self.text.index("(", function_end) + 1, end - 1

    def keep_argument(self, call: ast.Call, argument: ast.expr) -> None:
        """Takes all arguments of a call away but this one, which becomes the first."""
        start, end = self.brackets(call)
        first, last = self.span(argument)
        while (left := self.text[start:first].rstrip()).endswith("(") and self.text[last:end].lstrip().startswith(")"):
            first = start + len(left) - 1
            last = self.text.index(")", last) + 1
        self._replaced[start, first] = ""
        self._replaced[last, end] = ""

    def set_arguments(self, call: ast.Call, new: str, why: str) -> None:
        start, end = self.brackets(call)
        function = self.source(call.func)
        self._note(call.lineno, self.source(call), f"{function}({new})", why)
        self._replaced[start, end] = new

    def _note(self, line: int, before: str, after: str, why: str) -> None:
        self.changes.append(Change(line, " ".join(before.split()), after, why))

    def result(self) -> str:
        """The changed text. Raises: ArtifactError if it would not be Python any more."""
        parts, position = [], 0
        for (start, end), new in sorted(self._replaced.items()):
            if start < position:
                continue
            parts += [self.text[position:start], new]
            position = end
        changed = "".join([*parts, self.text[position:]])
        try:
            ast.parse(changed)
        except SyntaxError as error:
            raise ArtifactError(f"the changed script is no Python at line {error.lineno}; please report it") from None
        return changed

    def diff(self, before: str, after: str) -> str:
        """The unified diff, "" if nothing changes; the names are those of the two files."""
        old, new = _LINE.findall(self.text), _LINE.findall(self.result())
        return "".join(
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
            for line in difflib.unified_diff(old, new, before, after)
        )
