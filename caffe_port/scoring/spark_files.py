"""Files as a command names them, in any file system that Spark knows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from caffe_port.errors import DataError, Problems
from caffe_port.limits import limits
from caffe_port.scoring.sources import image_suffixes
from caffe_port.scoring.spark_errors import reason

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["Found", "find", "hadoop_path", "literal", "read_files"]


@dataclass(frozen=True, slots=True)
class Found:
    """Paths as Hadoop has them, with whether each is of the scheme `file`."""

    files: list[tuple[str, bool]]
    folders: list[tuple[str, bool]]
    tables: list[str]


def find(spark: SparkSession, sources: Sequence[str]) -> Found:
    """Raises: DataError naming all sources that are not there."""
    from py4j.protocol import Py4JJavaError

    found = Found([], [], [])
    problems = Problems()
    for source in sources:
        try:
            path = hadoop_path(spark, source)
            system = path.getFileSystem(spark._jsc.hadoopConfiguration())
            there = [system.getFileStatus(path)] if system.exists(path) else list(system.globStatus(path) or ())
        except Py4JJavaError as error:
            problems.add(DataError, f"{source}: {reason(error)}")
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


def hadoop_path(spark: SparkSession, name: str) -> Any:
    assert spark._jvm is not None, "a classic session has a JVM"
    return spark._jvm.org.apache.hadoop.fs.Path(name)


def literal(path: str) -> str:
    """A path in which no letter is a pattern."""
    return re.sub(r"([\\*?\[\]{}])", r"\\\1", path)


def read_files(spark: SparkSession, found: Found, *, all_files: bool) -> DataFrame:
    """path, length, content; no content of local files, which executors read, and of those that are too large."""
    from pyspark.sql import functions

    length = functions.col("length")
    empty = functions.lit(None).cast("binary").alias("content")
    frames = []
    for group in (found.files, found.folders):
        for local in (True, False):
            paths = [literal(path) for path, is_local in group if is_local == local]
            if not paths:
                continue
            files = spark.read.format("binaryFile").option("recursiveFileLookup", "true").load(paths)
            parts = [_empty_files(spark, files).withColumn("content", empty)]
            if local:
                parts.append(files.select("path", "length", empty))
            else:
                # Both are conditions that the source applies before it reads.
                parts.append(files.where(length <= limits.file_bytes).select("path", "length", "content"))
                parts.append(files.where(length > limits.file_bytes).select("path", "length", empty))
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
