"""Preprocessing inside an ONNX model: the values of `tensor`, to the last bit."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small import filled, one_input

import caffe_port as cp
from caffe_port.converters.to_onnx.preprocess import METADATA_KEY, deviation, embed, embedded, with_preprocessing
from caffe_port.errors import DataError, FetchError, GraphError, ImageError
from caffe_port.image_files import rgb_pixels
from caffe_port.models.fetch import fetch
from caffe_port.preprocessing import OPEN_NSFW, Manifest, MeanImage, Preprocessing
from caffe_port.scoring.preprocess import tensor
from caffe_port.sessions import make_session

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

FOLDER = Path(str(importlib.resources.files("caffe_port.reference_outputs"))) / "open_nsfw"
SCORES = json.loads((FOLDER / "scores.json").read_text())
GOOD = sorted(name for name, entry in SCORES.items() if "tensor" in entry)
IMAGES = [FOLDER / "images" / name for name in GOOD]


def plain(*dims: Any, inputs: tuple[str, ...] = ("data",), opset: int = 17) -> Any:
    """A model that gives its inputs out as they are."""
    info = onnx.helper.make_tensor_value_info
    shape = list(dims or ("N", 3, "h", "w"))
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", [name], [f"{name}_out"]) for name in inputs],
        "plain",
        [info(name, onnx.TensorProto.FLOAT, shape) for name in inputs],
        [info(f"{name}_out", onnx.TensorProto.FLOAT, shape) for name in inputs],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)


def session(preprocessing: Preprocessing, channels: int = 3) -> Any:
    return make_session(with_preprocessing(plain("N", channels, "h", "w"), preprocessing).SerializeToString())


def run(onnx_session: Any, pixels: np.ndarray) -> np.ndarray:
    result: np.ndarray = onnx_session.run(None, {"image": pixels})[0]
    assert result.shape[0] == 1
    return result[0]


def picture(kind: str, height: int, width: int) -> np.ndarray:
    """uint8 (height, width, 3): noise; only 0 and 255; a walk, which is smooth."""
    random = np.random.default_rng([height, width])
    if kind == "noise":
        return random.integers(0, 256, (height, width, 3), np.uint8)
    if kind == "extremes":
        return (random.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)
    walk = np.cumsum(random.normal(0, 9, (height, width, 3)), axis=1) + 128
    return np.clip(walk, 0, 255).astype(np.uint8)


def assert_same(got: np.ndarray, want: np.ndarray) -> None:
    assert got.shape == want.shape and got.dtype == want.dtype == np.float32
    assert np.array_equal(got.view(np.uint32), want.view(np.uint32)), f"{np.abs(got - want).max()} apart"


def test_every_recorded_image_gives_the_recorded_tensor() -> None:
    runner = session(OPEN_NSFW)
    assert len(IMAGES) == 25
    for path in IMAGES:
        got = run(runner, rgb_pixels(path))
        assert hashlib.sha256(got.tobytes()).hexdigest() == SCORES[path.name]["tensor"], path.name


PREPROCESSINGS = {
    "open_nsfw": OPEN_NSFW,
    "nothing": Preprocessing(),
    "crop alone": Preprocessing(crop=(1, 1), mean=(1, 2, 3)),
    "resize alone": Preprocessing(resize=(33, 50)),
    "caffenet": Preprocessing(resize=(256, 256), crop=(227, 227), mean=(104.00698793, 116.66876762, 122.67891434)),
    "scale": Preprocessing(resize=(20, 31), crop=(9, 31), mean=(103.94, 116.78, 123.68), scale=0.017),
    "RGB": Preprocessing(resize=(16, 16), channel_order="RGB", mean=(10.5, 20.1, 30.7), scale=1 / 255),
    "odd JPEG": Preprocessing(resize=(45, 51), jpeg_round_trip=True),
    "JPEG of one pixel": Preprocessing(resize=(1, 1), jpeg_round_trip=True),
    "JPEG too narrow for fancy upsampling": Preprocessing(resize=(21, 4), jpeg_round_trip=True),
    "JPEG just wide enough for it": Preprocessing(resize=(7, 5), jpeg_round_trip=True),
    "grey": Preprocessing(resize=(28, 30), crop=(28, 28), channel_order="grey", scale=1 / 256),
    "grey JPEG": Preprocessing(resize=(37, 43), jpeg_round_trip=True, channel_order="grey", mean=(33.3,)),
    "from 0 to 1": Preprocessing(resize=(9, 8), raw_scale=1.0, mean=(0.485, 0.456, 0.406), scale=4.4, crop=(5, 5)),
    "mean image": Preprocessing(
        resize=(40, 30),
        crop=(21, 20),
        mean=MeanImage((3, 40, 30), "float32", np.random.default_rng(0).random((3, 40, 30), np.float32).tobytes()),
        scale=0.017,
    ),
    "opencv": Preprocessing(resize=(33, 50), interpolation="opencv", channel_order="RGB", mean=(1, 2, 3)),
    "opencv in grey": Preprocessing(resize=(28, 28), interpolation="opencv", channel_order="grey"),
}
SIZES = [(1, 1), (2, 3), (1, 700), (700, 1), (24, 900), (300, 200), (200, 300), (256, 256), (257, 255), (520, 610)]


@pytest.mark.parametrize("what", PREPROCESSINGS)
def test_any_picture_gives_the_values_of_tensor(what: str) -> None:
    """Smaller, larger, as large as the resize, one pixel, very wide and very tall."""
    preprocessing = PREPROCESSINGS[what]
    runner = session(preprocessing, preprocessing.channels)
    for size in SIZES:
        for kind in ("noise", "extremes", "walk"):
            pixels = picture(kind, *size)
            assert_same(run(runner, pixels), tensor(Image.fromarray(pixels), preprocessing))


def test_a_picture_smaller_than_the_crop_is_refused_when_it_is_run() -> None:
    runner = session(Preprocessing(crop=(20, 20)))
    run(runner, picture("noise", 20, 20))
    for size in ((19, 20), (20, 12), (5, 5)):
        with pytest.raises(Exception, match="Reshape"):
            run(runner, picture("noise", *size))


def test_it_is_the_model_s_arithmetic_and_not_a_runtime_s() -> None:
    """ONNX's own reference implementation comes to the same values."""
    from onnx.reference import ReferenceEvaluator

    preprocessing = dataclasses.replace(OPEN_NSFW, resize=(50, 42), crop=(30, 40))
    evaluator = ReferenceEvaluator(with_preprocessing(plain(), preprocessing))
    pixels = picture("noise", 70, 30)
    (got,) = evaluator.run(None, {"image": pixels})
    assert_same(got[0], tensor(Image.fromarray(pixels), preprocessing))


def test_the_model_around_it() -> None:
    net = filled(
        one_input(1, 3, 8, 8, name="data")
        + 'layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 2 } }'
    )
    model = cp.to_onnx(net)
    before = model.SerializeToString()
    preprocessing = Preprocessing(resize=(9, 10), crop=(8, 8), jpeg_round_trip=True, mean=(1, 2, 3))
    inside = with_preprocessing(model, preprocessing, name="picture")
    assert model.SerializeToString() == before
    onnx.checker.check_model(inside, full_check=True)
    assert [entry.version for entry in inside.opset_import] == [17]
    assert {node.domain for node in inside.graph.node} == {""}
    (given,) = inside.graph.input
    dims = [dim.dim_param or dim.dim_value for dim in given.type.tensor_type.shape.dim]
    assert (given.name, given.type.tensor_type.elem_type, dims) == ("picture", 2, ["height", "width", 3])
    assert [dim.dim_value for dim in inside.graph.output[0].type.tensor_type.shape.dim] == [1, 2]
    metadata = {entry.key: entry.value for entry in inside.metadata_props}
    assert json.loads(metadata.pop(METADATA_KEY)) == preprocessing.as_json()
    assert metadata == {entry.key: entry.value for entry in model.metadata_props}
    pixels = picture("walk", 30, 40)
    blob = tensor(Image.fromarray(pixels), preprocessing)[np.newaxis]
    (got,) = make_session(inside.SerializeToString()).run(None, {"picture": pixels})
    (want,) = make_session(before).run(None, {"data": blob})
    assert np.array_equal(got, want)


def test_a_manifest_is_carried_in_the_metadata() -> None:
    manifest = Manifest(OPEN_NSFW, "data_out", ("a", "b", "\N{GREEK SMALL LETTER GAMMA}"), 1)
    model = plain()
    assert embedded(model) is None
    embed(model, Manifest())
    embed(model, manifest)
    assert [entry.key for entry in model.metadata_props] == [METADATA_KEY] and embedded(model) == manifest
    # Inside, the labels stay and what is done is what is said.
    other = Preprocessing(resize=(3, 4))
    assert embedded(with_preprocessing(model, other)) == dataclasses.replace(manifest, preprocessing=other)
    model.metadata_props[0].value = '{"format": "caffe_port preprocessing 1", "labels": "/etc/passwd"}'
    with pytest.raises(DataError, match=f"x.onnx, metadata {METADATA_KEY}: .*cannot be named here"):
        embedded(model, "x.onnx")


def test_names_that_are_taken_are_left_alone() -> None:
    first = with_preprocessing(plain(), OPEN_NSFW)
    used = {name for node in first.graph.node for name in (node.name, *node.output)} - {"data_out"}
    model = plain()
    # Values with every name that would be given, none of them of use.
    model.graph.node.extend(
        onnx.helper.make_node("Identity", ["data"], [name]) for name in sorted(used - {"data"}) if name
    )
    inside = with_preprocessing(model, OPEN_NSFW)
    pixels = picture("walk", 30, 40)
    (got,) = make_session(inside.SerializeToString()).run(["data_out"], {"image": pixels})
    assert_same(got[0], tensor(Image.fromarray(pixels), OPEN_NSFW))


@pytest.mark.parametrize(
    ("model", "preprocessing", "want"),
    [
        (plain(2, 3, 224, 224), OPEN_NSFW, r"input 'data' is 2x3x224x224, preprocessing makes 1x3x224x224"),
        (plain(1, 3, 227, 227), OPEN_NSFW, r"is 1x3x227x227, preprocessing makes 1x3x224x224 \(set 'crop'"),
        (plain(1, 3, 227, 227), Preprocessing(), r"preprocessing makes 1x3x\?x\?"),
        (plain("N", 1, 224, 224), OPEN_NSFW, r"is \?x1x224x224"),
        (plain("N", 3), OPEN_NSFW, "no float32 blob of four axes"),
        (plain(inputs=("x",)), OPEN_NSFW, r"no input 'data' \(it has 'x'\)"),
        (plain(inputs=("data", "image")), OPEN_NSFW, "a value named 'image' already"),
        (plain(opset=13), OPEN_NSFW, "opset 17 and later, the model has 13"),
        (plain(), Preprocessing(jpeg_round_trip=True), r"JPEG round trip .* one size only \(give a 'resize'\)"),
        (with_preprocessing(plain(), OPEN_NSFW), OPEN_NSFW, "3 problems:\n(.*\n)?.*preprocessing inside already"),
    ],
)
def test_what_does_not_fit(model: Any, preprocessing: Preprocessing, want: str) -> None:
    with pytest.raises(GraphError, match=want):
        with_preprocessing(model, preprocessing)


def test_the_deviation_is_measured_on_the_model_given() -> None:
    images = [Image.fromarray(picture("walk", *size)) for size in ((30, 40), (300, 200))]
    same = deviation(OPEN_NSFW, plain(), images)
    assert same.as_json() == {"pictures": 2, "tensor": 0.0, "tensor_share": 0.0, "outputs": {"data_out": 0.0}}
    other = with_preprocessing(plain(), dataclasses.replace(OPEN_NSFW, mean=(104.0, 117.0, 121.0)))
    found = deviation(OPEN_NSFW, plain(), images, inside=other)
    assert found.tensor == found.outputs["data_out"] == 2 and found.tensor_share == pytest.approx(1 / 3)
    no_number = with_preprocessing(plain(), OPEN_NSFW)
    # A result that is no number is infinitely far from one that is.
    mean = next(tensor for tensor in no_number.graph.initializer if list(tensor.dims) == [1, 3, 1, 1])
    mean.CopyFrom(onnx.numpy_helper.from_array(np.full((1, 3, 1, 1), np.nan), mean.name))
    assert deviation(OPEN_NSFW, plain(), images, inside=no_number).tensor == float("inf")


def test_what_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="without a picture"):
        deviation(OPEN_NSFW, plain(), [])
    with pytest.raises(ImageError, match="no such file"):
        deviation(OPEN_NSFW, plain(), [tmp_path / "absent.png"])
    with pytest.raises(GraphError, match="one input"):
        deviation(OPEN_NSFW, plain(inputs=("data", "b")), IMAGES)


def test_open_nsfw_with_its_preprocessing_inside() -> None:
    """Every score is the plain model's to the last bit; leaving out the JPEG step moves one by more than 0.03."""
    try:
        files = fetch("open_nsfw", offline=True)
    except FetchError as error:
        pytest.skip(f"the released model is not in the cache: {error}")
    model = cp.to_onnx(cp.load(files.prototxt, files.caffemodel))
    found = deviation(OPEN_NSFW, model, IMAGES)
    assert (found.pictures, found.tensor, found.outputs) == (25, 0.0, {"prob": 0.0})
    without = with_preprocessing(model, dataclasses.replace(OPEN_NSFW, jpeg_round_trip=False))
    assert deviation(OPEN_NSFW, model, IMAGES, inside=without).outputs["prob"] > 0.03
