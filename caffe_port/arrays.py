"""Arrays in .npy files, and by name in .npz files. Nothing is unpickled, and no size is believed before its bytes are
there.
"""

from __future__ import annotations

import math
import os
import re
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from caffe_port.errors import ArtifactError, Problems, ShapeError
from caffe_port.layers.base import Array
from caffe_port.limits import hint, limits
from caffe_port.proto.files import replacing
from caffe_port.reading import open_regular, reason, require_unpackable

__all__ = ["NPY_MAGIC", "read_npy", "read_npz", "require_storable", "unpacked", "write_npz"]

NPY_MAGIC = b"\x93NUMPY"

_AT_ONCE = 1 << 20

_LONGEST_NAME = 65_535 - len(".npy")
"""Bytes: the format of zip files counts them in 16 bits."""

# What NumPy, its parser of headers, and zipfile raise on damaged files.
_BROKEN = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_npz(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays of an npz file. Raises ShapeError if it cannot be read as one."""
    name = os.fspath(path)
    try:
        with open_regular(path) as stream:
            is_single = stream.read(len(NPY_MAGIC)) == NPY_MAGIC
            arrays = {} if is_single else unpacked(stream)
    except OSError as error:
        raise ShapeError(f"{name}: cannot be read: {reason(error)}") from None
    except ValueError as error:
        raise ShapeError(f"{name}: no npz file that can be read: {error}") from None
    if is_single:
        raise ShapeError(f"{name}: this is a single array; an npz with an array for each input is needed")
    return arrays


def unpacked(stream: BinaryIO) -> dict[str, Array]:
    """The arrays of an npz file that is open. Raises: ValueError for what is none, or would unpack to more than
    `reading.unpackable` lets it, or the limit unpacked_bytes.
    """
    try:
        size = stream.seek(0, os.SEEK_END)
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            repeated = sorted(name for name, count in Counter(info.filename for info in members).items() if count > 1)
            if repeated:
                raise ValueError(f"{', '.join(map(repr, repeated[:3]))} more than once in it")
            wanted = sum(info.file_size for info in members)
            require_unpackable(size, wanted)
            if wanted > limits.unpacked_bytes:
                raise ValueError(f"{wanted:,} bytes of arrays would be read; {hint('unpacked_bytes')}")
            return {info.filename.removesuffix(".npy"): _member(archive, info) for info in members}
    except _BROKEN as error:
        raise ValueError(reason(error)) from None


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    if not info.filename.endswith(".npy"):
        raise ValueError(f"{info.filename!r} in it is no array")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{info.filename!r} is compressed by a method that NumPy does not write")
    with archive.open(info) as stream:
        array = read_npy(stream, info.file_size)
        # Only at its end is a member's checksum looked at.
        if stream.read(1):
            raise ValueError(f"{info.filename!r} has more bytes than its shape needs")
    return array


def read_npy(stream: IO[bytes], size: int) -> Array:
    """The array of numbers in an .npy file of `size` bytes that is open at its start.

    Raises: ValueError for what is none, for Python objects, and for a shape that needs more bytes than there are.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's remarks on odd headers; the checks that follow are stricter
            version = np.lib.format.read_magic(stream)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"version {version[0]}.{version[1]} of the format is not of arrays of numbers")
            header = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
            shape, is_fortran, dtype = header(stream)
        if dtype.hasobject:
            raise ValueError("an array of Python objects, which is never loaded (allow_pickle)")
        if dtype.kind not in "biuf":
            raise ValueError(f"values of {dtype}, not an array of numbers")
        if min(shape, default=0) < 0:
            raise ValueError(f"no shape: {shape}")
        wanted, there = math.prod(shape) * dtype.itemsize, size - stream.tell()
        if wanted > there:
            raise ValueError(f"its header says {wanted:,} bytes of values, {there:,} are there")
        array = np.empty(math.prod(shape), dtype)
        room = memoryview(array.view(np.uint8))  # type: ignore[arg-type]
        while len(room):
            count = stream.readinto(room[:_AT_ONCE])  # type: ignore[attr-defined]
            if not count:
                raise EOFError("it ends early")
            room = room[count:]
        return array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)
    except _BROKEN as error:
        raise ValueError(reason(error)) from None


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, Array]) -> None:
    """Writes an npz file; it appears complete or not at all.

    Raises: ArtifactError, for names that `require_storable` refuses too.
    """
    require_storable(arrays)
    # Not np.savez: it takes the names as keywords, and has some of its own.
    with replacing(Path(path)) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def require_storable(names: Iterable[str]) -> None:
    """Raises: ArtifactError for names of arrays that no npz file can hold, or that lead out of the folder where
    somebody unpacks it.

    A name may have folders in it, as `inception_3a/1x1` has; programs that unpack take a leading slash away.
    """
    problems = Problems()
    for name in names:
        why = ""
        if "\0" in name or any("\ud800" <= char <= "\udfff" for char in name):
            why = "is no text that an npz file can hold"
        elif len(name.encode()) > _LONGEST_NAME:
            why = f"is longer than the {_LONGEST_NAME:,} bytes that an npz file has for it"
        elif ".." in re.split(r"[/\\]", f"{name}.npy"):
            why = "leads out of the folder where the npz file is unpacked"
        if why:
            shown = repr(name if len(name) <= 60 else f"{name[:59]}…")
            problems.add(ArtifactError, f"the name {shown} {why}", hint="give the blob another name in the prototxt")
    problems.raise_if_any()
