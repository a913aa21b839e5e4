"""The formats of rows: a table for people; CSV, JSON Lines or Parquet for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from caffe_port.errors import GraphError, MissingDependency
from caffe_port.printing import printable, printable_json
from caffe_port.scoring.columns import Columns, Value

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FORMATS", "TEXTS", "Text", "format_of", "require_pyarrow", "write_rows"]

FORMATS = ("table", "csv", "jsonl", "parquet")

_SUFFIXES = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "table",
}

_WIDEST_LABEL = 24
_PARQUET_ROWS = 65_536


def format_of(path: Path | None, asked: str | None = None) -> str:
    """One of FORMATS: what is asked for, else what the path's suffix says, else (to a terminal or pipe) a table.

    Raises: GraphError for a suffix that says nothing, for an unknown format, and for Parquet without a file.
    """
    if asked is not None and asked not in FORMATS:
        raise GraphError(f"unknown format {asked!r}; known: {', '.join(FORMATS)}")
    if path is None:
        if asked == "parquet":
            raise GraphError("Parquet is written to a file only: name it with --output")
        return asked or "table"
    found = asked or _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise GraphError(f"{path}: which format? Let it end in {', '.join(_SUFFIXES)}, or give --format")
    return found


def write_rows(stream: IO[bytes], format: str, columns: Columns, rows: Iterable[Sequence[Value]]) -> None:
    """Writes a whole file of one of FORMATS from the values of its rows."""
    if format == "parquet":
        _write_parquet(stream, columns, rows)
    else:
        text = TEXTS[format](columns)
        stream.write(text.header())
        stream.writelines(map(text.line, rows))


# Lines


class Text:
    """A format of lines, in UTF-8."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def header(self) -> bytes:
        """What comes before all rows."""
        return b""

    def line(self, values: Sequence[Value]) -> bytes:
        """A row, from the values of its columns."""
        raise NotImplementedError


class _Csv(Text):
    def header(self) -> bytes:
        return self.line(self.columns.names)

    def line(self, values: Sequence[Value]) -> bytes:
        text = io.StringIO(newline="")
        # With both characters in the terminator, each is quoted where a field has it, in every version of Python.
        csv.writer(text, lineterminator="\r\n").writerow(
            [str(value).lower() if isinstance(value, bool) else value for value in values]
        )
        return f"{text.getvalue()[:-2]}\n".encode()


class _JsonLines(Text):
    def line(self, values: Sequence[Value]) -> bytes:
        document = dict(zip(self.columns.names, values, strict=True))
        text = json.dumps(document, ensure_ascii=False, allow_nan=False)
        # What steers a terminal, or ends a line for some readers, JSON can say otherwise.
        return f"{text if text.isprintable() else printable_json(document)}\n".encode()


class _Table(Text):
    """Score, whether it is flagged, likeliest labels, image. What is of fixed width comes first, so it is aligned."""

    def line(self, values: Sequence[Value]) -> bytes:
        row = dict(zip(self.columns.names, values, strict=True))
        failed = row["score"] is None
        cells = ["error   " if failed else f"{row['score']:.6f}"]
        if "flagged" in row:
            cells.append("flagged" if row["flagged"] else "       ")
        width = min(max(map(len, self.columns.labels), default=0), _WIDEST_LABEL)
        for k in range(1, self.columns.top_k + 1):
            label = "" if failed else f"{row[f'probability_{k}']:.6f} {printable(row[f'label_{k}'])[:width]}"
            cells.append(label.ljust(width + 9))
        if self.columns.probabilities:
            cells += ["" if failed else f"{printable(label)} {row[f'p_{label}']:.6f}" for label in self.columns.labels]
        image = printable(row["image"])
        cells.append(f"{image}: {printable(row['error'])}" if failed else image)
        return ("  ".join(cells) + "\n").encode()


TEXTS: Mapping[str, type[Text]] = {"table": _Table, "csv": _Csv, "jsonl": _JsonLines}
"""The formats of lines, by name: all but Parquet."""


# Parquet


def require_pyarrow() -> None:
    """Raises MissingDependency where Parquet cannot be written."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise MissingDependency(f"writing Parquet needs pyarrow: pip install 'caffe_port[parquet]' ({error})") from None


def _write_parquet(stream: IO[bytes], columns: Columns, rows: Iterable[Sequence[Value]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    def kind(name: str) -> pa.DataType:
        if name == "flagged":
            return pa.bool_()
        number = name == "score" or name.startswith(("probability_", "p_"))
        return pa.float64() if number else pa.string()

    schema = pa.schema([(name, kind(name)) for name in columns.names])
    with parquet.ParquetWriter(stream, schema) as writer:
        for batch in _batched(rows, _PARQUET_ROWS):
            arrays = [
                pa.array(column, field.type) for column, field in zip(zip(*batch, strict=True), schema, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _batched(rows: Iterable[Sequence[Value]], size: int) -> Iterator[list[Sequence[Value]]]:
    batch: list[Sequence[Value]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
