"""Nets in which a layer chooses by values: cut there, so that each part can be compared to the noise floor.

Where a layer keeps some rows and drops others (DetectionOutput, Proposal), or a pooling names the cell of each maximum
(its mask), noise in the last bit of a score, a box or a cell can change the choice, and all that follows. So the
choosing layer is run by itself on the NumPy run's values, and must choose the same rows in the same order; what follows
is given the NumPy run's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe_port.backends import Backend, NumpyBackend
from caffe_port.layers.data import Input
from caffe_port.layers.detection import DetectionOutput
from caffe_port.layers.yolo import Yolo
from caffe_port.net import Blob, Layer, Net
from caffe_port.verification import single_layer

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Choice:
    """A choosing layer as a net of its own, its inputs, and what NumPy makes of them."""

    layer: Layer
    net: Net
    inputs: Arrays
    tops: tuple[NDArray[Any], ...]

    def disagreement(self, backend: Backend) -> str | None:
        """How the backend's rows differ from NumPy's, or None: shape, order and whole numbers equal, the rest within
        4 floors and 4 ulps as in `caffe_port.verification`.
        """
        exact = dict(zip(*_only(NumpyBackend("float64").trace(self.net, self.inputs)), strict=True))
        for name, value, want in zip(*_only(backend.trace(self.net, self.inputs)), self.tops, strict=True):
            if value.shape != want.shape:
                return f"{self.layer.name}: {name} is {value.shape}, NumPy has {want.shape}"
            finite = np.isfinite(want)
            same = exact[name].shape == want.shape
            with np.errstate(invalid="ignore"):
                floor = float(np.abs(exact[name] - want)[finite].max(initial=0)) if same else 0.0
            bound = 4 * floor + 4 * float(np.spacing(np.abs(want[finite]).max(initial=1)))
            if isinstance(self.layer.definition, Yolo):
                value = _in_order_of(value[0, 0], want[0, 0], bound)[None, None]
            # Image and label, or the image of a region.
            whole = 2 if want.shape[-1:] == (7,) else 1 if want.shape[-1:] == (5,) else 0
            if not np.array_equal(value[..., :whole], want[..., :whole]):
                return f"{self.layer.name}: {name} has other labels"
            if not np.array_equal(value[~finite], want[~finite], equal_nan=True):
                return f"{self.layer.name}: {name} has other values that are not finite"
            apart = float(np.abs(value[finite].astype(float) - want[finite]).max(initial=0))
            if not apart <= bound:
                return f"{self.layer.name}: {name} is {apart:.3g} apart, the bound is {bound:.3g}"
        return None


def _in_order_of(rows: NDArray[Any], want: NDArray[Any], bound: float) -> NDArray[Any]:
    """YOLO's confidences are computed in the layer itself: rows whose confidences are equal within the bound may have
    changed places. They are put in the places of the rows they are nearest to, of the same label.
    """
    left = list(range(len(rows)))
    placed: list[int] = []
    for one in want:
        near = [i for i in left if rows[i, 1] == one[1] and abs(rows[i, 2] - one[2]) <= bound]
        if not near:
            return rows
        with np.errstate(invalid="ignore"):
            best = min(near, key=lambda i: float(np.nan_to_num(np.abs(rows[i] - one)).sum()))
        placed.append(best)
        left.remove(best)
    return rows[placed]


def _only(trace: Any) -> tuple[list[str], list[NDArray[Any]]]:
    """Names and values of the tops of a net's only layer."""
    ((layer, tops),) = trace
    return [top.name for top in layer.tops], list(tops)


def _chooses(layer: Layer) -> bool:
    return layer.definition.data_dependent or (layer.type == "Pooling" and len(layer.tops) == 2)


def cut(net: Net, inputs: Mapping[str, NDArray[Any]]) -> tuple[Net, Arrays, list[Choice]]:
    """The net with the tops of its choosing layers as inputs, the inputs for it, and the choosing layers."""
    if not any(_chooses(layer) for layer in net.layers):
        return net, dict(inputs), []
    given: Arrays = dict(inputs)
    choices: list[Choice] = []
    layers: list[Layer] = []
    read = {blob.origin for layer in net.layers if not _chooses(layer) for blob in layer.bottoms}
    for layer, bottoms, tops in NumpyBackend().trace_with_bottoms(net, {k: np.asarray(v) for k, v in inputs.items()}):
        if not _chooses(layer):
            continue
        alone = single_layer(layer)
        unique = dict(zip(layer.bottoms, bottoms, strict=True))
        own = {blob.name: value for blob, value in zip(alone.input_blobs, unique.values(), strict=True)}
        alone = alone.with_input_shapes({name: value.shape for name, value in own.items()})
        chosen = tops
        if isinstance(layer.definition, Yolo):
            # Made-up weights give it exponents of which float32 overflows, and confidences that all round to 1.
            own = {name: value / max(np.float32(1), value.std()) for name, value in own.items()}
            _, chosen = _only(NumpyBackend().trace(alone, own))
        elif isinstance(layer.definition, DetectionOutput) and not np.isfinite(tops[0]).all():
            # Likewise: its boxes, which must be finite, are infinite or of no width. Only the locations are scaled.
            locations = alone.inputs[0]
            own[locations] = own[locations] / max(np.float32(1), own[locations].std())
            _, chosen = _only(NumpyBackend().trace(alone, own))
        choices.append(Choice(layer, alone, own, tuple(chosen)))
        given.update((top.name, value) for top, value in zip(layer.tops, tops, strict=True))
    for layer in net.layers:
        if not (layer.definition.is_input or _chooses(layer)):
            layers.append(layer)
            continue
        tops = tuple(top for top in layer.tops if top in read)
        if tops:
            shapes = tuple(given[top.name].shape for top in tops)
            layers.append(replace(layer, definition=Input(shapes), bottoms=(), tops=tops))
    made = [blob for layer in layers if layer.definition.is_input for blob in layer.tops]
    outputs = tuple(blob for blob in net.output_blobs if any(blob in layer.tops for layer in layers))
    remains = replace(net, layers=tuple(layers), input_blobs=tuple(made), output_blobs=outputs, blobs=_blobs(layers))
    remains = remains.with_input_shapes({blob.name: given[blob.name].shape for blob in made})
    return remains, {blob.name: given[blob.name] for blob in made}, choices


def _blobs(layers: list[Layer]) -> dict[str, Blob]:
    return {top.name: top for layer in layers for top in layer.tops}
