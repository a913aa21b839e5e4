"""A model that takes the picture itself: preprocessing written into an ONNX model with standard operators.

The steps are those of `caffe_port.scoring.preprocess.tensor`, and give its values. What is done there by libraries is
integer arithmetic with fixed roundings: Pillow's resampling of 8-bit pixels (Resample.c), and libjpeg-turbo's colour
conversion, chroma sampling, "islow" DCT and quantisation. Here the same integers are worked out in float64, in which
every one of these sums is exact, so the results are equal, not near. `deviation` measures it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from caffe_port.converters.to_onnx import picture_steps as pictures
from caffe_port.converters.to_onnx.export import OPSET
from caffe_port.converters.to_onnx.jpeg_steps import grey_jpeg_round_trip, jpeg_round_trip
from caffe_port.converters.to_onnx.picture_steps import FLOAT, UINT8, Steps
from caffe_port.errors import GraphError, Problems
from caffe_port.image_files import Source, rgb_pixels
from caffe_port.preprocessing import Manifest, Preprocessing, manifest_of
from caffe_port.scoring.preprocess import tensor
from caffe_port.sessions import make_session

if TYPE_CHECKING:
    import onnx

__all__ = ["METADATA_KEY", "Deviation", "deviation", "embed", "embedded", "with_preprocessing"]

METADATA_KEY = "caffe_port.preprocessing"
"""The metadata entry that holds the manifest, as JSON text: of what makes the input, inside the model or outside."""


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
    steps = Steps({name, *_names(graph)})
    pixels = name
    if preprocessing.channel_order == "grey":
        pixels = pictures.grey(steps, pixels)
    if preprocessing.resize is not None:
        resized = {"pillow": pictures.resized, "opencv": pictures.interpolated}[preprocessing.interpolation]
        pixels = resized(steps, pixels, preprocessing.resize, preprocessing.channels)
    if preprocessing.jpeg_round_trip:
        assert preprocessing.resize is not None
        round_trip = grey_jpeg_round_trip if preprocessing.channels == 1 else jpeg_round_trip
        pixels = round_trip(steps, pixels, preprocessing.resize)
    if preprocessing.crop is not None:
        pixels = pictures.cropped(steps, pixels, preprocessing.crop, preprocessing.channels)
    pictures.blob(steps, pixels, preprocessing)

    index = [value.name for value in graph.input].index(preprocessing.input_blob)
    batch = graph.input[index].type.tensor_type.shape.dim[0].dim_param
    picture = onnx.helper.make_tensor_value_info(name, UINT8, ["height", "width", 3])
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
        if blob.elem_type != FLOAT or len(dims) != 4:
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
