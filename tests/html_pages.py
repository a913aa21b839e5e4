"""Pages as a browser reads them, and what certificates of small nets have."""

from __future__ import annotations

import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from small import inputs_of, one_input

from caffe_port.backends import make_backend
from caffe_port.compare import ParityReport
from caffe_port.net import Net
from caffe_port.verification import Reference

__all__ = ["HOSTILE", "VOID", "Parsed", "chain", "recorded_by", "reports_of", "spoiled"]


HOSTILE = "</script><script>alert(1)</script><!--\"'&<img src=x onerror=alert(2)>\u2028\u202e"
"""A name that would leave any of the places it stands in: text, attributes, JSON in a script."""

VOID = {"meta", "input", "br", "col"}


class Parsed(HTMLParser):
    """A page as a browser reads it: elements with attributes and text, scripts, and whether all of it nests."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r}")

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]

    def with_class(self, name: str) -> list[str]:
        return [tag for tag, attributes in self.elements if name in (attributes.get("class") or "").split()]

    @property
    def data(self) -> Any:
        """What the page gives its scripts."""
        return json.loads(self.texts["script"][0])


def reports_of(net: Net, *backends: str, reference: str | None = None) -> tuple[ParityReport, ...]:
    made = Reference.make(net, None, inputs_of(net))
    reports = [made.compare(make_backend(backend)) for backend in backends]
    return tuple(
        report if reference is None else dataclasses.replace(report, reference=reference) for report in reports
    )


def spoiled(report: ParityReport, at: int, **changes: Any) -> ParityReport:
    """The report with one comparison changed."""
    comparisons = list(report.comparisons)
    comparisons[at] = dataclasses.replace(comparisons[at], **changes)
    return dataclasses.replace(report, comparisons=tuple(comparisons))


def recorded_by(path: Path, caffe: str) -> Path:
    """A file that says which Caffe made it; nothing else is read of it here."""
    told = {"caffe": caffe, "phase": "TEST", "level": 0, "stages": [], "weights": []}
    told["definition"] = {"name": caffe, "sha256": caffe}
    np.savez(path, meta=np.frombuffer(json.dumps({"recorder": told}).encode(), np.uint8))
    return path


def chain(blocks: int) -> str:
    """Residual blocks of four layers and a Split."""
    text, previous = one_input(1, 1, 3, 3), "x"
    for i in range(blocks):
        text += f"""
        layer {{ name: "power{i}" type: "Power" bottom: "{previous}" top: "p{i}" power_param {{ scale: 0.5 }} }}
        layer {{ name: "relu{i}" type: "ReLU" bottom: "p{i}" top: "p{i}" }}
        layer {{ name: "sum{i}" type: "Eltwise" bottom: "{previous}" bottom: "p{i}" top: "s{i}"
                 eltwise_param {{ coeff: 0.5 coeff: 0.5 }} }}
        layer {{ name: "last{i}" type: "TanH" bottom: "s{i}" top: "s{i}" }}"""
        previous = f"s{i}"
    return text
