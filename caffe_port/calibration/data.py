"""Labels and scores: from CSV and Parquet tables, or from two folders of images that are scored now."""

from __future__ import annotations

import csv
import hashlib
import math
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from caffe_port.errors import CaffePortError, DataError, GraphError, Location, MissingDependency, Problems
from caffe_port.layers.base import Array
from caffe_port.proto.files import replacing
from caffe_port.reading import lines_of, open_regular, require_unpackable
from caffe_port.scoring.items import Item, Row

__all__ = ["Labelled", "Scored", "read_tables", "score_images"]

MOST_NAMED = 20
"""Bad rows named in one report; the others are counted."""

LEAST = 2
"""Of each class, without which no variance can be had."""

_BINARY = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Labels (N,), bool, True for positive, and scores (N,), float64 and finite, of each model by name.

    `source`: where they are from, in words. `left_out`: rows without a score, which are in none of the arrays.
    Raises: DataError where there are fewer than LEAST of a class, or all scores of a model are equal.
    """

    labels: Array
    scores: dict[str, Array]
    source: str
    left_out: int = 0

    def __post_init__(self) -> None:
        problems = Problems()
        for count, what in ((self.positives, "positive"), (self.negatives, "negative")):
            if count < LEAST:
                problems.add(
                    DataError,
                    f"{self.source}: {count} of {len(self.labels):,} rows {'is' if count == 1 else 'are'} {what}; "
                    f"calibration needs both classes, at least {LEAST} of each",
                )
        for name, scores in self.scores.items():
            if scores.shape != self.labels.shape or not np.isfinite(scores).all():
                problems.add(DataError, f"{self.source}: model {name!r}: a finite score for each label is needed")
            elif len(scores) and scores.min() == scores.max():
                problems.add(DataError, f"{self.source}: model {name!r}: all {len(scores):,} scores are {scores[0]:g}")
        if not self.scores:
            problems.add(DataError, f"{self.source}: no scores")
        problems.raise_if_any()

    @property
    def positives(self) -> int:
        """How many labels are positive."""
        return int(np.count_nonzero(self.labels))

    @property
    def negatives(self) -> int:
        """How many labels are negative."""
        return len(self.labels) - self.positives

    def sha256(self, model: str) -> str:
        """Of the labels, a byte each (0 or 1), then the model's scores as little-endian float64, in row order."""
        digest = hashlib.sha256(self.labels.astype(np.uint8).tobytes())
        digest.update(self.scores[model].astype("<f8").tobytes())
        return digest.hexdigest()


# Tables


@dataclass(frozen=True, slots=True)
class _Table:
    """Columns of a file that were asked for and are there; `lines`: where each row stands, from 1."""

    name: str
    columns: dict[str, list[Any]]
    lines: Sequence[int]


@dataclass(slots=True)
class _BadRows:
    """Problems of rows, of which only the first are named."""

    problems: Problems = field(default_factory=Problems)
    more: int = 0

    def add(self, table: _Table, row: int, message: str, hint: str = "") -> None:
        if len(self.problems.found) < MOST_NAMED:
            self.problems.add(DataError, message, location=Location(table.name, table.lines[row]), hint=hint)
        else:
            self.more += 1

    def raise_if_any(self) -> None:
        if self.more:
            self.problems.add(DataError, f"and {self.more:,} more bad rows")
        self.problems.raise_if_any()


def read_tables(
    paths: Sequence[str | os.PathLike[str]],
    *,
    label: str = "label",
    scores: Sequence[str] = ("score",),
    key: str | None = None,
    positive_label: str | None = None,
    skip_unscored: bool = False,
) -> Labelled:
    """Reads CSV files (a header, commas) and Parquet files (`.parquet`): several are of the same data.

    - `label`: the column of labels: 0 and 1, false and true; or anything, where `positive_label` says which is positive
      and every other one is negative.
    - `scores`: the columns of scores; a file needs one of them at least, unless it has the labels. A model is called
      as its column, after its file where several files have the column.
    - `key`: a column that says which row of one file is which of another, such as the image's name. Without it several
      files must have as many rows and the same labels in the same order.
    - `skip_unscored`: leave out rows with an empty score or NaN in any of them, instead of refusing them.

    Raises: DataError naming the file and line of what is wrong; MissingDependency for Parquet without pyarrow.
    """
    if not paths or not scores:
        raise GraphError("a file, and a column of scores, are needed")
    wanted = [label, *scores, *([key] if key is not None else [])]
    if len(set(wanted)) < len(wanted):
        raise GraphError(f"columns named twice: {', '.join(wanted)}")
    tables = [_read_table(path, wanted) for path in paths]
    _require_columns(tables, label, scores, key)
    bad = _BadRows()
    rows, count = _matched(tables, key, bad)
    labels = _labels(tables, rows, label, positive_label, bad)
    found: dict[str, Array] = {}
    for t, table in enumerate(tables):
        for column in scores:
            if column in table.columns:
                several = sum(column in other.columns for other in tables) > 1
                name = _fresh(
                    f"{Path(table.name).stem}{'' if len(scores) == 1 else ': ' + column}" if several else column, found
                )
                found[name] = _numbers(table, column, rows[t], bad, unscored_is_bad=not skip_unscored)
    bad.raise_if_any()
    scored = np.logical_and.reduce([~np.isnan(values) for values in found.values()])
    return Labelled(
        labels[scored],
        {name: values[scored] for name, values in found.items()},
        ", ".join(Path(table.name).name for table in tables),
        count - int(np.count_nonzero(scored)),
    )


def _fresh(name: str, taken: dict[str, Array]) -> str:
    number = 1
    fresh = name
    while fresh in taken:
        number += 1
        fresh = f"{name} ({number})"
    return fresh


def _read_table(path: str | os.PathLike[str], wanted: Sequence[str]) -> _Table:
    name = os.fspath(path)
    try:
        table = _read_parquet(name, wanted) if name.lower().endswith((".parquet", ".pq")) else _read_csv(name, wanted)
    except FileNotFoundError:
        raise DataError(f"{name}: no such file") from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from None
    if not len(table.lines):
        raise DataError(f"{name}: no rows")
    return table


def _read_csv(name: str, wanted: Sequence[str]) -> _Table:
    # utf-8-sig: spreadsheets begin their files with a byte order mark.
    with Path(name).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.reader(lines_of(stream), strict=True)
        try:
            head = next(reader, None)
            if head is None:
                raise DataError(f"{name}: an empty file; a header with the names of the columns is needed")
            places = {column: _place(name, head, column) for column in wanted if column in head}
            if not places:
                raise DataError(f"{name}:1: none of the columns {_listed(wanted)}; there are {_listed(head)}")
            columns: dict[str, list[Any]] = {column: [] for column in places}
            lines = array("q")
            problems = Problems()
            adders = [(columns[column].append, place) for column, place in places.items()]
            width, line = len(head), reader.line_num
            for row in reader:
                first, line = line + 1, reader.line_num
                if len(row) != width:
                    if row and len(problems.found) < MOST_NAMED:
                        what = f"{len(row)} fields, where the header has {width}"
                        problems.add(DataError, what, location=Location(name, first))
                    continue
                for add, place in adders:
                    add(row[place])
                lines.append(first)
        except (csv.Error, ValueError) as error:
            raise DataError(f"{name}:{reader.line_num}: no CSV: {error}") from None
    problems.raise_if_any()
    return _Table(name, columns, lines)


def _place(name: str, head: Sequence[str], column: str) -> int:
    if head.count(column) > 1:
        raise DataError(f"{name}:1: {head.count(column)} columns are called {column!r}")
    return head.index(column)


def _read_parquet(name: str, wanted: Sequence[str]) -> _Table:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependency(f"reading Parquet needs pyarrow: pip install pyarrow ({error})") from None
    try:
        with open_regular(name) as stream, parquet.ParquetFile(stream) as file:
            head = file.schema_arrow.names
            there = [column for column in wanted if column in head]
            if not there:
                raise DataError(f"{name}: none of the columns {_listed(wanted)}; there are {_listed(head)}")
            for column in there:
                _place(name, head, column)
                if pyarrow.types.is_nested(kind := file.schema_arrow.field(column).type):
                    raise DataError(f"{name}: column {column!r} has {kind}, not values")
            # A run of one value takes a few bytes however long it is, and 8 bytes a row here.
            require_unpackable(os.fstat(stream.fileno()).st_size, 8 * len(there) * file.metadata.num_rows)
        columns = {column: _column(pyarrow, parquet, name, column) for column in there}
    except (pyarrow.ArrowException, ArithmeticError, MemoryError, ValueError) as error:
        raise DataError(f"{name}: no Parquet that can be read: {(str(error).splitlines() or [''])[0]}") from None
    rows = {len(values) for values in columns.values()}
    if len(rows) != 1:
        raise DataError(f"{name}: no Parquet that can be read: its columns have {_listed(map(str, rows))} rows")
    # A column of float32 is to have the values it says, and a text is a text.
    return _Table(name, columns, range(1, rows.pop() + 1))


def _column(pyarrow: Any, parquet: Any, name: str, column: str) -> list[Any]:
    """A column's values; a text that many rows have is there once."""
    values: list[Any] = []
    seen: dict[Any, Any] = {}
    # Texts stay as the file has them, each once and numbered: one of a megabyte may be that of a million rows.
    with open_regular(name) as stream, parquet.ParquetFile(stream, read_dictionary=[column]) as file:
        for batch in file.iter_batches(columns=[column], batch_size=1 << 16):
            (part,) = batch.columns
            # Nothing else looks whether texts lie in the file, and their numbers among them.
            part.validate(full=True)
            if pyarrow.types.is_dictionary(part.type):
                known = [seen.setdefault(value, value) for value in part.dictionary.to_pylist()]
                values += [None if place is None else known[place] for place in part.indices.to_pylist()]
            else:
                values += part.to_pylist()
    return values


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _require_columns(tables: Sequence[_Table], label: str, scores: Sequence[str], key: str | None) -> None:
    problems = Problems()
    for column, option in ((label, "--label"), *((score, "--score") for score in scores)):
        if not any(column in table.columns for table in tables):
            where = Location(tables[0].name) if len(tables) == 1 else None
            what = f"no column {column!r}{'' if where else ' in any of the files'}"
            problems.add(DataError, what, location=where, hint=f"{option} says which it is")
    for table in tables:
        here = Location(table.name)
        if key is not None and key not in table.columns:
            problems.add(DataError, f"no column {key!r}, by which rows are matched", location=here)
        if key is None and label not in table.columns:
            # Rows that nothing ties to their labels cannot be trusted to be in the same order.
            hint = "--key names a column that says which row is which, such as the image's name"
            problems.add(DataError, f"no column {label!r}", location=here, hint=hint)
    problems.raise_if_any()


def _matched(tables: Sequence[_Table], key: str | None, bad: _BadRows) -> tuple[list[Sequence[int]], int]:
    """For each table, its rows in the order of the first one's."""
    first = tables[0]
    count = len(first.lines)
    if key is None:
        for table in tables[1:]:
            if len(table.lines) != count:
                raise DataError(
                    f"{table.name}: {len(table.lines):,} rows, where {first.name} has {count:,}; "
                    "--key names a column by which rows are matched"
                )
        return [range(count)] * len(tables), count
    places = []
    for table in tables:
        place: dict[Any, int] = {}
        for row, value in enumerate(table.columns[key]):
            if value in place:
                bad.add(table, row, f"{key} {value!r} is on line {table.lines[place[value]]} already")
            place.setdefault(value, row)
        places.append(place)
    for table, place in zip(tables[1:], places[1:], strict=True):
        for value in place.keys() - places[0].keys():
            bad.add(table, place[value], f"{key} {value!r} is not in {first.name}")
        for value in places[0].keys() - place.keys():
            bad.add(first, places[0][value], f"{key} {value!r} is not in {table.name}")
    bad.raise_if_any()
    return [[place[value] for value in first.columns[key]] for place in places], count


def _labels(
    tables: Sequence[_Table], rows: Sequence[Sequence[int]], label: str, positive_label: str | None, bad: _BadRows
) -> Array:
    labels: Array | None = None
    whose = ""
    for table, order in zip(tables, rows, strict=True):
        if label not in table.columns:
            continue
        values = table.columns[label]
        meaning = {value: _meaning(value, positive_label) for value in set(values)}
        if None in meaning.values():
            hint = "labels are 0 and 1, false and true; --positive-label names another"
            for row, value in enumerate(values):
                if meaning[value] is None:
                    told = "no label" if value in ("", None) else f"label {value!r}"
                    bad.add(table, row, told, "" if positive_label is not None else hint)
        here = np.fromiter((bool(meaning[values[row]]) for row in order), np.bool_, count=len(order))
        if positive_label is not None and not here.any():
            shown = _listed(sorted(map(str, meaning))[:MOST_NAMED])
            raise DataError(f"{table.name}: no label is {positive_label!r}; there are {shown}")
        if labels is None:
            labels, whose = here, table.name
        elif not bad.problems:
            for place in np.flatnonzero(labels != here).tolist():
                bad.add(table, order[place], f"label {values[order[place]]!r}, where {whose} has the other class")
    assert labels is not None
    return labels


def _meaning(value: Any, positive_label: str | None) -> bool | None:
    text = "" if value is None else str(value).strip()
    if positive_label is not None:
        return text == positive_label if text else None
    return _BINARY.get(text.lower())


def _numbers(table: _Table, column: str, order: Sequence[int], bad: _BadRows, *, unscored_is_bad: bool) -> Array:
    """The scores in the order of the rows, NaN where there is none."""
    values = table.columns[column]
    try:
        # Python takes 1_000 for a number.
        if any("_" in value for value in values if isinstance(value, str)):
            raise ValueError
        numbers = np.fromiter(map(float, values), np.float64, count=len(values))
    except (TypeError, ValueError):
        numbers = np.fromiter(map(_number, values), np.float64, count=len(values))
    for row in np.flatnonzero(~np.isfinite(numbers)):
        value = values[row]
        told = "no score" if value in ("", None) else f"score {value!r} is no finite number"
        # What cannot be read is bad even where what is not there may be left out.
        unscored = value is None or str(value).strip().lower() in ("", "nan")
        if unscored_is_bad or not unscored:
            hint = "--skip-unscored leaves such rows out" if unscored else ""
            bad.add(table, int(row), f"{column}: {told}", hint)
    return np.asarray(numbers[np.asarray(order)])


def _number(value: Any) -> float:
    try:
        return math.nan if value is None or "_" in str(value) else float(value)
    except (TypeError, ValueError):
        return math.nan


# Folders


class _Scorer(Protocol):
    def stream(
        self, items: Iterable[Item], *, batch_size: int | None = None, workers: int | None = None
    ) -> Iterator[Row]: ...


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of two folders: the data, and a row (image, label, score or None, error) for every image."""

    data: Labelled
    rows: list[tuple[str, bool, float | None, str]]

    @property
    def failed(self) -> list[tuple[str, str]]:
        """Images without a score, and why."""
        return [(name, error) for name, _, score, error in self.rows if score is None]

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes columns image, label, score, error; `read_tables` reads them again to the same numbers."""
        import io

        with replacing(path) as stream:
            text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(("image", "label", "score", "error"))
            for name, label, score, error in self.rows:
                writer.writerow((name, int(label), "" if score is None else repr(score), error))
            text.detach()


def score_images(
    positive: Iterable[Item],
    negative: Iterable[Item],
    scorer: _Scorer,
    *,
    score_index: int,
    model: str,
    source: str,
    on_row: Callable[[Row], None] | None = None,
) -> Scored:
    """Scores images of each class; those that cannot be scored are left out of the data and have a row with the reason.

    `scorer`: has `stream`, as `caffe_port.scoring.scorer.Scorer`; `score_index`: which probability is the score;
    `on_row` is called with each row as it comes. Raises what Labelled raises, and CaffePortError of the scorer.
    """
    rows = []
    for items, label in ((positive, True), (negative, False)):
        for row in scorer.stream(items):
            if on_row is not None:
                on_row(row)
            score = float(row.probabilities[score_index]) if row.ok else None
            if score is not None and not math.isfinite(score):
                raise CaffePortError(f"{row.name}: the score is {score}; the model is not fit for this image")
            rows.append((row.name, label, score, row.error))
    used = [(label, score) for _, label, score, _ in rows if score is not None]
    data = Labelled(
        np.array([label for label, _ in used], np.bool_),
        {model: np.array([score for _, score in used], np.float64)},
        source,
        len(rows) - len(used),
    )
    return Scored(data, rows)
