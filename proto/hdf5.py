"""Reads and writes Caffe's HDF5 weights: .caffemodel.h5.

`/data/{layer}/{index}` is a dataset of floats with the dims of the learned blob; each layer has a group, even without
learned blobs, and a blob that is shared stands with its owner alone. `/diff/{layer}/{index}` holds gradients, where
asked for. Source: BVLC/caffe @ 9b89154, net.cpp (CopyTrainedLayersFromHDF5, ToHDF5), util/hdf5.cpp.

h5py is imported here and where data is read, and only once it is needed.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caffe_port.errors import MissingDependency, WeightsError
from caffe_port.limits import MAX_AXES, MAX_ELEMENTS, hint, limits
from caffe_port.proto.blobs import Values
from caffe_port.proto.files import replacing
from caffe_port.reading import open_regular, require_unpackable

__all__ = ["HDF5Blob", "HDF5Layer", "import_h5py", "is_hdf5", "numbers_of", "opened", "read", "require_stored", "write"]

MAGIC = b"\x89HDF\r\n\x1a\n"


@dataclass(slots=True, eq=False)
class HDF5Blob:
    """One learned blob of an HDF5 file, whose values are read when they are first asked for.

    shape: the dims of the dataset. legacy: never, here.
    """

    shape: tuple[int, ...]
    _dataset: Any
    _where: str
    _values: Values | None = None
    legacy: bool = False

    @property
    def data(self) -> Values:
        """The values: 1-D in C order, read-only; float64 where the file has float64, else float32.

        Values that lie in the file as they are in memory are not copied: the array looks at the mapped file.
        Raises: WeightsError where they cannot be read.
        """
        if self._values is None:
            with _damage(self._where):
                self._values = numbers_of(self._dataset, self._where)
        return self._values


HDF5Layer = tuple[str, Sequence["HDF5Blob | None"]]
"""A layer's name and its learned blobs by index; None where the file has none of that index (a shared one)."""


def import_h5py() -> Any:
    """The module h5py. Raises: MissingDependency."""
    try:
        import h5py
    except ImportError as error:
        raise MissingDependency(f"HDF5 files need h5py: pip install 'caffe_port[hdf5]' ({error})") from None
    return h5py


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as HDF5 does. Whatever its name: Caffe looks at the content too. A missing file does
    not.
    """
    try:
        with open_regular(path) as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


@contextlib.contextmanager
def _damage(where: str) -> Iterator[None]:
    """Whatever the library raises on a file becomes a WeightsError."""
    try:
        yield
    except (WeightsError, MissingDependency):
        raise
    except MemoryError:
        raise WeightsError(f"{where}: not enough memory for what the file claims to hold") from None
    except Exception as error:  # noqa: BLE001 - h5py has no error of its own; damage shows as nearly any kind
        raise WeightsError(f"{where}: cannot be read: {error or type(error).__name__}; the file is damaged") from None


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The open file. Whatever goes wrong with it inside the block becomes a WeightsError.

    It is closed once nothing refers to it or to its datasets any more.
    Raises: WeightsError, MissingDependency.
    """
    name = os.fspath(path)
    h5py = import_h5py()
    if not Path(path).exists():
        raise WeightsError(f"{name}: no such file")
    if not is_hdf5(path):
        raise WeightsError(f"{name}: is no HDF5 file")
    with _damage(name):
        yield h5py.File(name, "r")


def _members(group: Any, where: str) -> Iterator[tuple[str, Any]]:
    """The groups and datasets in a group. A link into another file is refused: weights are what this file holds."""
    h5py = import_h5py()
    for name in sorted(group):
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            raise WeightsError(f"{where}: {group.name}/{name} is a link into another file")
        yield name, group[name]


def numbers_of(dataset: Any, where: str) -> Values:
    """The values of a dataset: 1-D in C order, read-only; float64 where the file has float64, else float32.

    Raises: WeightsError for anything but floats and integers, for more than MAX_ELEMENTS values, for values that are
    kept in other files, and for more than the file stores of it (`require_stored`).
    """
    shape = tuple(map(int, dataset.shape or ()))
    count = _checked_count(shape, where)
    if dataset.dtype.kind not in "fiu":
        raise WeightsError(f"{where}: is of type {dataset.dtype}; floats and integers are numbers to Caffe")
    if dataset.external or dataset.is_virtual:
        raise WeightsError(f"{where}: its values are kept in other files")
    wide = np.dtype("<f8" if dataset.dtype == np.float64 else "<f4")
    values = _mapped(dataset, count, wide)
    if values is None:
        require_stored([dataset], where)
        values = np.asarray(dataset[()]).astype(wide, copy=False).reshape(-1)
        values.flags.writeable = False
    return values


def require_stored(datasets: Sequence[Any], where: str) -> None:
    """Refuses datasets that, together, claim more than the file stores of them.

    HDF5 fills in what is not stored, so a few bytes could ask for gigabytes. In chunks, which may be packed, up to
    limits.unpacked_ratio times as much is let pass, and limits.unpacked_free in any case; elsewhere nothing.
    Raises: WeightsError.
    """
    stored = claimed = 0
    for dataset in datasets:
        size, own = dataset.dtype.itemsize, dataset.id.get_storage_size()
        if dataset.chunks:
            stored += own
            # A chunk is read whole, also where it is larger than the dataset.
            claimed += max(dataset.size, math.prod(dataset.chunks)) * size
        elif own < (dataset.size or 0) * size:
            told = f"has fewer bytes than its shape {_dims(dataset.shape)} needs"
            raise WeightsError(f"{where}: {told}; the file is damaged")
    try:
        require_unpackable(stored, claimed)
    except ValueError as error:
        raise WeightsError(f"{where}: {error}") from None


def _mapped(dataset: Any, count: int, wide: np.dtype[Any]) -> Values | None:
    """The values as a view of the file, where they lie there in one piece as they are in memory."""
    h5py = import_h5py()
    plain = dataset.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS and dataset.dtype == wide
    offset = dataset.id.get_offset() if plain and count else None
    if offset is None:
        return None
    with Path(dataset.file.filename).open("rb") as stream:
        if offset + count * wide.itemsize > os.fstat(stream.fileno()).st_size:
            return None
        whole = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(whole, wide, count, offset)


def _checked_count(shape: tuple[int, ...], where: str) -> int:
    if len(shape) > MAX_AXES:
        raise WeightsError(f"{where}: has more than {MAX_AXES} axes")
    count = 1
    for dim in shape:
        count *= dim
    if max(shape, default=0) > MAX_ELEMENTS or count > MAX_ELEMENTS:
        raise WeightsError(f"{where}: has more than {MAX_ELEMENTS} elements by its shape {_dims(shape)}")
    return count


def _dims(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "without axes"


def read(path: str | os.PathLike[str]) -> list[HDF5Layer]:
    """The layers of a .caffemodel.h5 in the order of their names, which is the one Caffe goes through them in.

    A layer whose name has a `/` (Caffe cannot save it; others can) is a group in a group. Values are read when a
    blob's `data` is first looked at.
    Raises: WeightsError for a file that is missing, no HDF5, damaged, or laid out in another way; MissingDependency
    without h5py.
    """
    name = os.fspath(path)
    h5py = import_h5py()
    with opened(path) as file:
        data = file.get("data") if "data" in file else None
        if not isinstance(data, h5py.Group):
            state = "a solverstate, " if "history" in file and "iter" in file else ""
            raise WeightsError(f"{name}: {state}no .caffemodel.h5: it has no group /data")
        found: list[HDF5Layer] = []
        for layer, member in _members(data, name):
            if not isinstance(member, h5py.Group):
                raise WeightsError(f"{name}: /data/{layer} is a dataset, where a layer's group should be")
            _add_layer(layer, member, found, name, 1)
        blobs = (blob for _, own in found for blob in own if blob is not None)
        require_stored([blob._dataset for blob in blobs if blob._dataset.chunks], name)
        return found


def _add_layer(layer: str, group: Any, found: list[HDF5Layer], file: str, depth: int) -> None:
    """Appends a layer, and those of the groups in its group."""
    h5py = import_h5py()
    # Groups in each other stand for the `/` in a layer's name. A link back to its own group ends here.
    if depth > limits.hdf5_nesting:
        raise WeightsError(
            f"{file}: /data/{layer}: groups nested deeper than {limits.hdf5_nesting}; {hint('hdf5_nesting')}"
        )
    blobs: dict[int, HDF5Blob] = {}
    inner: list[tuple[str, Any]] = []
    for name, member in _members(group, file):
        where = f"{file}: /data/{layer}/{name}"
        if isinstance(member, h5py.Group):
            inner.append((f"{layer}/{name}", member))
        elif not isinstance(member, h5py.Dataset):
            raise WeightsError(f"{where}: is neither a group nor a dataset")
        elif not (name.isascii() and name.isdigit() and name == str(int(name[:9]))):
            raise WeightsError(f"{where}: learned blobs are called 0, 1, 2 …")
        elif member.shape is None:
            raise WeightsError(f"{where}: is an empty dataset")
        else:
            shape = tuple(map(int, member.shape))
            _checked_count(shape, where)
            blobs[int(name)] = HDF5Blob(shape, member, where)
    if blobs or not inner:
        most = max(blobs, default=-1)
        if most >= limits.layer_blobs:
            raise WeightsError(
                f"{file}: /data/{layer}/{most}: no layer has that many learned blobs; {hint('layer_blobs')}"
            )
        if len(found) >= limits.layers:
            raise WeightsError(f"{file}: has more than {limits.layers} layers; {hint('layers')}")
        found.append((layer, [blobs.get(index) for index in range(most + 1)]))
    for name, member in inner:
        _add_layer(name, member, found, file, depth + 1)


def write(
    path: str | os.PathLike[str],
    layers: Sequence[tuple[str, Sequence[Values | None]]],
    diffs: Sequence[tuple[str, Sequence[Values]]] | None = None,
) -> None:
    """Writes a .caffemodel.h5 as Caffe does; it appears complete or not at all.

    layers: each layer's name and its learned blobs, in their own shapes, float32 or float64; None for a shared one,
    which is not written. diffs: gradients in the same way, of shared ones too.
    Raises: WeightsError for what no such file can hold: a layer name that is empty, "." or has a `/` (HDF5 takes it
    for a path; Caffe aborts), two layers of one name, a blob of another type; ArtifactError where it cannot be written;
    MissingDependency without h5py.
    """
    h5py = import_h5py()
    groups = [("data", layers)] + ([("diff", diffs)] if diffs is not None else [])
    for _, own in groups:
        names: set[str] = set()
        for name, blobs in own:
            _check_layer(Path(path).name, name, blobs, names)
    with replacing(path) as stream, h5py.File(stream, "w") as file:
        for group_name, own in groups:
            group = file.create_group(group_name)
            for name, blobs in own:
                layer = group.create_group(name)
                for index, blob in enumerate(blobs):
                    if blob is not None:
                        layer.create_dataset(str(index), data=np.ascontiguousarray(blob).reshape(blob.shape))


def _check_layer(file: str, name: str, blobs: Sequence[Values | None], names: set[str]) -> None:
    where = f"{file}: layer {name!r}"
    if "/" in name or name in ("", ".") or "\0" in name:
        hint = "Caffe cannot save such a layer in HDF5 either; write a .caffemodel"
        raise WeightsError(f"{where}: this name cannot be that of an HDF5 group ({hint})")
    if name in names:
        raise WeightsError(f"{where}: two layers have this name, and HDF5 holds one")
    names.add(name)
    for index, blob in enumerate(blobs):
        if blob is not None and blob.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise WeightsError(f"{where}: blob {index} is {blob.dtype}; Caffe has float32 and float64")
