"""The data sources, a generator each: batches by top without end, in Caffe's order, starting anew at the end."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from caffe_port.datasets import images
from caffe_port.datasets.lmdb_file import LMDBFile
from caffe_port.datasets.transform import RandomStream, Transformer, resolved
from caffe_port.errors import DataError, ImageError, ShapeError, WeightsError
from caffe_port.layers import data as layers
from caffe_port.layers.base import Array
from caffe_port.proto import hdf5, schema
from caffe_port.reading import text_of
from caffe_port.scoring.mean import Mean
from caffe_port.scoring.sources import image_suffixes
from caffe_port.shapes import format_shape

__all__ = [
    "Batches",
    "ImageItems",
    "Items",
    "LMDBItems",
    "Ticket",
    "datum_of",
    "hdf5_batches",
    "hdf5_column",
    "image_batches",
    "lmdb_batches",
    "memory_batches",
    "window_batches",
]

Batches = Iterator[list[Array]]
"""A list of arrays for each batch, float32, one a top."""

Root = str | os.PathLike[str]


def _positive(batch_size: int) -> int:
    if batch_size <= 0:
        raise DataError("batch_size must be positive")
    return batch_size


def _lines(path: Path) -> list[str]:
    try:
        return text_of(path, errors="surrogateescape").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _stacked(items: Sequence[Array], where: str) -> Array:
    other = next((item for item in items if item.shape != items[0].shape), None)
    if other is not None:
        raise DataError(
            f"{where}: items of one batch differ: {format_shape(items[0].shape)} and {format_shape(other.shape)}"
        )
    return np.stack(items)


# HDF5Data


def hdf5_batches(layer: layers.HDF5Data, tops: Sequence[str], *, root: Root = ".", seed: int = 0) -> Batches:
    """Rows of the datasets that are named as the tops, of the files that the source lists; batches run over their ends.

    `shuffle` permutes files and rows by numpy's generator of that seed; Caffe's own order is not reproducible.
    Raises: DataError; MissingDependency without h5py.
    Source: BVLC/caffe @ 9b89154, hdf5_data_layer.cpp.
    """
    size = _positive(layer.batch_size)
    files = _hdf5_files(layer, root)
    rng = np.random.default_rng(seed)
    shapes: list[tuple[int, ...]] | None = None
    rows: list[list[Array]] = []
    while True:
        for index in rng.permutation(len(files)) if layer.shuffle else range(len(files)):
            datasets = _read_datasets(files[index], tops)
            items = [dataset.shape[1:] for dataset in datasets]
            if shapes is None:
                shapes = items
            elif items != shapes:
                raise DataError(f"{files[index]}: items differ from those of the files before it")
            count = len(datasets[0])
            for row in rng.permutation(count) if layer.shuffle else range(count):
                rows.append([dataset[row] for dataset in datasets])
                if len(rows) == size:
                    yield [np.stack(column).astype(np.float32, copy=False) for column in zip(*rows, strict=True)]
                    rows = []


def hdf5_column(layer: layers.HDF5Data, top: str, *, root: Root = ".") -> Iterator[Array]:
    """All rows of one dataset, file by file. Raises: as `hdf5_batches`."""
    for path in _hdf5_files(layer, root):
        yield _read_datasets(path, [top])[0]


def _hdf5_files(layer: layers.HDF5Data, root: Root) -> list[Path]:
    source = resolved(root, layer.source)
    files = [resolved(root, name) for line in _lines(source) for name in line.split()]
    if not files:
        raise DataError(f"{source}: lists no HDF5 file")
    return files


def _read_datasets(path: Path, tops: Sequence[str]) -> list[Array]:
    h5py = hdf5.import_h5py()
    found: list[Array] = []
    try:
        with hdf5.opened(path) as file:
            for top in tops:
                where = f"{path}: dataset {top!r}"
                dataset = _member(file, top, where)
                if not isinstance(dataset, h5py.Dataset):
                    raise DataError(f"{where} is not there")
                if not dataset.shape:
                    raise DataError(f"{where} has no axis")
                found.append(hdf5.numbers_of(dataset, where).reshape(dataset.shape))
    except WeightsError as error:
        raise DataError(str(error)) from None
    if len({len(dataset) for dataset in found}) != 1:
        sizes = ", ".join(f"{top} {len(dataset)}" for top, dataset in zip(tops, found, strict=True))
        raise DataError(f"{path}: the datasets have different numbers of rows: {sizes}")
    if not len(found[0]):
        raise DataError(f"{path}: the datasets have no rows")
    return found


def _member(file: Any, name: str, where: str) -> Any:
    """What the file itself has under a name; None where it has nothing. A link into another file is refused."""
    h5py = hdf5.import_h5py()
    found = file
    for part in filter(None, name.split("/")):
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) and part in found else None
        if link is None:
            return None
        # A soft link may lead through one into another file.
        if not isinstance(link, h5py.HardLink):
            raise DataError(f"{where} is reached by a link, which is not followed")
        found = found[part]
    return found


# Layers whose items can be made one by one, in any process


Ticket = tuple[Any, tuple[int, ...]]
"""Which item, and its random numbers: all that `load` needs, in this process or another."""


class Items(ABC):
    """A data layer taken apart, so that several processes can share the work and the result is the same.

    `tickets` is quick, and goes through the data in order; `load` does the work for one ticket and remembers nothing.
    """

    def __init__(self, batch_size: int, source: Path, transformer: Transformer) -> None:
        self.batch_size, self.source, self.transformer = _positive(batch_size), source, transformer

    @abstractmethod
    def tickets(self, skip: int = 0) -> Iterator[Ticket]:
        """The items without end, but for the first `skip`. Raises: DataError; MissingDependency."""

    @abstractmethod
    def load(self, ticket: Ticket) -> tuple[Array, int]:
        """An item, transformed, and its label. Raises: DataError, ImageError."""

    def batch(self, tickets: Iterable[Ticket]) -> list[Array]:
        """The items of these tickets as one batch: (n, C, H, W), and labels (n,). Raises: as `load`."""
        loaded = [self.load(ticket) for ticket in tickets]
        return [
            _stacked([item for item, _ in loaded], str(self.source)),
            np.array([label for _, label in loaded], np.float32),
        ]

    def batches(self) -> Batches:
        """The batches without end, made here."""
        tickets = self.tickets()
        while True:
            yield self.batch(islice(tickets, self.batch_size))


# Data


def lmdb_batches(
    layer: layers.Data, tops: Sequence[str], *, phase: str = "TEST", root: Root = ".", seed: int = 0
) -> Batches:
    """Items of an LMDB in the order of their keys, transformed, and their labels.

    Raises: DataError also for a LevelDB, which nothing here reads.
    """
    for batch in LMDBItems(layer, phase=phase, root=root, seed=seed).batches():
        yield batch[: len(tops)]


class LMDBItems(Items):
    """A Data layer. A ticket's item is its key. Source: BVLC/caffe @ 9b89154, data_layer.cpp, util/db_lmdb.cpp."""

    def __init__(self, layer: layers.Data, *, phase: str = "TEST", root: Root = ".", seed: int = 0) -> None:
        path = resolved(root, layer.source)
        if layer.backend != "LMDB":
            raise DataError(f"{path}: the layer's backend is {layer.backend}, which cannot be read here; LMDB can")
        super().__init__(layer.batch_size, path, Transformer(layer.transform, phase, seed=seed, root=root))
        self._transform = layer.transform
        self._opened: LMDBFile | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    @property
    def _database(self) -> LMDBFile:
        if self._opened is None:
            self._opened = LMDBFile(self.source)
        return self._opened

    def tickets(self, skip: int = 0) -> Iterator[Ticket]:
        count = self._database.entries
        if not count:
            raise DataError(f"{self.source}: the database is empty")
        self.transformer.skip(skip)
        start = skip % count
        while True:
            given = 0
            for key in self._database.keys(start):
                given += 1
                yield key, self.transformer.draw()
            if given != count - start:
                raise DataError(f"{self.source}: says it has {count} items, and has {given + start}")
            start = 0

    def load(self, ticket: Ticket) -> tuple[Array, int]:
        key, numbers = ticket
        where = f"{self.source}: item {key!r}"
        value = self._database.get(key)
        if value is None:
            raise DataError(f"{where}: is not there any more")
        item, label = datum_of(bytes(value), self._transform, where)
        return _transformed(self.transformer, item, where, numbers), label


def datum_of(value: bytes, transform: layers.Transform, where: str) -> tuple[Array, int]:
    """A serialized Datum: (C, H, W) of uint8 or float32, and its label. `where`: what errors call it.

    Raises: DataError for what is no Datum, or whose image cannot be decoded.
    """
    datum: Any = schema.message("Datum")
    try:
        datum.ParseFromString(value)
    except DecodeError as error:
        raise DataError(f"{where}: is no Datum: {error}") from None
    if datum.encoded:
        color = True if transform.force_color else False if transform.force_gray else None
        try:
            return images.decode(datum.data, color), datum.label
        except ImageError as error:
            raise DataError(f"{where}: {error}") from None
    shape = (datum.channels, datum.height, datum.width)
    item = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    if min(shape) <= 0 or item.size != shape[0] * shape[1] * shape[2]:
        raise DataError(f"{where}: has {item.size} values for channels, height, width {format_shape(shape)}")
    return item.reshape(shape), datum.label


def _transformed(transformer: Transformer, item: Array, where: str, numbers: Sequence[int]) -> Array:
    try:
        return transformer(item, numbers)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


# ImageData


def image_batches(layer: layers.ImageData, *, phase: str = "TEST", root: Root = ".", seed: int = 0) -> Batches:
    """Image files of a list of lines `path label`, resized if the layer says so, transformed, and their labels.

    Raises: as ImageItems.
    """
    yield from ImageItems(layer, phase=phase, root=root, seed=seed).batches()


class ImageItems(Items):
    """An ImageData layer. A ticket's item is its place in the list.

    Paths are `root_folder` and the line's path joined as text, as in Caffe, and that relative to `root`. A source that
    is a folder, which Caffe would refuse, is a list of the images in its subfolders and below, by their names; the
    subfolders, by theirs, are the classes 0, 1, …. `shuffle` permutes by numpy's generator of that seed, not in Caffe's
    order.
    Raises: DataError; ImageError for an image that cannot be decoded.
    Source: BVLC/caffe @ 9b89154, image_data_layer.cpp.
    """

    def __init__(self, layer: layers.ImageData, *, phase: str = "TEST", root: Root = ".", seed: int = 0) -> None:
        source = resolved(root, layer.source)
        super().__init__(layer.batch_size, source, Transformer(layer.transform, phase, seed=seed, root=root))
        self._layer, self._root, self._seed = layer, root, seed
        if source.is_dir():
            if layer.root_folder:
                raise DataError(f"{source}: is a folder, and root_folder is set; one of the two says where images are")
            self.listed = [(f"{layer.source}/{name}", label) for name, label in _images_below(source)]
        else:
            lines = enumerate(_lines(source), 1)
            self.listed = [_listed_image(line, f"{source}:{number}") for number, line in lines if line.strip()]
        if not self.listed:
            raise DataError(f"{source}: lists no image")

    def tickets(self, skip: int = 0) -> Iterator[Ticket]:
        layer, count = self._layer, len(self.listed)
        rng = np.random.default_rng(self._seed)

        def order() -> Array:
            return rng.permutation(count) if layer.shuffle else np.arange(count)

        # Caffe permutes what is permuted already.
        current, at = order(), 0
        if layer.rand_skip:
            at = RandomStream(self._seed).below(layer.rand_skip)
            if at >= count:
                raise DataError(f"{self.source}: lists {count} images, of which rand_skip skips {at}")
        self.transformer.skip(skip)
        at += skip
        while True:
            while at >= count:
                at -= count
                current = current[order()]
            yield int(current[at]), self.transformer.draw()
            at += 1

    def load(self, ticket: Ticket) -> tuple[Array, int]:
        index, numbers = ticket
        name, label = self.listed[index]
        path = resolved(self._root, self._layer.root_folder + name)
        item = images.read_image(path, color=self._layer.channels == 3)
        if self._layer.new_size is not None:
            item = images.resize(item, *self._layer.new_size)
        return _transformed(self.transformer, item, str(path), numbers), label


def _images_below(folder: Path) -> Iterator[tuple[str, int]]:
    """The images of each subfolder, relative to the folder, and the number of the subfolder; hidden ones left out."""
    suffixes = image_suffixes()
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    for label, name in enumerate(classes):
        found = sorted(path.relative_to(folder).as_posix() for path in (folder / name).rglob("*") if path.is_file())
        images_here = [
            path
            for path in found
            if Path(path).suffix.lower() in suffixes and not path.rpartition("/")[2].startswith(".")
        ]
        if not images_here:
            raise DataError(f"{folder / name}: has no image, so class {label} would be empty")
        yield from ((path, label) for path in images_here)


_LARGEST_LABEL = 2**31 - 1
"""Caffe keeps labels in an int."""


def _listed_image(line: str, where: str) -> tuple[str, int]:
    """A line is split at its last space; paths may have spaces."""
    name, space, label = line.rpartition(" ")
    try:
        number = int(label)
    except ValueError:
        space = ""
    if not space or not name or abs(number) > _LARGEST_LABEL:
        raise DataError(f"{where}: is not `path label`: {line[:200]!r}")
    return name, number


# MemoryData


def memory_batches(layer: layers.MemoryData, data: Array, labels: Array) -> Batches:
    """Batches of arrays that are given: data (n, channels, height, width), labels of n values. They are not
    transformed.

    The label is (batch_size, 1, 1, 1), as it is in Caffe from the first pass on.
    Raises: DataError unless the arrays fit the layer and n is a multiple of batch_size.
    Source: BVLC/caffe @ 9b89154, memory_data_layer.cpp.
    """
    size = layer.shape[0]
    if data.shape[1:] != layer.shape[1:] or labels.size != len(data):
        raise DataError(
            f"MemoryData takes n x {format_shape(layer.shape[1:])} and n labels, "
            f"given are {format_shape(data.shape)} and {labels.size}"
        )
    if not len(data) or len(data) % size:
        raise DataError(f"{len(data)} items are no multiple of batch_size {size}")
    items, values = data.astype(np.float32, copy=False), labels.astype(np.float32, copy=False).reshape(-1, 1, 1, 1)
    while True:
        for start in range(0, len(items), size):
            yield [items[start : start + size], values[start : start + size]]


# WindowData


@dataclass(frozen=True, slots=True)
class _Window:
    image: int
    label: int
    overlap: float
    box: tuple[int, int, int, int]
    """x1, y1, x2, y2, inclusive."""


@dataclass(frozen=True, slots=True)
class _Listed:
    path: Path
    channels: int


def window_batches(layer: layers.WindowData, *, root: Root = ".", seed: int = 0) -> Batches:
    """Windows drawn from those of a window file: background first, then floor(batch_size * fg_fraction) of foreground.

    Each is cut out with its context, warped to crop_size, mirrored at random, and stands in a blob of zeros. The scale
    is that of window_data_param. Draws are those of Caffe's generator for a layer whose own seed is `seed`.
    Raises: DataError; ImageError for an image that cannot be decoded.
    Source: BVLC/caffe @ 9b89154, window_data_layer.cpp; Girshick et al. 2014, section 2.3 and appendix A.
    """
    size, crop, transform = _positive(layer.batch_size), layer.crop_size, layer.transform
    if transform.mean_file and transform.mean_values:
        raise DataError("transform_param has both mean_file and mean_value; give one")
    if layer.context_pad * 2 >= crop:
        raise DataError(f"context_pad {layer.context_pad} leaves nothing of crop_size {crop}")
    source = resolved(root, layer.source)
    listed, windows = _read_windows(source, layer, root)
    foreground = [window for window in windows if window.overlap >= layer.fg_threshold]
    background = [w for w in windows if w.overlap < layer.fg_threshold and w.overlap < layer.bg_threshold]
    if any(window.label <= 0 for window in foreground):
        raise DataError(f"{source}: a foreground window has the label of the background, 0")
    mean = Mean.read(resolved(root, transform.mean_file)) if transform.mean_file else None
    stream = RandomStream(seed)
    num_foreground = int(np.float32(size) * np.float32(layer.fg_fraction))
    draws = ((background, size - num_foreground, "background"), (foreground, num_foreground, "foreground"))
    while True:
        pixels: list[Array] = []
        labels: list[int] = []
        for pool, number, what in draws:
            if number and not pool:
                raise DataError(f"{source}: has no {what} window")
            for _ in range(number):
                window = pool[stream.draw() % len(pool)]
                mirror = transform.mirror and bool(stream.draw() % 2)
                image = images.read_image(listed[window.image].path)
                if image.shape[0] != listed[window.image].channels:
                    raise DataError(f"{listed[window.image].path}: has not the channels that {source} says")
                pixels.append(_warped(image, window, layer, mirror, mean, str(listed[window.image].path)))
                labels.append(window.label if what == "foreground" else 0)
        yield [np.stack(pixels), np.array(labels, np.float32)]


def _read_windows(source: Path, layer: layers.WindowData, root: Root) -> tuple[list[_Listed], list[_Window]]:
    """A window file is a row of: `# index`, path, channels, height, width, count, and count times label, overlap, x1 y1
    x2 y2."""
    words = iter("\n".join(_lines(source)).split())
    listed: list[_Listed] = []
    windows: list[_Window] = []
    try:
        for word in words:
            if word != "#" or int(next(words)) != len(listed):
                raise DataError(f"{source}: `# {len(listed)}` expected, found {word!r}")
            path = resolved(root, layer.root_folder + next(words))
            channels, _height, _width, count = (int(next(words)) for _ in range(4))
            for _ in range(count):
                label, overlap = int(next(words)), float(next(words))
                x1, y1, x2, y2 = (int(next(words)) for _ in range(4))
                if max(map(abs, (label, x1, y1, x2, y2))) > _LARGEST_LABEL:
                    raise ValueError
                windows.append(_Window(len(listed), label, overlap, (x1, y1, x2, y2)))
            listed.append(_Listed(path, channels))
    except (ValueError, StopIteration, RuntimeError):
        raise DataError(f"{source}: ends early, or has a word where a number belongs, in image {len(listed)}") from None
    return listed, windows


def _round(value: float) -> int:
    """Half away from zero, as C's round."""
    return int(np.floor(abs(value) + 0.5)) * (-1 if value < 0 else 1)


def _warped(
    image: Array, window: _Window, layer: layers.WindowData, mirror: bool, mean: Mean | None, where: str
) -> Array:
    """One window as (C, crop_size, crop_size), zero where it reaches over the image's edge."""
    crop, transform = layer.crop_size, layer.transform
    channels, rows, columns = image.shape
    x1, y1, x2, y2 = window.box
    pad_left = pad_top = 0
    height = width = crop
    if layer.context_pad or layer.crop_mode == "square":
        # The box grows so that, warped, it has context_pad pixels around it on each side.
        grow = np.float32(crop) / np.float32(crop - 2 * layer.context_pad)
        half_height, half_width = np.float32(y2 - y1 + 1) / 2, np.float32(x2 - x1 + 1) / 2
        centre_x, centre_y = x1 + half_width, y1 + half_height
        if layer.crop_mode == "square":
            half_height = half_width = max(half_height, half_width)
        x1, x2 = _round(centre_x - half_width * grow), _round(centre_x + half_width * grow)
        y1, y2 = _round(centre_y - half_height * grow), _round(centre_y + half_height * grow)
        scale_x, scale_y = np.float32(crop) / np.float32(x2 - x1 + 1), np.float32(crop) / np.float32(y2 - y1 + 1)
        left, top, right, bottom = max(0, -x1), max(0, -y1), max(0, x2 - columns + 1), max(0, y2 - rows + 1)
        x1, y1, x2, y2 = x1 + left, y1 + top, x2 - right, y2 - bottom
        width, height = _round((x2 - x1 + 1) * scale_x), _round((y2 - y1 + 1) * scale_y)
        pad_top = _round(top * scale_y)
        pad_left = _round((right if mirror else left) * scale_x)
        # Rounding may make it one too large.
        height, width = min(height, crop - pad_top), min(width, crop - pad_left)
    if x1 < 0 or y1 < 0 or x2 >= columns or y2 >= rows or x1 > x2 or y1 > y2 or height <= 0 or width <= 0:
        raise DataError(f"{where}: the window {window.box} does not lie in the image of {columns}x{rows}")
    pixels = images.resize(image[:, y1 : y2 + 1, x1 : x2 + 1], height, width).astype(np.float32)
    if mirror:
        pixels = pixels[:, :, ::-1]
    if mean is not None:
        if mean.size is None or mean.size[0] != mean.size[1] or mean.size[0] < crop:
            raise DataError(f"the mean image must be square and no smaller than crop_size {crop}")
        offset = (mean.size[1] - crop) // 2
        try:
            pixels = Mean(mean.values.astype(np.float32)).apply(pixels, (offset + pad_top, offset + pad_left))
        except ShapeError as error:
            raise DataError(str(error)) from None
    elif transform.mean_values:
        values = np.array(transform.mean_values, np.float32)
        if values.size not in (1, channels):
            raise DataError(f"{values.size} mean_value for {channels} channels; give one, or one a channel")
        pixels = pixels - values[:, None, None]
    out = np.zeros((channels, crop, crop), np.float32)
    out[:, pad_top : pad_top + height, pad_left : pad_left + width] = pixels * np.float32(layer.scale)
    return out
