"""The graph and the plot of a certificate: boxes, lines and points where they belong."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from html_pages import chain
from small import CONV_NET, built, one_input

from caffe_port.net import Net
from caffe_port.pages.graph_svg import graph_svg
from caffe_port.pages.plot_svg import Point, Series, error_plot


def boxes_of(net: Net) -> tuple[list[ElementTree.Element], dict[str, tuple[float, float, float, float]]]:
    """The strips, and x, y, width and height of the box with each layer's line."""
    strips = graph_svg(net)
    boxes = {}
    for strip in strips:
        for group in strip:
            if "box" in group.get("class", "").split():
                frame = group[0]
                x, y, width, height = (float(frame.get(name, "nan")) for name in ("x", "y", "width", "height"))
                for line in group:
                    if line.get("id"):
                        boxes[line.get("id", "").removeprefix("layer-")] = (x, y, width, height)
    return strips, boxes


@pytest.mark.parametrize("prototxt", [CONV_NET, chain(3), chain(60)])
def test_boxes_stand_in_order_and_apart(prototxt: str) -> None:
    net = built(prototxt)
    strips, boxes = boxes_of(net)
    assert set(boxes) == {str(layer.index) for layer in net.layers if layer.type != "Split"}
    apart = sorted(set(boxes.values()))
    for i, (x, y, width, height) in enumerate(apart):
        for other_x, other_y, other_width, other_height in apart[:i]:
            assert (
                x + width <= other_x
                or other_x + other_width <= x
                or y + height <= other_y
                or other_y + other_height <= y
            )
    # A layer stands below those it reads, or in their box.
    made = {}
    for layer in net.layers:
        for bottom in layer.bottoms:
            above = made[bottom]
            if layer.type == "Split":
                continue
            here = boxes[str(layer.index)]
            assert here == above or here[1] >= above[1] + above[3]
        for top in layer.tops:
            made[top] = made[layer.bottoms[0]] if layer.type == "Split" else boxes[str(layer.index)]
    # The strips follow one another without a gap.
    end = 0.0
    for strip in strips:
        _, top, width, height = map(float, strip.get("viewBox", "").split())
        assert top == pytest.approx(end, abs=0.11)
        end = top + height
        assert all(x >= 0 and x + w <= width for x, _, w, _ in apart)
    assert len(strips) == 1 or len(prototxt) > 10_000


def test_in_place_chain_is_one_box() -> None:
    net = built(
        one_input(1, 2, 4, 4)
        + """
        layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 2 kernel_size: 1 } }
        layer { name: "b" type: "BatchNorm" bottom: "c" top: "c" }
        layer { name: "s" type: "Scale" bottom: "c" top: "c" }
        layer { name: "r" type: "ReLU" bottom: "c" top: "c" }"""
    )
    _, boxes = boxes_of(net)
    assert len({boxes[str(i)] for i in (1, 2, 3, 4)}) == 1
    assert boxes["0"] != boxes["1"]


def test_residual_blocks_stay_below_one_another() -> None:
    """The longest path is straight: a net of a hundred blocks is no wider than one of two."""
    widths = [float(boxes_of(built(chain(blocks)))[0][0].get("width", "nan")) for blocks in (2, 100)]
    assert widths[1] < widths[0] + 20


def test_lines_reach_every_box() -> None:
    """One arrow head for each box that reads something."""
    net = built(chain(5))
    strips, boxes = boxes_of(net)
    heads = "".join(path.get("d", "") for strip in strips for path in strip if path.get("class") == "head")
    assert heads.count("M") == len(set(boxes.values())) - 1


def test_failing_layer_is_marked() -> None:
    net = built(CONV_NET)
    (strip,) = graph_svg(net, {2: "off by much"})
    (line,) = [one for one in strip.iter("g") if one.get("id") == "layer-2"]
    assert line.get("class") == "bad" and "off by much" in "".join(line.itertext())
    assert sum(one.get("class") == "bad" for one in strip.iter("g") if one.get("id")) == 1


# Plots


def marks(plot: ElementTree.Element, kind: str) -> list[tuple[float, float]]:
    found = []
    for path in plot.iter("path"):
        if kind in (path.get("class") or "").split():
            found += [(float(x), float(y)) for x, y in re.findall(r"M([-\d.]+) ([-\d.]+)", path.get("d", ""))]
    return found


def test_points_are_where_their_errors_are() -> None:
    points = [
        Point(1, 1e-7),
        Point(2, 1e-6),
        Point(3, 1e-5),
        Point(4, 0.0),
        Point(5, math.inf, True),
        Point(6, 1e-4, True),
    ]
    plot = error_plot([Series(0, points)], {1: 1e-7}, {1: 1e-4}, (1, 6), "errors")
    good, bad = marks(plot, "mark"), marks(plot, "fails")
    assert len(good) == 4 and len(bad) == 2
    (_, a), (_, b), (_, c), (_, zero) = good
    assert a - b == pytest.approx(b - c, abs=0.2) and a > b > c
    assert zero > a, "equal blobs stand below the scale"
    assert bad[0][1] < bad[1][1] < c, "what has no distance stands above it"
    xs = [x for x, _ in sorted([*good, *bad])]
    steps = {round(after - before, 1) for before, after in itertools.pairwise(xs)}
    assert max(steps) - min(steps) <= 0.2


@pytest.mark.parametrize(
    "points", [[], [Point(0, 0.0)], [Point(0, math.nan, True)], [Point(0, 1e-300), Point(1, 1e300)]]
)
def test_any_points_can_be_drawn(points: list[Point]) -> None:
    plot = error_plot(
        [Series(0, points)], {0: 0.0}, {0: math.inf}, (0, max((p.x for p in points), default=0)), "errors"
    )
    assert len(marks(plot, "mark")) + len(marks(plot, "fails")) == len(points)
    text = ElementTree.tostring(plot, encoding="unicode")
    assert "nan" not in text and "inf" not in text
