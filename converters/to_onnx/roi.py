"""Proposals and pooling of regions of interest in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_port.converters.to_onnx.boxes import column, kept
from caffe_port.converters.to_onnx.context import FLOAT, INT64, OnnxContext, Value
from caffe_port.layers import roi
from caffe_port.net import Layer
from caffe_port.registry import emitter


@emitter("onnx", "ROIPooling")
def _roi_pooling(ctx: OnnxContext, layer: Layer, pooling: roi.ROIPooling, bottoms: Sequence[Value]) -> None:
    ctx.op(
        "MaxRoiPool",
        bottoms[0],
        ctx.op("Reshape", bottoms[1], ctx.integers([-1, 5], "shape")),
        output=ctx.tops[0],
        pooled_shape=pooling.pooled,
        spatial_scale=pooling.spatial_scale,
    )


@emitter("onnx", "PSROIPooling")
def _psroi_pooling(ctx: OnnxContext, layer: Layer, pooling: roi.PSROIPooling, bottoms: Sequence[Value]) -> None:
    """Sums over cells are products with masks of zeros and ones, first over columns, then over rows and images."""
    images, _, height, width = layer.bottoms[0].shape
    groups, depth = pooling.group_size, pooling.output_dim
    rois = ctx.op("Reshape", bottoms[1], ctx.integers([-1, 5], "shape"))
    of_rows, rows = _cells(ctx, pooling, column(ctx, rois, 2), column(ctx, rois, 4), height)
    of_columns, columns = _cells(ctx, pooling, column(ctx, rois, 1), column(ctx, rois, 3), width)

    # (q, D, p, N, H, W) → (q, D * p * N * H, W), times (q, W, R).
    parts = ctx.op("Reshape", bottoms[0], ctx.integers([images, depth, groups, groups, height, width], "shape"))
    by_column = ctx.op("Transpose", parts, perm=[3, 1, 2, 0, 4, 5])
    flat = ctx.op("Reshape", by_column, ctx.integers([groups, depth * groups * images * height, width], "shape"))
    summed = ctx.op("MatMul", flat, ctx.op("Transpose", of_columns, perm=[1, 2, 0]))
    by_row = ctx.op("Reshape", summed, ctx.integers([groups, depth, groups, images * height, -1], "shape"))
    # Rows of the region's own image alone: (R, p, N, H) → (p, N * H, R).
    image = ctx.op("Cast", column(ctx, rois, 0), to=INT64)
    image = ctx.op("Unsqueeze", image, ctx.integers([1], "axis"))
    own = ctx.op("Cast", ctx.op("Equal", image, ctx.integers(range(images), "images")), to=FLOAT)
    own = ctx.op("Unsqueeze", own, ctx.integers([1, 3], "axes"))
    of_rows = ctx.op("Mul", ctx.op("Unsqueeze", of_rows, ctx.integers([2], "axis")), own)
    of_rows = ctx.op("Transpose", of_rows, perm=[1, 2, 3, 0])
    of_rows = ctx.op("Reshape", of_rows, ctx.integers([groups, images * height, -1], "shape"))
    sums = ctx.op("ReduceSum", ctx.op("Mul", by_row, of_rows), ctx.integers([3], "axis"), keepdims=0)
    sums = ctx.op("Transpose", sums, perm=[3, 1, 2, 0])

    rows, columns = (
        ctx.op("Unsqueeze", counts, ctx.integers(axes, "axes")) for counts, axes in ((rows, [1, 3]), (columns, [1, 2]))
    )
    cells = ctx.op("Mul", rows, columns)
    # An empty cell has the sum 0.
    ctx.op("Div", sums, ctx.op("Max", cells, ctx.constant(1, "one")), output=ctx.tops[0])


def _cells(ctx: OnnxContext, pooling: roi.PSROIPooling, start: Value, end: Value, size: int) -> tuple[Value, Value]:
    """Which positions of an axis are in each cell: (R, groups, size), as 0 and 1; and how many: (R, groups)."""
    one, scale = ctx.constant(1, "one"), ctx.constant(pooling.spatial_scale, "scale")
    last_axis = ctx.integers([1], "axis")
    first = ctx.op("Mul", _rounded(ctx, start), scale)
    last = ctx.op("Mul", ctx.op("Add", _rounded(ctx, end), one), scale)
    extent = ctx.op("Max", ctx.op("Sub", last, first), ctx.constant(0.1, "least"))
    step = ctx.op("Unsqueeze", ctx.op("Div", extent, ctx.constant(pooling.group_size, "groups")), last_axis)
    first = ctx.op("Unsqueeze", first, last_axis)
    edges = []
    for shift, towards in ((0, "Floor"), (1, "Ceil")):
        index = ctx.constant(np.arange(pooling.group_size) + shift, "index")
        edge = ctx.op(towards, ctx.op("Add", ctx.op("Mul", index, step), first))
        edges.append(ctx.op("Clip", edge, ctx.constant(0, "zero"), ctx.constant(size, "size")))
    low, high = (ctx.op("Unsqueeze", edge, ctx.integers([2], "axis")) for edge in edges)
    position = ctx.constant(np.arange(size), "position")
    inside = ctx.op("And", ctx.op("GreaterOrEqual", position, low), ctx.op("Less", position, high))
    number = ctx.op("Max", ctx.op("Sub", edges[1], edges[0]), ctx.constant(0, "zero"))
    return ctx.op("Cast", inside, to=FLOAT), number


def _rounded(ctx: OnnxContext, x: Value) -> Value:
    """Halves away from 0; ONNX's Round takes them to the even."""
    size = ctx.op("Abs", x)
    whole = ctx.op("Floor", size)
    up = ctx.op("GreaterOrEqual", ctx.op("Sub", size, whole), ctx.constant(0.5, "half"))
    return ctx.op("Mul", ctx.op("Sign", x), ctx.op("Add", whole, ctx.op("Cast", up, to=FLOAT)))


@emitter("onnx", "Proposal", "rpn.proposal_layer.ProposalLayer")
def _proposal(ctx: OnnxContext, layer: Layer, definition: roi.Proposing, bottoms: Sequence[Value]) -> None:
    height, width = layer.bottoms[0].shape[2:]
    number = len(definition.anchors)
    before, after = definition.counts(height, width)
    grid = definition.grid(height, width)
    sizes = grid[:, 2:] - grid[:, :2] + np.float32(1)
    middles = grid[:, :2] + np.float32(0.5) * sizes

    _, foreground = ctx.ops("Split", bottoms[0], outputs=[None] * 2, axis=1)
    scores = ctx.op("Transpose", foreground, perm=[0, 2, 3, 1])
    scores = ctx.op("Reshape", scores, ctx.integers([-1], "shape"))
    deltas = ctx.op("Transpose", bottoms[1], perm=[0, 2, 3, 1])
    deltas = ctx.op("Reshape", deltas, ctx.integers([height * width * number, 4], "shape"))
    info = ctx.op("Reshape", bottoms[2], ctx.integers([-1], "shape"))

    shifts, exponents = ctx.ops("Split", deltas, outputs=[None] * 2, axis=1)
    own = ctx.constant(sizes, "sizes")
    one, half, zero = ctx.constant(1, "one"), ctx.constant(0.5, "half"), ctx.constant(0, "zero")
    centres = ctx.op("Add", ctx.op("Mul", shifts, own), ctx.constant(middles, "middles"))
    halves = ctx.op("Mul", half, ctx.op("Mul", ctx.op("Exp", exponents), own))
    end = ctx.op("Sub", ctx.op("Gather", info, ctx.integers([1, 0], "sides")), one)
    low, high = (ctx.op("Max", ctx.op("Min", ctx.op(sign, centres, halves), end), zero) for sign in ("Sub", "Add"))
    sides = ctx.op("Add", ctx.op("Sub", high, low), one)
    scales = ctx.op("Gather", info, ctx.integers(definition.scale_columns[::-1], "scales"))
    least = ctx.op("Mul", ctx.constant(definition.min_size, "min_size"), scales)
    fits = ctx.op("Cast", ctx.op("GreaterOrEqual", sides, least), to=FLOAT)
    large = ctx.op("ReduceMin", fits, axes=[1], keepdims=0)
    if definition.drops_small:
        scores = ctx.op("Where", ctx.op("Greater", large, half), scores, ctx.constant(-np.inf, "small"))
    else:
        scores = ctx.op("Mul", scores, large)
    best, order = ctx.ops("TopK", scores, ctx.integers([before], "k"), outputs=[None] * 2, axis=0, largest=1, sorted=1)
    boxes = ctx.op("Gather", ctx.op("Concat", low, high, axis=1), order, axis=0)
    areas = ctx.op("ReduceProd", ctx.op("Gather", sides, order, axis=0), axes=[1], keepdims=0)

    row = ctx.integers([0], "row")
    left, above, right, below = (ctx.op("Unsqueeze", column(ctx, boxes, index), row) for index in range(4))
    valid = ctx.op("Greater", best, ctx.constant(-np.inf, "small"))
    keep = kept(
        ctx,
        (left, above, right, below),
        ctx.op("Unsqueeze", areas, row),
        ctx.op("Unsqueeze", valid, row),
        definition.suppression,
        before,
        after,
    )
    keep = ctx.op("Squeeze", keep, row)
    image = ctx.constant(np.zeros((before, 1)), "image")
    ctx.op("Compress", ctx.op("Concat", image, boxes, axis=1), keep, output=ctx.tops[0], axis=0)
    if definition.num_tops == 2:
        if definition.score_axes == 2:
            best = ctx.op("Unsqueeze", best, ctx.integers([1], "axis"))
        ctx.op("Compress", best, keep, output=ctx.tops[1], axis=0)
