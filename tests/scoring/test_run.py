"""Whole runs: counts, interruptions of every kind, thresholds, progress."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from stand_in import LABELS, StandIn, score_of

from caffe_port.errors import DataError, GraphError
from caffe_port.scoring.columns import Columns
from caffe_port.scoring.items import Item, Row
from caffe_port.scoring.run import Progress, Summary, score_all, verdict
from caffe_port.scoring.sinks import FileSink, StreamSink
from caffe_port.scoring.sources import Sources

COLUMNS = Columns("stand-in", LABELS, 1)


def images(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i:04d}.png").write_bytes(str(i).encode())
    return folder


def scored(path: Path) -> list[tuple[str, str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return [(row["image"], row["score"], row["error"]) for row in csv.DictReader(stream)]


def expected(folder: Path) -> list[tuple[str, str, str]]:
    return [(str(path), repr(score_of(path.read_bytes())), "") for path in sorted(folder.iterdir())]


def test_a_row_for_every_image_and_a_count(tmp_path: Path) -> None:
    folder = images(tmp_path / "in", 5)
    (folder / "0002.png").write_bytes(b"")
    stream = io.BytesIO()
    seen: list[tuple[int, int]] = []
    summary = score_all(
        Sources([str(folder), str(tmp_path / "no.png")]),
        StandIn(),
        StreamSink(stream, "jsonl", COLUMNS),
        progress=lambda done, skipped: seen.append((done, skipped)),
    )
    rows = [json.loads(line) for line in stream.getvalue().decode().splitlines()]
    assert [row["image"] for row in rows] == [*(str(path) for path in sorted(folder.iterdir())), f"{tmp_path}/no.png"]
    assert [row["error"] for row in rows] == [None, None, "the file is empty", None, None, "no such file"]
    assert (summary.scored, summary.failed, summary.skipped, summary.failed_before) == (4, 2, 0, 0)
    assert not summary.ok and summary.seconds > 0
    assert seen == [(i, 0) for i in range(1, 7)]


def test_what_is_no_number_is_an_error(tmp_path: Path) -> None:
    class Broken(StandIn):
        def stream(
            self, items: Iterable[Item], *, batch_size: int | None = None, workers: int | None = None
        ) -> Iterator[Row]:
            for item, score in zip(items, (0.5, math.nan, math.inf), strict=True):
                yield Row(item.name, (0.5, score))

    summary = score_all(
        Sources([str(images(tmp_path / "in", 3))]), Broken(), sink := FileSink(tmp_path / "a.csv", "csv", COLUMNS)
    )
    assert (summary.scored, summary.failed) == (1, 2) and not sink.journal.exists()
    assert [error for _, _, error in scored(tmp_path / "a.csv")] == [
        "",
        *2 * ["the model computed no finite number for it"],
    ]


def test_settings_go_to_the_scorer(tmp_path: Path) -> None:
    given = {}

    class Asked(StandIn):
        def stream(
            self, items: Iterable[Item], *, batch_size: int | None = None, workers: int | None = None
        ) -> Iterator[Row]:
            given.update(batch_size=batch_size, workers=workers)
            return super().stream(items)

    sources = Sources([str(images(tmp_path / "in", 1))])
    score_all(sources, Asked(), StreamSink(io.BytesIO(), "csv", COLUMNS), batch_size=3, workers=2)
    assert given == {"batch_size": 3, "workers": 2}


def test_the_summary_in_words() -> None:
    assert str(Summary(1000, 5, 0, 7261)) == "1,000 of 1,005 images scored in 2:01:01, 0.138 a second"
    assert str(Summary(2, 0, 7, 0.5, 3)) == (
        "2 of 2 images scored in 0.5 s, 4 a second; 7 rows were there already, 3 of them with an error"
    )
    assert str(Summary(0, 0, 0, 0)) == "0 of 0 images scored in 0.0 s"
    assert Summary(1, 0, 1, 1).ok and not Summary(1, 0, 1, 1, 1).ok


def test_an_exception_leaves_the_rows(tmp_path: Path) -> None:
    """Of whatever kind; the scorer's iterator is closed, and what comes after is as if nothing had happened."""
    folder = images(tmp_path / "in", 10)
    ended = []

    class Stops(StandIn):
        def stream(
            self, items: Iterable[Item], *, batch_size: int | None = None, workers: int | None = None
        ) -> Iterator[Row]:
            try:
                yield from super().stream(items)
            finally:
                ended.append(True)

    def stop(done: int, skipped: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    path = tmp_path / "out.csv"
    for runs in (1, 2, 3):
        with pytest.raises(KeyboardInterrupt), FileSink(path, "csv", COLUMNS, resume=True) as sink:
            score_all(Sources([str(folder)]), Stops(), sink, progress=stop)
        assert len(ended) == runs and sink.kept == 3 * runs
    with FileSink(path, "csv", COLUMNS, resume=True) as sink:
        summary = score_all(Sources([str(folder)]), Stops(), sink)
    assert (summary.scored, summary.failed, summary.skipped) == (1, 0, 9)
    assert scored(path) == expected(folder)


RUN = """
import sys
from pathlib import Path
from stand_in import LABELS, StandIn
from caffe_port.scoring.run import score_all
from caffe_port.scoring.columns import Columns
from caffe_port.scoring.formats import format_of
from caffe_port.scoring.sinks import FileSink
from caffe_port.scoring.sources import Sources

path = Path(sys.argv[1])
with FileSink(path, format_of(path), Columns("stand-in", LABELS, 1), resume=True) as sink:
    score_all(Sources(sys.argv[3:]), StandIn(0.001, sys.argv[2]), sink)
"""


def start(path: Path, log: Path, *sources: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(path), str(log), *map(str, sources)],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OPENBLAS_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize(("suffix", "most"), [("csv", 10), ("parquet", 4)])
def test_killed_at_random_moments_and_resumed(suffix: str, most: int, tmp_path: Path) -> None:
    """SIGKILL, several times: at the start, among the rows, at the end. The rows are as if nothing had stopped the run.

    An image is scored twice only where the kill came between its score and its row: at most once a kill.
    """
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    generator = random.Random(suffix)
    folder = images(tmp_path / "in", 400)
    (tmp_path / "in" / "0100.png").write_bytes(b"")
    archive = tmp_path / "more.zip"
    with zipfile.ZipFile(archive, "w") as members:
        for i in range(200):
            members.writestr(f"é{i}.png", f"member {i}")
    path, log, journal = tmp_path / f"out.{suffix}", tmp_path / "log", FileSink.journal_of(tmp_path / f"out.{suffix}")
    kills = progressed = 0
    while kills < most:
        before = journal.stat().st_size if journal.exists() else 0
        process = start(path, log, folder, archive)
        # Until some rows more are there, and then at any moment.
        enough = before + generator.randrange(1, 4000)
        deadline = time.monotonic() + 60
        while (
            process.poll() is None
            and not path.exists()
            and (not journal.exists() or journal.stat().st_size < enough)
            and time.monotonic() < deadline
        ):
            time.sleep(0.001)
        time.sleep(generator.random() * 0.02)
        process.kill()
        _, said = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL), said.decode()
        assert path.exists() != journal.exists() or process.returncode
        kills += 1
        progressed += journal.exists() and journal.stat().st_size > before
        if path.exists() and not journal.exists():
            break
    assert progressed >= most // 2
    if journal.exists():
        process = start(path, log, folder, archive)
        assert process.communicate(timeout=60)[1] == b"" and process.returncode == 0
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(["in", "more.zip", "log", path.name])

    wanted = [(name, float(score), "") for name, score, _ in expected(folder)]
    wanted[100] = (wanted[100][0], None, "the file is empty")  # type: ignore[assignment]
    wanted += [(f"{archive}!é{i}.png", score_of(f"member {i}".encode()), "") for i in range(200)]
    if suffix == "csv":
        found = [(name, float(score) if score else None, error) for name, score, error in scored(path)]
    else:
        from pyarrow import parquet

        found = [(row["image"], row["score"], row["error"] or "") for row in parquet.read_table(path).to_pylist()]
    assert found == wanted
    names = log.read_bytes().split(b"\0")[:-1]
    assert len(set(names)) == 599 and len(names) <= 599 + kills


def test_interrupted_by_ctrl_c(tmp_path: Path) -> None:
    """What was there by then is kept."""
    folder = images(tmp_path / "in", 400)
    path = tmp_path / "out.csv"
    process = start(path, tmp_path / "log", folder)
    journal = FileSink.journal_of(path)
    deadline = time.monotonic() + 60
    while (not journal.exists() or journal.stat().st_size < 1000) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0 and b"KeyboardInterrupt" in said
    assert journal.read_bytes().endswith(b"\n") and not path.exists()
    assert start(path, tmp_path / "log", folder).wait(timeout=60) == 0
    assert scored(path) == expected(folder)


# Thresholds

THRESHOLD = {
    "format": "caffe_port threshold 1",
    "value": 0.75,
    "model": "open_nsfw",
    "rule": "given",
    "target": None,
    "bound": None,
    "costs": None,
    "confidence": 0.95,
    "false_positive_rate": {"count": 1, "total": 2, "estimate": 0.5, "lower": 0.01, "upper": 0.99},
    "false_negative_rate": {"count": 1, "total": 2, "estimate": 0.5, "lower": 0.01, "upper": 0.99},
    "data_sha256": "0" * 64,
}


def test_thresholds(tmp_path: Path) -> None:
    """A number, or a file of the same model: what is at least that is flagged."""
    file = tmp_path / "threshold.json"
    file.write_text(json.dumps(THRESHOLD))
    assert verdict(None, None, "open_nsfw") is None
    for rule in (verdict(0.75, None, "any"), verdict(None, file, "open_nsfw")):
        assert rule is not None
        assert [rule(score) for score in (0.7499999, 0.75, 1.0)] == [False, True, True]
    with pytest.raises(DataError, match="chosen for the model 'open_nsfw', these are scores of 'other'"):
        verdict(None, file, "other")
    with pytest.raises(DataError, match="no such file"):
        verdict(None, tmp_path / "no.json", "open_nsfw")
    with pytest.raises(GraphError, match="not both"):
        verdict(0.5, file, "open_nsfw")
    with pytest.raises(GraphError, match="finite"):
        verdict(math.nan, None, "open_nsfw")


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 images in 100 s, of 1000: 2 a second, 400 s left. The line goes at the end."""
    folder = images(tmp_path / "in", 1000)
    monkeypatch.setenv("COLUMNS", "120")
    now = [1000.0]
    monkeypatch.setattr("caffe_port.scoring.run.time.monotonic", lambda: now[0])
    terminal = Terminal()
    with Progress(Sources([str(folder)]), stream=terminal) as progress:
        for thread in threading.enumerate():
            if thread.name == "count images":
                thread.join(60)
        for done in range(1, 201):
            now[0] += 0.5
            progress(done, 0)
    drawn = terminal.getvalue().split("\r")
    assert drawn[-2] == "[####................]  20% 200 of 1,000 images, 2 a second, 0:06:40 left\x1b[K"
    assert drawn[-1] == "\x1b[K"
    assert all(len(line) < 125 for line in drawn)


def test_progress_counts_what_was_there_but_not_in_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    now = [0.0]
    monkeypatch.setattr("caffe_port.scoring.run.time.monotonic", lambda: now[0])
    terminal = Terminal()
    with Progress(Sources(["-"]), stream=terminal) as progress:
        for done in (1, 5, 9):
            now[0] += 1
            progress(done, 100)
    assert "109 images, 4 a second\x1b[K" in terminal.getvalue() and "%" not in terminal.getvalue()


def test_progress_fits_narrow_terminals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    terminal = Terminal()
    with Progress(Sources(["-"]), stream=terminal) as progress:
        time.sleep(0.01)
        progress._drawn = -1.0
        progress(123_456_789, 123_456_789)
    assert all(len(re.sub(r"\x1b\[K", "", line)) < 20 for line in terminal.getvalue().split("\r"))


def test_no_progress_elsewhere(tmp_path: Path) -> None:
    folder = images(tmp_path / "in", 3)
    for stream, quiet in ((io.StringIO(), False), (Terminal(), True)):
        with Progress(Sources([str(folder)]), stream=stream, quiet=quiet) as progress:
            progress._drawn = -1.0
            progress(1, 0)
        assert stream.getvalue() == ""
