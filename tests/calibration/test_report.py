"""The report, its figures and its page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("scipy")

from html_pages import HOSTILE, Parsed

from caffe_port.calibration.choosing import Rule
from caffe_port.calibration.data import Labelled
from caffe_port.calibration.figures import write_figures
from caffe_port.calibration.report import POINTS, Calibration, calibrate
from caffe_port.calibration.threshold import Costs, read
from caffe_port.calibration.words import percent
from caffe_port.errors import DataError, GraphError
from caffe_port.pages.calibration import page
from caffe_port.pages.charts_svg import Chart


def data(size: int = 2000, models: tuple[str, ...] = ("m",), source: str = "s.csv", left_out: int = 0) -> Labelled:
    random = np.random.default_rng(7)
    labels = random.random(size) < 0.4
    hidden = random.normal(np.where(labels, 1.5, -1.5), 1.0)
    scores = {name: 1 / (1 + np.exp(-hidden - i * random.normal(size=size))) for i, name in enumerate(models)}
    return Labelled(labels, scores, source, left_out)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    given = data(models=("new", "old"))
    other = calibrate(data(900), rule=Rule("max-fpr", 0.05)).models[0].chosen.threshold
    checked = [("t.json", type(other)(**{**{f: getattr(other, f) for f in other.__slots__}, "model": "new"}))]
    return calibrate(given, rule=Rule("max-fpr", 0.02), thresholds=[0.5], checked=checked, prevalence=0.1)


def test_the_same_for_the_same_data(calibration: Calibration, tmp_path: Path) -> None:
    again = calibrate(
        data(models=("new", "old")),
        rule=Rule("max-fpr", 0.02),
        thresholds=[0.5],
        checked=[(check.source, check.threshold) for check in calibration.checks],
        prevalence=0.1,
    )
    assert again.as_json() == calibration.as_json() and page(again) == page(calibration)
    other = calibrate(data(), seed=1).models[0].average_precision
    assert other != calibrate(data(), seed=2).models[0].average_precision
    assert other == calibrate(data(), seed=1).models[0].average_precision


def test_json_and_files(calibration: Calibration, tmp_path: Path) -> None:
    calibration.write_json(tmp_path / "c.json")
    document = json.loads((tmp_path / "c.json").read_text())
    assert document == calibration.as_json()
    assert [model["name"] for model in document["models"]] == ["new", "old"]
    curve = document["models"][0]["curve"]
    assert curve["distinct_scores"] == 2000 and len(curve["threshold"]) <= POINTS + 10
    assert all(low <= high for low, high in zip(curve["fpr_lower"], curve["fpr_upper"], strict=True))
    paths = calibration.write_thresholds(tmp_path)
    assert [path.name for path in paths] == ["threshold-1.json", "threshold-2.json"]
    for path, model in zip(paths, calibration.models, strict=True):
        threshold = read(path)
        assert threshold == model.chosen.threshold
        flagged = np.array([threshold.flag(score) for score in calibration.data.scores[model.name].tolist()])
        assert int((flagged & ~calibration.data.labels).sum()) == threshold.false_positive_rate.count


def test_table_says_what_json_says(calibration: Calibration) -> None:
    text = "\n".join(calibration.table())
    for model in calibration.models:
        assert f"{model.auc.estimate:.4f} ({model.auc.lower:.4f} to {model.auc.upper:.4f})" in text
        assert repr(model.chosen.threshold.value) in text and f"{model.chosen.confusion.true_positives:,}" in text
    assert "new less old" in text and "DeLong" in text and "McNemar" in text and "t.json: at " in text


def test_comparisons_are_of_models_and_of_thresholds(calibration: Calibration) -> None:
    pairs = {(one.first, one.second) for one in calibration.decisions}
    values = [model.chosen.threshold.value for model in calibration.models]
    assert pairs == {
        ("new", "old"),
        (f"new at {values[0]:.7g}", "new at 0.5"),
        (f"old at {values[1]:.7g}", "old at 0.5"),
    }
    assert calibration.auc_tests[0].p < 0.01 and calibration.auc_tests[0].difference.lower > 0


def test_a_check_agrees_or_contradicts() -> None:
    given = data(4000)
    threshold = calibrate(given, rule=Rule("max-fpr", 0.02)).models[0].chosen.threshold
    held_out = Labelled(given.labels, {"m": given.scores["m"] ** 1.01}, "other.csv")
    check = calibrate(held_out, checked=[("t.json", threshold)])
    assert check.ok and check.checks[0].ok and not any("these very data" in note for note in check.notes)
    drifted = Labelled(given.labels, {"m": given.scores["m"] ** 0.3}, "drifted.csv")
    check = calibrate(drifted, checked=[("t.json", threshold)])
    assert not check.ok and "contradicts" in "\n".join(check.table())
    assert 'class="failed"' in page(check)
    same = calibrate(given, checked=[("t.json", threshold)])
    assert any("these very data" in note for note in same.notes)
    with pytest.raises(DataError, match="is of model 'm'; the data are of 'a', 'b'"):
        calibrate(data(models=("a", "b")), checked=[("t.json", threshold)])


def test_notes_have_the_numbers() -> None:
    few = calibrate(data(120, left_out=3))
    told = "\n".join(few.notes)
    assert "3 of 123 rows have no score" in told and "positives: even a rate that is 0" in told
    given = data()
    wide = calibrate(Labelled(given.labels, {"m": given.scores["m"] * 10}, "x"))
    assert wide.models[0].brier is None and any("not from 0 to 1" in note for note in wide.notes)
    apart = Labelled(given.labels, {"m": given.labels + given.scores["m"]}, "x")
    assert any("no width" in note for note in calibrate(apart).notes)
    given.scores["m"][np.flatnonzero(~given.labels)[0]] = 0.9999
    assert any("flags nothing" in n for n in calibrate(given, rule=Rule("cost", costs=Costs(1, 1e-9, 0.5))).notes)
    three = calibrate(data(models=("a", "b", "c")))
    assert any("3 pairs of models" in note for note in three.notes)


def test_scores_the_wrong_way_round() -> None:
    given = data()
    turned = Labelled(given.labels, dict.fromkeys("ab", 1 - (given.labels + given.scores["m"]) / 2), "x")
    with pytest.raises(DataError) as caught:
        calibrate(turned)
    assert "2 problems:" in str(caught.value) and "wrong way round" in str(caught.value)
    assert any("worse than chance" in note for note in calibrate(turned, rule=Rule("max-fpr", 0.1)).notes)


@pytest.mark.parametrize("wrong", [{"confidence": 1.0}, {"confidence": 0.1}, {"prevalence": 0.0}, {"seed": -1}])
def test_options_that_cannot_be_meant(wrong: dict[str, float]) -> None:
    with pytest.raises(GraphError):
        calibrate(data(50), **wrong)  # type: ignore[arg-type]


def test_percent() -> None:
    shares = (0, 1, 0.123, 0.01, 0.0042, 0.00042, 0.9995, 0.00001)
    assert [percent(share) for share in shares] == [
        "0 %",
        "100 %",
        "12.3 %",
        "1.0 %",
        "0.42 %",
        "0.042 %",
        "99.950 %",
        "0.0010 %",
    ]


def test_figures_are_the_same_every_time(calibration: Calibration, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        written = write_figures(calibration, folder)
    names = sorted(path.name for path in written)
    assert names == sorted(
        f"{name}.{kind}" for name in ("roc", "precision-recall", "reliability", "scores") for kind in ("png", "svg")
    )
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes()
        if name.endswith("png"):
            with Image.open(one / name) as picture:
                assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 10
        else:
            text = (one / name).read_text()
            assert "<dc:date>" not in text and str(tmp_path) not in text
    with pytest.raises(GraphError, match="unknown format"):
        write_figures(calibration, tmp_path, ["pdf"])


def test_figures_and_page_of_hostile_names(tmp_path: Path) -> None:
    given = data(300, models=(HOSTILE, f"_{HOSTILE}$\\frac{{\udcff"), source=HOSTILE)
    calibration = calibrate(given, rule=Rule("max-fpr", 0.1))
    html = page(calibration)
    html.encode()
    elements = [name for name, _ in Parsed(html).elements]
    assert elements.count("script") == 3 and "img" not in elements
    pytest.importorskip("matplotlib")
    for path in write_figures(calibration, tmp_path, ["svg"]):
        assert "<img" not in path.read_text() and "<script" not in path.read_text()


def test_page_stays_small_and_has_what_the_report_has(calibration: Calibration) -> None:
    big = page(calibrate(data(200_000), rule=Rule("max-fpr", 0.02)))
    assert len(big) < 200_000
    html = page(calibration)
    policy = re.search('Content-Security-Policy" content="([^"]*)"', html)
    assert policy and policy[1].startswith("default-src 'none'") and "unsafe" not in policy[1]
    assert not re.search('(?:src|href)="(?!#)|url\\(|@import|fetch\\(', html.replace("default-src", ""))
    chosen = calibration.models[0].chosen
    # Without a script the page shows the chosen threshold.
    assert f'data-cell="value">{chosen.threshold.value:.7g}<' in html
    for key, count in (("tp", chosen.confusion.true_positives), ("fp", chosen.confusion.false_positives)):
        assert re.search(f'data-cell="{key}"[^>]*>{count:,}<', html)
    found = re.search('id="data">(.*?)</script>', html, re.S)
    assert found
    models = json.loads(found[1])["models"]
    for model, shown in zip(calibration.models, models, strict=True):
        place = shown["chosen"]
        assert shown["threshold"][place] == model.chosen.threshold.value
        assert shown["tp"][place] == model.chosen.confusion.true_positives
        scores, labels = calibration.data.scores[model.name], calibration.data.labels
        for value, fp in list(zip(shown["threshold"], shown["fp"], strict=True))[::37]:
            assert fp == int(((scores >= value) & ~labels).sum())


def test_places_in_a_chart() -> None:
    chart = Chart("x", "y", (0.001, 1.0), (0.0, 2.0), log_x=True)
    left, middle, right = (chart.at_x(value) for value in (0.001, 1000**-0.5, 1.0))
    assert middle == pytest.approx((left + right) / 2) and chart.at_x(0) == left and chart.at_x(5) == right
    assert chart.at_y(0) > chart.at_y(1) > chart.at_y(2) == chart.at_y(3)
    svg = chart.svg("words", chart.line([0.1, 0.1, 1.0], [0, 0, 1]))
    assert svg.get("data-log") == "" and svg.get("aria-label") == "words"
    path = svg.findall("path")[-1].get("d") or ""
    assert path.count("L") == 1
