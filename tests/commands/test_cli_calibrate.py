"""caffe-port calibrate: tables or folders in; what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command import Capture, failure

pytest.importorskip("sklearn")
pytest.importorskip("scipy")

from scoring.stand_in import StandIn, score_of

from caffe_port import cli
from caffe_port.errors import ImageError
from caffe_port.scoring import scorer


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Scores 0.00 to 0.99, with a label that is 1 from 0.60 on, and for each tenth below."""
    rows = [f"{i / 100},{int(i >= 60 or i % 10 == 0)}" for i in range(100)]
    (tmp_path / "scores.csv").write_text("\n".join(["score,label", *rows]))
    return tmp_path / "scores.csv"


def as_json(capsys: Capture, *arguments: object) -> Any:
    code = cli.main(["calibrate", *map(str, arguments), "--json"])
    assert code == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--cost-fp", "1"], "--cost-fp and --cost-fn go together"),
        (["--positive", "p"], "give files of scores, or both --positive FOLDER and --negative FOLDER"),
        (["--positive", "p", "--negative", "n"], "give files of scores, or both"),
    ],
)
def test_what_does_not_go_together(capsys: Capture, table: Path, arguments: list[str], reason: str) -> None:
    assert reason in failure(capsys, "calibrate", table, *arguments)


def test_nothing_to_calibrate_with(capsys: Capture) -> None:
    assert "give files of scores, or both" in failure(capsys, "calibrate")


@pytest.mark.parametrize("bins", ["many", "0.1,x", ""])
def test_bins_that_are_none(capsys: Capture, table: Path, bins: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["calibrate", str(table), "--bins", bins])
    assert f"{bins!r} is neither a number of bins nor their ends" in capsys.readouterr().err


def test_bins_by_number_and_by_ends(capsys: Capture, table: Path) -> None:
    def counts(bins: str) -> list[int]:
        (model,) = as_json(capsys, table, "--bins", bins)["models"]
        return [one["observed"]["total"] for one in model["bins"]]

    assert counts("4") == [25, 25, 25, 25]
    assert counts("0.2,0.9") == [20, 70, 10]


@pytest.mark.parametrize(
    ("rule", "low", "high"),
    [
        (["--youden"], 0.6, 0.6),
        (["--max-f1"], 0.6, 0.6),
        (["--cost-fp", "1", "--cost-fn", "1"], 0.6, 0.6),
        # A miss costs a thousand times more: the positives down to 0 are worth it.
        (["--cost-fp", "1", "--cost-fn", "1000"], 0.0, 0.0),
        # A false alarm does: still no negative is above 0.59.
        (["--cost-fp", "1000", "--cost-fn", "1"], 0.59, 0.6),
        (["--max-fpr", "0.2"], 0.5, 0.6),
    ],
)
def test_rules(capsys: Capture, table: Path, rule: list[str], low: float, high: float) -> None:
    (model,) = as_json(capsys, table, *rule)["models"]
    assert low <= model["chosen"]["threshold"]["value"] <= high


class FolderScorer(StandIn):
    """In the place of the real one: broken files are those that say so."""

    score_index: int | None = 1

    def __init__(self, model: str, **options: Any) -> None:
        super().__init__()
        self.model = SimpleNamespace(score_index=self.score_index, name=model)

    def __enter__(self) -> FolderScorer:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Forty images in two folders, of which one has no bytes."""
    monkeypatch.setattr(scorer, "Scorer", FolderScorer)
    places = tmp_path / "yes", tmp_path / "no"
    for place in places:
        place.mkdir()
        for i in range(20):
            (place / f"{i:02}.png").write_bytes(f"{place.name} {i}".encode())
    (places[0] / "empty.png").write_bytes(b"")
    return places


def test_folders_are_scored_and_the_scores_kept(capsys: Capture, tmp_path: Path, folders: tuple[Path, Path]) -> None:
    yes, no = folders
    out = tmp_path / "out"
    code = cli.main(["calibrate", "--positive", str(yes), "--negative", str(no), "-o", str(out), "--figures", "none"])
    said = capsys.readouterr()
    assert code == 0
    assert f"caffe-port: {yes / 'empty.png'}: the file is empty" in said.err
    with (out / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 41
    scores = {"/".join(Path(row["image"]).parts[-2:]): row["score"] for row in rows}
    assert float(scores["yes/07.png"]) == pytest.approx(score_of(b"yes 7"))
    assert scores["yes/empty.png"] == ""
    assert json.loads((out / "calibration.json").read_text())["data"]["rows"] == 40


def test_a_model_without_a_score(capsys: Capture, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FolderScorer, "score_index", None)
    said = failure(capsys, "calibrate", "--positive", folders[0], "--negative", folders[1], "--model", "places")
    assert "places: no class of it is the score" in said


def test_a_scorer_that_fails_is_one_line(
    capsys: Capture, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stream(*_: object, **__: object) -> Any:
        raise ImageError("the disk is gone")

    monkeypatch.setattr(FolderScorer, "stream", stream)
    assert "the disk is gone" in failure(capsys, "calibrate", "--positive", folders[0], "--negative", folders[1])
