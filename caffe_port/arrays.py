"""Arrays by name in npz files."""

from __future__ import annotations

import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from caffe_port.errors import ShapeError
from caffe_port.layers.base import Array
from caffe_port.proto.files import replacing

__all__ = ["read_npz", "write_npz"]

# What NumPy and zipfile raise on damaged files.
_BROKEN = (
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    SyntaxError,
    MemoryError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_npz(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays of an npz file. Raises ShapeError if it is none, OSError if it cannot be opened."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ShapeError(f"{path}: this is a single array; an npz with an array for each input is needed")
        with loaded as file:
            arrays = {name: file[name] for name in file.files}
    except _BROKEN as error:
        raise ShapeError(f"{path}: no npz file that can be read: {error or type(error).__name__}") from None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise ShapeError(f"{path}: no npz file: {name!r} in it is no array")
    return arrays


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, Array]) -> None:
    """Writes an npz file, whatever the arrays are called; it appears complete or not at all. Raises ArtifactError."""
    # Not np.savez: it takes the names as keywords, and has some of its own.
    with replacing(Path(path)) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
