"""The figure and the page: areas in proportion, the same bytes every time, hostile names harmless."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from html_pages import HOSTILE, Parsed
from small import CONV_NET, built

from caffe_port.errors import ArtifactError, GraphError, MissingDependency
from caffe_port.pages.tradeoff import page
from caffe_port.tradeoff.comparison import Comparison, Row
from caffe_port.tradeoff.counting import Cost, of_one_picture
from caffe_port.tradeoff.figure import check_format, write_figure
from caffe_port.tradeoff.published import Accuracy
from caffe_port.tradeoff.scene import Scene, round_ticks
from caffe_port.tradeoff.timing import Timing

NET = of_one_picture(built(CONV_NET))
SVG = "{http://www.w3.org/2000/svg}"


def row(name: str, parameters: int, macs: int, top1: float | None) -> Row:
    """A net of which only these are known; the net itself is small."""
    cost = Cost("complete", parameters, macs, 4_000_000, 2_000_000, 4 * parameters, True)
    known = () if top1 is None else (Accuracy(top1, None, "center crop", "a paper", "https://example.org/paper"),)
    return Row(name, name, NET, cost, known)


ROWS = (
    row("small", 1_000_000, 900_000_000, 0.575),
    row("wide", 60_000_000, 800_000_000, 0.57),
    row("deep", 25_000_000, 4_000_000_000, 0.75),
    row("untold", 80_000_000, 1_000_000_000, None),
)
COMPARISON = Comparison("complete", ROWS)


def test_areas_are_in_proportion_to_parameters_in_the_page() -> None:
    page_of = Parsed(page(COMPARISON))
    circles = page_of.named("circle")
    # Of each disc, the circle that is seen and the one a finger can hit; then those of the legend; all of it twice.
    half = len(circles) // 2
    for charted in (circles[:half], circles[half:]):
        discs = [float(one["r"] or 0) for one in charted[: 2 * len(ROWS) : 2]]
        largest_first = sorted((one.cost.parameters for one in ROWS), reverse=True)
        for parameters, radius in zip(largest_first, discs, strict=True):
            assert radius**2 / parameters == pytest.approx(discs[0] ** 2 / largest_first[0], rel=0.01)
        legend = [float(one["r"] or 0) for one in charted[2 * len(ROWS) :]]
        sizes = [2_500_000, 10_000_000, 50_000_000]
        for parameters, radius in zip(sizes, legend, strict=True):
            assert radius**2 / parameters == pytest.approx(discs[0] ** 2 / largest_first[0], rel=0.01)


def test_areas_are_in_proportion_to_parameters_in_the_svg(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_figure(COMPARISON, tmp_path / "figure.svg")
    tree = ElementTree.parse(tmp_path / "figure.svg")
    areas = []
    for group in tree.iter(f"{SVG}g"):
        if not group.get("id", "").startswith("PathCollection"):
            continue
        (path,) = {one.get("d") for one in group.iter(f"{SVG}path")}
        xs = [float(x) for x in re.findall(r"(-?[\d.]+) -?[\d.]+", path or "")]
        areas.append(math.pi * ((max(xs) - min(xs)) / 2) ** 2)
    largest_first = sorted((one.cost.parameters for one in ROWS), reverse=True)
    wanted = [*largest_first, 50_000_000, 10_000_000, 2_500_000]
    assert len(areas) == len(wanted)
    for area, parameters in zip(areas, wanted, strict=True):
        assert area / parameters == pytest.approx(areas[0] / wanted[0], rel=1e-3)


@pytest.mark.parametrize("kind", ["svg", "png", "html"])
def test_the_same_bytes_every_time(kind: str, tmp_path: Path) -> None:
    if kind != "html":
        pytest.importorskip("matplotlib")
    one, two = tmp_path / f"one.{kind}", tmp_path / f"two.{kind}"
    for path in (one, two):
        write_figure(COMPARISON, path)
    assert one.read_bytes() == two.read_bytes()
    if kind == "png":
        from PIL import Image

        with Image.open(one) as picture:
            assert picture.size == (1080, 720)
            assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 10
    else:
        text = one.read_text()
        for name in ("small", "wide", "deep", "untold", "top-1 accuracy", "known"):
            assert name in text
        assert "<dc:date>" not in text and str(tmp_path) not in text


def test_what_the_page_has() -> None:
    timing = Timing(0.0123, 2.5, 15, "onnxruntime", 1)
    html = page(replace(COMPARISON, rows=(*ROWS[:3], replace(ROWS[3], timing=timing))))
    parsed = Parsed(html)
    table = next(one for one in parsed.named("table"))
    assert table["id"] == "nets" and "data-sortable" in table
    cells = parsed.texts["td"]
    assert {"60,000,000", "800,000,000", "57", "12.3", "2.50"} <= set(cells)
    assert {one["href"] for one in parsed.named("a")} >= {"https://example.org/paper", "#table"}
    assert len(parsed.with_class("disc")) == 2 * len(ROWS) and len(parsed.with_class("open")) == 2
    assert [net["title"] for net in parsed.data["nets"]] == ["small", "wide", "deep", "untold"]
    # The policy allows nothing from anywhere, and nothing is asked for.
    assert "default-src 'none'" in html and "src=" not in html.replace("-src", "")


def test_without_accuracy_there_is_nothing_to_draw() -> None:
    with pytest.raises(GraphError, match=r"no top-1 accuracy is known of untold: give one with --accuracy NAME=0\.71"):
        Scene.of(Comparison("complete", ROWS[3:]))
    with pytest.raises(GraphError, match="nothing: without learned layers"):
        Scene.of(Comparison("complete", (row("nothing", 0, 0, 0.5),)))


def test_one_net_alone_is_drawn() -> None:
    scene = Scene.of(Comparison("complete", ROWS[:1]))
    x, y = scene.at(ROWS[0])
    assert scene.x[0] < x < scene.x[1] and scene.floor < y < scene.y[1]
    assert scene.floor == scene.y[0]
    assert "small" in page(Comparison("complete", ROWS[:1]))


def test_hostile_names(tmp_path: Path) -> None:
    hostile = Comparison("complete", (row(HOSTILE, 10, 10, 0.5), row("_$\\frac{\udcff", 20, 30, 0.6)))
    parsed = Parsed(page(hostile))
    assert len(parsed.named("script")) == 3 and not parsed.named("img")
    pytest.importorskip("matplotlib")
    write_figure(hostile, tmp_path / "figure.svg")
    ElementTree.parse(tmp_path / "figure.svg")


def test_files_it_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GraphError, match=r"figure\.pdf: a figure is a file ending in \.png, \.svg, \.html"):
        write_figure(COMPARISON, tmp_path / "figure.pdf")
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_figure(COMPARISON, tmp_path / "nowhere" / "figure.html")
    assert check_format(tmp_path / "FIGURE.HTML") == "html"
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingDependency, match="figures need matplotlib"):
        check_format(tmp_path / "figure.png")
    assert check_format(tmp_path / "figure.html") == "html"


def test_round_ticks() -> None:
    assert round_ticks(0.3, 25) == [0.5, 1, 2, 5, 10, 20]
    assert round_ticks(5e6, 5e7) == [5e6, 1e7, 2e7, 5e7]
