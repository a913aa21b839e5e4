"""Draws a net with Graphviz, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from caffe_port.errors import ArtifactError, MissingDependency
from caffe_port.net import Net
from caffe_port.proto.files import replacing
from caffe_port.summary import to_dot

__all__ = ["draw_svg"]

TIMEOUT = 120
"""Seconds Graphviz may take."""


def draw_svg(net: Net, path: Path) -> None:
    """Draws the net as SVG. Raises MissingDependency without Graphviz, ArtifactError if it fails."""
    dot = shutil.which("dot")
    if dot is None:
        raise MissingDependency("Graphviz is needed to draw: install it (its program is `dot`), or use --dot")
    try:
        drawn = subprocess.run([dot, "-Tsvg"], input=to_dot(net).encode(), capture_output=True, timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ArtifactError(f"Graphviz failed: {error}") from None
    if drawn.returncode:
        raise ArtifactError(f"Graphviz failed: {drawn.stderr.decode(errors='replace').strip()}")
    with replacing(path) as stream:
        stream.write(drawn.stdout)
