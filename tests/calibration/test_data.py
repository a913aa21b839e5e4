"""Reading labels and scores, and scoring images on the fly."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from caffe_port.calibration.data import MOST_NAMED, Labelled, read_tables, score_images
from caffe_port.errors import CaffePortError, DataError, GraphError
from caffe_port.scoring.items import Item, Row

GOOD = "image,label,score\na,1,0.9\nb,0,0.1\nc,1,0.8\nd,0,0.3\n"


def write(folder: Path, text: str, name: str = "s.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table(tmp_path: Path) -> None:
    data = read_tables([write(tmp_path, "\ufeff" + GOOD)])
    assert data.labels.tolist() == [True, False, True, False]
    assert data.scores["score"].tolist() == [0.9, 0.1, 0.8, 0.3]
    assert (data.source, data.left_out, data.positives, data.negatives) == ("s.csv", 0, 2, 2)


@pytest.mark.parametrize(
    ("labels", "positive_label"),
    [("1 0 1 0", None), ("true FALSE True false", None), ("nsfw ok nsfw other", "nsfw"), ("0 1 0 1", "0")],
)
def test_labels(tmp_path: Path, labels: str, positive_label: str | None) -> None:
    rows = "".join(f"{label},{i}\n" for i, label in enumerate(labels.split()))
    data = read_tables([write(tmp_path, f"label,score\n{rows}")], positive_label=positive_label)
    assert data.labels.tolist() == [True, False, True, False]


def test_parquet_is_the_same_as_csv(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    random = np.random.default_rng(0)
    scores = random.random(50)
    labels = random.random(50) < 0.5
    rows = "".join(f"{int(label)},{score!r}\n" for label, score in zip(labels, scores.tolist(), strict=True))
    expected = read_tables([write(tmp_path, f"label,score\n{rows}")])
    for kind, values in (("int", labels.astype(int)), ("bool", labels), ("text", labels.astype(int).astype(str))):
        parquet.write_table(pyarrow.table({"label": values, "score": scores}), tmp_path / f"{kind}.parquet")
        found = read_tables([tmp_path / f"{kind}.parquet"])
        assert found.sha256("score") == expected.sha256("score")
    holes = [None, math.nan, *scores[2:].tolist()]
    parquet.write_table(pyarrow.table({"label": labels, "score": holes}), tmp_path / "holes.parquet")
    with pytest.raises(DataError, match=r"holes\.parquet:1: score: no score.*\n.*holes\.parquet:2: score: score nan"):
        read_tables([tmp_path / "holes.parquet"])
    assert read_tables([tmp_path / "holes.parquet"], skip_unscored=True).left_out == 2
    write(tmp_path, "no parquet", "bad.parquet")
    with pytest.raises(DataError, match=r"bad\.parquet: no Parquet"):
        read_tables([tmp_path / "bad.parquet"])


def test_bad_rows_are_one_report(tmp_path: Path) -> None:
    text = GOOD + 'e,yes,0.2\n"f\ng",1,\nh,,0.5\ni,1,high\nj,0,inf\nk,1,1_0\n'
    with pytest.raises(DataError) as caught:
        read_tables([path := write(tmp_path, text)])
    places = [(p.location.line if p.location else 0, p.message) for p in caught.value.problems]
    assert sorted(places) == [
        (6, "label 'yes'"),
        (7, "score: no score"),
        (9, "no label"),
        (10, "score: score 'high' is no finite number"),
        (11, "score: score 'inf' is no finite number"),
        (12, "score: score '1_0' is no finite number"),
    ]
    assert f"{path}:10: " in str(caught.value)


def test_very_many_bad_rows_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_tables([write(tmp_path, GOOD + "x,1,bad\n" * 5000)])
    assert len(caught.value.problems) == MOST_NAMED + 1
    assert f"and {5000 - MOST_NAMED:,} more bad rows" in str(caught.value)


def test_unscored_rows_are_left_out_only_if_asked(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "e,1,\nf,0,nan\n")
    with pytest.raises(DataError, match="--skip-unscored"):
        read_tables([path])
    data = read_tables([path], skip_unscored=True)
    assert data.left_out == 2 and len(data.labels) == 4
    with pytest.raises(DataError, match="'high'"):
        read_tables([write(tmp_path, GOOD + "e,1,high\n")], skip_unscored=True)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "an empty file"),
        ("label,score\n", "no rows"),
        ("a,b\n1,2\n", "none of the columns 'label', 'score'; there are 'a', 'b'"),
        ("label,other\n1,2\n", "no column 'score'"),
        ("other,score\n1,2\n", "no column 'label'"),
        ("label,score,score\n1,2,3\n", "2 columns are called 'score'"),
        ("label,score\n1,0.5,7\n", ":2: 3 fields, where the header has 2"),
        ('label,score\n1,"0.5\n', "no CSV"),
        ("label,score\n1,0.5\n1,0.6\n", "0 of 2 rows are negative"),
        ("label,score\n0,0.5\n0,0.6\n1,0.1\n", "1 of 3 rows is positive"),
        ("label,score\n0,0.5\n0,0.5\n1,0.5\n1,0.5\n", "all 4 scores are 0.5"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(DataError) as caught:
        read_tables([write(tmp_path, text)])
    assert complaint in str(caught.value)


def test_options_that_cannot_be_meant(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    with pytest.raises(GraphError, match="twice"):
        read_tables([path], scores=["label"])
    with pytest.raises(DataError, match="no label is 'nsfw'; there are '0', '1'"):
        read_tables([path], positive_label="nsfw")
    with pytest.raises(DataError, match="no such file"):
        read_tables([tmp_path / "none.csv"])


def test_several_files_are_matched_by_key(tmp_path: Path) -> None:
    labels = write(tmp_path, "image,label\nd,0\nc,1\nb,0\na,1\n", "labels.csv")
    old = write(tmp_path, GOOD.replace("label", "unused"), "old.csv")
    new = write(tmp_path, "image,score\nb,0.2\nc,0.7\na,0.95\nd,0.25\n", "new.csv")
    data = read_tables([labels, old, new], key="image")
    assert data.labels.tolist() == [False, True, False, True]
    assert {name: list(map(float, values)) for name, values in data.scores.items()} == {
        "old": [0.3, 0.8, 0.1, 0.9],
        "new": [0.25, 0.7, 0.2, 0.95],
    }
    with pytest.raises(DataError, match="--key"):
        read_tables([labels, old])
    write(tmp_path, "image,score\nb,0.2\nb,0.3\nc,0.7\na,0.95\nz,0.25\n", "new.csv")
    with pytest.raises(DataError) as caught:
        read_tables([labels, old, new], key="image")
    for told in ("new.csv:3: image 'b' is on line 2 already", "'z' is not in", "labels.csv:2: image 'd' is not in"):
        assert told in str(caught.value)


def test_several_files_in_the_same_order(tmp_path: Path) -> None:
    one, two = write(tmp_path, GOOD, "one.csv"), write(tmp_path, GOOD, "two.csv")
    assert list(read_tables([one, two]).scores) == ["one", "two"]
    write(tmp_path, GOOD.replace("b,0", "b,1"), "two.csv")
    with pytest.raises(DataError, match=r"two\.csv:3: label '1', where .*one\.csv has the other class"):
        read_tables([one, two])
    write(tmp_path, GOOD + "e,1,0.4\n", "two.csv")
    with pytest.raises(DataError, match=r"5 rows, where .* has 4"):
        read_tables([one, two])


def test_hash_is_of_labels_and_scores() -> None:
    labels, scores = np.array([True, False] * 2), np.array([0.9, 0.1, 0.8, 0.2])
    data = Labelled(labels, {"m": scores}, "x")
    assert data.sha256("m") == Labelled(labels, {"other": scores.copy()}, "y").sha256("other")
    assert data.sha256("m") != Labelled(~labels, {"m": scores}, "x").sha256("m")
    assert data.sha256("m") != Labelled(labels, {"m": np.nextafter(scores, 1)}, "x").sha256("m")


class FakeScorer:
    """Scores an image by the number it holds."""

    def stream(
        self, items: Iterable[Item], *, batch_size: int | None = None, workers: int | None = None
    ) -> Iterator[Row]:
        for item in items:
            content = item.read().decode()
            if content == "broken":
                yield Row(item.name, error="cannot be decoded")
            else:
                yield Row(item.name, (1 - float(content), float(content)))


def items(**content: str) -> list[Item]:
    return [Item(name, text.encode) for name, text in content.items()]


def test_two_folders_scored_now(tmp_path: Path) -> None:
    scored = score_images(
        items(a="0.9", b="broken", c="0.123456789012345678"),
        items(d="0.1", e="0.2"),
        FakeScorer(),
        score_index=1,
        model="m",
        source="two folders",
    )
    assert scored.data.labels.tolist() == [True, True, False, False]
    assert scored.data.left_out == 1 and scored.failed == [("b", "cannot be decoded")]
    scored.write_csv(tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="") as stream:
        assert [row["image"] for row in csv.DictReader(stream)] == ["a", "b", "c", "d", "e"]
    again = read_tables([tmp_path / "scores.csv"], skip_unscored=True)
    assert again.sha256("score") == scored.data.sha256("m")


def test_folders_without_images_and_scores_that_are_none() -> None:
    with pytest.raises(DataError, match="0 of 2 rows are positive"):
        score_images([], items(d="0.1", e="0.2"), FakeScorer(), score_index=1, model="m", source="s")
    with pytest.raises(CaffePortError, match="d: the score is nan"):
        score_images(items(a="1"), items(d="nan"), FakeScorer(), score_index=1, model="m", source="s")
