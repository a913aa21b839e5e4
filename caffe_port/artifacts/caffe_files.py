"""Back to Caffe: the weights as .caffemodel or .caffemodel.h5, read back value for value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from caffe_port.artifacts.draft import Draft
from caffe_port.errors import ParityError, Problems
from caffe_port.net import Net
from caffe_port.proto.files import sha256_of

__all__ = ["write_caffe_weights"]


def write_caffe_weights(net: Net, workshop: Path, name: str, *, hdf5: bool) -> Draft:
    """`name.caffemodel`, or `name.caffemodel.h5`.

    Raises: ArtifactError; WeightsError; MissingDependency without h5py.
    """
    draft = Draft()
    path = workshop / f"{name}.caffemodel{'.h5' if hdf5 else ''}"
    if hdf5:
        from caffe_port.weights import write_hdf5

        write_hdf5(net, path)
    else:
        from caffe_port.converters.to_caffemodel import write_caffemodel

        write_caffemodel(net, path)
    digest = sha256_of(path)
    same = [source.path.name for source in net.sources if source.role == "weights" and source.sha256() == digest]
    details = {"byte_identical_to": same[0]} if same else {}
    draft.add("Caffe weights, HDF5" if hdf5 else "caffemodel", path, **details)
    draft.checks.append(lambda: _read_back(net, path))
    return draft


def _read_back(net: Net, path: Path) -> None:
    """Raises ParityError unless the file gives the net exactly the weights it has."""
    from caffe_port.loading import with_weight_file

    empty = replace(
        net,
        layers=tuple(
            replace(layer, weights=tuple(replace(weight, data=None) for weight in layer.weights))
            for layer in net.layers
        ),
    )
    read = with_weight_file(empty, path)
    problems = Problems()
    for layer, again in zip(net.layers, read.layers, strict=True):
        for weight, stored in zip(layer.weights, again.weights, strict=True):
            if weight.owner is not None:
                continue
            if stored.data is None or not _same_bits(np.asarray(weight.data), np.asarray(stored.data)):
                problems.add(ParityError, f"learned blob {weight.index} is not read back as it was", layer=layer.name)
    problems.raise_if_any()


def _same_bits(
    a: np.ndarray[tuple[int, ...], np.dtype[np.float64]], b: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
) -> bool:
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=True) and np.array_equal(np.signbit(a), np.signbit(b))
