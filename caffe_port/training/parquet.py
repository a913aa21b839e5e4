"""Images and labels from Parquet: an ImageData layer whose `source` ends in .parquet or .pq.

A file, or a folder of them, with a column `label` (whole numbers) and `content` (encoded images) or `path`; on any file
system that pyarrow reads (`/a`, `hdfs://…`, `s3://…`).
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from caffe_port.datasets import images
from caffe_port.datasets.items import Items, Ticket
from caffe_port.datasets.transform import Transformer, resolved
from caffe_port.errors import DataError, ImageError, MissingDependency
from caffe_port.layers.base import Array
from caffe_port.layers.data import ImageData
from caffe_port.reading import require_unpackable

__all__ = ["ParquetItems", "is_parquet"]

KEPT = 2
"""Row groups that a process keeps: one that ends, and one that begins."""


def is_parquet(source: str) -> bool:
    """Whether a layer's source is Parquet, by its name."""
    return source.rstrip("/").lower().endswith((".parquet", ".pq"))


class ParquetItems(Items):
    """An ImageData layer on Parquet. A ticket's item is a row group and a row in it.

    The rows are read in the order of the files' names and of the rows; `shuffle` permutes the row groups, and the rows
    of each, anew in each round. A process reads the row groups that its batches lie in, whole, so a row group should be
    small beside memory. A `path` is joined to `root_folder` and read as a file, as in an image list.
    Raises: DataError for what is no such table; ImageError for an image that cannot be decoded; MissingDependency.
    """

    def __init__(self, layer: ImageData, *, phase: str, root: str | os.PathLike[str] = ".", seed: int = 0) -> None:
        self._where = layer.source if "://" in layer.source else str(resolved(root, layer.source))
        super().__init__(layer.batch_size, Path(self._where), Transformer(layer.transform, phase, seed=seed, root=root))
        self._layer, self._root, self._seed = layer, root, seed
        if layer.rand_skip:
            raise DataError(f"{self._where}: rand_skip is for image lists; Parquet is read from its first row on")
        arrow, parquet = _pyarrow()
        try:
            self._filesystem, path = arrow.fs.FileSystem.from_uri(
                self._where if "://" in self._where else Path(self._where).absolute().as_uri()
            )
            files = self._found(arrow, path)
            self.groups: list[tuple[str, int, int]] = []
            for file in files:
                with parquet.ParquetFile(file, filesystem=self._filesystem) as opened:
                    metadata, schema = opened.metadata, opened.schema_arrow
                    self._column = self._checked(arrow, schema, file)
                    # A run of one value takes a few bytes however long it is.
                    size = self._filesystem.get_file_info(file).size
                    require_unpackable(size or 0, 8 * metadata.num_rows)
                    rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
                    if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows:
                        raise DataError(
                            f"{file}: damaged: its row groups have {sum(rows)} rows, the file has {metadata.num_rows}"
                        )
                    self.groups += [(file, i, count) for i, count in enumerate(rows)]
        except (OSError, ValueError, MemoryError, arrow.ArrowException) as error:
            raise DataError(f"{self._where}: cannot be read: {error}") from None
        self.groups = [group for group in self.groups if group[2]]
        if not self.groups:
            raise DataError(f"{self._where}: has no row")
        self._open: OrderedDict[int, tuple[list[Any], list[Any]]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def _found(self, arrow: Any, path: str) -> list[str]:
        there = self._filesystem.get_file_info(path)
        if there.type == arrow.fs.FileType.NotFound:
            raise DataError(f"{self._where}: no such file")
        if there.type != arrow.fs.FileType.Directory:
            return [path]
        found = self._filesystem.get_file_info(arrow.fs.FileSelector(path, recursive=True))
        # Spark's notes about its own work begin with _ or .
        files = sorted(one.path for one in found if one.is_file and not one.base_name.startswith(("_", ".")))
        return [file for file in files if is_parquet(file)]

    def _checked(self, arrow: Any, schema: Any, file: str) -> str:
        """The column that has the images."""
        there = ", ".join(schema.names) or "none"
        column = next((name for name in ("content", "path") if name in schema.names), None)
        if column is None or "label" not in schema.names:
            raise DataError(f"{file}: needs the columns label, and content or path; there are: {there}")
        types = arrow.types
        text, encoded = (types.is_string, types.is_large_string), (types.is_binary, types.is_large_binary)
        wanted = {
            "label": ("whole numbers", (types.is_integer,)),
            column: ("encoded images", encoded) if column == "content" else ("paths", text),
        }
        for name, (what, kinds) in wanted.items():
            if schema.names.count(name) > 1:
                raise DataError(f"{file}: has column {name} {schema.names.count(name)} times")
            kind = schema.field(name).type
            # A text of a few is kept as numbers of them.
            kind = kind.value_type if types.is_dictionary(kind) else kind
            if not any(fits(kind) for fits in kinds):
                raise DataError(f"{file}: column {name} is {kind}, not {what}")
        return column

    def labels(self) -> Iterator[Array]:
        """All labels in order, a row group at a time. Raises: DataError."""
        for number in range(len(self.groups)):
            (column,) = self._read(number, ["label"])
            yield np.array([self._label(value, number, row) for row, value in enumerate(column)], np.float32)

    def tickets(self, skip: int = 0) -> Iterator[Ticket]:
        self.transformer.skip(skip)
        sizes = [rows for _, _, rows in self.groups]
        epoch, at = divmod(skip, sum(sizes))
        while True:
            # A generator for each round, so that rounds can be passed over.
            rng = np.random.default_rng([self._seed, epoch])
            for number in rng.permutation(len(sizes)) if self._layer.shuffle else range(len(sizes)):
                rows = rng.permutation(sizes[number]) if self._layer.shuffle else np.arange(sizes[number])
                for row in rows[min(at, len(rows)) :]:
                    yield (int(number), int(row)), self.transformer.draw()
                at = max(0, at - len(rows))
            epoch, at = epoch + 1, 0

    def load(self, ticket: Ticket) -> tuple[Array, int]:
        (number, row), numbers = ticket
        if number not in self._open:
            labels, values = self._read(number, ["label", self._column])
            self._open[number] = labels, values
            while len(self._open) > KEPT:
                self._open.popitem(last=False)
        labels, values = self._open[number]
        where, layer = self._name(number, row), self._layer
        try:
            value = values[row].as_py()
        except ValueError as error:
            raise DataError(f"{where}: {self._column} cannot be read: {error}") from None
        if value is None:
            raise DataError(f"{where}: {self._column} is null")
        try:
            if self._column == "content":
                item = images.decode(value, color=layer.channels == 3)
            else:
                item = images.read_image(resolved(self._root, layer.root_folder + value), color=layer.channels == 3)
            if layer.new_size is not None:
                item = images.resize(item, *layer.new_size)
            return self.transformer(item, numbers), self._label(labels[row], number, row)
        except (DataError, ImageError) as error:
            raise type(error)(f"{where}: {error}") from None

    def _name(self, number: int, row: int) -> str:
        file, group, _ = self.groups[number]
        return f"{file}: row {row} of row group {group}"

    def _label(self, value: Any, number: int, row: int) -> int:
        if not value.is_valid:
            raise DataError(f"{self._name(number, row)}: label is null")
        return int(value.as_py())

    def _read(self, number: int, columns: list[str]) -> tuple[Any, ...]:
        arrow, parquet = _pyarrow()
        file, group, rows = self.groups[number]
        try:
            # What many rows have is kept once, as the file has it.
            held = [name for name in columns if name != "label"]
            with parquet.ParquetFile(file, filesystem=self._filesystem, read_dictionary=held) as opened:
                table = opened.read_row_group(group, columns=columns)
            # Nothing else looks whether texts lie in the file, and their numbers among them.
            table.validate(full=True)
        except (OSError, ValueError, MemoryError, arrow.ArrowException) as error:
            raise DataError(f"{file}: cannot be read: {error}") from None
        if table.num_rows != rows:
            raise DataError(f"{file}: cannot be read: row group {group} has {table.num_rows} rows, said are {rows}")
        return tuple(table.column(name) for name in columns)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.fs
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependency(f"Parquet needs pyarrow: pip install 'caffe_port[parquet]' ({error})") from None
    return pyarrow, pyarrow.parquet
