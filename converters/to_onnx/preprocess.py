"""A model that takes the picture itself: preprocessing written into an ONNX model with standard operators.

The steps are those of `caffe_port.scoring.preprocess.tensor`, and give its values. What is done there by libraries is
integer arithmetic with fixed roundings: Pillow's resampling of 8-bit pixels (Resample.c), and libjpeg-turbo's colour
conversion, chroma sampling, "islow" DCT and quantisation. Here the same integers are worked out in float64, in which
every one of these sums is exact, so the results are equal, not near. `deviation` measures it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from caffe_port.converters.to_onnx.export import OPSET
from caffe_port.errors import GraphError, Problems
from caffe_port.preprocessing import Manifest, Preprocessing, manifest_of
from caffe_port.scoring.preprocess import Source, rgb_pixels, tensor
from caffe_port.sessions import make_session

if TYPE_CHECKING:
    import onnx

__all__ = ["METADATA_KEY", "Deviation", "deviation", "embed", "embedded", "with_preprocessing"]

METADATA_KEY = "caffe_port.preprocessing"
"""The metadata entry that holds the manifest, as JSON text: of what makes the input, inside the model or outside."""

_PREFIX = "preprocessing"

# onnx.TensorProto's numbers of the element types.
_FLOAT, _UINT8, _INT64, _DOUBLE = 1, 2, 7, 11


def embed(model: onnx.ModelProto, manifest: Manifest) -> None:
    """Writes the manifest into the model's metadata, in the place of one that is there."""
    text = json.dumps(manifest.as_json(), ensure_ascii=False)
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            entry.value = text
            return
    model.metadata_props.add(key=METADATA_KEY, value=text)


def embedded(model: onnx.ModelProto, name: str = "the ONNX model") -> Manifest | None:
    """The manifest in the model's metadata; None where there is none. Raises: DataError for one that is damaged."""
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            return manifest_of(entry.value, f"{name}, metadata {METADATA_KEY}")
    return None


def with_preprocessing(model: onnx.ModelProto, preprocessing: Preprocessing, *, name: str = "image") -> onnx.ModelProto:
    """The model with its input `preprocessing.input_blob` replaced by a picture.

    The new input is called `name`: uint8, (height, width, 3), red, green, blue, of any size; one picture, so the batch
    is 1. What was the input stays as a value of the graph under its own name. The metadata entry METADATA_KEY holds
    the manifest, with the labels of one that was there. `model` is left as it is.
    Raises: GraphError naming all that keeps the model from being fed so.
    """
    import onnx

    _require_fitting(model, preprocessing, name)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    steps = _Steps({name, *_names(graph)})
    pixels = name
    if preprocessing.channel_order == "grey":
        pixels = _grey(steps, pixels)
    if preprocessing.resize is not None:
        resized = {"pillow": _resized, "opencv": _interpolated}[preprocessing.interpolation]
        pixels = resized(steps, pixels, preprocessing.resize, preprocessing.channels)
    if preprocessing.jpeg_round_trip:
        assert preprocessing.resize is not None
        round_trip = _grey_jpeg_round_trip if preprocessing.channels == 1 else _jpeg_round_trip
        pixels = round_trip(steps, pixels, preprocessing.resize)
    if preprocessing.crop is not None:
        pixels = _cropped(steps, pixels, preprocessing.crop, preprocessing.channels)
    _blob(steps, pixels, preprocessing)

    index = [value.name for value in graph.input].index(preprocessing.input_blob)
    batch = graph.input[index].type.tensor_type.shape.dim[0].dim_param
    picture = onnx.helper.make_tensor_value_info(name, _UINT8, ["height", "width", 3])
    graph.input[index].CopyFrom(picture)
    for value in graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if batch and dim.dim_param == batch:
                dim.dim_value = 1
    nodes = [*steps.nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(steps.constants)
    known = embedded(model)
    if known is None:
        result.metadata_props.add(key=METADATA_KEY, value=json.dumps(preprocessing.as_json()))
    else:
        embed(result, replace(known, preprocessing=preprocessing))
    onnx.checker.check_model(result)
    return result


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far a model with its preprocessing inside is from the plain model fed by `tensor`, over some pictures.

    `tensor`: the largest difference of an input value (its unit is that of the net's input: grey levels times `scale`).
    `tensor_share`: the share of input values that differ at all. `outputs`: the largest difference of each output.
    """

    pictures: int
    tensor: float
    tensor_share: float
    outputs: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        return {
            "pictures": self.pictures,
            "tensor": self.tensor,
            "tensor_share": self.tensor_share,
            "outputs": dict(self.outputs),
        }


def deviation(
    preprocessing: Preprocessing,
    model: onnx.ModelProto,
    images: Iterable[Source],
    *,
    inside: onnx.ModelProto | None = None,
) -> Deviation:
    """What onnxruntime makes of each image by `model` fed with `tensor`, against the model with preprocessing inside.

    `inside` is the latter, for instance as read back from a file; left out, it is made from `model`. Each image is
    decoded by Pillow and converted to RGB for both. A difference that is no number (NaN in one of the two) is infinite.
    Raises: ImageError for an image that cannot be used; GraphError without an image or for a model of several inputs;
    MissingDependency without onnxruntime.
    """
    import onnx

    if inside is None:
        inside = with_preprocessing(model, preprocessing)
    if len(model.graph.input) != 1 or len(inside.graph.input) != 1:
        raise GraphError("only a model of one input can be compared with the preprocessing inside and outside")
    opened = onnx.ModelProto()
    opened.CopyFrom(inside)
    opened.graph.output.append(onnx.ValueInfoProto(name=preprocessing.input_blob))
    picture_name, outputs = inside.graph.input[0].name, [value.name for value in model.graph.output]
    plain, whole = make_session(model.SerializeToString()), make_session(opened.SerializeToString())
    pictures = values = differing = 0
    worst = dict.fromkeys([preprocessing.input_blob, *outputs], 0.0)
    for image in images:
        blob = tensor(image, preprocessing)[np.newaxis]
        want = [blob, *plain.run(outputs, {preprocessing.input_blob: blob})]
        got = whole.run([preprocessing.input_blob, *outputs], {picture_name: rgb_pixels(image)})
        pictures, values, differing = pictures + 1, values + blob.size, differing + int((got[0] != blob).sum())
        for key, a, b in zip(worst, want, got, strict=True):
            worst[key] = max(worst[key], _distance(a, b))
    if not pictures:
        raise GraphError("without a picture there is nothing to compare")
    return Deviation(pictures, worst.pop(preprocessing.input_blob), differing / values, worst)


def _distance(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    if a.shape != b.shape or not np.array_equal(np.isnan(a), np.isnan(b)):
        return float("inf")
    # Equal infinities are no distance apart, though their difference is no number.
    apart = a != b
    return float(np.abs(a[apart].astype(np.float64) - b[apart]).max(initial=0.0, where=~np.isnan(a[apart])))


def _require_fitting(model: onnx.ModelProto, preprocessing: Preprocessing, name: str) -> None:
    problems = Problems()
    opset = next((entry.version for entry in model.opset_import if not entry.domain), 0)
    if opset < OPSET:
        problems.add(GraphError, f"preprocessing is written for opset {OPSET} and later, the model has {opset}")
    carried = embedded(model)
    if carried is not None and all(value.name != carried.preprocessing.input_blob for value in model.graph.input):
        problems.add(GraphError, "the model has its preprocessing inside already")
    if name in _names(model.graph):
        hint = "give the new input another name"
        problems.add(GraphError, f"the model has a value named {name!r} already", hint=hint)
    if preprocessing.jpeg_round_trip and preprocessing.resize is None:
        problems.add(GraphError, "the JPEG round trip can be written for one size only", hint="give a 'resize'")
    inputs = {value.name: value.type.tensor_type for value in model.graph.input}
    blob = inputs.get(preprocessing.input_blob)
    if blob is None:
        known = ", ".join(map(repr, inputs))
        problems.add(GraphError, f"the model has no input {preprocessing.input_blob!r}", hint=f"it has {known}")
    else:
        dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in blob.shape.dim]
        wanted = [1, preprocessing.channels, *(preprocessing.size or (None, None))]
        if blob.elem_type != _FLOAT or len(dims) != 4:
            problems.add(GraphError, f"input {preprocessing.input_blob!r} is no float32 blob of four axes")
        elif any(a is not None and a != b for a, b in zip(dims, wanted, strict=True)):
            shapes = ["x".join("?" if size is None else str(size) for size in shape) for shape in (dims, wanted)]
            what = f"input {preprocessing.input_blob!r} is {shapes[0]}, preprocessing makes {shapes[1]}"
            problems.add(GraphError, what, hint="set 'crop' or 'resize', and export with an open batch or one of 1")
    problems.raise_if_any()


def _names(graph: onnx.GraphProto) -> set[str]:
    """The names of all values and nodes, those in bodies of control flow included."""
    import onnx

    found = {value.name for value in (*graph.input, *graph.output)} | {constant.name for constant in graph.initializer}
    for node in graph.node:
        found.update((node.name, *node.input, *node.output))
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                found |= _names(attribute.g)
    return found


@dataclass(slots=True)
class _Steps:
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


def _int64(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, np.int64)


# Resampling

_BLOCK = 16
"""So many rows of a result are made at once, by one matrix: enough for a quick product, and a small one."""

_COEFFICIENT_BITS = 22


def _grey(steps: _Steps, picture: str) -> str:
    """uint8 (h, w, 3) → uint8 (h, w, 1), as Pillow converts RGB to L (Convert.c)."""
    weights = np.array([[19595.0], [38470.0], [7471.0]])
    grey = steps.shifted(steps.op("MatMul", steps.op("Cast", picture, to=_DOUBLE), weights), 16)
    return steps.op("Cast", grey, to=_UINT8)


def _resized(steps: _Steps, picture: str, size: tuple[int, int], channels: int) -> str:
    """uint8 (h, w, channels) → uint8 (height, width, channels), as Pillow's BILINEAR: along the width first."""
    height, width = size
    across = _resampled(steps, steps.op("Transpose", picture, perm=[1, 0, 2]), width, channels)
    return _resampled(steps, steps.op("Transpose", across, perm=[1, 0, 2]), height, channels)


def _interpolated(steps: _Steps, picture: str, size: tuple[int, int], channels: int) -> str:
    """uint8 (h, w, channels) → uint8 (height, width, channels), as `caffe_port.datasets.images.resize`."""
    op = steps.op
    values = op("Cast", picture, to=_DOUBLE)
    for axis in (1, 0):
        shape = [size[0], 1, 1] if axis == 0 else [1, size[1], 1]
        n = op("Cast", op("Shape", picture, start=axis, end=axis + 1), to=_DOUBLE)
        last = op("Sub", n, 1.0)
        step = op("Div", n, float(size[axis]))
        centre = op("Sub", op("Mul", np.arange(size[axis]) + 0.5, step), 0.5)
        first = op("Floor", centre)
        inner = op("And", op("GreaterOrEqual", first, 0.0), op("Less", first, last))
        share = op("Reshape", op("Where", inner, op("Sub", centre, first), 0.0), _int64(*shape))
        first = op("Min", op("Max", first, 0.0), last)
        near, far = (
            op("Gather", values, op("Cast", place, to=_INT64), axis=axis)
            for place in (first, op("Min", op("Add", first, 1.0), last))
        )
        values = op("Add", op("Mul", near, op("Sub", 1.0, share)), op("Mul", far, share))
    return op("Cast", op("Floor", op("Add", values, 0.5)), to=_UINT8)


def _resampled(steps: _Steps, x: str, size: int, channels: int) -> str:
    """uint8 (n, m, channels) → uint8 (size, m, channels), along axis 0.

    Pillow's way, in its own order of operations: `lower` and `upper` bound the inputs of each output, a triangle gives
    their weights, which are brought to the sum 1 and rounded to 22 bits; the sum of products is rounded to 8 bits.
    """
    from onnx import helper

    op = steps.op
    blocks = -(-size // _BLOCK)
    n = op("Cast", op("Shape", x, start=0, end=1), to=_DOUBLE)
    scale = op("Div", n, float(size))
    support = op("Max", scale, 1.0)
    # Outputs of each block (blocks, _BLOCK, 1); the last block is filled up with the last output.
    output = np.minimum(np.arange(blocks * _BLOCK), size - 1).reshape(blocks, _BLOCK, 1) + 0.5
    centre = op("Mul", output, scale)
    lower = op("Floor", op("Max", op("Add", op("Sub", centre, support), 0.5), 0.0))
    upper = op("Min", op("Floor", op("Add", op("Add", centre, support), 0.5)), n)
    # The inputs that a block needs: as many for each, (blocks, 1, inputs).
    first = op("Gather", lower, _int64(0), axis=1)
    needed = op("Sub", op("Gather", upper, _int64(_BLOCK - 1), axis=1), first)
    inputs = op("Add", first, op("Range", 0.0, op("ReduceMax", needed, keepdims=0), 1.0))
    distance = op("Abs", op("Mul", op("Add", op("Sub", inputs, centre), 0.5), op("Div", 1.0, support)))
    within = op("And", op("GreaterOrEqual", inputs, lower), op("Less", inputs, upper))
    weights = op("Where", within, op("Max", op("Sub", 1.0, distance), 0.0), 0.0)
    share = op("Div", weights, op("ReduceSum", weights, _int64(2)))
    coefficients = op("Floor", op("Add", op("Mul", share, 2.0**_COEFFICIENT_BITS), 0.5))
    rows = op("Cast", op("Squeeze", op("Min", inputs, op("Sub", n, 1.0)), _int64(1)), to=_INT64)

    # One block after the other: all at once would take eight times the picture's memory, and longer. The body sees
    # nothing but its inputs, since some runtimes want it so.
    body = _Steps(steps.taken)
    block, matrix = body.unique("block"), body.unique("matrix")
    sums = body.op("MatMul", matrix, body.op("Cast", body.op("Flatten", block, axis=1), to=_DOUBLE))
    pixels = body.op("Cast", body.clipped(body.shifted(sums, _COEFFICIENT_BITS)), to=_UINT8)
    scanned = helper.make_graph(
        body.nodes,
        body.unique("resampling"),
        [
            helper.make_tensor_value_info(block, _UINT8, [None, None, channels]),
            helper.make_tensor_value_info(matrix, _DOUBLE, [_BLOCK, None]),
        ],
        [helper.make_tensor_value_info(pixels, _UINT8, [_BLOCK, None])],
        initializer=body.constants,
    )
    stacked = op("Scan", op("Gather", x, rows, axis=0), coefficients, num_scan_inputs=2, body=scanned)
    shape = op("Concat", _int64(-1), op("Shape", x, start=1), axis=0)
    return op("Slice", op("Reshape", stacked, shape), _int64(0), _int64(size), _int64(0))


# The JPEG round trip

_LUMINANCE = """
16 11 10 16  24  40  51  61
12 12 14 19  26  58  60  55
14 13 16 24  40  57  69  56
14 17 22 29  51  87  80  62
18 22 37 56  68 109 103  77
24 35 55 64  81 104 113  92
49 64 78 87 103 121 120 101
72 92 95 98 112 100 103  99
"""
_CHROMINANCE = """
17 18 24 47 99 99 99 99
18 21 26 66 99 99 99 99
24 26 56 99 99 99 99 99
47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
"""

# libjpeg's fixed-point numbers: 16 bits in the colour conversion, 13 in the DCT, whose first pass leaves 2 more bits.
_TO_YCC = [[19595, 38470, 7471], [-11059, -21709, 32768], [32768, -27439, -5329]]
_CR_TO_R, _CB_TO_B, _CB_TO_G, _CR_TO_G = 91881, 116130, -22554, -46802
_CONST_BITS, _PASS1_BITS = 13, 2


def _jpeg_round_trip(steps: _Steps, picture: str, size: tuple[int, int]) -> str:
    """uint8 (height, width, 3) → float64 of the same shape with what libjpeg-turbo makes of it, 4:2:0, quality 75.

    Source: libjpeg-turbo, jccolor.c, jcsample.c, jfdctint.c, jcdctmgr.c, jidctint.c, jdsample.c, jdcolor.c.
    """
    op = steps.op
    height, width = size
    planes = op("Cast", op("Transpose", picture, perm=[2, 0, 1]), to=_DOUBLE)
    bias = np.array([32768.0, (128 << 16) + 32767, (128 << 16) + 32767]).reshape(3, 1)
    ycc = op("MatMul", np.array(_TO_YCC, np.float64), op("Reshape", planes, _int64(3, -1)))
    ycc = op("Reshape", steps.shifted(ycc, 16, bias), _int64(3, height, width))
    luma = op("Slice", ycc, _int64(0), _int64(1), _int64(0))
    luma = _coded(steps, _padded(steps, luma, size, (8, 8)), (_up(height, 8), _up(width, 8)), _LUMINANCE)

    # Chroma: means of 2x2 pixels, rounded down and up by turns; padded before and, below, after.
    rows, columns = _up(height, 2) // 2, _up(width, 16) // 2
    chroma = _padded(steps, op("Slice", ycc, _int64(1), _int64(3), _int64(0)), size, (2, 16))
    squares = op("Reshape", chroma, _int64(2, rows, 2, columns, 2))
    chroma = steps.shifted(
        op("ReduceSum", squares, _int64(2, 4), keepdims=0), 2, np.arange(columns, dtype=np.float64) % 2 + 1
    )
    chroma = _padded(steps, chroma, (rows, columns), (8, 8))
    chroma = _coded(steps, chroma, (_up(rows, 8), columns), _CHROMINANCE)
    chroma = _upsampled(steps, chroma, size)

    y = op("Slice", luma, _int64(0, 0), _int64(height, width), _int64(1, 2))
    cb, cr = (
        op("Sub", op("Slice", chroma, _int64(i), _int64(i + 1), _int64(0)), 128.0) for i in range(2)
    )  # each (1, height, width)
    red = steps.shifted(op("Mul", cr, float(_CR_TO_R)), 16)
    green = steps.shifted(op("Add", op("Mul", cb, float(_CB_TO_G)), op("Mul", cr, float(_CR_TO_G))), 16)
    blue = steps.shifted(op("Mul", cb, float(_CB_TO_B)), 16)
    rgb = steps.clipped(op("Add", y, op("Concat", red, green, blue, axis=0)))
    return op("Transpose", rgb, perm=[1, 2, 0])


def _grey_jpeg_round_trip(steps: _Steps, picture: str, size: tuple[int, int]) -> str:
    """uint8 (height, width, 1) → float64 of the same shape: a grey JPEG has its luminance alone."""
    height, width = size
    plane = steps.op("Cast", steps.op("Transpose", picture, perm=[2, 0, 1]), to=_DOUBLE)
    coded = _coded(steps, _padded(steps, plane, size, (8, 8)), (_up(height, 8), _up(width, 8)), _LUMINANCE)
    cut = steps.op("Slice", coded, _int64(0, 0), _int64(height, width), _int64(1, 2))
    return steps.op("Transpose", cut, perm=[1, 2, 0])


def _up(size: int, step: int) -> int:
    return -(-size // step) * step


def _padded(steps: _Steps, x: str, size: tuple[int, int], step: tuple[int, int]) -> str:
    """(c, h, w), with its last row and column repeated up to multiples of `step`."""
    for axis, (n, multiple) in enumerate(zip(size, step, strict=True), 1):
        if n % multiple:
            x = steps.op("Gather", x, np.minimum(np.arange(_up(n, multiple)), n - 1), axis=axis)
    return x


def _coded(steps: _Steps, x: str, size: tuple[int, int], base: str) -> str:
    """(c, h, w), whole blocks of 8x8, through DCT and quantisation and back: integers 0 … 255."""
    op = steps.op
    height, width = size
    # Quality 75 halves the base table. `step` is by horizontal, then vertical frequency, as the blocks are below.
    step = np.clip((np.array(base.split(), np.float64).reshape(8, 8) * 50 + 50) // 100, 1, 255).T
    dct = _islow_dct()
    blocks = op("Reshape", op("Sub", x, 128.0), _int64(-1, height // 8, 8, width // 8, 8))
    rows = steps.shifted(op("MatMul", blocks, dct.T), _CONST_BITS - _PASS1_BITS)
    rows = op("Transpose", rows, perm=[0, 1, 3, 4, 2])
    # This DCT's results are 8 times too large, which the quantisation takes back. It rounds halves away from zero.
    frequencies = steps.shifted(op("MatMul", rows, dct.T), _CONST_BITS + _PASS1_BITS)
    levels = op("Floor", op("Div", op("Add", op("Abs", frequencies), 4 * step), 8 * step))
    coefficients = op("Mul", op("Mul", op("Sign", frequencies), levels), step)
    columns = steps.shifted(op("MatMul", coefficients, dct), _CONST_BITS - _PASS1_BITS)
    columns = op("Transpose", columns, perm=[0, 1, 4, 2, 3])
    values = steps.shifted(op("MatMul", columns, dct), _CONST_BITS + _PASS1_BITS + 3)
    return op("Reshape", steps.clipped(op("Add", values, 128.0)), _int64(-1, height, width))


def _islow_dct() -> npt.NDArray[np.float64]:
    """libjpeg's integer DCT of 8 values as a matrix (frequency, place), 13 bits after the point; integers.

    It rounds nowhere but at the end of a pass, so it is linear; the inverse is the transpose.
    Source: libjpeg-turbo, jfdctint.c (Loeffler, Ligtenberg and Moschytz 1989).
    """
    d = np.eye(8)
    tmp0, tmp1, tmp2, tmp3 = d[0] + d[7], d[1] + d[6], d[2] + d[5], d[3] + d[4]
    tmp7, tmp6, tmp5, tmp4 = d[0] - d[7], d[1] - d[6], d[2] - d[5], d[3] - d[4]
    tmp10, tmp11, tmp12, tmp13 = tmp0 + tmp3, tmp1 + tmp2, tmp1 - tmp2, tmp0 - tmp3
    z1, z2, z3, z4 = -7373 * (tmp4 + tmp7), -20995 * (tmp5 + tmp6), -16069 * (tmp4 + tmp6), -3196 * (tmp5 + tmp7)
    z5 = 9633 * (tmp4 + tmp6 + tmp5 + tmp7)
    even = 4433 * (tmp12 + tmp13)
    return np.array(
        [
            8192 * (tmp10 + tmp11),
            12299 * tmp7 + z1 + z4 + z5,
            even + 6270 * tmp13,
            25172 * tmp6 + z2 + z3 + z5,
            8192 * (tmp10 - tmp11),
            16819 * tmp5 + z2 + z4 + z5,
            even - 15137 * tmp12,
            2446 * tmp4 + z1 + z3 + z5,
        ]
    )


def _upsampled(steps: _Steps, chroma: str, size: tuple[int, int]) -> str:
    """(2, rows, columns) → (2, height, width): "fancy" upsampling, 3/4 of the nearer and 1/4 of the farther value."""
    op = steps.op
    fancy = _up(size[1], 2) // 2 > 2  # Narrower pictures have each value repeated.
    for axis, n in enumerate(size, 1):
        places = np.arange(n)
        near = op("Gather", chroma, places // 2, axis=axis)
        if fancy:
            far = np.clip(places // 2 + np.where(places % 2, 1, -1), 0, (n - 1) // 2)
            near = op("Add", op("Mul", near, 3.0), op("Gather", chroma, far, axis=axis))
        chroma = near
    return steps.shifted(chroma, 4, 8 - np.arange(size[1], dtype=np.float64) % 2) if fancy else chroma


# From pixels to the blob


def _cropped(steps: _Steps, pixels: str, size: tuple[int, int], channels: int) -> str:
    """(h, w, channels) → its centre (height, width, channels)."""
    crop = np.array(size, np.int64)
    # The difference is never negative in a picture that is large enough, so Div rounds down.
    over = steps.op("Sub", steps.op("Shape", pixels, start=0, end=2), crop)
    start = steps.op("Div", over, _int64(2))
    centre = steps.op("Slice", pixels, start, steps.op("Add", start, crop), _int64(0, 1))
    # Of a smaller picture the slice is no centre; this makes the runtime refuse it.
    return steps.op("Reshape", centre, _int64(*size, channels))


def _blob(steps: _Steps, pixels: str, preprocessing: Preprocessing) -> None:
    """(h, w, c) → float32 (1, c, h, w), named as the model's input was; rounded where `caffe.io` rounds."""
    op = steps.op
    values = op("Unsqueeze", op("Transpose", op("Cast", pixels, to=_DOUBLE), perm=[2, 0, 1]), _int64(0))
    if preprocessing.channel_order == "BGR":
        values = op("Gather", values, _int64(2, 1, 0), axis=1)
    if preprocessing.raw_scale != 255:
        # v / 255 * 255 is v in float32 too, for each of the 256 values.
        unit = op("Cast", op("Div", values, 255.0), to=_FLOAT)
        values = op("Cast", op("Mul", unit, np.array(np.float32(preprocessing.raw_scale))), to=_DOUBLE)
    centred = op("Sub", values, preprocessing.mean_array()[np.newaxis])
    scale = np.float32(preprocessing.scale)
    op("Mul", op("Cast", centred, to=_FLOAT), np.array(scale), output=preprocessing.input_blob)
