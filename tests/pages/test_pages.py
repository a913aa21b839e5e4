"""Certificates as HTML pages: complete, and the same every time."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import re
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from html_pages import HOSTILE, Parsed, chain, recorded_by, reports_of, spoiled
from small import CONV_NET, built, filled, one_input

import caffe_port as cp
from caffe_port.budget import BudgetReport, OutputError
from caffe_port.certificate import Artifact, Certificate
from caffe_port.compare import BlobComparison
from caffe_port.errors import Problem
from caffe_port.net import Net
from caffe_port.pages.certificate import page
from caffe_port.pages.document import document, json_text, number, ratio, size, tag
from caffe_port.printing import printable


def test_page_tells_everything(certificate: Certificate) -> None:
    html = page(certificate)
    parsed = Parsed(html)
    text = "\n".join(part for parts in parsed.texts.values() for part in parts)
    wanted = [
        certificate.net.name,
        certificate.command,
        "NHWC",
        "x, y",
        "fc was transposed",
        "small.onnx",
        "ab" * 32,
        "12.3 kB (12,345 bytes)",
        "symbolic",
        certificate.as_json()["tool"]["numpy"],
        "2x3x8x7",
        "2x5",
        f"{112 + 245:,}",
    ]
    wanted += [source.path.name for source in certificate.net.sources]
    wanted += [source.sha256() for source in certificate.net.sources]
    wanted += [report.backend for report in certificate.reports]
    assert [one for one in wanted if one not in text] == []
    verdict = certificate.verdict
    assert parsed.texts["title"][0].startswith(verdict)
    assert verdict[1:] in text and verdict == "verified against the float64 run, not against Caffe"
    assert parsed.named("body") == [{"class": "float64"}]
    assert len(parsed.named("figure")) == 1


def test_same_certificate_same_bytes(certificate: Certificate, loaded: Net) -> None:
    again = dataclasses.replace(certificate, reports=reports_of(loaded, "numpy", "numpy64"))
    assert page(certificate) == page(again)


def test_table_and_data_have_every_number(certificate: Certificate) -> None:
    html = page(certificate)
    data = Parsed(html).data
    assert data["backends"] == ["numpy float32", "numpy float64"]
    assert len(data["references"]) == 1
    for report, stored in zip(certificate.reports, data["reports"], strict=True):
        assert data["backends"][stored["backend"]] == report.backend
        assert "rows" not in stored and "shapes" not in stored and stored["reasons"] == {}
        columns = [column.split(" ") for column in stored["columns"]]
        for i, one in enumerate(report.comparisons):
            expected = [number(one.distance), number(one.floor), ratio(one.multiple), ratio(one.of_bound)]
            assert [column[i] for column in columns] == expected
    table = ElementTree.fromstring(re.search(r'<table id="layer-table".*?</table>', html, re.S)[0].replace(  # type: ignore[index]
        'data-sortable=""', ""))  # fmt: skip
    rows = [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")]
    assert rows[0] == [
        "#",
        "Layer",
        "Type",
        "Top",
        "Shape",
        "Distance",
        "Floor",
        "x floor",
        "Of bound",
        "Worst of",
        "Agrees",
    ]
    assert [row[1:5] for row in rows[1:]] == [
        ["conv1", "Convolution", "conv1", "2x4x8x7"],
        ["relu1", "ReLU", "conv1", "2x4x8x7"],
        ["pool1", "Pooling", "pool1", "2x4x4x3"],
        ["fc", "InnerProduct", "fc", "2x5"],
        ["prob", "Softmax", "prob", "2x5"],
    ]
    # The float64 run is the reference itself, so the float32 run is the worse, and its numbers stand there.
    assert {row[9] for row in rows[1:]} == {"numpy float32"}
    worst = certificate.reports[0].comparisons
    assert [row[8] for row in rows[1:]] == [ratio(one.of_bound) for one in worst]
    assert {row[10] for row in rows[1:]} == {"✓"}


def test_report_on_outputs_only(certificate: Certificate) -> None:
    """A file run as it is shows its outputs alone: the data tell which rows these are, the table keeps the others."""
    deployed = dataclasses.replace(
        certificate.reports[0], backend="deployed", comparisons=certificate.reports[0].comparisons[-1:]
    )
    html = page(dataclasses.replace(certificate, reports=(deployed,)))
    (stored,) = Parsed(html).data["reports"]
    assert stored["rows"] == [4]
    assert html.count("not compared</td>") == 4


def test_references_of_one_name_are_told_apart(certificate: Certificate, tmp_path: Path) -> None:
    twice = (*certificate.reports, *certificate.reports)
    data = Parsed(page(dataclasses.replace(certificate, reports=twice))).data
    first = certificate.reports[0].reference
    assert data["references"] == [first, f"{first} (2)"]
    assert [report["reference"] for report in data["reports"]] == [0, 0, 1, 1]


def test_layers_of_another_net_are_shown_too(certificate: Certificate) -> None:
    """A report may be on a net that was changed for its target: other indices, other layers."""
    report = certificate.reports[0]
    moved = spoiled(spoiled(report, 1, index=40), 2, index=41, layer="fused", top="fused")
    html = page(dataclasses.replace(certificate, reports=(moved,)))
    (stored,) = Parsed(html).data["reports"]
    # relu1 is known by its name; pool1 has no comparison, and `fused` a row of its own at the end.
    assert stored["rows"] == [0, 1, 3, 4, 5]
    assert html.count('href="#layer-') == len(report.comparisons)


# The verdict


def test_failure_is_unmistakable(certificate: Certificate) -> None:
    bad = spoiled(certificate.reports[0], 2, reason="value 3 is off", distance=7.5)
    bad = dataclasses.replace(bad, missing=("gone (ReLU):gone",), extra=("new (ReLU):new",))
    html = page(dataclasses.replace(certificate, reports=(bad, certificate.reports[1])))
    parsed = Parsed(html)
    assert parsed.named("body") == [{"class": "failed"}]
    assert "failed" in parsed.texts["title"][0]
    assert any("1 of 2 checks failed" in text for text in parsed.texts["p"])
    assert any("'pool1' (Pooling)" in text for text in parsed.texts["p"])
    assert any(bad.explanation() == text for text in parsed.texts["p"])
    assert {"gone (ReLU):gone", "new (ReLU):new"} <= set(parsed.texts["li"])
    assert parsed.data["reports"][0]["reasons"] == {"2": "value 3 is off"}
    # The row, the report's row, the plot's cross, the graph's box and line.
    assert sorted(parsed.with_class("bad")) == ["g", "g", "tr", "tr"]
    assert parsed.with_class("fails") == ["path"]
    good = Parsed(page(certificate))
    assert good.with_class("bad") == good.with_class("fails") == good.with_class("fault") == []


def test_refused_blob_is_shown(certificate: Certificate) -> None:
    """A blob of another shape has no numbers: NaN everywhere."""
    nan = dict.fromkeys(("scale", "ulp", "floor", "noise", "distance", "bound"), math.nan)
    bad = spoiled(certificate.reports[0], 0, reason="shape 1x2, Caffe has 1x3", **nan)
    html = page(dataclasses.replace(certificate, reports=(bad,)))
    assert Parsed(html).data["reports"][0]["columns"][0].split(" ")[0] == "NaN"
    assert "∞, NaN</text>" in html
    assert "∞, NaN</text>" not in page(certificate)


def test_not_verified(certificate: Certificate) -> None:
    parsed = Parsed(page(dataclasses.replace(certificate, reports=())))
    assert parsed.named("body") == [{"class": "unverified"}]
    assert parsed.texts["title"][0].startswith("not verified")
    assert any(text.startswith("Nothing was compared") for text in parsed.texts["p"])
    assert parsed.named("figure") == []
    assert {"type": "application/json", "id": "data"} not in parsed.named("script")
    assert "conv1" in parsed.texts["th"] or "conv1" in parsed.texts["a"]


def test_verified_against_caffe(certificate: Certificate, tmp_path: Path) -> None:
    recording = recorded_by(tmp_path / "recorded.npz", "1.0.0")
    reports = tuple(dataclasses.replace(report, reference="recorded.npz") for report in certificate.reports)
    html = page(dataclasses.replace(certificate, recordings=(recording,), reports=reports))
    assert Parsed(html).named("body") == [{"class": "caffe"}]
    assert hashlib.sha256(recording.read_bytes()).hexdigest() in html
    assert "Computed by Caffe 1.0.0" in Parsed(html).texts["p"]


@pytest.mark.parametrize(("error", "mood"), [(0.04, "float64"), (0.06, "failed"), (math.inf, "failed")])
def test_budget(certificate: Certificate, error: float, mood: str) -> None:
    budget = BudgetReport("small.int8.onnx", ("a", "b"), 0.05, (OutputError("prob", 20, 1.0, error, 0.01),))
    parsed = Parsed(page(dataclasses.replace(certificate, budgets=(budget,))))
    assert parsed.named("body") == [{"class": mood}]
    assert "small.int8.onnx" in parsed.texts["th"]
    assert len(parsed.with_class("bad")) == (mood == "failed")


def test_budget_of_nothing_fails(certificate: Certificate) -> None:
    budget = BudgetReport("small.int8.onnx", (), 0.05, ())
    parsed = Parsed(page(dataclasses.replace(certificate, budgets=(budget,))))
    assert parsed.named("body") == [{"class": "failed"}]
    assert "nothing was compared" in parsed.texts["td"]


# What it must not do


@pytest.fixture
def hostile(tmp_path: Path) -> Certificate:
    """A certificate of which every text is hostile."""
    prototxt = CONV_NET
    for name in ("conv1", "relu1", "pool1", "fc", "prob", "data"):
        prototxt = prototxt.replace(f'"{name}"', json.dumps(name + HOSTILE, ensure_ascii=False))
    net = filled(prototxt)
    source = tmp_path / f"{HOSTILE.replace('/', '|')}.npz"
    recorded_by(source, HOSTILE)
    net = dataclasses.replace(
        net,
        name=HOSTILE,
        upgrades=(HOSTILE,),
        notes=(Problem(cp.CaffePortError, HOSTILE, layer=HOSTILE),),
        sources=(cp.net.Source(HOSTILE, source),),
    )
    reports = tuple(
        dataclasses.replace(
            spoiled(report, 1, reason=HOSTILE, worst=HOSTILE, inputs_diverged=(HOSTILE,)),
            backend=f"{report.backend}{HOSTILE}",
            missing=(HOSTILE,),
            extra=(HOSTILE,),
        )
        for reference in ("", HOSTILE)
        for report in reports_of(net, "numpy", "numpy64", reference=f"r{reference}")
    )
    return Certificate(
        net,
        (Artifact(HOSTILE, HOSTILE, HOSTILE, 1, {HOSTILE: {HOSTILE: [HOSTILE]}}),),
        (source,),
        reports,
        (BudgetReport(HOSTILE, (HOSTILE,), 0.1, (OutputError(HOSTILE, 1, 1.0, 0.0, 0.0),)),),
        {HOSTILE: HOSTILE},
        (HOSTILE,),
        HOSTILE,
    )


def test_names_become_no_markup(hostile: Certificate, certificate: Certificate) -> None:
    html = page(hostile)
    parsed = Parsed(html)
    plain_page = Parsed(page(certificate))
    assert parsed.named("img") == []
    assert {name for name, _ in parsed.elements} <= {name for name, _ in plain_page.elements} | {"option", "select"}
    allowed = re.compile(r"[a-z][a-zA-Z0-9-]*")
    for _, attributes in parsed.elements:
        assert all(allowed.fullmatch(key) and not key.startswith("on") for key in attributes)
        # An address is a place in the page itself.
        assert (attributes.get("href") or "#").startswith("#") and "src" not in attributes and "style" not in attributes
    assert len(parsed.named("script")) == 3
    assert printable(HOSTILE) in parsed.texts["h1"]
    assert parsed.data["backends"][0] == f"numpy float32{printable(HOSTILE)}"
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert block is not None and json.loads(block[1]) == parsed.data
    assert block[1].isascii() and not set("<>&") & set(block[1])


def test_policy_allows_the_page_and_nothing_else(hostile: Certificate) -> None:
    parsed = Parsed(page(hostile))
    (policy,) = [
        meta["content"] for meta in parsed.named("meta") if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    rules = {name: sources for name, *sources in (rule.split() for rule in policy.split(";"))}
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == ["'none'"]

    def hashed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    (style,) = parsed.texts["style"]
    _, *scripts = parsed.texts["script"]
    assert rules["style-src"] == [hashed(style)]
    assert rules["script-src"] == [hashed(script) for script in scripts] and len(scripts) == 2
    assert set(rules) == {"default-src", "base-uri", "form-action", "style-src", "script-src"}


@pytest.mark.parametrize("name", ["page.css", "figures.css", "page.js", "certificate.js"])
def test_assets_reach_nothing(name: str) -> None:
    text = (Path(cp.__file__).parent / "pages" / name).read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|://|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|fetch\(", text)


def test_what_no_page_can_have_is_escaped(certificate: Certificate) -> None:
    net = dataclasses.replace(certificate.net, name="a\udcffb\x00c\x1bd\x85e\u202ef\uffff")
    html = page(dataclasses.replace(certificate, net=net))
    assert r"a\udcffb\x00c\x1bd\x85e\u202ef\uffff" in html
    html.encode()


def test_json_in_a_script() -> None:
    value = {HOSTILE: [HOSTILE, 1.5, None]}
    text = json_text(value)
    assert json.loads(text) == value and text.isascii() and not set("<>&") & set(text)
    with pytest.raises(ValueError):
        json_text(math.nan)


def test_script_that_would_end_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caffe_port.pages.document._asset", lambda name: "'</script>'")
    with pytest.raises(ValueError, match="end its"):
        document("t", [], styles=(), scripts=("a.js",))


@pytest.mark.slow
def test_two_thousand_layers() -> None:
    net = built(chain(400))
    assert len(net.layers) >= 2000
    certificate = Certificate(net, (), (), reports_of(net, "numpy", "numpy64"))
    start = time.process_time()
    html = page(certificate)
    assert time.process_time() - start < 10
    assert len(html) < 3_000_000
    assert html.count('id="layer-') == sum(layer.type != "Split" for layer in net.layers) + 1  # and the table's own


@pytest.mark.parametrize(
    "prototxt", [one_input(1, 2), one_input(2) + 'layer { name: "r" type: "ReLU" bottom: "x" top: "y" }']
)
def test_smallest_nets(prototxt: str) -> None:
    net = built(prototxt)
    for reports in ((), reports_of(net, "numpy")):
        html = page(Certificate(net, (), (), reports))
        assert "nan" not in re.sub(r"<script.*?</script>", "", html, flags=re.S)
        Parsed(html)


# How things are written


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.0, "0"), (1.234e-7, "1.23e-7"), (0.01234, "0.0123"), (1.5e12, "1.5e12"), (math.inf, "∞"), (math.nan, "NaN")],
)
def test_numbers(value: float, written: str) -> None:
    assert number(value) == written


def test_sizes_and_ratios() -> None:
    assert [size(999), size(12_345), size(23_661_234)] == [
        "999 bytes",
        "12.3 kB (12,345 bytes)",
        "23.7 MB (23,661,234 bytes)",
    ]
    assert [ratio(0.674), ratio(12345.6), ratio(math.inf)] == ["0.67", "1.23e4", "∞"]


def test_elements() -> None:
    element = tag("p", "a", tag("b", "<"), None, ["c", ["d"]], class_="x", data_y='"', hidden=True, title=None)
    assert ElementTree.tostring(element, encoding="unicode", method="html").strip() == (
        '<p class="x" data-y="&quot;" hidden="">a<b>&lt;</b>cd</p>'
    )
    assert tag("p", "a\tb\nc").text == "a\tb\nc"


def test_worst_is_the_failed_one(certificate: Certificate) -> None:
    """A failed comparison stands in the table even where one that agrees used more of its bound."""
    one = certificate.reports[0].comparisons[0]
    failed: BlobComparison = dataclasses.replace(one, reason="the reference has NaN", distance=0.0)
    first = dataclasses.replace(certificate.reports[1], comparisons=(failed, *certificate.reports[1].comparisons[1:]))
    html = page(dataclasses.replace(certificate, reports=(first, certificate.reports[0])))
    row = re.search(r'<tr class="bad"><td class="n">1</td>.*?</tr>', html, re.S)
    assert row is not None and "the reference has NaN" in row[0] and "numpy float64" in row[0]
