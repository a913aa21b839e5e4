"""Thresholds as files."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from caffe_port.calibration.threshold import FORMAT, Costs, Rate, Threshold, read
from caffe_port.errors import DataError

THRESHOLD = Threshold(
    value=0.7565404822072961,
    model="open_nsfw",
    rule="max-fpr",
    confidence=0.95,
    false_positive_rate=Rate(24, 3481, 0.0044, 0.0103),
    false_negative_rate=Rate(62, 1519, 0.031, 0.052),
    data_sha256="ab" * 32,
    target=0.01,
    bound=0.0097,
)
BY_COST = Threshold(
    0.5, "m", "cost", 0.9, Rate(0, 3, 0.0, 0.7), Rate(2, 2, 0.2, 1.0), "0" * 64, costs=Costs(1.0, 20.0, 0.01)
)


@pytest.mark.parametrize("threshold", [THRESHOLD, BY_COST])
def test_what_is_written_is_read(tmp_path: Path, threshold: Threshold) -> None:
    threshold.write(tmp_path / "t.json")
    assert read(tmp_path / "t.json") == threshold
    assert json.loads((tmp_path / "t.json").read_text())["format"] == FORMAT
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


def test_a_score_at_the_threshold_is_flagged() -> None:
    value = THRESHOLD.value
    assert THRESHOLD.flag(value) and THRESHOLD.flag(1.0)
    assert not THRESHOLD.flag(math.nextafter(value, 0)) and not THRESHOLD.flag(math.nan)
    assert (THRESHOLD.positives, THRESHOLD.negatives) == (1519, 3481)


def changed(**changes: Any) -> dict[str, Any]:
    return {**THRESHOLD.as_json(), **changes}


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        (changed(value="0.5"), "'value' must be a finite number, not '0.5'"),
        (changed(value=True), "'value' must be"),
        (changed(value=10**400), "'value' must be"),
        (changed(rule="magic"), "'rule' must be one of"),
        (changed(rule="f1"), "'target' must be null with the rule 'f1'"),
        (changed(rule="cost", target=None, bound=None), "'costs' must be an object"),
        (changed(bound=0.02), "'bound' 0.02 is above 'target' 0.01"),
        (changed(confidence=1), "'confidence' must be between 0 and 1"),
        (changed(data_sha256="AB" * 32), "'data_sha256' must be 64 hexadecimal digits"),
        (changed(model=""), "'model' must be a name"),
        (changed(extra=1), "unknown key 'extra'"),
        (changed(false_positive_rate={**Rate(1, 0, 0, 1).as_json()}), "'false_positive_rate' must be"),
        (changed(false_positive_rate={**Rate(1, 2, 0, 1).as_json(), "estimate": 0.4}), "count / total"),
        (changed(false_positive_rate=Rate(1, 2, 0.6, 1).as_json()), "does not hold 0.5"),
        ({key: value for key, value in changed().items() if key != "model"}, "'model' is missing"),
        ({**changed(), "format": "caffe_port threshold 2"}, "no threshold"),
        ([], "no threshold"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, document: Any, complaint: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(document))
    with pytest.raises(DataError) as caught:
        read(path)
    assert complaint in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", '{"value": NaN}', '{"value": 1, "value": 2}', "[" * 100_000, "\udcff"])
def test_no_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match="no JSON"):
        read(tmp_path / "t.json")
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "none.json")


def test_every_problem_in_one_report(tmp_path: Path) -> None:
    document = changed(value=None, rule=7, confidence="x", data_sha256=None, false_negative_rate=[], more=1)
    (tmp_path / "t.json").write_text(json.dumps(document))
    with pytest.raises(DataError) as caught:
        read(tmp_path / "t.json")
    told = str(caught.value)
    for key in ("value", "rule", "confidence", "data_sha256", "false_negative_rate", "more"):
        assert f"'{key}'" in told


def test_reading_one_takes_no_libraries() -> None:
    code = (
        "import sys, caffe_port.calibration.threshold; "
        "print(sorted({'numpy', 'scipy', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
