"""`caffe.draw`: the graph of a NetParameter, drawn as `caffe-port inspect` draws nets.

A layer is a box, with the layers that work in place in it, and an edge a blob with its shape.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from caffe_port import build
from caffe_port.drawing import rendered, to_dot
from caffe_port.errors import UnsupportedParameter
from caffe_port.frontend import NetState, PlacedLayer
from caffe_port.proto import upgrade
from caffe_port.proto.files import replacing

__all__ = ["Graph", "draw_net", "draw_net_to_file", "get_pydot_graph"]

_TEXT = ("raw", "dot", "gv")
_DIRECTIONS = ("TB", "BT", "LR", "RL")


class Graph:
    """A graph in Graphviz's language, with what pydot's graphs are mostly used for."""

    def __init__(self, text: str) -> None:
        self._text = text

    def to_string(self) -> str:
        return self._text

    def create(self, prog: str | None = None, format: str = "png") -> bytes:
        """The graph as Graphviz draws it: "png", "svg", "pdf", …; its text for "raw", "dot" and "gv".

        prog: the Graphviz program, `dot` by default.
        Raises: MissingDependency without Graphviz, ArtifactError if it fails or does not know the format.
        """
        if format in _TEXT:
            return self._text.encode()
        return rendered(self._text, format, prog or "dot")

    def write(self, path: str | os.PathLike[str], prog: str | None = None, format: str = "raw") -> None:
        """Writes what `create` gives; the file appears whole or not at all."""
        drawn = self.create(prog, format)
        with replacing(path) as stream:
            stream.write(drawn)


def get_pydot_graph(
    caffe_net: Any, rankdir: str = "LR", label_edges: bool = True, phase: int | None = None, display_lrm: bool = False
) -> Graph:
    """The graph of a NetParameter message.

    - `rankdir`: TB, BT, LR or RL: where it grows to.
    - `label_edges`: edges are labelled with the blobs' shapes.
    - `phase`: 0 TRAIN, 1 TEST: the layers that are there in it; None: TEST, the phase of a net that names none.

    Layer types that are not known are drawn.
    Raises: UnsupportedParameter for `display_lrm` and an unknown direction or phase; what `caffe_port.load` raises
    where the layers make no net.
    """
    if display_lrm:
        raise UnsupportedParameter("display_lrm: learning rate multipliers are not drawn; leave it out")
    if rankdir not in _DIRECTIONS:
        raise UnsupportedParameter(f"rankdir {rankdir!r} is none of {', '.join(_DIRECTIONS)}")
    if phase not in (None, 0, 1):
        raise UnsupportedParameter(f"phase {phase!r} is neither 0 (TRAIN) nor 1 (TEST)")
    upgraded = upgrade.upgrade_net(caffe_net, None, None)
    layers = [PlacedLayer(layer, None, i) for i, layer in enumerate(upgraded.net.layer)]
    state = NetState("TRAIN" if phase == 0 else "TEST")
    net, _ = build.build(layers, name=upgraded.net.name, state=state, allow_unknown=True)
    return Graph(to_dot(net, rankdir=rankdir, label_edges=label_edges))


def draw_net(
    caffe_net: Any, rankdir: str = "LR", ext: str = "png", phase: int | None = None, display_lrm: bool = False
) -> bytes:
    """The drawing of a NetParameter as the bytes of a file; as `get_pydot_graph` and `Graph.create`."""
    return get_pydot_graph(caffe_net, rankdir, phase=phase, display_lrm=display_lrm).create(format=ext)


def draw_net_to_file(
    caffe_net: Any,
    filename: str | os.PathLike[str],
    rankdir: str = "LR",
    phase: int | None = None,
    display_lrm: bool = False,
) -> None:
    """Writes the drawing of a NetParameter in the format that the file's name ends with."""
    extension = Path(filename).suffix[1:]
    get_pydot_graph(caffe_net, rankdir, phase=phase, display_lrm=display_lrm).write(filename, format=extension or "raw")
