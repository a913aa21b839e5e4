"""Rows into tables, CSV, JSON Lines and Parquet; and into files whose run was interrupted."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_in import LABELS

from caffe_port.errors import ArtifactError, GraphError, MissingDependency
from caffe_port.scoring import formats, journal
from caffe_port.scoring.columns import Columns, written_name
from caffe_port.scoring.formats import FORMATS, format_of
from caffe_port.scoring.items import Row
from caffe_port.scoring.run import Verdict
from caffe_port.scoring.sinks import FileSink, RankedSink, Sink, StreamSink

SCORE = Columns("open_nsfw", LABELS, 1)
ANIMALS = ("tabby cat", "tiger, cat", 'a "dog"', "axolotl")
ALL = Columns("animals", ANIMALS, None, top_k=2, probabilities=True, flag=Verdict(0.5))

NAMES = [
    "a.png",
    "a b.png",
    "new\nline\r.png",
    'comma, "quote".png',
    "é\u2028.png",
    "caf\udce9.png",
    "bytes:x.png",
    " ",
]
WRITTEN = [*NAMES[:5], "bytes:caf%E9.png", "bytes:bytes%3Ax.png", " "]


def row(name: str, score: float | None = None, error: str = "") -> Row:
    return Row(name, error=error) if score is None else Row(name, (1 - score, score))


ROWS = [row(name, 0.125 * i) for i, name in enumerate(NAMES)] + [row("bad.png", error="the file is empty")]


def streamed(format: str, columns: Columns, rows: list[Row], kind: Any = StreamSink) -> bytes:
    stream = io.BytesIO()
    with kind(stream, format, columns) as sink:
        for each in rows:
            sink.write(each)
        sink.finish()
    return stream.getvalue()


def read_back(content: bytes, format: str) -> list[dict[str, Any]]:
    """As a program reads them."""
    if format == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        documents: list[dict[str, Any]] = parquet.read_table(io.BytesIO(content)).to_pylist()
        return documents
    if format == "jsonl":
        return [json.loads(line) for line in content.decode().split("\n")[:-1]]
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def filed(path: Path, columns: Columns, rows: list[Row], **options: Any) -> bytes:
    with FileSink(path, format_of(path), columns, **options) as sink:
        for each in rows:
            if sink.wanted(each.name):
                sink.write(each)
        sink.finish()
    return path.read_bytes()


# Names


def test_names_that_are_no_text_are_escaped() -> None:
    assert [written_name(name) for name in NAMES] == WRITTEN
    assert written_name("a.zip!caf\udce9/b c%.png") == "bytes:a.zip!caf%E9/b%20c%25.png"


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_written_names_are_text_and_stay_different(one: bytes, other: bytes) -> None:
    written = [written_name(os.fsdecode(name)) for name in (one, other)]
    for name, text in zip((one, other), written, strict=True):
        text.encode()
        back = unquote_to_bytes(text.removeprefix("bytes:")) if text.startswith("bytes:") else text.encode()
        assert back == name
    assert (one == other) == (written[0] == written[1])


def test_names_with_halves_of_characters() -> None:
    """As Windows can have them."""
    assert written_name("\ud83d.png") == "bytes:%ED%A0%BD.png"


# Formats


def test_formats_by_suffix() -> None:
    expected = {"a.csv": "csv", "a.JSONL": "jsonl", "a.ndjson": "jsonl", "a.parquet": "parquet", "a.pq": "parquet"}
    assert {name: format_of(Path(name)) for name in expected} == expected
    assert (
        format_of(None) == "table" and format_of(None, "csv") == "csv" and format_of(Path("x.json"), "jsonl") == "jsonl"
    )
    for path, asked in ((Path("a.json"), None), (Path("a"), None), (None, "parquet"), (Path("a.csv"), "xml")):
        with pytest.raises(GraphError):
            format_of(path, asked)


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_what_programs_read(format: str) -> None:
    documents = read_back(streamed(format, SCORE, ROWS), format)
    assert [document["image"] for document in documents] == [*WRITTEN, "bad.png"]
    assert all(list(document) == ["image", "score", "error", "model"] for document in documents)
    empty = "" if format == "csv" else None
    assert [document["score"] for document in documents[-1:]] == [empty]
    assert [float(document["score"]) for document in documents[:-1]] == [0.125 * i for i in range(len(NAMES))]
    assert [document["error"] for document in documents] == [empty] * len(NAMES) + ["the file is empty"]
    assert {document["model"] for document in documents} == {"open_nsfw"}


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(formats, "_PARQUET_ROWS", 4)
    content = filed(tmp_path / "a.parquet", SCORE, ROWS)
    documents = read_back(content, "parquet")
    assert [document["image"] for document in documents] == [*WRITTEN, "bad.png"]
    assert [document["score"] for document in documents] == [*(0.125 * i for i in range(len(NAMES))), None]
    file = parquet.ParquetFile(tmp_path / "a.parquet")
    assert file.num_row_groups == 3
    assert {field.name: str(field.type) for field in file.schema_arrow} == {
        "image": "string", "score": "double", "error": "string", "model": "string"
    }  # fmt: skip


def test_no_rows_are_a_file_with_columns(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    assert filed(tmp_path / "a.csv", SCORE, []) == b"image,score,error,model\n"
    assert filed(tmp_path / "a.jsonl", SCORE, []) == filed(tmp_path / "a.txt", SCORE, []) == b""
    assert read_back(filed(tmp_path / "a.parquet", SCORE, []), "parquet") == []


def test_every_column(tmp_path: Path) -> None:
    """Top two of four, every probability, whether it is flagged; the score is the highest of them here."""
    pytest.importorskip("pyarrow")
    rows = [Row("a", (0.1, 0.6, 0.1, 0.2)), Row("b", (0.25, 0.25, 0.25, 0.25)), Row("c", error="broken")]
    expected = [
        {
            "image": "a", "score": 0.6, "flagged": True, "label_1": "tiger, cat", "probability_1": 0.6,
            "label_2": "axolotl", "probability_2": 0.2, "p_tabby cat": 0.1, "p_tiger, cat": 0.6, 'p_a "dog"': 0.1,
            "p_axolotl": 0.2, "error": None, "model": "animals",
        },
        {
            "image": "b", "score": 0.25, "flagged": False, "label_1": "tabby cat", "probability_1": 0.25,
            "label_2": "tiger, cat", "probability_2": 0.25, "p_tabby cat": 0.25, "p_tiger, cat": 0.25,
            'p_a "dog"': 0.25, "p_axolotl": 0.25, "error": None, "model": "animals",
        },
        dict.fromkeys(ALL.names) | {"image": "c", "error": "broken", "model": "animals"},
    ]  # fmt: skip
    assert read_back(streamed("jsonl", ALL, rows), "jsonl") == expected
    assert read_back(filed(tmp_path / "a.parquet", ALL, rows), "parquet") == expected
    as_text = [{key: "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
                for key, value in document.items()} for document in expected]  # fmt: skip
    assert read_back(streamed("csv", ALL, rows), "csv") == as_text


def test_numbers_are_exact(tmp_path: Path) -> None:
    """Of float32, whatever the format."""
    pytest.importorskip("pyarrow")
    values = np.random.default_rng(0).random(200, np.float32)
    rows = [row(str(i), float(value)) for i, value in enumerate(values)]
    for suffix in ("csv", "jsonl", "parquet"):
        documents = read_back(filed(tmp_path / f"a.{suffix}", SCORE, rows), suffix)
        assert np.array_equal(np.array([float(document["score"]) for document in documents]), values.astype(np.float64))


def test_table() -> None:
    flagged = Columns("open_nsfw", LABELS, 1, flag=Verdict(0.5))
    rows = [
        row("a b.png", 0.25),
        row("new\nline\x1b[2J.png", 0.5),
        row("caf\udce9.png", error="caf\udce9.png: broken\x07"),
    ]
    assert streamed("table", SCORE, rows).decode().splitlines() == [
        "0.250000  a b.png",
        "0.500000  new\\nline\\x1b[2J.png",
        "error     bytes:caf%E9.png: broken\\x07",
    ]
    assert [line[:19] for line in streamed("table", flagged, rows).decode().splitlines()] == [
        "0.250000           ",
        "0.500000  flagged  ",
        "error              ",
    ]
    animals = Columns("animals", ANIMALS, 0, top_k=1)
    lines = (
        streamed("table", animals, [Row("a.png", (0.1, 0.7, 0.1, 0.1)), Row("b.png", error="bad")])
        .decode()
        .splitlines()
    )
    assert lines == ["0.100000  0.700000 tiger, cat  a.png", f"error     {'':19}  b.png: bad"]


def test_columns_that_cannot_be() -> None:
    with pytest.raises(GraphError, match="--top-k 3: the model has 2 labels"):
        Columns("open_nsfw", LABELS, 1, top_k=3)
    with pytest.raises(GraphError, match="the same name"):
        Columns("x", ("crane", "crane"), 0, probabilities=True)
    with pytest.raises(GraphError, match="3 probabilities of 2 labels"):
        SCORE.values(Row("a", (0.1, 0.2, 0.7)))


# Order


@pytest.mark.parametrize("format", FORMATS)
def test_rank(format: str, tmp_path: Path) -> None:
    """Highest first, equal ones and errors in the order they came."""
    if format == "parquet":
        pytest.importorskip("pyarrow")
    scores = [0.5, None, 0.75, 0.0, 0.5, 1.0, None, 0.25]
    rows = [row(str(i), score, "" if score is not None else "bad") for i, score in enumerate(scores)]
    expected = ["5", "2", "0", "4", "7", "3", "1", "6"]
    contents = []
    if format != "parquet":
        contents.append(streamed(format, SCORE, rows, RankedSink))
    with FileSink(tmp_path / "a", format, SCORE, rank=True) as sink:
        for each in rows:
            sink.write(each)
        sink.finish()
    contents.append((tmp_path / "a").read_bytes())
    for content in contents:
        if format == "table":
            found = [line.split()[1].rstrip(":") for line in content.decode().splitlines()]
        else:
            found = [document["image"] for document in read_back(content, format)]
        assert found == expected


def test_a_ranked_sink_writes_nothing_before_the_end() -> None:
    stream = io.BytesIO()
    with RankedSink(stream, "jsonl", SCORE) as sink:
        sink.write(row("a", 0.5))
        assert stream.getvalue() == b""


def test_a_stream_gets_each_row_at_once() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as reader, os.fdopen(writing, "wb") as stream:
        sink: Sink = StreamSink(stream, "table", SCORE)
        sink.write(row("a", 0.5))
        assert reader.read(100) == b"0.500000  a\n"
        assert sink.wanted("a") and sink.skipped == 0


# Files


@pytest.fixture(params=["csv", "jsonl", "parquet", "txt"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    return tmp_path / f"out.{request.param}"


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def interrupted(path: Path, rows: list[Row], columns: Columns = SCORE, **options: Any) -> Path:
    """A run that ends after these rows; its journal."""
    with FileSink(path, format_of(path), columns, **options) as sink:
        for each in rows:
            if sink.wanted(each.name):
                sink.write(each)
    return sink.journal


def test_a_file_appears_when_it_is_complete(path: Path) -> None:
    path.write_text("old")
    assert FileSink.is_complete(path)
    journal = interrupted(path, ROWS[:3])
    assert path.read_text() == "old" and names_in(path.parent) == sorted([path.name, journal.name])
    assert not FileSink.is_complete(path)
    filed(path, SCORE, ROWS, resume=True)
    assert names_in(path.parent) == [path.name] and FileSink.is_complete(path)


def test_resumed_is_as_if_nothing_had_happened(path: Path) -> None:
    """Interrupted after every row, also at the beginning and the end, and by what is not asked twice."""
    whole = filed(path, SCORE, ROWS)
    path.unlink()
    for i in range(len(ROWS) + 1):
        interrupted(path, ROWS[:i], resume=True)
        assert not path.exists()
    assert filed(path, SCORE, ROWS, resume=True) == whole


def test_a_torn_line_is_cut_off_wherever_it_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    whole = filed(path, SCORE, ROWS)
    journal = interrupted(path, ROWS)
    content = journal.read_bytes()
    lines = content.splitlines(keepends=True)
    for cut in [*range(0, len(content), 7), len(content) - 1]:
        journal.write_bytes(content[:cut])
        notes: list[str] = []
        assert filed(path, SCORE, ROWS, resume=True, note=notes.append) == whole
        in_rows = cut > len(lines[0])
        torn = in_rows and not content[:cut].endswith(b"\n")
        assert len(notes) == torn and all("was cut off" in note for note in notes)


def test_zeros_at_the_end(tmp_path: Path) -> None:
    """As some file systems leave them when the machine ends."""
    whole = filed(tmp_path / "a.csv", SCORE, ROWS)
    journal = interrupted(tmp_path / "a.csv", ROWS[:4])
    with journal.open("ab") as stream:
        stream.write(bytes(5000))
    assert filed(tmp_path / "a.csv", SCORE, ROWS, resume=True) == whole


def test_rows_are_on_their_way_to_the_disk_at_once(tmp_path: Path) -> None:
    """Another process sees each as soon as it is written."""
    with FileSink(tmp_path / "a.csv", "csv", SCORE) as sink:
        for i, each in enumerate(ROWS):
            sink.write(each)
            assert sink.journal.read_bytes().count(b"\n") == i + 2


def test_the_journal_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After SYNC_SECONDS, and at the end of a run."""
    now, synced = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("os.fsync", lambda fd: synced.append(now[0]))
    with FileSink(tmp_path / "a.csv", "csv", SCORE) as sink:
        for moment in (1.0, 4.9, 5.1, 6.0, 10.0, 10.2):
            now[0] = moment
            sink.write(row("a", 0.5))
        assert synced == [5.1, 10.2]
    assert synced == [5.1, 10.2, 10.2]


def test_an_image_named_twice_has_two_rows(tmp_path: Path) -> None:
    rows = [row("a", 0.5), row("b", 0.25), row("a", 0.5), row("a", 0.5)]
    whole = filed(tmp_path / "a.csv", SCORE, rows)
    for i in range(len(rows) + 1):
        interrupted(tmp_path / "a.csv", rows[:i])
        with FileSink(tmp_path / "a.csv", "csv", SCORE, resume=True) as sink:
            assert [sink.wanted(each.name) for each in rows].count(False) == sink.skipped == sink.kept == i
        assert filed(tmp_path / "a.csv", SCORE, rows, resume=True) == whole


def test_many_names(tmp_path: Path) -> None:
    """Each of 5,000 is known, each of 5,000 others is not; digests that end in zero bytes too."""
    digests = [journal.digest(str(i)) for i in range(5000)]
    assert any(digest.endswith(b"\0") for digest in digests)
    names = journal.Names(b"".join(digests))
    assert not any(names.take(f"x{i}") for i in range(5000))
    assert all(names.take(str(i)) for i in range(5000))
    assert not any(names.take(str(i)) for i in range(5000))


def test_other_options_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    journal = interrupted(path, ROWS[:2], settings={"backend": "numpy", "model": "open_nsfw"})
    before = journal.read_bytes()
    with pytest.raises(ArtifactError, match='backend was "numpy", is "torch"; give the same options'):
        FileSink(path, "csv", SCORE, settings={"backend": "torch", "model": "open_nsfw"}, resume=True)
    with pytest.raises(ArtifactError, match="columns was"):
        FileSink(path, "csv", Columns("open_nsfw", LABELS, 1, top_k=1), settings={"backend": "numpy"}, resume=True)
    assert journal.read_bytes() == before
    FileSink(path, "csv", SCORE, settings={"backend": "numpy", "model": "open_nsfw"}, resume=True).close()


def test_the_format_may_change(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with FileSink(path, "csv", SCORE) as sink:
        sink.write(ROWS[0])
    with FileSink(path, "jsonl", SCORE, resume=True) as sink:
        assert not sink.wanted(ROWS[0].name)
        sink.finish()
    assert read_back(path.read_bytes(), "jsonl")[0]["image"] == NAMES[0]


def test_an_interrupted_run_is_not_written_over(tmp_path: Path) -> None:
    journal = interrupted(tmp_path / "a.csv", ROWS[:2])
    before = journal.read_bytes()
    with pytest.raises(ArtifactError, match="go on with --resume, or delete it"):
        FileSink(tmp_path / "a.csv", "csv", SCORE)
    assert journal.read_bytes() == before


@pytest.mark.parametrize("content", [b"something else\n", b"{}\n", b'{"format": "other"}\n', b"[]", b"\xff\n"])
def test_what_is_no_journal_is_not_touched(content: bytes, tmp_path: Path) -> None:
    journal = FileSink.journal_of(tmp_path / "a.csv")
    journal.write_bytes(content)
    with pytest.raises(ArtifactError, match="not what an interrupted run left"):
        FileSink(tmp_path / "a.csv", "csv", SCORE, resume=True)
    assert journal.read_bytes() == content


def test_errors_are_retried_where_that_is_asked_for(path: Path) -> None:
    """Only then; and what is not retried before the next interruption is retried after it."""
    bad = [row("b", error="bad"), row("d", error="bad")]
    good = [row("a", 0.5), row("c", 0.25)]
    interrupted(path, [good[0], bad[0], good[1], bad[1]])
    with FileSink(path, format_of(path), SCORE, resume=True) as sink:
        assert [sink.wanted(name) for name in "abcd"] == [False] * 4
        assert sink.failed_before == 2 and sink.skipped == 4
    with FileSink(path, format_of(path), SCORE, resume=True, retry_errors=True) as sink:
        assert [sink.wanted(name) for name in "abcd"] == [False, True, False, True]
        assert sink.failed_before == 0
        sink.write(row("b", 0.75))
    with FileSink(path, format_of(path), SCORE, resume=True) as sink:
        assert [sink.wanted(name) for name in "abcd"] == [False, False, False, True]
        sink.write(row("d", error="still bad"))
        sink.finish()
    if path.suffix != ".txt":
        found = [(document["image"], document["error"]) for document in read_back(path.read_bytes(), path.suffix[1:])]
        empty = "" if path.suffix == ".csv" else None
        assert found == [("a", empty), ("c", empty), ("b", empty), ("d", "still bad")]


def test_retried_and_ranked(tmp_path: Path) -> None:
    interrupted(tmp_path / "a.csv", [row("a", error="bad"), row("b", 0.5)])
    content = filed(tmp_path / "a.csv", SCORE, [row("a", 0.75), row("b", 0)], resume=True, retry_errors=True, rank=True)
    assert [document["image"] for document in read_back(content, "csv")] == ["a", "b"]


def test_two_runs_at_once(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with FileSink(tmp_path / "a.csv", "csv", SCORE) as sink:
        sink.write(ROWS[0])
        for resume in (False, True):
            with pytest.raises(ArtifactError, match="another run is writing it"):
                FileSink(tmp_path / "a.csv", "csv", SCORE, resume=resume)
    FileSink(tmp_path / "a.csv", "csv", SCORE, resume=True).close()


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo.csv")
    for path in (tmp_path / "nowhere" / "a.csv", tmp_path / "file" / "a.csv", tmp_path, tmp_path / "fifo.csv"):
        with pytest.raises(ArtifactError, match=str(path)):
            FileSink(path, "csv", SCORE)
    assert names_in(tmp_path) == ["fifo.csv", "file"]


def test_a_full_disk(tmp_path: Path) -> None:
    """In a process whose files may have 2000 bytes: what fitted is there afterwards, and goes on."""
    program = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
from caffe_port.errors import ArtifactError
from caffe_port.scoring.items import Row
from caffe_port.scoring.columns import Columns
from caffe_port.scoring.sinks import FileSink
try:
    with FileSink(Path(sys.argv[1]), "csv", Columns("m", ("a", "b"), 1)) as sink:
        for i in range(100):
            sink.write(Row(str(i), (0.5, 0.5)))
except ArtifactError as error:
    print(error)
"""
    path = tmp_path / "a.csv"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{FileSink.journal_of(path)}: cannot be written: File too large\n", done.stderr
    assert FileSink.journal_of(path).stat().st_size == 2000
    rows = [row(str(i), 0.5) for i in range(100)]
    columns = Columns("m", ("a", "b"), 1)
    assert filed(path, columns, rows, resume=True) == streamed("csv", columns, rows)


def test_the_end_can_be_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for the file itself: the rows stay."""
    whole = filed(path, SCORE, ROWS)
    path.unlink()

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", no_room)
        with pytest.raises(ArtifactError, match="No space left"):
            filed(path, SCORE, ROWS)
    assert names_in(path.parent) == [FileSink.journal_of(path).name]
    with FileSink(path, format_of(path), SCORE, resume=True) as sink:
        assert not any(sink.wanted(each.name) for each in ROWS)
        sink.finish()
    assert path.read_bytes() == whole


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingDependency, match=r"caffe_port\[parquet\]"):
        FileSink(tmp_path / "a.parquet", "parquet", SCORE)
    assert names_in(tmp_path) == []


def test_nan_never_gets_in() -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        streamed("jsonl", SCORE, [Row("a", (math.nan, math.nan))])
