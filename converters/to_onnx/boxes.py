"""Greedy non-maximum suppression in ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from caffe_port.converters.to_onnx.context import BOOL, FLOAT, INT64, OnnxContext, Value
from caffe_port.layers.boxes import Suppression

if TYPE_CHECKING:
    import onnx

__all__ = ["Boxes", "column", "image_indices", "kept", "kept_by_operator", "rows_or_none", "side_sizes"]

Boxes = tuple[Value, Value, Value, Value]
"""Left, top, right, bottom, each (B, K)."""


def column(ctx: OnnxContext, x: Value, index: int, axis: int = -1) -> Value:
    """One index of an axis, which goes."""
    return ctx.op("Gather", x, ctx.constant(index, "index", np.int64), axis=axis)


def side_sizes(ctx: OnnxContext, boxes: Boxes) -> tuple[Value, Value]:
    left, above, right, below = boxes
    return ctx.op("Sub", right, left), ctx.op("Sub", below, above)


def kept(
    ctx: OnnxContext, boxes: Boxes, sizes: Value, valid: Value, rule: Suppression, number: int | Value, most: int | None
) -> Value:
    """Which of the boxes that are `valid` are kept: (B, K), each row by itself.

    Boxes stand in the order of preference. `sizes`: their areas (B, K). `number`: K, or its value (1,) where a run
    shows it. `most`: as many are kept at most. A Loop keeps one box a row in each turn: the operator NonMaxSuppression
    knows neither eta, nor coordinates of pixels, nor an overlap that equals the threshold.
    """
    if isinstance(number, int):
        index, end = ctx.integers(range(number), "ranks"), ctx.integers([number], "number")
    else:
        zero, one = ctx.constant(0, "zero", np.int64), ctx.constant(1, "one", np.int64)
        index = ctx.op("Range", zero, ctx.op("Squeeze", number), one)
        end = number
    count = ctx.op("ReduceSum", ctx.op("Cast", valid, to=FLOAT), ctx.integers([1], "axis"), keepdims=1)
    nothing = ctx.op("Less", count, count)
    start = [
        ctx.op("And", valid, ctx.op("Not", valid)),
        ctx.op("Sub", ctx.op("Cast", nothing, to=INT64), ctx.integers([1], "one")),
        ctx.op("Sub", ctx.op("Cast", ctx.op("Less", sizes, sizes), to=FLOAT), ctx.constant(1, "one")),
        ctx.op("Add", ctx.op("Cast", nothing, to=FLOAT), ctx.constant(rule.threshold, "threshold")),
    ]
    trips = "" if most is None else ctx.constant(most, "most", np.int64)
    go = ctx.constant(True, "go", np.bool_)
    body = _body(ctx, boxes, sizes, valid, rule, index, end)
    return ctx.ops("Loop", trips, go, *start, outputs=[None] * 4, body=body)[0]


def _body(
    ctx: OnnxContext, boxes: Boxes, sizes: Value, valid: Value, rule: Suppression, index: Value, end: Value
) -> onnx.GraphProto:
    """One turn: the first box of each row that is still possible is kept, and overlaps with it are taken down."""
    from onnx import helper

    inner = OnnxContext(constants=ctx.constants, layer=ctx.layer, taken=ctx.taken)
    turn, go, chosen, last, largest, threshold = (
        inner.unique(f"{ctx.layer.name if ctx.layer else ''}:{name}")
        for name in ("turn", "go", "chosen", "last", "largest", "threshold")
    )
    clear = inner.op("Less" if rule.inclusive else "LessOrEqual", largest, threshold)
    alive = inner.op("And", inner.op("And", valid, inner.op("Greater", index, last)), clear)
    possible = inner.op("Cast", alive, to=FLOAT)
    best = inner.op("ArgMax", possible, axis=1, keepdims=1)
    half = ctx.constant(0.5, "half")
    found = inner.op("Greater", inner.op("ReduceMax", possible, axes=[1], keepdims=1), half)
    now = inner.op("Or", chosen, inner.op("And", inner.op("Equal", index, best), found))

    left, above, right, below, size = (inner.op("GatherElements", x, best, axis=1) for x in (*boxes, sizes))
    width = inner.op("Sub", inner.op("Min", right, boxes[2]), inner.op("Max", left, boxes[0]))
    height = inner.op("Sub", inner.op("Min", below, boxes[3]), inner.op("Max", above, boxes[1]))
    none = ctx.constant(0, "none")
    if rule.apart:
        meets = inner.op("And", inner.op("GreaterOrEqual", width, none), inner.op("GreaterOrEqual", height, none))
    if rule.pixel:
        pixel = ctx.constant(rule.pixel, "pixel")
        width, height = inner.op("Add", width, pixel), inner.op("Add", height, pixel)
    if not rule.apart:
        meets = inner.op("And", inner.op("Greater", width, none), inner.op("Greater", height, none))
    shared = inner.op("Mul", width, height)
    quotient = inner.op("Div", shared, inner.op("Sub", inner.op("Add", size, sizes), shared))
    undefined = ctx.constant(2 if rule.nan_suppresses else 0, "undefined")
    quotient = inner.op("Where", inner.op("IsNaN", quotient), undefined, quotient)
    overlap = inner.op("Where", meets, quotient, none)

    next_largest = inner.op("Max", largest, overlap)
    next_last = inner.op("Where", found, best, end)
    next_threshold = inner.op("Identity", threshold)
    if rule.eta < 1:
        lower = inner.op("And", found, inner.op("Greater", threshold, half))
        less = inner.op("Mul", threshold, ctx.constant(rule.eta, "eta"))
        next_threshold = inner.op("Where", lower, less, threshold)
    again = inner.op("Cast", inner.op("ReduceMax", inner.op("Cast", found, to=FLOAT), keepdims=0), to=BOOL)

    def value(name: Value, kind: int, shape: Sequence[int] | None = None) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    nodes = [helper.make_node(n.op, n.inputs, n.outputs, name=n.name, **n.attributes) for n in inner.nodes]
    carried = (
        (BOOL, chosen, now),
        (INT64, last, next_last),
        (FLOAT, largest, next_largest),
        (FLOAT, threshold, next_threshold),
    )
    return helper.make_graph(
        nodes,
        f"{ctx.layer.name if ctx.layer else ''}: keep one",
        [value(turn, INT64, []), value(go, BOOL, []), *(value(before, kind) for kind, before, _ in carried)],
        [value(again, BOOL, []), *(value(after, kind) for kind, _, after in carried)],
    )


def kept_by_operator(ctx: OnnxContext, boxes: Value, valid: Value, threshold: float, number: int) -> Value:
    """Which of the boxes (B, K, 4) that are `valid` (B, K) are kept, by the operator NonMaxSuppression: (B, K).

    For fractions of an image without eta. Equal to the forks' own, since: what the operator calls a score is the rank,
    so that equal confidences stay in order; a box that ends before it starts, which the operator would turn around,
    becomes a point, and overlaps nothing in either; both suppress above the threshold, and both take the same sums and
    quotient. The one difference: two boxes whose areas round to 0 suppress each other in the forks.
    """
    low, high = ctx.ops("Split", boxes, outputs=[None] * 2, axis=2)
    sides = ctx.op("Sub", high, low)
    shortest = ctx.op("ReduceMin", sides, axes=[2], keepdims=1)
    none = ctx.constant(0, "none")
    proper = ctx.op("Where", ctx.op("Less", shortest, none), none, boxes)
    ranks = ctx.constant(np.arange(number, 0, -1), "ranks")
    scores = ctx.op("Where", valid, ranks, ctx.constant(-1, "refused"))
    chosen = ctx.op(
        "NonMaxSuppression",
        proper,
        ctx.op("Unsqueeze", scores, ctx.integers([1], "axis")),
        ctx.constant([number], "most", np.int64),
        ctx.constant([threshold], "threshold"),
        ctx.constant([0], "least"),
    )
    places = ctx.op("Gather", chosen, ctx.integers([0, 2], "columns"), axis=1)
    nowhere = ctx.op("Cast", ctx.op("And", valid, ctx.op("Not", valid)), to=FLOAT)
    # As many ones as there are places.
    ones = ctx.op(
        "Squeeze", ctx.op("Slice", places, *(ctx.integers([i], "range") for i in (0, 1, 1))), ctx.integers([1], "axis")
    )
    ones = ctx.op("Cast", ctx.op("Equal", ones, ones), to=FLOAT)
    return ctx.op("Cast", ctx.op("ScatterND", nowhere, places, ones), to=BOOL)


def image_indices(ctx: OnnxContext, x: Value) -> Value:
    """The indices along axis 0, (N, 1), as float."""
    count = ctx.op("Squeeze", ctx.op("Shape", x, start=0, end=1))
    zero, one = ctx.constant(0, "zero", np.int64), ctx.constant(1, "one", np.int64)
    index = ctx.op("Cast", ctx.op("Range", zero, count, one), to=FLOAT)
    return ctx.op("Unsqueeze", index, ctx.integers([1], "axis"))


def rows_or_none(ctx: OnnxContext, rows: Value, images: Value, output: Value) -> None:
    """`rows` (M, 7) as (1, 1, M, 7); where there are none, one an image of its index and -1s.

    `images`: their indices, (N, 1), as float.
    """
    width = ctx.op("Concat", ctx.op("Shape", images, start=0, end=1), ctx.integers([6], "six"), axis=0)
    empty = ctx.op("Concat", images, ctx.op("Expand", ctx.constant(-1, "missing"), width), axis=1)
    found, fallback = (ctx.op("Shape", x, start=0, end=1) for x in (rows, empty))
    end = ctx.op("Where", ctx.op("Equal", found, ctx.integers([0], "zero")), fallback, found)
    both = ctx.op("Concat", rows, empty, axis=0)
    chosen = ctx.op("Slice", both, ctx.integers([0], "start"), end, ctx.integers([0], "axis"))
    ctx.op("Reshape", chosen, ctx.integers([1, 1, -1, 7], "shape"), output=output)
