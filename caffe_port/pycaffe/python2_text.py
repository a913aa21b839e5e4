"""Python 2's syntax written in Python 3's: the first step of `python2`, on the text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from caffe_port.errors import Location, Problems
from caffe_port.pycaffe.errors import SourceError

__all__ = ["retyped"]

_TOKEN = re.compile(
    r"""
    (?P<comment>\#[^\n]*)
  | (?P<string>[uUbB]?[rR]?(?:\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''
                          |"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
  | (?P<number>0[xXoObB][0-9a-fA-F]+[lL]?|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[jJlL]?)
  | (?P<name>[^\W\d]\w*)
  | (?P<space>(?:[ \t\f]|\\\n)+)
  | (?P<newline>\n)
  | (?P<op><>|[<>*/]{2}=?|[-+*/%&|^=<>!]=|.)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(slots=True)
class _Token:
    kind: str
    text: str
    line: int
    depth: int
    new: str = field(default="")


def retyped(text: str, file: str, problems: Problems) -> str:
    """The text with Python 2's syntax written in Python 3's, token by token, each on its line."""
    tokens = list(_tokens(text))
    future, literals = _imports_future(text, "print_function"), _imports_future(text, "unicode_literals")
    open_tick = False
    for token in tokens:
        if token.kind == "string":
            token.new = _string(token, literals, file, problems)
        elif token.kind == "number":
            token.new = _number(token.text)
        elif token.text == "<>":
            token.new = "!="
        elif token.text == "`":
            open_tick = not open_tick
            token.new = "(repr(" if open_tick else "))"
    for before, token in zip([None, *tokens], tokens, strict=False):
        if (
            token.kind == "space"
            and "\t" in token.text
            and token.depth == 0
            and (before is None or before.kind == "newline")
        ):
            token.new = token.text.expandtabs(8)
    for statement in _statements(tokens):
        _restate(statement, future, file, problems)
    return "".join(token.new for token in tokens)


def _imports_future(text: str, name: str) -> bool:
    return re.search(rf"^from\s+__future__\s+import\s*(\([^)]*|.*)\b{name}\b", text, re.MULTILINE) is not None


def _tokens(text: str) -> Iterator[_Token]:
    line, depth = 1, 0
    for match in _TOKEN.finditer(text):
        kind, found = str(match.lastgroup), match.group()
        depth -= found in (")", "]", "}")
        yield _Token(kind, found, line, depth, found)
        depth += found in ("(", "[", "{")
        line += found.count("\n")


def _statements(tokens: Iterable[_Token]) -> Iterator[list[_Token]]:
    """The tokens that mean something, statement by statement; what a colon ends is one."""
    statement: list[_Token] = []
    for token in tokens:
        if token.depth == 0 and (token.kind == "newline" or token.text in (";", ":")):
            if statement:
                yield statement
            statement = []
        elif token.kind not in ("space", "comment", "newline"):
            statement.append(token)
    if statement:
        yield statement


def _restate(statement: list[_Token], print_function: bool, file: str, problems: Problems) -> None:
    first, rest, last = statement[0], statement[1:], statement[-1]
    commas = [i for i, token in enumerate(rest) if token.text == "," and token.depth == first.depth]
    if first.text == "print" and not print_function:
        newline = last.text != "," or not rest
        if rest and rest[0].text == ">>":
            rest[0].new = ""
            first.new = f"__py2_print__({newline}, "
        else:
            first.new = f"__py2_print__({newline}, None" + (", " if rest else "")
        last.new += ")"
    elif first.text == "exec" and rest and not _is_call(rest):
        for token in rest:
            if token.text == "in" and token.depth == first.depth:
                token.new = ","
        first.new = "exec("
        last.new += ")"
    elif first.text == "except" and commas:
        name = rest[commas[-1] + 1 :]
        if len(commas) > 1 or len(name) != 1 or name[0].kind != "name":
            message = "`except` into something else than a name"
            problems.add(SourceError, message, location=Location(file, first.line))
            return
        rest[commas[0]].new = " as "
    elif first.text == "raise" and commas:
        first.new = "raise __py2_raise__("
        last.new += ")"


def _is_call(tokens: list[_Token]) -> bool:
    """Whether these are one pair of brackets and what is in it."""
    closing = [i for i, token in enumerate(tokens) if token.text == ")" and token.depth == tokens[0].depth]
    return tokens[0].text == "(" and closing[:1] == [len(tokens) - 1]


def _number(text: str) -> str:
    text = text.rstrip("lL")
    return f"0o{text}" if re.fullmatch("0[0-7]+", text) and text.strip("0") else text


def _string(token: _Token, unicode_literals: bool, file: str, problems: Problems) -> str:
    quote = re.search("['\"]", token.text)
    assert quote is not None
    prefix, body = token.text[: quote.start()].lower(), token.text[quote.start() :]
    escapes = re.findall(r"\\(.)", body, re.DOTALL)
    if prefix == "ur":
        if {"u", "U"} & set(escapes):
            problems.add(
                SourceError,
                "ur'' with \\u in it: write u'' with the backslashes doubled",
                location=Location(file, token.line),
            )
        return f"r{body}"
    if prefix or unicode_literals:
        return token.text
    if any(int(code, 16) > 127 for code in re.findall(r"(?:^|[^\\])(?:\\\\)*\\x([0-9a-fA-F]{2})", body)) or any(
        int(code, 8) > 127 for code in re.findall(r"(?:^|[^\\])(?:\\\\)*\\([0-7]{3})", body)
    ):
        message = "a string with bytes above 127: write b'' for bytes or u'' for text"
        problems.add(SourceError, message, location=Location(file, token.line))
    # In a byte string these are no escapes.
    return re.sub(r"\\(.)", lambda m: f"\\\\{m[1]}" if m[1] in "uUN" else m[0], body, flags=re.DOTALL)
