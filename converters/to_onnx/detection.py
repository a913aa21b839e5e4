"""Single-shot detectors in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_port.converters.to_onnx.boxes import column, image_indices, kept, kept_by_operator, rows_or_none
from caffe_port.converters.to_onnx.context import FLOAT, OnnxContext, Value
from caffe_port.layers import detection
from caffe_port.layers.boxes import NO_SCORE
from caffe_port.net import Layer
from caffe_port.registry import emitter


@emitter("onnx", "PriorBox", "PriorBoxClustered")
def _priors(ctx: OnnxContext, layer: Layer, priors: detection.Priors, bottoms: Sequence[Value]) -> None:
    """A constant: priors follow from shapes."""
    values = priors.values([bottom.shape for bottom in layer.bottoms])
    ctx.op("Identity", ctx.constant(values, "priors"), output=ctx.tops[0])


def _slice(ctx: OnnxContext, x: Value, axis: int, start: int, end: int) -> Value:
    """Part of an axis. Priors are constants as a rule, and OpenCV's importer refuses to Split a constant."""
    at = (ctx.integers([value], what) for value, what in ((start, "start"), (end, "end"), (axis, "axis")))
    return ctx.op("Slice", x, *at)


def _boxes(
    ctx: OnnxContext,
    layer: Layer,
    definition: detection.DetectionOutput,
    bottoms: Sequence[Value],
    output: Value | None,
) -> Value:
    """Boxes of the classes that are looked for: (N, L, P, 4), with L 1 if they share locations."""
    priors = layer.bottoms[2].shape[2] // 4
    locations = ctx.op("Reshape", bottoms[0], ctx.integers([0, priors, definition.loc_classes, 4], "shape"))
    both = ctx.op("Reshape", bottoms[2], ctx.integers([2, priors, 1, 4], "shape"))
    boxes, variances = (_slice(ctx, both, 0, i, i + 1) for i in range(2))
    scaled = locations if definition.variance_encoded_in_target else ctx.op("Mul", variances, locations)
    if definition.code_type == "CORNER":
        made = ctx.op("Add", boxes, scaled)
    else:
        low, high = (_slice(ctx, boxes, 3, i, i + 2) for i in (0, 2))
        sizes = ctx.op("Sub", high, low)
        if definition.code_type == "CORNER_SIZE":
            made = ctx.op("Add", boxes, ctx.op("Mul", scaled, ctx.op("Concat", sizes, sizes, axis=3)))
        else:
            two = ctx.constant(2, "two")
            at, exponents = ctx.ops("Split", scaled, outputs=[None] * 2, axis=3)
            middle = ctx.op("Div", ctx.op("Add", low, high), two)
            centres = ctx.op("Add", ctx.op("Mul", at, sizes), middle)
            halves = ctx.op("Div", ctx.op("Mul", ctx.op("Exp", exponents), sizes), two)
            corners = (ctx.op("Sub", centres, halves), ctx.op("Add", centres, halves))
            made = ctx.op("Concat", *corners, axis=3)
    if not definition.share_location and len(definition.labels) < definition.num_classes:
        made = ctx.op("Gather", made, ctx.integers(definition.labels, "labels"), axis=2)
    return ctx.op("Transpose", made, perm=[0, 2, 1, 3], output=output)


def _scores(
    ctx: OnnxContext, layer: Layer, definition: detection.DetectionOutput, conf: Value, output: Value | None
) -> Value:
    """Scores of the classes that are looked for: (N, C, P)."""
    priors, labels = layer.bottoms[2].shape[2] // 4, definition.labels
    scores = ctx.op("Reshape", conf, ctx.integers([0, priors, definition.num_classes], "shape"))
    if len(labels) < definition.num_classes:
        scores = ctx.op("Gather", scores, ctx.integers(labels, "labels"), axis=2)
    return ctx.op("Transpose", scores, perm=[0, 2, 1], output=output)


@emitter("onnx", "DetectionOutput")
def _detection_output(
    ctx: OnnxContext, layer: Layer, definition: detection.DetectionOutput, bottoms: Sequence[Value]
) -> None:
    if isinstance(definition, detection.DetectionBoxes):
        _boxes(ctx, layer, definition, bottoms, ctx.tops[0])
        _scores(ctx, layer, definition, bottoms[1], ctx.tops[1])
        return
    boxes = _boxes(ctx, layer, definition, bottoms, None)
    scores = _scores(ctx, layer, definition, bottoms[1], None)
    priors, labels = layer.bottoms[2].shape[2] // 4, definition.labels
    number = definition.candidates(priors)
    every = len(labels) * number
    images = image_indices(ctx, scores)
    if not every:
        nothing = ctx.op(
            "Reshape", ctx.constant(np.zeros((0, 7)), "nothing"), ctx.integers([0, 7], "shape"), allowzero=1
        )
        rows_or_none(ctx, nothing, images, ctx.tops[0])
        return
    # (N, C, K): the candidates of each class, the highest first.
    chosen, order = ctx.ops(
        "TopK", scores, ctx.integers([number], "k"), outputs=[None] * 2, axis=2, largest=1, sorted=1
    )
    if definition.share_location:
        flat = ctx.op("Reshape", boxes, ctx.integers([0, priors, 4], "shape"))
        places = ctx.op("Reshape", order, ctx.integers([0, every, 1], "shape"))
    else:
        flat = ctx.op("Reshape", boxes, ctx.integers([-1, priors, 4], "shape"))
        places = ctx.op("Reshape", order, ctx.integers([-1, number, 1], "shape"))
    picked = ctx.op("GatherND", flat, places, batch_dims=1)
    at = ctx.op("Reshape", picked, ctx.integers([-1, number, 4], "shape"))
    own = ctx.op("Reshape", chosen, ctx.integers([-1, number], "shape"))
    # Of float32's lowest, where no threshold is given, float16 would know nothing.
    least = definition.confidence_threshold
    valid = ctx.op("Greater", own, ctx.constant(-np.inf if least == NO_SCORE else least, "least"))
    rule = definition.suppression
    if rule.eta == 1:
        keep = kept_by_operator(ctx, at, valid, rule.threshold, number)
    else:
        sides = [column(ctx, at, index) for index in range(4)]
        width, height = ctx.op("Sub", sides[2], sides[0]), ctx.op("Sub", sides[3], sides[1])
        none = ctx.constant(0, "none")
        turned = ctx.op("Or", ctx.op("Less", width, none), ctx.op("Less", height, none))
        sizes = ctx.op("Where", turned, none, ctx.op("Mul", width, height))
        keep = kept(ctx, (sides[0], sides[1], sides[2], sides[3]), sizes, valid, rule, number, None)
    keep = ctx.op("Reshape", keep, ctx.integers([-1, every], "shape"))
    flat_scores = ctx.op("Reshape", chosen, ctx.integers([0, every], "shape"))
    if -1 < definition.keep_top_k < every:
        keep = _highest(ctx, flat_scores, keep, definition.keep_top_k)
    # One row for each candidate, of which those that are kept are taken: by image, class and rank.
    one = ctx.integers([2], "last")
    shape = ctx.op("Shape", ctx.op("Unsqueeze", flat_scores, one))
    label = ctx.constant(np.repeat(np.array(labels), number).reshape(1, every, 1), "label")
    table = ctx.op(
        "Concat",
        ctx.op("Expand", ctx.op("Unsqueeze", images, one), shape),
        ctx.op("Expand", label, shape),
        ctx.op("Unsqueeze", flat_scores, one),
        ctx.op("Reshape", at, ctx.integers([-1, every, 4], "shape")),
        axis=2,
    )
    # Gather from the rows of all images: with nothing to gather, OpenCV 5.0 ends the process in GatherND.
    table = ctx.op("Reshape", table, ctx.integers([-1, 7], "shape"))
    places = ctx.op("NonZero", ctx.op("Reshape", keep, ctx.integers([-1], "shape")))
    rows = ctx.op("Gather", table, ctx.op("Reshape", places, ctx.integers([-1], "shape")), axis=0)
    rows_or_none(ctx, rows, images, ctx.tops[0])


def _highest(ctx: OnnxContext, scores: Value, keep: Value, most: int) -> Value:
    """`keep` (N, M) cut down to the `most` highest scores of each row, the first among equals."""
    nowhere = ctx.op("And", keep, ctx.op("Not", keep))
    if most == 0:
        return nowhere
    open_scores = ctx.op("Where", keep, scores, ctx.constant(-np.inf, "refused"))
    _, best = ctx.ops("TopK", open_scores, ctx.integers([most], "k"), outputs=[None] * 2, axis=1, largest=1, sorted=1)
    marked = ctx.op(
        "ScatterElements",
        ctx.op("Cast", nowhere, to=FLOAT),
        best,
        ctx.op("Cast", ctx.op("Equal", best, best), to=FLOAT),
        axis=1,
    )
    return ctx.op("And", keep, ctx.op("Greater", marked, ctx.constant(0.5, "half")))
