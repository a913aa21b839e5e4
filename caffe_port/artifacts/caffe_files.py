"""Back to Caffe: the weights as .caffemodel or .caffemodel.h5, read back value for value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from caffe_port.artifacts.draft import Draft
from caffe_port.errors import ParityError, Problems
from caffe_port.net import Net
from caffe_port.proto.files import sha256_of
from caffe_port.weights import same_bits, write_hdf5

__all__ = ["write_caffe_weights"]


def write_caffe_weights(net: Net, workshop: Path, name: str, *, hdf5: bool) -> Draft:
    """`name.caffemodel`, or `name.caffemodel.h5`.

    Raises: ArtifactError; WeightsError; MissingDependency without h5py.
    """
    draft = Draft()
    path = workshop / f"{name}.caffemodel{'.h5' if hdf5 else ''}"
    if hdf5:
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
    read = with_weight_file(empty, path, allow_non_finite=True)
    problems = Problems()
    for layer, again in zip(net.layers, read.layers, strict=True):
        for weight, stored in zip(layer.weights, again.weights, strict=True):
            if weight.owner is not None:
                continue
            # In float64, which holds the values of either file's precision.
            values = [np.asarray(one.data, np.float64) for one in (weight, stored) if one.data is not None]
            if len(values) < 2 or not same_bits(*values):
                problems.add(ParityError, f"learned blob {weight.index} is not read back as it was", layer=layer.name)
    problems.raise_if_any()
