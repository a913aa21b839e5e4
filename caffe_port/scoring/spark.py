"""Scoring with Apache Spark: a DataFrame of images in, a DataFrame of scores out; and files, as a command wants them.

Nothing is shuffled: each task scores the rows of its partition, some at a time, in the executor's Python process. The
model travels there once, as an ONNX model in a broadcast, and is opened once in each process.
"""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

from caffe_port.errors import ArtifactError, DataError, GraphError, ImageError, MissingDependency, Problems
from caffe_port.scoring.classifier import Classifier
from caffe_port.scoring.items import Item
from caffe_port.scoring.run import Summary
from caffe_port.scoring.scorer import Scorer
from caffe_port.scoring.sinks import Columns
from caffe_port.scoring.sources import MAX_FILE_BYTES, image_suffixes, read_file, too_large

if TYPE_CHECKING:
    import pyarrow
    from pyspark import Broadcast
    from pyspark.sql import Column, DataFrame, SparkSession

    from caffe_port.models.fetch import Progress

__all__ = ["score", "score_paths", "session"]

ROWS = 1024
"""Of an Arrow batch that goes out, at most. How large those that come in are, Spark's settings say."""

OPEN_MODELS = 2
"""What a Python process of an executor keeps open."""

_SCHEME = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*):)?(?://(?=/))?(.*)", re.DOTALL)


def score(
    dataframe: DataFrame,
    model: str | os.PathLike[str] | Classifier = "open_nsfw",
    *,
    content: str = "content",
    path: str = "path",
    keep: Sequence[str] = (),
    backend: str | None = None,
    precision: Literal["float32", "int8"] = "float32",
    draft: bool = False,
    batch_size: int | None = None,
    threads: int | None = None,
    top_k: int | None = None,
    probabilities: bool = False,
    flag: Callable[[float], bool] | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> DataFrame:
    """The scores of the images in a DataFrame: a row for each of its rows, lazily, in the partitions it has.

    - `content`, `path`: its columns with the bytes of the files (binary) and their names (string), as Spark's source
      `binaryFile` has them (which leaves empty files out). One of the two is enough. Where there is no content the
      executor reads the file of that path, which must be on a file system it has mounted: `/a/b.jpg`, or as Hadoop
      writes it, without escapes, `file:/a/b.jpg`.
    - `keep`: further columns of it that the result is to have, in front.
    - `model`, `precision`, `draft`, `offline`, `progress`: as for Scorer. `backend`: onnxruntime alone can be sent.
    - `batch_size`: images computed at once; `threads`: of a task, by default `spark.task.cpus`.
    - `top_k` (by default 1 where no label is the score), `probabilities`, `flag`: as for Columns.

    The result has the columns of `Columns`: `image` (the path), `score`, …, `error`, `model`; of an image that cannot
    be scored `error` says why, and the rest is null.

    Raises: as Scorer and Columns; GraphError for columns that are not there, are of another type, or would be there
    twice, and for Spark Connect; MissingDependency. The job fails if an executor lacks caffe_port or onnxruntime.
    """
    _require()
    scorer = _scorer(model, backend, precision, draft, offline, progress)
    columns = _columns(scorer, top_k, probabilities, flag)
    return _scored(dataframe, scorer, columns, _Given(content, path), keep, batch_size, threads)


def score_paths(
    spark: SparkSession,
    sources: Sequence[str],
    output: str,
    model: str | os.PathLike[str] | Classifier = "open_nsfw",
    *,
    overwrite: bool = False,
    all_files: bool = False,
    content: str = "content",
    path: str = "path",
    keep: Sequence[str] = (),
    backend: str | None = None,
    precision: Literal["float32", "int8"] = "float32",
    draft: bool = False,
    batch_size: int | None = None,
    threads: int | None = None,
    top_k: int | None = None,
    probabilities: bool = False,
    flag: Callable[[Classifier], Callable[[float], bool] | None] | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Scores files and tables, and writes a folder of Parquet, which is complete when `_SUCCESS` is in it.

    - `sources`: files, folders (with all that is below), Hadoop's patterns where there is no such file, in any file
      system that the session knows (`/a`, `hdfs://…`, `s3a://…`); or Parquet, a name that ends in `.parquet` or `.pq`,
      with a column `content` or `path`.
    - `all_files`: of folders not only what ends as an image. Hidden files, as Spark sees it (`.name`, `_name`), never.
    - `output`: refused if it is there, unless `overwrite`; Spark deletes it then before the first row is written.
    - `keep`: columns of Parquet sources that the result is to have.
    - `flag`: makes `flagged` of a score, for the model that was opened.
    - the others: as for `score`.

    Files of the scheme `file:` are read in Python, so one that cannot be read is a row; others come through Hadoop, and
    if one of them cannot be read the job fails.
    Raises: as `score`; DataError for sources that are not there; ArtifactError if the output is there or the job fails.
    """
    _require()
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException
    from pyspark.sql import functions

    started = time.monotonic()
    with _told():
        found = _find(spark, sources)
        place = _hadoop_path(spark, output)
        system = place.getFileSystem(spark._jsc.hadoopConfiguration())
        there = system.exists(place)
        if there and not overwrite:
            raise ArtifactError(f"{output} is there already: give another name, or --overwrite to replace it")
        scorer = _scorer(model, backend, precision, draft, offline, progress)
        columns = _columns(scorer, top_k, probabilities, None if flag is None else flag(scorer.model))
        frames = []
        if keep and (found.folders or found.files):
            raise GraphError(f"files have no columns to keep ({', '.join(keep)}); only Parquet has")
        if found.folders or found.files:
            files = _files(spark, found, all_files=all_files)
            frames.append(_scored(files, scorer, columns, _Given("content", "path", "length"), (), batch_size, threads))
        if found.tables:
            table = spark.read.parquet(*map(_literal, found.tables))
            frames.append(_scored(table, scorer, columns, _Given(content, path), keep, batch_size, threads))
        scores = reduce(lambda one, other: one.union(other), frames)
        try:
            scores.write.mode("overwrite" if overwrite else "errorifexists").parquet(output)
        except (PySparkException, Py4JError):
            # Spark takes its rows away, and leaves the folder, for which the same command would be refused.
            if not there and system.exists(place) and not len(system.listStatus(place)):
                system.delete(place, False)
            raise
        # What is there, not what was meant to be. Parquet counts without reading the other columns.
        error = functions.col("error")
        counts = spark.read.parquet(_literal(output)).agg(functions.count("*"), functions.count(error)).collect()
        done, failed = counts[0]
    return Summary(done - failed, failed, 0, time.monotonic() - started)


@contextmanager
def session(master: str | None = None, settings: Mapping[str, str] | None = None) -> Iterator[SparkSession]:
    """A session of one's own for a command, stopped at the end.

    `master`: `local[2]`, `spark://…`, `yarn`, `k8s://…`; None leaves it to the settings or to spark-submit.
    `settings`: of Spark, by their names.
    Raises: MissingDependency without PySpark or Java; GraphError if Spark refuses to start.
    """
    _require()
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    local = master is not None and master.startswith("local")
    # Few words: a command's standard error is for what it says itself.
    defaults = {"spark.app.name": "caffe-port score", "spark.log.level": "OFF" if local else "ERROR"}
    defaults["spark.ui.showConsoleProgress"] = str(sys.stderr.isatty()).lower()
    if local:
        # The same Python as this one, and no port that others can reach.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        defaults["spark.ui.enabled"] = "false"
    builder = SparkSession.builder if master is None else SparkSession.builder.master(master)
    for key, value in (defaults | dict(settings or {})).items():
        builder = builder.config(key, value)
    with warnings.catch_warnings():
        # That some of its functions with pandas are not tested with the newest; none is used here.
        warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
        try:
            spark = builder.getOrCreate()
        except (PySparkException, Py4JError, OSError) as error:
            if "JAVA_GATEWAY_EXITED" in str(error) or isinstance(error, FileNotFoundError):
                raise MissingDependency(
                    "Spark could not start Java: install Java 17 or newer, and set JAVA_HOME or PATH"
                ) from None
            raise GraphError(f"Spark does not start: {_reason(error)}") from None
        try:
            yield spark
        finally:
            spark.stop()


def _require() -> None:
    try:
        import pyarrow  # noqa: F401
        import pyspark.sql  # noqa: F401
    except ImportError as error:
        raise MissingDependency(f"Spark is needed for this: pip install 'caffe_port[spark]' ({error})") from None


# The driver


def _scorer(
    model: str | os.PathLike[str] | Classifier,
    backend: str | None,
    precision: Literal["float32", "int8"],
    draft: bool,
    offline: bool,
    progress: Progress | None,
) -> Scorer:
    if backend not in (None, "onnxruntime"):
        raise GraphError(f"Spark sends an ONNX model to the executors: backend onnxruntime, not {backend}")
    return Scorer(
        model, backend="onnxruntime", precision=precision, draft=draft, offline=offline, progress=progress, threads=1
    )


def _columns(scorer: Scorer, top_k: int | None, probabilities: bool, flag: Callable[[float], bool] | None) -> Columns:
    model = scorer.model
    # Where no label is the score, a score without its label says nothing.
    top_k = int(model.score_index is None) if top_k is None else top_k
    return Columns(model.name, model.labels, model.score_index, top_k, probabilities, flag)


@dataclass(frozen=True, slots=True)
class _Given:
    """The names of the columns of what comes in; those that it has not are None."""

    content: str | None
    path: str | None
    length: str | None = None


@dataclass(frozen=True, slots=True)
class _Task:
    """What a task needs to know, apart from the model. `key`: of the model and all that it is opened with."""

    key: str
    given: _Given
    keep: tuple[str, ...]
    columns: Columns
    draft: bool
    batch_size: int | None
    threads: int


def _scored(
    dataframe: DataFrame,
    scorer: Scorer,
    columns: Columns,
    given: _Given,
    keep: Sequence[str],
    batch_size: int | None,
    threads: int | None,
) -> DataFrame:
    from pyspark.errors import PySparkException
    from pyspark.sql.types import StructType

    try:
        context = dataframe.sparkSession.sparkContext
    except PySparkException:
        raise GraphError("Spark Connect has no broadcasts: score with a classic Spark session") from None
    for what, number in (("batch_size", batch_size), ("threads", threads)):
        if number is not None and number < 1:
            raise GraphError(f"{what} must be 1 or more, not {number}")
    given = _checked(dataframe, given, keep, columns)
    schema = StructType([dataframe.schema[name] for name in keep])
    for name in columns.names:
        schema.add(name, _type(name))
    # As it is computed: in int8 it is the one that is made once and cached, and the same as everywhere.
    portable = scorer.computed.portable()
    threads = threads or int(context.getConf().get("spark.task.cpus", "1"))
    digest = hashlib.sha256(pickle.dumps((portable, scorer.draft, batch_size, threads))).hexdigest()
    task = _Task(digest, given, tuple(keep), columns, scorer.draft, batch_size, threads)
    wanted = dict.fromkeys([*keep, *filter(None, (given.content, given.path, given.length))])
    run = partial(_score_partition, task, context.broadcast(portable))
    return dataframe.select(*map(_column, wanted)).mapInArrow(run, schema)


def _checked(dataframe: DataFrame, given: _Given, keep: Sequence[str], columns: Columns) -> _Given:
    """The columns that are there. Raises: GraphError naming all that is wrong with them."""
    problems = Problems()
    types = {field.name: field.dataType.simpleString() for field in dataframe.schema.fields}
    there = ", ".join(types)
    content = given.content if given.content in types else None
    path = given.path if given.path in types else None
    if content is None and path is None:
        problems.add(GraphError, f"neither a column {given.content!r} nor {given.path!r}; there are: {there}")
    for name, kind in ((content, "binary"), (path, "string")):
        if name is not None and types[name] != kind:
            problems.add(GraphError, f"column {name!r} is {types[name]}, not {kind}")
    for name in keep:
        if name not in types:
            problems.add(GraphError, f"no column {name!r} to keep; there are: {there}")
    seen: set[str] = set()
    for name in (*keep, *columns.names):
        # Spark does not tell upper from lower case.
        if name.casefold() in seen:
            problems.add(GraphError, f"two columns {name!r} in the result: rename the one that is kept")
        seen.add(name.casefold())
    problems.raise_if_any()
    return replace(given, content=content, path=path)


def _type(name: str) -> str:
    """Of a column of the result, as Spark and Arrow both call it."""
    if name == "flagged":
        return "boolean"
    return "double" if name == "score" or name.startswith(("probability_", "p_")) else "string"


def _column(name: str) -> Column:
    from pyspark.sql import functions

    quoted = name.replace("`", "``")
    return functions.col(f"`{quoted}`")


# The executors


def _score_partition(
    task: _Task, model: Broadcast[Classifier], batches: Iterator[pyarrow.RecordBatch]
) -> Iterator[pyarrow.RecordBatch]:
    """Runs in an executor's Python process: the rows of a partition, in their order."""
    scorer = _opened(task, model)
    for batch in batches:
        with closing(scorer.stream(_items(task.given, batch))) as rows:  # type: ignore[type-var]
            for start in range(0, batch.num_rows, ROWS):
                yield _rows_out(task, batch.slice(start, ROWS), list(islice(rows, ROWS)))


def _rows_out(task: _Task, batch: pyarrow.RecordBatch, rows: Sequence[Any]) -> pyarrow.RecordBatch:
    import pyarrow

    values = []
    for row in rows:
        if row.ok and not all(map(math.isfinite, row.probabilities)):
            row = replace(row, probabilities=(), error="the model computed no finite number for it")
        values.append(task.columns.values(row))
    arrays = [batch.column(name) for name in task.keep]
    for name, column in zip(task.columns.names, zip(*values, strict=True), strict=True):
        arrays.append(pyarrow.array(column, pyarrow.type_for_alias(_type(name))))
    # As it came in, so that it can be joined on.
    path = task.given.path
    arrays[len(task.keep)] = pyarrow.nulls(len(rows), pyarrow.string()) if path is None else batch.column(path)
    return pyarrow.RecordBatch.from_arrays(arrays, names=[*task.keep, *task.columns.names])


_scorers: dict[str, Scorer] = {}
_opening = threading.Lock()


def _opened(task: _Task, model: Broadcast[Classifier]) -> Scorer:
    """The model, opened once in this process, whatever the number of its tasks."""
    with _opening:
        if task.key not in _scorers:
            while len(_scorers) >= OPEN_MODELS:
                del _scorers[next(iter(_scorers))]
            _scorers[task.key] = Scorer(model.value, draft=task.draft, batch_size=task.batch_size, threads=task.threads)
        return _scorers[task.key]


def _items(given: _Given, batch: pyarrow.RecordBatch) -> Iterator[Item]:
    for i in range(batch.num_rows):
        content, path, length = (
            None if name is None else batch.column(name)[i] for name in (given.content, given.path, given.length)
        )
        name = None if path is None else path.as_py()
        size = None if length is None else length.as_py()
        yield Item(name or "", partial(_bytes_of, content, name, size))


def _bytes_of(content: Any, path: str | None, length: int | None) -> bytes:
    """Raises: ImageError."""
    if content is not None and content.is_valid:
        found: bytes = content.as_py()
        length = len(found)
    if length is not None and (reason := too_large(length)):
        raise ImageError(reason)
    if content is not None and content.is_valid:
        return found
    if length == 0:
        return b""
    if path is None:
        raise ImageError("neither content nor path")
    match = _SCHEME.fullmatch(path)
    assert match is not None, "every text matches"
    scheme, rest = match.groups()
    if scheme is not None and scheme.lower() != "file":
        raise ImageError(f"executors read local files, not {scheme}: load it with Spark's source binaryFile")
    return read_file(rest)


# Files, as the command names them


@dataclass(frozen=True, slots=True)
class _Found:
    """Paths as Hadoop has them, with whether each is of the scheme `file`."""

    files: list[tuple[str, bool]]
    folders: list[tuple[str, bool]]
    tables: list[str]


def _find(spark: SparkSession, sources: Sequence[str]) -> _Found:
    """Raises: DataError naming all sources that are not there."""
    from py4j.protocol import Py4JJavaError

    found = _Found([], [], [])
    problems = Problems()
    for source in sources:
        try:
            path = _hadoop_path(spark, source)
            system = path.getFileSystem(spark._jsc.hadoopConfiguration())
            there = [system.getFileStatus(path)] if system.exists(path) else list(system.globStatus(path) or ())
        except Py4JJavaError as error:
            problems.add(DataError, f"{source}: {_reason(error)}")
            continue
        if not there:
            problems.add(DataError, f"{source}: no such file, folder or pattern in {system.getUri().toString()}")
        local = system.getScheme() == "file"
        for status in there:
            name = status.getPath().toString()
            if name.lower().endswith((".parquet", ".pq")):
                found.tables.append(name)
            else:
                (found.folders if status.isDirectory() else found.files).append((name, local))
    if not sources:
        problems.add(DataError, "nothing to score: name files, folders, patterns or Parquet")
    problems.raise_if_any()
    return found


def _hadoop_path(spark: SparkSession, name: str) -> Any:
    assert spark._jvm is not None, "a classic session has a JVM"
    return spark._jvm.org.apache.hadoop.fs.Path(name)


def _literal(path: str) -> str:
    """A path in which no letter is a pattern."""
    return re.sub(r"([\\*?\[\]{}])", r"\\\1", path)


def _files(spark: SparkSession, found: _Found, *, all_files: bool) -> DataFrame:
    """path, length, content; no content of local files, which executors read, and of those that are too large."""
    from pyspark.sql import functions

    length = functions.col("length")
    empty = functions.lit(None).cast("binary").alias("content")
    frames = []
    for group in (found.files, found.folders):
        for local in (True, False):
            paths = [_literal(path) for path, is_local in group if is_local == local]
            if not paths:
                continue
            files = spark.read.format("binaryFile").option("recursiveFileLookup", "true").load(paths)
            parts = [_empty_files(spark, files).withColumn("content", empty)]
            if local:
                parts.append(files.select("path", "length", empty))
            else:
                # Both are conditions that the source applies before it reads.
                parts.append(files.where(length <= MAX_FILE_BYTES).select("path", "length", "content"))
                parts.append(files.where(length > MAX_FILE_BYTES).select("path", "length", empty))
            if group is found.folders and not all_files:
                suffixes = sorted(suffix.removeprefix(".") for suffix in image_suffixes())
                taken = functions.lower(functions.substring_index("path", ".", -1)).isin(suffixes)
                parts = [part.where(taken) for part in parts]
            frames += parts
    return reduce(lambda one, other: one.union(other), frames)


def _empty_files(spark: SparkSession, files: DataFrame) -> DataFrame:
    """path and length of the empty files, which the source `binaryFile` has in its list but leaves out of its rows."""
    schema = "path string, length bigint"
    listed = files._jdf.inputFiles()
    if len(listed) == files.count():
        return spark.createDataFrame([], schema)
    assert spark._jvm is not None, "a classic session has a JVM"
    # In one call: to take a Java array item by item is slow. These are URLs, so no name has a line break.
    urls = spark._jvm.org.apache.hadoop.util.StringUtils.join("\n", listed).split("\n")
    names = (re.sub("^file:///", "file:/", unquote(url)) for url in urls)
    # Of names alone, no contents.
    return spark.createDataFrame([(name, 0) for name in names], schema).join(files.select("path"), "path", "left_anti")


# Errors


@contextmanager
def _told() -> Iterator[None]:
    """What Spark raises, in a line."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JError) as error:
        raise ArtifactError(f"Spark failed: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    java = getattr(error, "java_exception", None)
    text = str((java.getMessage() if java is not None else None) or error)
    # Of a traceback in Python the error itself is what matters.
    if "Traceback (most recent call last)" in text:
        named = re.findall(r"^(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*: .*)$", text, re.MULTILINE)
        if named:
            return str(named[-1])
    return next(filter(None, map(str.strip, text.splitlines())), type(error).__name__)
