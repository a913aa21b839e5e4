"""The steps from a picture to a net's input, as nodes of an ONNX graph: resampling, crop, mean and scale."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from caffe_port.preprocessing import Preprocessing

if TYPE_CHECKING:
    import onnx

__all__ = [
    "DOUBLE",
    "FLOAT",
    "INT64",
    "UINT8",
    "Steps",
    "blob",
    "cropped",
    "grey",
    "int64",
    "interpolated",
    "resized",
]

_PREFIX = "preprocessing"

# onnx.TensorProto's numbers of the element types.
FLOAT, UINT8, INT64, DOUBLE = 1, 2, 7, 11


@dataclass(slots=True)
class Steps:
    """Nodes and constants before they become part of a graph; their names avoid those taken."""

    taken: set[str]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def unique(self, what: str) -> str:
        name, i = f"{_PREFIX}/{what}", 0
        while name in self.taken:
            i += 1
            name = f"{_PREFIX}/{what}_{i}"
        self.taken.add(name)
        return name

    def op(self, op: str, *inputs: str | float | npt.NDArray[Any], output: str | None = None, **attributes: Any) -> str:
        """Adds a node of one output. A number among the inputs is a float64 constant, an array one of its own type."""
        from onnx import helper

        given = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        name = self.unique(op) if output is None else output
        self.nodes.append(helper.make_node(op, given, [name], name=self.unique(f"{op}.node"), **attributes))
        return name

    def constant(self, value: float | npt.NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = self.unique("constant")
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def shifted(self, x: str, bits: int, bias: float | npt.NDArray[np.float64] | None = None) -> str:
        """`(x + bias) >> bits`; without a bias, x / 2**bits rounded to the nearest, halves up."""
        biased = self.op("Add", x, 2.0 ** (bits - 1) if bias is None else bias)
        return self.op("Floor", self.op("Mul", biased, 2.0**-bits))

    def clipped(self, x: str) -> str:
        return self.op("Clip", x, 0.0, 255.0)


def int64(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, np.int64)


_BLOCK = 16
"""So many rows of a result are made at once, by one matrix: enough for a quick product, and a small one."""

_COEFFICIENT_BITS = 22


def grey(steps: Steps, picture: str) -> str:
    """uint8 (h, w, 3) → uint8 (h, w, 1), as Pillow converts RGB to L (Convert.c)."""
    weights = np.array([[19595.0], [38470.0], [7471.0]])
    grey = steps.shifted(steps.op("MatMul", steps.op("Cast", picture, to=DOUBLE), weights), 16)
    return steps.op("Cast", grey, to=UINT8)


def resized(steps: Steps, picture: str, size: tuple[int, int], channels: int) -> str:
    """uint8 (h, w, channels) → uint8 (height, width, channels), as Pillow's BILINEAR: along the width first."""
    height, width = size
    across = _resampled(steps, steps.op("Transpose", picture, perm=[1, 0, 2]), width, channels)
    return _resampled(steps, steps.op("Transpose", across, perm=[1, 0, 2]), height, channels)


def interpolated(steps: Steps, picture: str, size: tuple[int, int], channels: int) -> str:
    """uint8 (h, w, channels) → uint8 (height, width, channels), as `caffe_port.datasets.images.resize`."""
    op = steps.op
    values = op("Cast", picture, to=DOUBLE)
    for axis in (1, 0):
        shape = [size[0], 1, 1] if axis == 0 else [1, size[1], 1]
        n = op("Cast", op("Shape", picture, start=axis, end=axis + 1), to=DOUBLE)
        last = op("Sub", n, 1.0)
        step = op("Div", n, float(size[axis]))
        centre = op("Sub", op("Mul", np.arange(size[axis]) + 0.5, step), 0.5)
        first = op("Floor", centre)
        inner = op("And", op("GreaterOrEqual", first, 0.0), op("Less", first, last))
        share = op("Reshape", op("Where", inner, op("Sub", centre, first), 0.0), int64(*shape))
        first = op("Min", op("Max", first, 0.0), last)
        near, far = (
            op("Gather", values, op("Cast", place, to=INT64), axis=axis)
            for place in (first, op("Min", op("Add", first, 1.0), last))
        )
        values = op("Add", op("Mul", near, op("Sub", 1.0, share)), op("Mul", far, share))
    return op("Cast", op("Floor", op("Add", values, 0.5)), to=UINT8)


def _resampled(steps: Steps, x: str, size: int, channels: int) -> str:
    """uint8 (n, m, channels) → uint8 (size, m, channels), along axis 0.

    Pillow's way, in its own order of operations: `lower` and `upper` bound the inputs of each output, a triangle gives
    their weights, which are brought to the sum 1 and rounded to 22 bits; the sum of products is rounded to 8 bits.
    """
    from onnx import helper

    op = steps.op
    blocks = -(-size // _BLOCK)
    n = op("Cast", op("Shape", x, start=0, end=1), to=DOUBLE)
    scale = op("Div", n, float(size))
    support = op("Max", scale, 1.0)
    # Outputs of each block (blocks, _BLOCK, 1); the last block is filled up with the last output.
    output = np.minimum(np.arange(blocks * _BLOCK), size - 1).reshape(blocks, _BLOCK, 1) + 0.5
    centre = op("Mul", output, scale)
    lower = op("Floor", op("Max", op("Add", op("Sub", centre, support), 0.5), 0.0))
    upper = op("Min", op("Floor", op("Add", op("Add", centre, support), 0.5)), n)
    # The inputs that a block needs: as many for each, (blocks, 1, inputs).
    first = op("Gather", lower, int64(0), axis=1)
    needed = op("Sub", op("Gather", upper, int64(_BLOCK - 1), axis=1), first)
    inputs = op("Add", first, op("Range", 0.0, op("ReduceMax", needed, keepdims=0), 1.0))
    distance = op("Abs", op("Mul", op("Add", op("Sub", inputs, centre), 0.5), op("Div", 1.0, support)))
    within = op("And", op("GreaterOrEqual", inputs, lower), op("Less", inputs, upper))
    weights = op("Where", within, op("Max", op("Sub", 1.0, distance), 0.0), 0.0)
    share = op("Div", weights, op("ReduceSum", weights, int64(2)))
    coefficients = op("Floor", op("Add", op("Mul", share, 2.0**_COEFFICIENT_BITS), 0.5))
    rows = op("Cast", op("Squeeze", op("Min", inputs, op("Sub", n, 1.0)), int64(1)), to=INT64)

    # One block after the other: all at once would take eight times the picture's memory, and longer. The body sees
    # nothing but its inputs, since some runtimes want it so.
    body = Steps(steps.taken)
    block, matrix = body.unique("block"), body.unique("matrix")
    sums = body.op("MatMul", matrix, body.op("Cast", body.op("Flatten", block, axis=1), to=DOUBLE))
    pixels = body.op("Cast", body.clipped(body.shifted(sums, _COEFFICIENT_BITS)), to=UINT8)
    scanned = helper.make_graph(
        body.nodes,
        body.unique("resampling"),
        [
            helper.make_tensor_value_info(block, UINT8, [None, None, channels]),
            helper.make_tensor_value_info(matrix, DOUBLE, [_BLOCK, None]),
        ],
        [helper.make_tensor_value_info(pixels, UINT8, [_BLOCK, None])],
        initializer=body.constants,
    )
    stacked = op("Scan", op("Gather", x, rows, axis=0), coefficients, num_scan_inputs=2, body=scanned)
    shape = op("Concat", int64(-1), op("Shape", x, start=1), axis=0)
    return op("Slice", op("Reshape", stacked, shape), int64(0), int64(size), int64(0))


def cropped(steps: Steps, pixels: str, size: tuple[int, int], channels: int) -> str:
    """(h, w, channels) → its centre (height, width, channels)."""
    crop = np.array(size, np.int64)
    # The difference is never negative in a picture that is large enough, so Div rounds down.
    over = steps.op("Sub", steps.op("Shape", pixels, start=0, end=2), crop)
    start = steps.op("Div", over, int64(2))
    centre = steps.op("Slice", pixels, start, steps.op("Add", start, crop), int64(0, 1))
    # Of a smaller picture the slice is no centre; this makes the runtime refuse it.
    return steps.op("Reshape", centre, int64(*size, channels))


def blob(steps: Steps, pixels: str, preprocessing: Preprocessing) -> None:
    """(h, w, c) → float32 (1, c, h, w), named as the model's input was; rounded where `caffe.io` rounds."""
    op = steps.op
    values = op("Unsqueeze", op("Transpose", op("Cast", pixels, to=DOUBLE), perm=[2, 0, 1]), int64(0))
    if preprocessing.channel_order == "BGR":
        values = op("Gather", values, int64(2, 1, 0), axis=1)
    if preprocessing.raw_scale != 255:
        # v / 255 * 255 is v in float32 too, for each of the 256 values.
        unit = op("Cast", op("Div", values, 255.0), to=FLOAT)
        values = op("Cast", op("Mul", unit, np.array(np.float32(preprocessing.raw_scale))), to=DOUBLE)
    centred = op("Sub", values, preprocessing.mean_array()[np.newaxis])
    scale = np.float32(preprocessing.scale)
    op("Mul", op("Cast", centred, to=FLOAT), np.array(scale), output=preprocessing.input_blob)
