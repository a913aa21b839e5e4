"""Scoring with a real Spark of two threads: the released model, its images, and what can go wrong."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from places import REFERENCE

from caffe_port.errors import ArtifactError, DataError, FetchError, GraphError, MissingDependency
from caffe_port.limits import limits
from caffe_port.models.fetch import fetch
from caffe_port.scoring import spark as scoring
from caffe_port.scoring import spark_tasks
from caffe_port.scoring.classifier import Classifier, open_classifier
from caffe_port.scoring.run import Verdict
from caffe_port.scoring.scorer import Scorer

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# One process for all of them: a session is a second process, and takes seconds to start.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("spark"),
    pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning"),
]

RECORDINGS = REFERENCE / "open_nsfw"
IMAGES = RECORDINGS / "images"
SCORES = json.loads((RECORDINGS / "scores.json").read_text())
BROKEN = {name for name, entry in SCORES.items() if "error" in entry}


@pytest.fixture(scope="module")
def model() -> Classifier:
    try:
        fetch("open_nsfw")
    except FetchError as error:
        pytest.skip(f"the released model cannot be had: {error}")
    pytest.importorskip("onnxruntime")
    return open_classifier("open_nsfw")


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    pytest.importorskip("pyarrow")
    pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("Java is not there")
    with scoring.session("local[2]", {"spark.sql.shuffle.partitions": "2"}) as session:
        yield session


def binary_files(spark: SparkSession, folder: Path = IMAGES) -> DataFrame:
    return spark.read.format("binaryFile").load(str(folder))


def by_name(frame: DataFrame) -> dict[str, dict[str, object]]:
    rows = [row.asDict() for row in frame.collect()]
    found = {Path(row["image"]).name: row for row in rows}
    assert len(found) == len(rows)
    return found


def check_scores(found: dict[str, dict[str, object]], names: set[str]) -> None:
    """These images of the recordings have Caffe's score, or, if Caffe could not read them, an error."""
    assert found.keys() == names
    for name, row in found.items():
        assert row["model"] == "open_nsfw"
        if name in BROKEN:
            assert row["score"] is None
            assert row["error"]
        else:
            assert row["error"] is None
            assert abs(row["score"] - SCORES[name]["prob"][1]) <= 2e-7


def test_binary_files(spark: SparkSession, model: Classifier) -> None:
    """In several batches of Arrow, and several of the model; a column kept, and all that can be asked for."""
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "5")
    try:
        files = binary_files(spark)
        frame = scoring.score(
            files, model, keep=("length",), batch_size=3, top_k=1, probabilities=True, flag=Verdict(0.05)
        )
        assert frame.columns == [
            *("length", "image", "score", "flagged", "label_1", "probability_1"),
            *(f"p_{label}" for label in model.labels),
            *("error", "model"),
        ]
        found = by_name(frame)
    finally:
        spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
    # Spark's source leaves empty files out.
    check_scores(found, SCORES.keys() - {"empty.png"})
    for name, row in found.items():
        assert row["image"] == f"file:{IMAGES / name}"
        assert row["length"] == (IMAGES / name).stat().st_size
        probabilities = [row[f"p_{label}"] for label in model.labels]
        if name in BROKEN:
            assert {row["flagged"], row["label_1"], row["probability_1"], *probabilities} == {None}
        else:
            assert row["score"] == probabilities[1]
            assert row["flagged"] == (row["score"] >= 0.05)
            assert row["probability_1"] == max(probabilities)
            assert row["label_1"] == model.labels[probabilities.index(max(probabilities))]
    assert {row["flagged"] for row in found.values()} == {True, False, None}


def test_nothing_is_shuffled_and_rows_stay_in_order(spark: SparkSession, model: Classifier) -> None:
    files = binary_files(spark).where("path like '%/co%'")
    frame = scoring.score(files, model)
    assert "Exchange" not in frame._jdf.queryExecution().executedPlan().toString()
    assert frame.rdd.getNumPartitions() == files.rdd.getNumPartitions()
    rows = frame.collect()
    assert len(rows) == 5
    assert [row.image for row in rows] == [row.path for row in files.select("path").collect()]


def test_paths_alone_are_read_by_the_executors(spark: SparkSession, model: Classifier, tmp_path: Path) -> None:
    good = IMAGES / "coffee_1x1.png"
    paths = [str(good), f"file:{good}", f"file://{good}", str(tmp_path / "gone.jpg"), str(tmp_path), None, "s3a://b/c"]
    frame = spark.createDataFrame([(path, i) for i, path in enumerate(paths)], "where string, number int").coalesce(1)
    rows = scoring.score(frame, model, path="where", keep=("number",)).collect()
    assert [row.number for row in rows] == list(range(len(paths)))
    assert [row.image for row in rows] == paths
    expected = SCORES["coffee_1x1.png"]["prob"][1]
    assert all(abs(row.score - expected) <= 2e-7 for row in rows[:3])
    assert [row.error for row in rows[3:]] == [
        "no such file",
        "a folder, not a file",
        "neither content nor path",
        "executors read local files, not s3a: load it with Spark's source binaryFile",
    ]


def test_the_model_is_opened_once_in_a_process(spark: SparkSession, model: Classifier) -> None:
    """Of four tasks, on two processes, and again of four of another DataFrame."""
    content = (IMAGES / "coffee_1x1.png").read_bytes()

    def opened(batches: Iterator[Any]) -> Iterator[Any]:
        import os

        import pyarrow

        from caffe_port.scoring.spark_tasks import _scorers

        for _ in batches:
            rows = [{"process": os.getpid(), "key": key, "scorer": id(scorer)} for key, scorer in _scorers.items()]
            if rows:
                yield pyarrow.RecordBatch.from_pylist(rows)

    def score_and_look() -> dict[tuple[int, str], int]:
        frame = spark.createDataFrame([(content,)] * 4, "content binary").repartition(4)
        scores = scoring.score(frame, model, batch_size=2)
        assert scores.rdd.getNumPartitions() == 4
        rows = scores.collect()
        assert {(row.image, row.score) for row in rows} == {(None, rows[0].score)}
        assert abs(rows[0].score - SCORES["coffee_1x1.png"]["prob"][1]) <= 2e-7
        seen = spark.range(0, 4, 1, 4).mapInArrow(opened, "process long, key string, scorer long").collect()
        return {(row.process, row.key): row.scorer for row in seen}

    first, second = score_and_look(), score_and_look()
    assert first
    assert max(Counter(process for process, _ in first).values()) <= spark_tasks.OPEN_MODELS
    both = first.keys() & second.keys()
    assert both
    assert {key: first[key] for key in both} == {key: second[key] for key in both}


def test_int8_scores_as_the_scorer_does(spark: SparkSession, model: Classifier) -> None:
    names = ["astronaut.png", "chelsea.png"]
    files = binary_files(spark).where("path like '%/astronaut.png' or path like '%/chelsea.png'")
    found = by_name(scoring.score(files, model, precision="int8"))
    with Scorer(model, precision="int8", threads=1) as scorer:
        # Batches are not the same.
        assert [found[name]["score"] for name in names] == pytest.approx(
            [scorer.score(IMAGES / name) for name in names], abs=2e-7
        )


@pytest.mark.parametrize("source", ["folder", "pattern", "parquet"])
def test_sources_of_the_command(spark: SparkSession, model: Classifier, tmp_path: Path, source: str) -> None:
    pyarrow = pytest.importorskip("pyarrow.parquet")
    output = tmp_path / "scores.parquet"
    given, keep, names = str(IMAGES.parent), (), set(SCORES)
    if source == "pattern":
        given, names = str(IMAGES / "[er]*.*"), {name for name in SCORES if name[0] in "er"}
    elif source == "parquet":
        given, keep, names = str(tmp_path / "images.parquet"), ("label",), {"rocket_truncated.jpg", "coffee.png"}
        rows = [(f"s3a://bucket/{name}", (IMAGES / name).read_bytes(), len(name)) for name in names]
        spark.createDataFrame(rows, "path string, content binary, label int").write.parquet(given)
    summary = scoring.score_paths(spark, [given], str(output), model, keep=keep)
    failed = len(names & BROKEN)
    assert failed
    assert (summary.scored, summary.failed, summary.ok) == (len(names) - failed, failed, False)
    assert (output / "_SUCCESS").is_file()
    table = pyarrow.read_table(output)
    assert table.column_names == [*keep, "image", "score", "error", "model"]
    check_scores({Path(row["image"]).name: row for row in table.to_pylist()}, names)


def test_names_and_files_of_all_kinds(spark: SparkSession, model: Classifier, tmp_path: Path) -> None:
    names = ["a b.png", "[1]{x}*.png", "ä%20.PNG", "deep/er/x.jpg", "named.txt", "other.txt", ".hidden.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(tmp_path / name, "PNG")
    zero = {"zero+1 %2B ö.jpg", "zero.webp"}
    for name in (*zero, "zero.txt"):
        (tmp_path / name).touch()
    output = str(tmp_path.parent / f"{tmp_path.name}.out")
    scoring.score_paths(spark, [str(tmp_path), str(tmp_path / "named.txt")], output, model)
    found = by_name(spark.read.parquet(output))
    assert {name: row["error"] for name, row in found.items() if row["error"]} == dict.fromkeys(
        zero, "the file is empty"
    )
    assert found.keys() == {"a b.png", "[1]{x}*.png", "ä%20.PNG", "x.jpg", "named.txt"} | zero
    assert all(row["image"] == f"file:{tmp_path / name}" for name, row in found.items() if name in zero)
    with pytest.raises(ArtifactError, match="is there already"):
        scoring.score_paths(spark, [str(tmp_path)], output, model)
    one = scoring.score_paths(spark, [str(tmp_path / "[1]{x}*.png")], output, model, overwrite=True)
    assert (one.scored, one.failed) == (1, 0)
    assert spark.read.parquet(output).count() == 1


def test_other_file_systems_come_through_hadoop(spark: SparkSession, model: Classifier, tmp_path: Path) -> None:
    """`viewfs`, which is another name of a local folder; a file that is too large is a row, and is not read."""
    (tmp_path / "in").mkdir()
    shutil.copy(IMAGES / "coffee_1x1.png", tmp_path / "in")
    with (tmp_path / "in" / "huge.jpg").open("wb") as stream:
        stream.truncate(limits.file_bytes + 1)
    (tmp_path / "in" / "zero.jpg").touch()
    configuration = spark._jsc.hadoopConfiguration()
    configuration.set("fs.viewfs.mounttable.here.link./data", f"file://{tmp_path}")
    output = "viewfs://here/data/out.parquet"
    summary = scoring.score_paths(spark, ["viewfs://here/data/in"], output, model)
    assert (summary.scored, summary.failed) == (1, 2)
    found = by_name(spark.read.parquet(str(tmp_path / "out.parquet")))
    assert found["huge.jpg"]["image"] == "viewfs://here/data/in/huge.jpg"
    assert found["zero.jpg"]["error"] == "the file is empty"
    assert "at most 268,435,456 are read" in str(found["huge.jpg"]["error"])
    assert abs(found["coffee_1x1.png"]["score"] - SCORES["coffee_1x1.png"]["prob"][1]) <= 2e-7


def test_what_is_refused(spark: SparkSession, model: Classifier, tmp_path: Path) -> None:
    frame = spark.createDataFrame([(1, "x", "m")], "content int, path string, MODEL string")
    with pytest.raises(GraphError) as error:
        scoring.score(frame, model, keep=("MODEL", "gone"))
    assert [problem.message for problem in error.value.problems] == [
        "column 'content' is int, not binary",
        "no column 'gone' to keep; there are: content, path, MODEL",
        "two columns 'model' in the result: rename the one that is kept",
    ]
    with pytest.raises(GraphError, match="neither a column 'a' nor 'b'"):
        scoring.score(frame, model, content="a", path="b")
    with pytest.raises(GraphError, match="not torch"):
        scoring.score(frame, model, backend="torch")
    with pytest.raises(GraphError, match="threads must be 1 or more"):
        scoring.score(frame, model, threads=0)
    with pytest.raises(DataError) as missing:
        scoring.score_paths(spark, [str(tmp_path / "gone"), "nope://x"], str(tmp_path / "out"), model)
    assert len(missing.value.problems) == 2
    assert 'No FileSystem for scheme "nope"' in str(missing.value)
    with pytest.raises(GraphError, match="files have no columns"):
        scoring.score_paths(spark, [str(IMAGES)], str(tmp_path / "out"), model, keep=("label",))
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(ArtifactError, match=r"torn\.parquet") as torn:
        scoring.score_paths(spark, [str(tmp_path / "torn.parquet")], str(tmp_path / "out"), model)
    assert "\n" not in str(torn.value)
    assert not (tmp_path / "out").exists()


def test_a_job_that_fails(spark: SparkSession, model: Classifier, tmp_path: Path) -> None:
    """In an executor: one line says why, and the same command is not refused afterwards."""

    def broken(score: float) -> bool:
        raise ValueError("no flag today")

    image, output = str(IMAGES / "coffee_1x1.png"), str(tmp_path / "out")
    with pytest.raises(ArtifactError, match=r"^Spark failed: ValueError: no flag today$"):
        scoring.score_paths(spark, [image], output, model, flag=lambda model: broken)
    assert scoring.score_paths(spark, [image], output, model, flag=lambda model: Verdict(0.5)).ok


def test_without_java(tmp_path: Path) -> None:
    """In a process of its own: a session that runs needs no other Java."""
    pytest.importorskip("pyspark")
    pytest.importorskip("pyarrow")
    import os
    import subprocess
    import sys

    code = (
        "from caffe_port.scoring.spark import session\n"
        "from caffe_port.errors import MissingDependency\n"
        "try:\n    with session('local[1]'): pass\n"
        "except MissingDependency as error: print(error)\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("JAVA", "SPARK", "PYSPARK"))}
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "dirname", "env"):
        (tools / tool).symlink_to(shutil.which(tool) or tool)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | {"PATH": str(tools)}, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "Spark could not start Java: install Java 17 or newer, and set JAVA_HOME or PATH"


def test_without_pyspark(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(MissingDependency, match=r"caffe_port\[spark\]"), scoring.session("local[1]"):
        pass
