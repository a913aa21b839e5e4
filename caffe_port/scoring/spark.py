"""Scoring with Apache Spark: a DataFrame of images in, a DataFrame of scores out; and files, as a command wants them.

Nothing is shuffled: each task scores the rows of its partition, some at a time, in the executor's Python process. The
model travels there once, as an ONNX model in a broadcast, and is opened once in each process.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Literal

from caffe_port.errors import ArtifactError, GraphError, MissingDependency, Problems
from caffe_port.scoring.classifier import Classifier
from caffe_port.scoring.columns import Columns
from caffe_port.scoring.run import Summary
from caffe_port.scoring.scorer import Scorer
from caffe_port.scoring.spark_errors import reason, told
from caffe_port.scoring.spark_files import find, hadoop_path, literal, read_files
from caffe_port.scoring.spark_tasks import Given, Task, column_type, score_partition

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

    from caffe_port.models.progress import Progress

__all__ = ["score", "score_paths", "session"]


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
    return _scored(dataframe, scorer, columns, Given(content, path), keep, batch_size, threads)


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
    with told():
        found = find(spark, sources)
        place = hadoop_path(spark, output)
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
            files = read_files(spark, found, all_files=all_files)
            frames.append(_scored(files, scorer, columns, Given("content", "path", "length"), (), batch_size, threads))
        if found.tables:
            table = spark.read.parquet(*map(literal, found.tables))
            frames.append(_scored(table, scorer, columns, Given(content, path), keep, batch_size, threads))
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
        counts = spark.read.parquet(literal(output)).agg(functions.count("*"), functions.count(error)).collect()
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
            raise GraphError(f"Spark does not start: {reason(error)}") from None
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


def _scored(
    dataframe: DataFrame,
    scorer: Scorer,
    columns: Columns,
    given: Given,
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
        schema.add(name, column_type(name))
    # As it is computed: in int8 it is the one that is made once and cached, and the same as everywhere.
    portable = scorer.computed.portable()
    threads = threads or int(context.getConf().get("spark.task.cpus", "1"))
    digest = hashlib.sha256(pickle.dumps((portable, scorer.draft, batch_size, threads))).hexdigest()
    task = Task(digest, given, tuple(keep), columns, scorer.draft, batch_size, threads)
    wanted = dict.fromkeys([*keep, *filter(None, (given.content, given.path, given.length))])
    run = partial(score_partition, task, context.broadcast(portable))
    return dataframe.select(*map(_column, wanted)).mapInArrow(run, schema)


def _checked(dataframe: DataFrame, given: Given, keep: Sequence[str], columns: Columns) -> Given:
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


def _column(name: str) -> Column:
    from pyspark.sql import functions

    quoted = name.replace("`", "``")
    return functions.col(f"`{quoted}`")
