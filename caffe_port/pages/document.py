"""What every page has: elements that escape what is in them, the styles and scripts, and how numbers are written.

A page is built as a tree of elements and written out once, so that text from a stranger's file (a layer's name, a note)
can become neither markup nor a script. Its policy allows the styles and scripts it was made with, by their hashes, and
nothing from anywhere else.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any
from xml.etree.ElementTree import Element, tostring

from caffe_port.printing import printable

__all__ = ["Child", "document", "json_text", "number", "ratio", "size", "tag"]

Child = Element | str | None | Iterable["Child"]
"""What may stand in an element; None is nothing."""

_BLOCKS = {
    "article",
    "body",
    "div",
    "dl",
    "figure",
    "footer",
    "g",
    "h1",
    "h2",
    "h3",
    "head",
    "header",
    "html",
    "li",
    "main",
}
_BLOCKS |= {"meta", "nav", "p", "path", "section", "script", "style", "svg", "table", "tbody", "thead", "tr", "ul"}
"""Elements that end their line in the file."""

_SPACES = "\t\n"
"""What of unprintable characters stays: HTML has them as spaces, `pre` as they are."""


def tag(name: str, /, *children: Child, **attributes: object) -> Element:
    """An element. `class_` stands for `class`, `aria_label` for `aria-label`; None and False leave an attribute out."""
    element = Element(name)
    for key, value in attributes.items():
        if value is not None and value is not False:
            element.set(key.rstrip("_").replace("_", "-"), "" if value is True else printable(value, _SPACES))
    _append(element, children)
    if name in _BLOCKS:
        element.tail = "\n"
    return element


def _append(element: Element, children: Iterable[Child]) -> None:
    for child in children:
        if child is None:
            continue
        if isinstance(child, Element):
            element.append(child)
        elif not isinstance(child, str):
            _append(element, child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + printable(child, _SPACES)
        else:
            element.text = (element.text or "") + printable(child, _SPACES)


def document(
    title: str,
    body: Sequence[Child],
    *,
    styles: Sequence[str],
    scripts: Sequence[str],
    data: Any = None,
    mood: str = "",
) -> str:
    """A whole page. `styles` and `scripts` are names of files in this package; `data` is what the scripts read.

    `data` stands in the element `#data`; `mood` is the body's class.
    """
    css = "\n".join(map(_asset, styles))
    code = [_asset(name) for name in scripts]
    allowed = " ".join(map(_hash, code)) or "'none'"
    policy = f"default-src 'none'; style-src {_hash(css)}; script-src {allowed}; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        _raw("style", css),
    )
    block = [] if data is None else [_raw("script", json_text(_shown(data)), type="application/json", id="data")]
    page = tag("html", head, tag("body", body, block, [_raw("script", text) for text in code], class_=mood), lang="en")
    return "<!doctype html>\n" + tostring(page, encoding="unicode", method="html") + "\n"


def _raw(name: str, text: str, /, **attributes: str) -> Element:
    """A `script` or `style`, whose text HTML does not unescape."""
    if re.search("</|<!--", text):
        raise ValueError(f"text that would end its <{name}>")
    element = tag(name, **attributes)
    element.text = text
    return element


def _asset(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _shown(data: Any) -> Any:
    """What scripts read, with each text as the page itself would show it."""
    if isinstance(data, str):
        return printable(data, _SPACES)
    if isinstance(data, dict):
        return {key: _shown(value) for key, value in data.items()}
    return list(map(_shown, data)) if isinstance(data, (list, tuple)) else data


def json_text(data: Any) -> str:
    """JSON that can stand in a script element: ASCII, without `<`, `>` and `&`."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def number(value: float) -> str:
    """Three digits: `0.0123`, `1.23e-7`; `∞`, `NaN`."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return re.sub(r"e([+-])0*(\d)", lambda match: f"e{match[1].strip('+')}{match[2]}", f"{value:.3g}")


def ratio(value: float) -> str:
    """Two decimals, as long as that is short."""
    return f"{value:.2f}" if abs(value) < 1000 else number(value)


def size(value: int) -> str:
    """Bytes for people: `23.7 MB (23,700,000 bytes)`."""
    for power, unit in ((3, "GB"), (2, "MB"), (1, "kB")):
        if value >= 1000**power:
            return f"{value / 1000**power:.1f} {unit} ({value:,} bytes)"
    return f"{value:,} bytes"
