"""The table of layer types: what each is, what it takes, and what it can be converted to.

`python -m caffe_port.layer_table` prints docs/layers.md.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from caffe_port import registry

__all__ = ["LayerRow", "as_markdown", "as_text", "layer_rows"]


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer type. `reasons`: by backend, the sentence that says why it cannot express it; absent if it can."""

    type: str
    summary: str
    bottoms: str
    tops: str
    reasons: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        expressible: dict[str, bool | str] = {b: self.reasons.get(b, True) for b in registry.BACKENDS}
        return {"type": self.type, "summary": self.summary, "bottoms": self.bottoms, "tops": self.tops, "numpy": True,
                **expressible}  # fmt: skip


def layer_rows() -> Iterator[LayerRow]:
    """A row for every declared type, sorted by name."""
    for definition in registry.layer_types():
        reasons = {
            backend: registry.reason_inexpressible(backend, definition.type) or "no emitter for it yet"
            for backend in registry.BACKENDS
            if not registry.is_expressible(backend, definition)
        }
        summary = " ".join((inspect.getdoc(definition) or "").split("\n\n")[0].split("\nShapes:")[0].split())
        yield LayerRow(definition.type, summary, str(definition.bottoms), str(definition.tops), reasons)


def as_text() -> Iterator[str]:
    """The lines of a table for people."""
    rows = list(layer_rows())
    width = max(len(row.type) for row in rows)
    yield f"{'type'.ljust(width)}  numpy  pytorch  onnx"
    for row in rows:
        marks = ["no" if backend in row.reasons else "yes" for backend in registry.BACKENDS]
        reasons = "; ".join(f"{backend}: {reason}" for backend, reason in row.reasons.items())
        yield f"{row.type.ljust(width)}  yes    {marks[0].ljust(7)}  {marks[1].ljust(4)}  {reasons}".rstrip()


def as_markdown() -> str:
    """The page docs/layers.md."""
    lines = [
        "# Layer types",
        "",
        "Made by `python -m caffe_port.layer_table > docs/layers.md` from the layers' own declarations.",
        "",
        "| type | bottoms | tops | NumPy | PyTorch | ONNX | what it does |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in layer_rows():
        cells = [row.reasons.get(backend, "yes").replace("|", "\\|") for backend in registry.BACKENDS]
        summary = row.summary.replace("|", "\\|")
        lines.append(f"| {row.type} | {row.bottoms} | {row.tops} | yes | {cells[0]} | {cells[1]} | {summary} |")
    lines += ["", *(f"{backend}: {note}" for backend, note in registry.NOTES.items())]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    print(as_markdown(), end="")
