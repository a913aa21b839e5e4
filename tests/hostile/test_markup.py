"""Pages, drawings and graphs: a name is text in them, never an element, an attribute, a statement."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import small
from hypothesis import HealthCheck, given, settings
from names import HARMLESS, NAMES, assert_steers_nothing, every_name, nets

from caffe_port.backends import make_backend
from caffe_port.certificate import Artifact, Certificate
from caffe_port.drawing import rendered, to_dot
from caffe_port.net import Net
from caffe_port.pages.certificate import page
from caffe_port.printing import printable
from caffe_port.verification import Reference

NETS = list(every_name())
few = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))


class Elements(HTMLParser):
    """The elements of a page with the names of their attributes, its texts, and what its scripts are given."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.kinds: set[tuple[str, str]] = set()
        self.count = 0
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.addresses: set[str] = set()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count += 1
        self.open.append(tag)
        self.kinds.update((tag, name) for name, _ in [("", None), *attrs])
        self.addresses.update(value or "" for name, value in attrs if name in ("href", "src"))
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.text.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r}")


def assert_like(html: str, usual: str) -> Elements:
    """The page has the elements and attributes of the other, runs the same scripts, and steers nothing."""
    assert_steers_nothing(html.replace("\t", ""))
    html.encode()
    found, wanted = Elements(html), Elements(usual)
    assert found.kinds <= wanted.kinds
    assert len(found.scripts) == len(wanted.scripts) and found.scripts[1:] == wanted.scripts[1:]
    assert found.addresses <= wanted.addresses
    return found


def certified(prototxt: str) -> tuple[Net, str]:
    """The page of a certificate in which every name stands wherever one can, and something failed."""
    net = small.filled(prototxt)
    made = Reference.make(net, None, small.inputs_of(net))
    reports = tuple(made.compare(make_backend(name)) for name in ("numpy", "numpy64"))
    names = tuple(layer.name for layer in net.layers)
    first = dataclasses.replace(reports[0].comparisons[1], reason=names[0], worst=names[1], inputs_diverged=names)
    comparisons = (reports[0].comparisons[0], first, *reports[0].comparisons[2:])
    failed = dataclasses.replace(
        reports[0], comparisons=comparisons, reference=names[2], missing=names, extra=(*names,), backend=names[3]
    )
    artifact = Artifact(names[0], names[1], names[2], 1, {names[3]: [names[4], {names[5]: names[6]}]})
    certificate = Certificate(
        net, (artifact,), (), (failed, *reports), (), {names[0]: names[1]}, names, f"caffe-port convert {names[7]}"
    )
    return net, page(certificate)


USUAL = certified(HARMLESS)[1]


@pytest.mark.parametrize("number", range(len(NETS)))
def test_certificates(number: int) -> None:
    net, html = certified(NETS[number])
    found = assert_like(html, USUAL)
    text = "".join(found.text)
    for layer in net.layers:
        assert printable(layer.name, keep="\n\t") in text
    assert found.count == pytest.approx(Elements(USUAL).count, rel=0.2)
    # What scripts put into the page is what the page itself would show.
    data = json.loads(found.scripts[0])
    for name in data["backends"] + data["references"]:
        assert name in text and printable(name, keep="\n\t") == name


@few
@given(nets())
def test_certificates_of_any_names(prototxt: str) -> None:
    assert_like(certified(prototxt)[1], USUAL)


# Graphs

TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|(->|[\[\]{};=,])|([\w.#-]+))', re.DOTALL)


def tokens(dot: str) -> Iterator[str]:
    """The tokens of a text in Graphviz's language, as its scanner ends them; a string as `""`."""
    at = 0
    while at < len(dot.rstrip()):
        found = TOKEN.match(dot, at)
        assert found is not None, dot[at : at + 60]
        assert found[1] is None or "\n" not in found[1]
        yield '""' if found[1] else found[0].strip()
        at = found.end()


@few
@given(nets())
def test_graphs_of_any_names(prototxt: str) -> None:
    dot = to_dot(small.built(prototxt))
    assert_steers_nothing(dot)
    assert list(tokens(dot)) == list(tokens(to_dot(small.built(HARMLESS))))


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_shows_the_names() -> None:
    """As Graphviz reads the labels: nothing in one means anything to it."""
    for prototxt in NETS:
        net = small.built(prototxt)
        if max(len(layer.name) for layer in net.layers) > 1000:
            continue
        drawn = rendered(to_dot(net), "svg").decode()
        root = ElementTree.fromstring(drawn)
        assert {element.tag.rpartition("}")[2] for element in root.iter()} <= {
            *("svg", "g", "title", "text", "polygon", "path")
        }
        texts = [element.text or "" for element in root.iter() if element.tag.endswith("}text")]
        shown = {" ".join(text.split()) for text in texts}
        for layer in net.layers:
            assert " ".join(f"{printable(layer.name)} ({layer.type})".split()) in shown


# Pages of other things


@pytest.mark.parametrize("label", NAMES)
def test_comparisons(label: str, tmp_path: Path) -> None:
    from caffe_port.pages.tradeoff import page as comparison_page
    from caffe_port.tradeoff.comparison import Comparison, Row
    from caffe_port.tradeoff.counting import Cost, of_one_picture
    from caffe_port.tradeoff.published import Accuracy

    net = of_one_picture(small.built(small.CONV_NET))

    def compared(name: str) -> Comparison:
        cost = Cost("complete", 1_000_000, 900_000_000, 4, 2, 4, True)
        known = (Accuracy(0.5, None, name, name, "https://example.org/paper"),)
        return Comparison("complete", (Row(name, name, net, cost, known), Row("x", "x", net, cost)))

    assert_like(comparison_page(compared(NAMES[label])), comparison_page(compared("usual")))
    for line in compared(NAMES[label]).table():
        assert_steers_nothing(printable(line))


@pytest.mark.parametrize("label", ["formula of matplotlib", "script", "escape", "turned", "very long", "private"])
def test_figures_of_comparisons(label: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from caffe_port.tradeoff.comparison import Comparison, Row
    from caffe_port.tradeoff.counting import Cost, of_one_picture
    from caffe_port.tradeoff.figure import write_figure
    from caffe_port.tradeoff.published import Accuracy

    net = of_one_picture(small.built(small.CONV_NET))
    cost = Cost("complete", 1_000_000, 900_000_000, 4, 2, 4, True)
    drawn = []
    for name in (NAMES[label], "usual"):
        row = Row(name, name, net, cost, (Accuracy(0.5, None, name, name, ""),))
        write_figure(Comparison("complete", (row,)), tmp_path / "x.svg")
        text = (tmp_path / "x.svg").read_text(encoding="utf-8")
        assert_steers_nothing(text)
        drawn.append({(one.tag, *sorted(one.attrib)) for one in ElementTree.fromstring(text).iter()})
    assert drawn[0] <= drawn[1]


def calibrated(name: str) -> Any:
    pytest.importorskip("sklearn")
    from caffe_port.calibration.choosing import Rule
    from caffe_port.calibration.data import Labelled
    from caffe_port.calibration.report import calibrate

    random = np.random.default_rng(7)
    labels = random.random(120) < 0.4
    scores = {one: 1 / (1 + np.exp(-random.normal(np.where(labels, 1.5, -1.5)))) for one in (name, "other")}
    data = Labelled(labels, scores, name)
    threshold = calibrate(data, rule=Rule("youden")).models[0].chosen.threshold
    return calibrate(data, rule=Rule("youden"), checked=[(name, threshold)])


@pytest.mark.parametrize("number", range(0, len(NETS), 2))
def test_calibrations(number: int) -> None:
    from caffe_port.pages.calibration import page as calibration_page

    # Several of the list in one name: what of it is dangerous stays so.
    names = [layer.name for layer in small.built(NETS[number]).layers]
    made = calibrated(" ".join(name[:1000] for name in names))
    assert_like(calibration_page(made), calibration_page(calibrated("usual")))
    for line in [*made.table(), *made.notes]:
        assert_steers_nothing(printable(line))


def test_figures_of_calibrations(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from caffe_port.calibration.figures import write_figures

    made = calibrated(NAMES["formula of matplotlib"] + NAMES["script"] + NAMES["escape"] + NAMES["turned"])
    for path in write_figures(made, tmp_path, ("svg",)):
        text = path.read_text(encoding="utf-8")
        assert_steers_nothing(text)
        assert not re.search("<script", text) and ElementTree.fromstring(text) is not None
