"""caffe.draw: every net can be drawn; as text always, as a picture where Graphviz is installed."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from places import CONFORMANCE
from small import CONV_NET

from caffe_port.errors import ArtifactError, CaffePortError, MissingDependency, UnsupportedParameter
from caffe_port.proto import text
from caffe_port.pycaffe import draw

RECORDED = CONFORMANCE / "shapes.json"
dot = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")

TRAINED = """
layer { name: "a" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } include { phase: TRAIN } }
layer { name: "b" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 } } include { phase: TEST } }
layer { name: "own" type: "SomebodyElses" bottom: "x" top: "y" }
layer { name: "loss" type: "Silence" bottom: "y" include { phase: TRAIN } }
"""


def net(prototxt: str = CONV_NET) -> Any:
    return text.parse(prototxt)[0]


def test_boxes_are_layers_and_edges_blobs() -> None:
    drawn = draw.get_pydot_graph(net()).to_string()
    assert "rankdir=LR" in drawn
    assert r"conv1  (Convolution)\nrelu1  (ReLU)" in drawn
    edges = re.findall(r'^ *(\w+) -> (\w+) \[label="(\S+)"', drawn, re.MULTILINE)
    assert [label for _, _, label in edges] == ["2x3x8x7", "2x4x8x7", "2x4x4x3", "2x5"]


def test_phases_choose_layers_and_unknown_types_are_drawn() -> None:
    trained = draw.get_pydot_graph(net(TRAINED), phase=0).to_string()
    tested = draw.get_pydot_graph(net(TRAINED), phase=1).to_string()
    assert "a  (Input)" in trained
    assert "loss  (Silence)" in trained
    assert "b  (Input)" in tested
    assert "loss" not in tested
    assert "own  (SomebodyElses)" in tested
    assert draw.get_pydot_graph(net(TRAINED)).to_string() == tested


def test_direction_and_labels() -> None:
    assert "rankdir=BT" in draw.get_pydot_graph(net(), "BT").to_string()
    bare = draw.get_pydot_graph(net(), label_edges=False).to_string()
    assert "label=" not in "".join(line for line in bare.splitlines() if "->" in line)
    assert "l0 -> l1 [label=" in draw.get_pydot_graph(net()).to_string()


def test_text_is_written_without_graphviz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    draw.draw_net_to_file(net(), tmp_path / "net.dot", rankdir="TB")
    assert (tmp_path / "net.dot").read_text() == draw.get_pydot_graph(net(), "TB").to_string()
    with pytest.raises(MissingDependency, match="Graphviz"):
        draw.draw_net_to_file(net(), tmp_path / "net.png")
    assert not (tmp_path / "net.png").exists()


@dot
def test_pictures(tmp_path: Path) -> None:
    with (
        Image.open(io.BytesIO(draw.draw_net(net(), "LR"))) as wide,
        Image.open(io.BytesIO(draw.draw_net(net(), "TB"))) as tall,
    ):
        assert wide.format == "PNG"
        assert wide.width > wide.height
        assert tall.height > tall.width
    draw.draw_net_to_file(net(), str(tmp_path / "net.svg"))
    assert "conv1" in (tmp_path / "net.svg").read_text()
    with pytest.raises(ArtifactError, match="Graphviz failed"):
        draw.draw_net(net(), ext="nothing")


def test_what_is_not_drawn() -> None:
    with pytest.raises(UnsupportedParameter, match="rankdir 'UP'"):
        draw.get_pydot_graph(net(), "UP")
    with pytest.raises(UnsupportedParameter, match="phase 2"):
        draw.get_pydot_graph(net(), phase=2)
    with pytest.raises(UnsupportedParameter, match="display_lrm"):
        draw.draw_net(net(), display_lrm=True)
    with pytest.raises(CaffePortError, match="nowhere"):
        draw.get_pydot_graph(net('layer { name: "r" type: "ReLU" bottom: "nowhere" top: "y" }'))


@pytest.mark.skipif(not RECORDED.exists(), reason="the nets that Caffe built are not there")
def test_nets_that_caffe_built_are_drawn_with_all_their_layers() -> None:
    """In both phases; Split layers are not drawn, and layers of one name not told apart."""
    drawn = 0
    built = {
        name: {phase: found["layers"] for phase, found in phases.items() if "layers" in found}
        for name, phases in json.loads(RECORDED.read_text()).items()
    }
    for name, phases in [(name, phases) for name, phases in built.items() if phases][::8]:
        message, _ = text.read(RECORDED.parent / "prototxt" / name)
        for phase, layers in phases.items():
            graph = draw.get_pydot_graph(message, phase=["TRAIN", "TEST"].index(phase)).to_string()
            expected = {f"{layer}  ({kind})" for layer, kind in layers if kind != "Split"}
            boxes = re.findall(r'^  l\d+ \[label="(.*)"\];$', graph, re.MULTILINE)
            assert {row for box in boxes for row in box.split(r"\n")} == expected, (name, phase)
            drawn += 1
    assert drawn >= 30


def test_old_nets_are_upgraded_first() -> None:
    dims = "input_dim: 1 " * 4
    old = net(f'input: "x" {dims} layers {{ name: "r" type: RELU bottom: "x" top: "y" }}')
    assert "r  (ReLU)" in draw.draw_net(old, ext="raw").decode()
