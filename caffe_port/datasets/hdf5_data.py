"""HDF5Data: rows of datasets, file by file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from caffe_port.datasets.items import Batches, Root, list_lines, positive
from caffe_port.datasets.transform import resolved
from caffe_port.errors import DataError, WeightsError
from caffe_port.layers import data as layers
from caffe_port.layers.base import Array
from caffe_port.proto import hdf5

__all__ = ["hdf5_batches", "hdf5_column"]


def hdf5_batches(layer: layers.HDF5Data, tops: Sequence[str], *, root: Root = ".", seed: int = 0) -> Batches:
    """Rows of the datasets that are named as the tops, of the files that the source lists; batches run over their ends.

    `shuffle` permutes files and rows by numpy's generator of that seed; Caffe's own order is not reproducible.
    Raises: DataError; MissingDependency without h5py.
    Source: BVLC/caffe @ 9b89154, hdf5_data_layer.cpp.
    """
    size = positive(layer.batch_size)
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
    files = [resolved(root, name) for line in list_lines(source) for name in line.split()]
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
