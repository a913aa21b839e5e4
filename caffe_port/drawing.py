"""A net as a graph in Graphviz's language, and as Graphviz draws it, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from caffe_port.errors import ArtifactError, MissingDependency
from caffe_port.net import Net
from caffe_port.printing import printable
from caffe_port.proto.files import replacing
from caffe_port.shapes import format_shape

__all__ = ["draw_svg", "rendered", "to_dot"]

TIMEOUT = 120
"""Seconds Graphviz may take."""


def to_dot(net: Net, *, rankdir: str = "TB", label_edges: bool = True) -> str:
    """The net as a Graphviz graph: a box a layer, an edge a blob; layers in place stand in the box of their blob.

    `rankdir`: where it grows to, TB, BT, LR or RL. `label_edges`: whether edges say their blobs' shapes.
    """
    lines = [
        "digraph net {",
        f"  rankdir={rankdir};",
        '  node [shape=box, style="rounded,filled", fillcolor="#f4f6fa", fontname="Helvetica", fontsize=10];',
        '  edge [fontname="Helvetica", fontsize=8, color="#667788"];',
    ]
    box_of: dict[int, str] = {}
    rows: dict[str, list[str]] = {}
    edges: list[str] = []
    for layer in net.layers:
        if layer.type == "Split":
            box_of.update({id(top): box_of[id(layer.bottoms[0].origin)] for top in layer.tops})
            continue
        if layer.is_in_place and len(layer.bottoms) == 1:
            box = box_of[id(layer.bottoms[0].origin)]
        else:
            box = f"l{layer.index}"
            rows[box] = []
            for blob in layer.bottoms:
                source = box_of[id(blob.origin)]
                label = f" [label={_quoted(format_shape(blob.shape))}]" if label_edges else ""
                edges.append(f"  {source} -> {box}{label};")
        rows[box].append(f"{layer.name}  ({layer.type})")
        box_of.update({id(top): box for top in layer.tops})
    lines += [f"  {box} [label={_quoted(*text)}];" for box, text in rows.items()]
    return "\n".join([*lines, *edges, "}", ""])


def _quoted(*lines: str) -> str:
    """A label that shows just these lines: Graphviz knows escapes (`\\N`), and entities of HTML (`&#27;`)."""
    shown = (printable(line).replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + r"\n".join(shown) + '"'


def rendered(text: str, form: str, program: str = "dot") -> bytes:
    """A graph in Graphviz's language as Graphviz draws it: "svg", "png", "pdf", …

    Raises: MissingDependency without that program of Graphviz, ArtifactError if it fails or does not know the form.
    """
    found = shutil.which(program)
    if found is None:
        raise MissingDependency(
            f"Graphviz is needed to draw: install it (its program is `{program}`), or take the text"
        )
    try:
        drawn = subprocess.run([found, f"-T{form}"], input=text.encode(), capture_output=True, timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ArtifactError(f"Graphviz failed: {error}") from None
    if drawn.returncode:
        raise ArtifactError(f"Graphviz failed: {drawn.stderr.decode(errors='replace').strip()}")
    return drawn.stdout


def draw_svg(net: Net, path: Path) -> None:
    """Draws the net as SVG; the file appears whole or not at all. Raises: as `rendered`."""
    drawn = rendered(to_dot(net), "svg")
    with replacing(path) as stream:
        stream.write(drawn)
