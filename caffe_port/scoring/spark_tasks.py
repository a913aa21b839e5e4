"""What a task of Spark does in an executor's Python process: the rows of a partition, scored."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from caffe_port.errors import ImageError
from caffe_port.scoring.classifier import Classifier
from caffe_port.scoring.columns import Columns
from caffe_port.scoring.items import Item
from caffe_port.scoring.scorer import Scorer
from caffe_port.scoring.sources import read_file, too_large

if TYPE_CHECKING:
    import pyarrow
    from pyspark import Broadcast

__all__ = ["Given", "Task", "column_type", "score_partition"]

ROWS = 1024
"""Of an Arrow batch that goes out, at most. How large those that come in are, Spark's settings say."""

OPEN_MODELS = 2
"""What a Python process of an executor keeps open."""

_SCHEME = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*):)?(?://(?=/))?(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Given:
    """The names of the columns of what comes in; those that it has not are None."""

    content: str | None
    path: str | None
    length: str | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """What a task needs to know, apart from the model. `key`: of the model and all that it is opened with."""

    key: str
    given: Given
    keep: tuple[str, ...]
    columns: Columns
    draft: bool
    batch_size: int | None
    threads: int


def column_type(name: str) -> str:
    """Of a column of the result, as Spark and Arrow both call it."""
    if name == "flagged":
        return "boolean"
    return "double" if name == "score" or name.startswith(("probability_", "p_")) else "string"


def score_partition(
    task: Task, model: Broadcast[Classifier], batches: Iterator[pyarrow.RecordBatch]
) -> Iterator[pyarrow.RecordBatch]:
    """Runs in an executor's Python process: the rows of a partition, in their order."""
    scorer = _opened(task, model)
    for batch in batches:
        with closing(scorer.stream(_items(task.given, batch))) as rows:  # type: ignore[type-var]
            for start in range(0, batch.num_rows, ROWS):
                yield _rows_out(task, batch.slice(start, ROWS), list(islice(rows, ROWS)))


def _rows_out(task: Task, batch: pyarrow.RecordBatch, rows: Sequence[Any]) -> pyarrow.RecordBatch:
    import pyarrow

    values = []
    for row in rows:
        if row.ok and not all(map(math.isfinite, row.probabilities)):
            row = replace(row, probabilities=(), error="the model computed no finite number for it")
        values.append(task.columns.values(row))
    arrays = [batch.column(name) for name in task.keep]
    for name, column in zip(task.columns.names, zip(*values, strict=True), strict=True):
        arrays.append(pyarrow.array(column, pyarrow.type_for_alias(column_type(name))))
    # As it came in, so that it can be joined on.
    path = task.given.path
    arrays[len(task.keep)] = pyarrow.nulls(len(rows), pyarrow.string()) if path is None else batch.column(path)
    return pyarrow.RecordBatch.from_arrays(arrays, names=[*task.keep, *task.columns.names])


_scorers: dict[str, Scorer] = {}
_opening = threading.Lock()


def _opened(task: Task, model: Broadcast[Classifier]) -> Scorer:
    """The model, opened once in this process, whatever the number of its tasks."""
    with _opening:
        if task.key not in _scorers:
            while len(_scorers) >= OPEN_MODELS:
                del _scorers[next(iter(_scorers))]
            _scorers[task.key] = Scorer(model.value, draft=task.draft, batch_size=task.batch_size, threads=task.threads)
        return _scorers[task.key]


def _items(given: Given, batch: pyarrow.RecordBatch) -> Iterator[Item]:
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
