"""YOLO in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_port.converters.to_onnx.boxes import column, image_indices, kept, rows_or_none
from caffe_port.converters.to_onnx.context import FLOAT, OnnxContext, Value
from caffe_port.layers import yolo
from caffe_port.net import Layer
from caffe_port.registry import emitter


@emitter("onnx", "Reorg")
def _reorg(ctx: OnnxContext, layer: Layer, reorg: yolo.Reorg, bottoms: Sequence[Value]) -> None:
    dims, order = reorg.plan(layer.bottoms[0].shape)
    parts = ctx.op("Reshape", bottoms[0], ctx.integers([0, *dims], "shape"))
    moved = ctx.op("Transpose", parts, perm=order)
    ctx.op("Reshape", moved, ctx.integers([0, *layer.tops[0].shape[1:]], "shape"), output=ctx.tops[0])


def _decoded(ctx: OnnxContext, definition: yolo.Yolo, x: Value, side: int, bottom: int) -> tuple[Value, Value]:
    """Of one map: centres and sizes (N, P, 4), and the scores of each class (N, P, C)."""
    cells, boxes, classes = side * side, definition.num_box, definition.num_classes
    split = ctx.op("Reshape", x, ctx.integers([0, boxes, 5 + classes, cells], "shape"))
    values = ctx.op("Transpose", split, perm=[0, 3, 1, 2])
    sizes = ctx.integers([2, 2, 1, classes], "sizes")
    at, exponents, objectness, scores = ctx.ops("Split", values, sizes, outputs=[None] * 4, axis=3)
    index = np.arange(cells)
    corner = ctx.constant(np.stack([index % side, index // side], axis=-1)[:, None], "cells")
    anchors = ctx.constant(definition.anchors[bottom], "anchors")
    centres = ctx.op("Div", ctx.op("Add", corner, ctx.op("Sigmoid", at)), ctx.constant(side, "side"))
    extent = ctx.op("Mul", ctx.op("Exp", exponents), anchors)
    extent = ctx.op("Div", extent, ctx.constant(side * definition.units[bottom], "units"))
    by_class = isinstance(definition, yolo.Yolov3DetectionOutput)
    scores = ctx.op("Sigmoid", scores) if by_class else ctx.op("Softmax", scores, axis=3)
    confidence = ctx.op("Mul", scores, ctx.op("Sigmoid", objectness))
    return (
        ctx.op("Reshape", ctx.op("Concat", centres, extent, axis=3), ctx.integers([0, cells * boxes, 4], "shape")),
        ctx.op("Reshape", confidence, ctx.integers([0, cells * boxes, classes], "shape")),
    )


def _corners(ctx: OnnxContext, boxes: Value, axis: int, output: Value | None = None) -> Value:
    centres, sizes = ctx.ops("Split", boxes, outputs=[None] * 2, axis=axis)
    halves = ctx.op("Div", sizes, ctx.constant(2, "two"))
    return ctx.op("Concat", ctx.op("Sub", centres, halves), ctx.op("Add", centres, halves), axis=axis, output=output)


@emitter("onnx", "YoloDetectionOutput", "Yolov3DetectionOutput")
def _yolo(ctx: OnnxContext, layer: Layer, definition: yolo.Yolo, bottoms: Sequence[Value]) -> None:
    sides = [blob.shape[2] for blob in layer.bottoms]
    classes = definition.num_classes
    maps = [_decoded(ctx, definition, x, side, i) for i, (x, side) in enumerate(zip(bottoms, sides, strict=True))]
    if isinstance(definition, (yolo.YoloBoxes, yolo.Yolov3Boxes)):
        boxes, scores = (ctx.op("Concat", *parts, axis=1) for parts in zip(*maps, strict=True))
        _corners(ctx, ctx.op("Unsqueeze", boxes, ctx.integers([1], "axis")), 3, ctx.tops[0])
        ctx.op("Transpose", scores, perm=[0, 2, 1], output=ctx.tops[1])
        return
    boxes = ctx.op("Concat", *[ctx.op("Reshape", part, ctx.integers([-1, 4], "shape")) for part, _ in maps], axis=0)
    scores = ctx.op(
        "Concat", *[ctx.op("Reshape", part, ctx.integers([-1, classes], "shape")) for _, part in maps], axis=0
    )
    threshold = ctx.constant(definition.confidence_threshold, "least")
    one_class = isinstance(definition, yolo.YoloDetectionOutput)
    if one_class:
        labels = ctx.op("ArgMax", scores, axis=1, keepdims=0)
        confidence = ctx.op("ReduceMax", scores, axes=[1], keepdims=0)
        chosen = ctx.op("GreaterOrEqual", confidence, threshold)
    else:
        confidence = ctx.op("Reshape", scores, ctx.integers([-1], "shape"))
        chosen = ctx.op("Greater", confidence, threshold)
    places = ctx.op("Reshape", ctx.op("NonZero", chosen), ctx.integers([-1], "shape"))
    # With one more, which is not valid, there is always something to look at.
    found = ctx.op("Concat", ctx.op("Gather", confidence, places), ctx.constant([-1], "none"), axis=0)
    places = ctx.op("Concat", places, ctx.integers([0], "first"), axis=0)
    count = ctx.op("Shape", places)
    best, order = ctx.ops("TopK", found, count, outputs=[None] * 2, axis=0, largest=1, sorted=1)
    places = ctx.op("Gather", places, order)
    if one_class:
        label, of_box = ctx.op("Gather", labels, places), places
    else:
        every = ctx.constant(classes, "classes", np.int64)
        label, of_box = ctx.op("Mod", places, every), ctx.op("Div", places, every)
    own = ctx.op("Gather", boxes, of_box, axis=0)
    corners = _corners(ctx, own, 1)
    row, last = ctx.integers([0], "row"), ctx.integers([1], "axis")
    left, above, right, below = (ctx.op("Unsqueeze", column(ctx, corners, i), row) for i in range(4))
    sizes = ctx.op("Unsqueeze", ctx.op("Mul", column(ctx, own, 2), column(ctx, own, 3)), row)
    valid = ctx.op("Unsqueeze", ctx.op("Greater", best, ctx.constant(-0.5, "valid")), row)
    keep = kept(ctx, (left, above, right, below), sizes, valid, definition.suppression, count, None)
    best = ctx.op("Unsqueeze", best, last)
    name = ctx.op("Unsqueeze", ctx.op("Cast", label, to=FLOAT), last)
    name = ctx.op("Add", name, ctx.constant(1, "one"))
    table = ctx.op("Concat", ctx.op("Mul", name, ctx.constant(0, "zero")), name, best, corners, axis=1)
    rows = ctx.op("Compress", table, ctx.op("Squeeze", keep, row), axis=0)
    rows_or_none(ctx, rows, image_indices(ctx, bottoms[0]), ctx.tops[0])
