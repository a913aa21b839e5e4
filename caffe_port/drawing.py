"""Draws a net with Graphviz, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from caffe_port.errors import ArtifactError, MissingDependency
from caffe_port.net import Net
from caffe_port.proto.files import replacing
from caffe_port.summary import to_dot

__all__ = ["draw_svg", "rendered"]

TIMEOUT = 120
"""Seconds Graphviz may take."""


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
