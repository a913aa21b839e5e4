"""Lets detection layers stop before they choose."""

from __future__ import annotations

from dataclasses import fields, replace
from types import MappingProxyType

from caffe_port.errors import GraphError
from caffe_port.layers.base import LayerDef
from caffe_port.layers.detection import DetectionBoxes, DetectionOutput
from caffe_port.layers.yolo import YoloBoxes, YoloDetectionOutput, Yolov3Boxes, Yolov3DetectionOutput
from caffe_port.net import Blob, Layer, Net

__all__ = ["DETECTIONS", "detection_boxes", "is_detection", "stopped_layers"]

DETECTIONS = ("rows", "boxes")
"""What a net's detection layers can give: rows as in Caffe, or what the rows are chosen from."""

_STOPPED: dict[type[LayerDef], type[LayerDef]] = {
    DetectionOutput: DetectionBoxes,
    YoloDetectionOutput: YoloBoxes,
    Yolov3DetectionOutput: Yolov3Boxes,
}


def is_detection(layer: Layer) -> bool:
    """Whether a layer gives rows of detections, and could give boxes and scores instead."""
    return type(layer.definition) in _STOPPED


def detection_boxes(net: Net) -> Net:
    """The net whose detection layers give out the boxes and scores they would choose from.

    For a runtime that brings its own suppression. In place of a top `y` of rows there are `y.boxes` (N, 1 or C, P, 4):
    left, top, right, bottom of P boxes, for all classes or each; and `y.scores` (N, C, P), C the classes without the
    background. All other blobs are the same objects.
    Raises: GraphError for a net without such layers, where a layer reads the rows, or a blob has one of the new names.
    """
    changed = {layer: _stopped(layer) for layer in net.layers if is_detection(layer)}
    if not changed:
        types = ", ".join(one.type for one in _STOPPED)
        raise GraphError(f"net {net.name!r} has no layer that gives detections ({types}) to stop before")
    made: dict[Blob, tuple[Blob, ...]] = {layer.tops[0]: new.tops for layer, new in changed.items()}
    for layer in net.layers:
        read = next((blob for blob in layer.bottoms if blob.origin in made), None)
        if read is not None:
            raise GraphError(
                f"layer {layer.name!r} reads the rows of detections {read.name!r}, which boxes and scores do not make"
            )
    blobs: dict[str, Blob] = {}
    for name, blob in net.blobs.items():
        blobs.update({new.name: new for new in made[blob]} if blob in made else {name: blob})
    taken = sorted({new.name for tops in made.values() for new in tops} & net.blobs.keys())
    if taken:
        raise GraphError(f"the net has a blob {', '.join(map(repr, taken))} already: rename it")
    outputs = [new for blob in net.output_blobs for new in made.get(blob, (blob,))]
    return replace(
        net,
        layers=tuple(changed.get(layer, layer) for layer in net.layers),
        blobs=MappingProxyType(blobs),
        output_blobs=tuple(sorted(outputs, key=lambda blob: blob.name.encode())),
    )


def stopped_layers(net: Net) -> list[str]:
    """What `detection_boxes` changed in a net, a line a layer."""
    return [
        f"{layer.name} ({layer.type}) stops before suppression: {' and '.join(top.name for top in layer.tops)}"
        for layer in net.layers
        if isinstance(layer.definition, tuple(_STOPPED.values()))
    ]


def _stopped(layer: Layer) -> Layer:
    definition = layer.definition
    values = {field.name: getattr(definition, field.name) for field in fields(definition)}  # type: ignore[arg-type]
    stopped = _STOPPED[type(definition)](**values)
    shapes = stopped.top_shapes([blob.shape for blob in layer.bottoms])
    (top,) = layer.tops
    names = (f"{top.name}.boxes", f"{top.name}.scores")
    tops = tuple(Blob(name, shape) for name, shape in zip(names, shapes, strict=True))
    return replace(layer, definition=stopped, tops=tops)
