"""Elements that several pages have: tables, lists, terms, choices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from caffe_port.pages.document import Child, tag

__all__ = ["agrees", "bullets", "counted", "definitions", "in_words", "picker", "scrolling", "sentence", "table"]


def table(head: Sequence[tuple[str, str]], rows: Sequence[Element], kind: str | None = None) -> Element:
    """A table; `head` has each column's heading and class, `kind` is the class of the table."""
    columns = [tag("th", name, scope="col", class_=style or None) for name, style in head]
    return tag("table", tag("thead", tag("tr", columns)), tag("tbody", rows), class_=kind)


def scrolling(table: Element, label: str) -> Element:
    """A table that is wider than the page moves in its own box."""
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=label)


def agrees(reason: str) -> Element:
    """A cell that says yes, or no and why."""
    return tag("td", "✗ ", tag("span", reason), class_="no") if reason else tag("td", "✓", class_="yes")


def definitions(pairs: Sequence[tuple[str, Child]]) -> Element | None:
    """Terms with what is said of each; those without anything are left out."""
    shown = [(key, value) for key, value in pairs if value]
    if not shown:
        return None
    return tag("dl", [[tag("dt", key), tag("dd", value)] for key, value in shown])


def bullets(items: Iterable[str]) -> Element | None:
    """A list, or nothing where there is none."""
    found = list(items)
    return tag("ul", [tag("li", item) for item in found], class_="long") if found else None


def picker(identity: str, label: str, names: Sequence[str], everything: str | None = None) -> Element:
    """A choice of one name, or of all."""
    options = [] if everything is None else [tag("option", everything, value="")]
    options += [tag("option", name, value=i) for i, name in enumerate(names)]
    return tag(
        "label", label, tag("select", options, id=identity), hidden=True, data_needs_script=True, class_="picker"
    )


def in_words(value: Any) -> str:
    """A value of `form` or `details` in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {in_words(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(in_words, value))
    return str(value)


def sentence(text: str) -> str:
    """A key of a document as it stands at the beginning of a line."""
    return (text[:1].upper() + text[1:]).replace("_", " ")


def counted(many: int, what: str) -> str:
    """A number of things: `1 layer`, `2,000 layers`."""
    return f"{many:,} {what}{'' if many == 1 else 's'}"
