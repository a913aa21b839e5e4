"""What a net is made of: shapes, parameters, multiply-accumulates, memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from caffe_port.net import Blob, Layer, Net
from caffe_port.printing import printable
from caffe_port.shapes import UNKNOWN, Shape, count, format_shape

__all__ = ["LayerSummary", "NetSummary", "peak_activation_bytes", "summarize"]

BYTES = 4
"""Of a float32."""

WIDEST = 80
"""Characters that a column of the table gets at most; what is longer moves the rest of its line."""


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """One layer: its tops' shapes, learned values, multiply-accumulates of one pass, and its place in the file."""

    index: int
    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    parameters: int
    macs: int
    location: str

    def as_json(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "name": self.name,
            "type": self.type,
            "bottoms": list(self.bottoms),
            "tops": [{"name": name, "shape": _dims(shape)} for name, shape in zip(self.tops, self.shapes, strict=True)],
            "parameters": self.parameters,
            "multiply_accumulates": self.macs,
            "location": self.location,
        }


@dataclass(frozen=True, slots=True)
class NetSummary:
    """A whole net. `activation_bytes` counts each blob once, in float32; layers in place add nothing."""

    name: str
    phase: str
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]
    layers: tuple[LayerSummary, ...]
    parameters: int
    macs: int
    activation_bytes: int
    notes: tuple[str, ...]
    dialects: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "phase": self.phase,
            "inputs": {name: _dims(shape) for name, shape in self.inputs.items()},
            "outputs": {name: _dims(shape) for name, shape in self.outputs.items()},
            "parameters": self.parameters,
            "parameter_bytes": self.parameters * BYTES,
            "multiply_accumulates": self.macs,
            "activation_bytes": self.activation_bytes,
            "notes": list(self.notes),
            "dialects": list(self.dialects),
            "layers": [layer.as_json() for layer in self.layers],
        }

    def table(self, *, splits: bool = False) -> Iterator[str]:
        """The lines of a table for people; Split layers that Caffe inserts are left out unless asked for."""
        rows = [("layer", "type", "output", "parameters", "MACs")]
        for layer in self.layers:
            if layer.type == "Split" and not splits:
                continue
            shapes = ", ".join(map(format_shape, layer.shapes))
            rows.append(
                (printable(layer.name), printable(layer.type), shapes, _grouped(layer.parameters), _grouped(layer.macs))
            )
        rows.append(("total", f"{len(rows) - 1} layers", "", f"{self.parameters:,}", f"{self.macs:,}"))
        widths = [min(max(len(row[column]) for row in rows), WIDEST) for column in range(5)]
        for i, row in enumerate(rows):
            left = "  ".join(cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True))
            right = "  ".join(cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True))
            if i == len(rows) - 1:
                yield "-" * (sum(widths) + 8)
            yield f"{left}  {right}".rstrip()
            if i == 0:
                yield "-" * (sum(widths) + 8)


def _dims(shape: Shape) -> list[int] | None:
    """A shape for JSON: null where it is unknown."""
    return None if shape is UNKNOWN else list(shape)


def _grouped(number: int) -> str:
    return f"{number:,}" if number else ""


def summarize(net: Net) -> NetSummary:
    """Counts a net at its shapes. A blob shared by several layers is counted at its owner."""
    layers = tuple(_summary(layer) for layer in net.layers)
    blobs = {blob.name: blob.shape for blob in net.blobs.values()}
    split_tops = {top.name for layer in net.layers if layer.type == "Split" for top in layer.tops}
    return NetSummary(
        name=net.name,
        phase=net.phase,
        inputs=net.input_shapes,
        outputs={blob.name: blob.shape for blob in net.output_blobs},
        layers=layers,
        parameters=sum(layer.parameters for layer in layers),
        macs=sum(layer.macs for layer in layers),
        activation_bytes=BYTES * sum(count(shape) for name, shape in blobs.items() if name not in split_tops),
        notes=tuple(map(str, net.notes)),
        dialects=tuple(map(str, net.dialects)),
    )


def peak_activation_bytes(net: Net) -> int:
    """The most memory that blobs need at once, in bytes of float32, if each goes as soon as no layer needs it.

    While a layer runs, its bottoms and tops are there, and all that a later layer reads; inputs and outputs of the net
    are there throughout. A layer that works in place, and the tops of Split, Flatten and Reshape, need no memory of
    their own. What a layer needs to compute (a convolution's columns) is not counted; Caffe itself keeps every blob,
    see `NetSummary.activation_bytes`.
    """
    home: dict[int, int] = {}
    """By id of a Blob: the id of the blob whose memory it is in."""
    size: dict[int, int] = {}
    first: dict[int, int] = {}
    last: dict[int, int] = {}

    def used(blob: Blob, position: int) -> int:
        key = home[id(blob.origin)]
        last[key] = max(last.get(key, 0), position)
        return key

    for position, layer in enumerate(net.layers):
        homes = {bottom.name: used(bottom, position) for bottom in layer.bottoms}
        views = layer.definition.views_bottom(len(layer.bottoms), len(layer.tops))
        for top in layer.tops:
            key = homes.get(top.name)
            if key is None:
                key = home[id(layer.bottoms[0].origin)] if views else id(top)
            home[id(top)] = key
            first.setdefault(key, position)
            size[key] = max(size.get(key, 0), BYTES * count(top.shape))
            last[key] = max(last.get(key, 0), position)
    end = len(net.layers) - 1
    for blob in net.input_blobs:
        first[used(blob, end)] = 0
    for blob in net.output_blobs:
        used(blob, end)
    return max((sum(size[key] for key in size if first[key] <= i <= last[key]) for i in range(end + 1)), default=0)


def _summary(layer: Layer) -> LayerSummary:
    return LayerSummary(
        index=layer.index,
        name=layer.name,
        type=layer.type,
        bottoms=tuple(blob.name for blob in layer.bottoms),
        tops=tuple(blob.name for blob in layer.tops),
        shapes=tuple(blob.shape for blob in layer.tops),
        parameters=sum(count(weight.shape) for weight in layer.weights if weight.owner is None),
        macs=layer.macs,
        location=str(layer.location or ""),
    )
