"""Models that can score pictures, from wherever they come, held against Caffe and against each other."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from places import CONFORMANCE
from small import CONV_NET, built, filled, one_input, weights_of, write_caffemodel, write_model

import caffe_port as cp
from caffe_port.converters.to_onnx.half import to_half
from caffe_port.converters.to_onnx.preprocess import METADATA_KEY, embed, with_preprocessing
from caffe_port.converters.to_onnx.quantize import quantize
from caffe_port.errors import (
    ArtifactError,
    CaffePortError,
    DataError,
    FetchError,
    GraphError,
    MissingDependency,
    WeightsError,
)
from caffe_port.models.fetch import FetchedModel, fetch
from caffe_port.passes.fold_linear import fold_linear
from caffe_port.preprocessing import FORMAT, OPEN_NSFW, Manifest, MeanImage, Preprocessing
from caffe_port.runtime import run
from caffe_port.scoring import runners
from caffe_port.scoring.classifier import Classifier, classifier_of, open_classifier, top_k
from caffe_port.scoring.manifests import released_manifest
from caffe_port.scoring.preprocess import tensor
from caffe_port.scoring.runners import BACKENDS

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

MODELS = CONFORMANCE / "models"
SHIPPED = Path(str(importlib.resources.files("caffe_port.reference_outputs"))) / "open_nsfw"
SCORES = json.loads((SHIPPED / "scores.json").read_text())
GOOD = sorted(name for name, entry in SCORES.items() if "prob" in entry)

STEPS = Preprocessing(resize=(10, 9), crop=(8, 7), mean=(104, 117, 123), scale=0.05)
"""For the 8x7 input of CONV_NET."""

LABELS = ("ant", "bee", "cat", "dog", "eel")
MANIFEST = Manifest(STEPS, "prob", LABELS, 2)


def pictures(count: int = 5) -> list[Image.Image]:
    """Noise upon a colour, of several sizes."""
    random = np.random.default_rng(0)
    made = []
    for i in range(count):
        pixels = random.integers(0, 256, (20 + 3 * i, 31 - 2 * i, 3)) // 2 + random.integers(0, 128, 3)
        made.append(Image.fromarray(pixels.astype(np.uint8)))
    return made


def batch_of(model: Classifier, images: Any = None) -> np.ndarray:
    return np.stack([tensor(image, model.preprocessing) for image in images or pictures()])


@pytest.fixture
def model(tmp_path: Path) -> Classifier:
    definition, weights = write_model(tmp_path)
    return open_classifier(definition, [weights], MANIFEST)


def expected(batch: np.ndarray) -> np.ndarray:
    return np.asarray(run(filled(CONV_NET), {"data": batch}, dtype="float64", outputs=["prob"])["prob"])


# A prototxt, its weights, and a manifest


@pytest.mark.parametrize("backend", [*BACKENDS, None])
def test_any_net_with_a_manifest(model: Classifier, backend: str | None) -> None:
    if backend is not None and backend != "numpy":
        pytest.importorskip(backend)
    batch = batch_of(model)
    probabilities = model.runner(backend, threads=1)(batch)
    assert probabilities.shape == (5, 5) and probabilities.dtype == np.float32
    assert np.abs(probabilities - expected(batch)).max() < 1e-6
    assert np.ptp(probabilities, axis=0).max() > 0.01, "the pictures must differ for this to mean anything"
    assert (model.name, model.labels, model.score_index, model.batch) == ("small", LABELS, 2, None)
    assert model.preprocessing == STEPS


def test_the_manifest_may_be_a_file(tmp_path: Path, model: Classifier) -> None:
    path = tmp_path / "manifest.json"
    MANIFEST.write(path)
    files = (tmp_path / "small.prototxt", [tmp_path / "small.caffemodel"])
    again = open_classifier(*files, path)
    assert again.identity == model.identity and again.labels == LABELS
    bare = open_classifier(*files, STEPS)
    assert bare.labels == ("0", "1", "2", "3", "4") and bare.score_index is None


def test_the_identity_changes_with_all_that_changes_scores(tmp_path: Path, model: Classifier) -> None:
    files = (tmp_path / "small.prototxt", [tmp_path / "small.caffemodel"])
    name, _, digests = model.identity.partition(" sha256:")
    weights, _, others = digests.partition("+")
    assert name == "small" and len(weights) == 64 and len(others) == 16
    seen = {model.identity}
    seen.add(open_classifier(*files, dataclasses.replace(MANIFEST, score=1)).identity)
    seen.add(
        open_classifier(*files, dataclasses.replace(MANIFEST, preprocessing=Preprocessing(resize=(8, 7)))).identity
    )
    files[0].write_text(CONV_NET + "# a comment\n")
    seen.add(open_classifier(*files, MANIFEST).identity)
    other = weights_of(built(CONV_NET))
    other["fc"][1] = other["fc"][1] + 1
    write_caffemodel(files[1][0], CONV_NET, other)
    seen.add(open_classifier(*files, MANIFEST).identity)
    assert len(seen) == 5
    net = filled(CONV_NET)
    assert classifier_of(net, MANIFEST).identity == classifier_of(net, MANIFEST).identity


def test_a_net_of_a_fixed_batch_takes_any_number(tmp_path: Path) -> None:
    """Its Reshape says 2: batches are filled up and cut."""
    reshape = """
layer { name: "r" type: "Reshape" bottom: "fc" top: "r" reshape_param { shape { dim: 2 dim: 5 } } }
layer { name: "prob" type: "Softmax" bottom: "r" top: "prob" }
"""
    text = CONV_NET.replace('layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }', reshape)
    definition, weights = write_model(tmp_path, text)
    fixed = open_classifier(definition, [weights], MANIFEST)
    assert fixed.batch == 2
    batch = batch_of(fixed)
    for backend in BACKENDS:
        if backend != "numpy":
            pytest.importorskip(backend)
        runner = fixed.runner(backend)
        for count in (0, 1, 2, 5):
            found = runner(batch[:count])
            assert found.shape == (count, 5)
            assert np.abs(found - expected(batch)[:count]).max(initial=0) < 1e-6


def test_one_value_is_the_score(tmp_path: Path) -> None:
    text = CONV_NET.replace("num_output: 5", "num_output: 1").replace("Softmax", "Sigmoid")
    definition, weights = write_model(tmp_path, text)
    assert open_classifier(definition, [weights], STEPS).score_index == 0


def test_a_mean_image_end_to_end(tmp_path: Path) -> None:
    definition, weights = write_model(tmp_path)
    values = np.random.default_rng(0).uniform(90, 130, (3, 10, 9))
    image = MeanImage((3, 10, 9), "float64", values.tobytes())
    steps = dataclasses.replace(STEPS, mean=image)
    found = open_classifier(definition, [weights], Manifest(steps))
    batch = batch_of(found)
    plain = np.stack([tensor(one, dataclasses.replace(STEPS, mean=(0,), scale=1)) for one in pictures()])
    assert np.abs(batch - (plain - values[:, 1:9, 1:8]) * 0.05).max() < 1e-5
    inside = with_preprocessing(cp.to_onnx(filled(CONV_NET)), steps)
    onnx.save(inside, tmp_path / "inside.onnx")
    of_file = open_classifier(tmp_path / "inside.onnx")
    assert of_file.preprocessing == steps
    assert np.abs(of_file.runner()(batch) - found.runner("numpy")(batch)).max() < 1e-6


# What Caffe's own files say


TRAINED = """layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { crop_size: 7 mean_value: 104 scale: 0.5 } data_param { batch_size: 1 } }
"""
SQUARE = CONV_NET.replace("dim: 8 dim: 7", "dim: 7 dim: 7")


def test_a_train_val_prototxt_in_the_place_of_a_manifest(tmp_path: Path) -> None:
    definition, weights = write_model(tmp_path, SQUARE)
    trained = tmp_path / "train_val.prototxt"
    trained.write_text(TRAINED.replace('top: "data"', 'top: "x"'))
    with pytest.raises(DataError, match=r"train_val\.prototxt: nothing says what size .* give --resize HEIGHTxWIDTH"):
        open_classifier(definition, [weights], trained)
    found = open_classifier(definition, [weights], trained, resize=(9, 11))
    assert found.preprocessing == Preprocessing(
        "data", resize=(9, 11), interpolation="opencv", crop=(7, 7), mean=(104,), scale=0.5
    )
    assert "squeezed" in found.notes[-1]
    trained.write_text(TRAINED.replace("crop_size: 7", ""))
    found = open_classifier(definition, [weights], trained)
    assert found.preprocessing.resize == (7, 7) and "resized to the net's input, 7x7" in found.notes[-1]


def test_the_data_layer_of_the_net_itself(tmp_path: Path) -> None:
    text = TRAINED.replace('top: "label"', "").replace("mean_value: 104", "mean_value: 1 mean_value: 2 mean_value: 3")
    text += SQUARE[SQUARE.index('layer { name: "conv1"') :]
    definition, weights = write_model(tmp_path, text)
    found = open_classifier(definition, [weights], resize=(8, 8))
    assert found.preprocessing.mean == (1, 2, 3) and found.labels == ("0", "1", "2", "3", "4")
    assert found.runner("numpy")(batch_of(found)).shape == (5, 5)


# ONNX files


def written_onnx(folder: Path, kind: str, manifest: Manifest | None = MANIFEST) -> Path:
    net = filled(CONV_NET)
    made = cp.to_onnx(net)
    if kind == "float16 weights":
        made = to_half(made)
    elif kind == "float16":
        made = to_half(made, activations=True)
    elif kind == "int8":
        feeds = [{"data": tensor(one, STEPS)[np.newaxis]} for one in pictures()]
        made = quantize(cp.to_onnx(fold_linear(net).net), feeds).model
    elif kind == "batch of 2":
        made = cp.to_onnx(net, batch=2)
    if manifest is not None:
        embed(made, manifest)
    if kind == "picture in":
        made = with_preprocessing(made, STEPS)
    path = folder / f"{kind}.onnx"
    onnx.save(made, path)
    return path


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [
        ("float32", 1e-6),
        ("float16 weights", 2e-3),
        ("float16", 1e-2),
        ("int8", 5e-2),
        ("batch of 2", 1e-6),
        ("picture in", 1e-6),
    ],
)
def test_a_converted_file_says_itself_how_it_is_fed(
    tmp_path: Path, model: Classifier, kind: str, tolerance: float
) -> None:
    found = open_classifier(written_onnx(tmp_path, kind))
    assert (found.name, found.labels, found.score_index, found.preprocessing) == (kind, LABELS, 2, STEPS)
    assert found.batch == {"batch of 2": 2, "picture in": 1}.get(kind)
    batch = batch_of(model)
    got = found.runner(threads=1)(batch)
    assert got.shape == (5, 5) and got.dtype == np.float32
    assert np.abs(got - expected(batch)).max() < tolerance


@pytest.mark.parametrize("kind", ["float32", "picture in", "net", "net in int8"])
def test_sent_to_another_machine_it_is_the_same(tmp_path: Path, model: Classifier, kind: str) -> None:
    if kind == "net in int8":
        sent = model.portable("int8", pictures())
    else:
        sent = (model if kind == "net" else open_classifier(written_onnx(tmp_path, kind))).portable()
    arrived = pickle.loads(pickle.dumps(sent))
    batch = batch_of(model)
    assert np.abs(arrived.runner()(batch) - expected(batch)).max() < (5e-2 if "int8" in kind else 1e-6)
    assert (arrived.name, arrived.labels, arrived.identity) == (sent.name, sent.labels, sent.identity)
    assert arrived.preprocessing == STEPS


def test_a_file_from_elsewhere_needs_a_manifest(tmp_path: Path) -> None:
    path = written_onnx(tmp_path, "float32", None)
    with pytest.raises(GraphError, match=r"nothing says how a picture becomes the input of .*: give --preprocessing"):
        open_classifier(path)
    assert open_classifier(path, (), MANIFEST).labels == LABELS
    # One that is given counts for more than the file's own.
    own = open_classifier(written_onnx(tmp_path, "float32"), (), dataclasses.replace(MANIFEST, score=0))
    assert own.score_index == 0


def test_a_file_that_takes_other_numbers(tmp_path: Path) -> None:
    info = onnx.helper.make_tensor_value_info
    double = onnx.TensorProto.DOUBLE
    node = onnx.helper.make_node("Flatten", ["data"], ["prob"])
    graph = onnx.helper.make_graph(
        [node], "g", [info("data", double, ["N", 3, 1, 1])], [info("prob", double, ["N", 3])]
    )
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "d.onnx",
    )
    with pytest.raises(
        GraphError, match=r"d\.onnx: a classifier takes and gives float32: 'data' tensor\(double\), 'prob'"
    ):
        open_classifier(tmp_path / "d.onnx", (), Preprocessing(resize=(1, 1)))


def test_weights_beside_the_file(tmp_path: Path) -> None:
    from caffe_port.converters.to_onnx.files import write_onnx

    made = cp.to_onnx(filled(CONV_NET))
    embed(made, MANIFEST)
    wide = onnx.ModelProto()
    wide.CopyFrom(made)
    write_onnx(wide, tmp_path / "m.onnx", external_data=True)
    found = open_classifier(tmp_path / "m.onnx")
    batch = batch_of(found)
    assert np.abs(found.runner()(batch) - expected(batch)).max() < 1e-6
    whole = found.portable()
    for file in tmp_path.glob("m.onnx*"):
        file.unlink()
    assert np.abs(whole.runner()(batch) - expected(batch)).max() < 1e-6


def test_onnxruntime_s_own_format(tmp_path: Path) -> None:
    from caffe_port.converters.to_onnx.files import write_ort

    write_ort(written_onnx(tmp_path, "float32"), tmp_path / "m.ort")
    found = open_classifier(tmp_path / "m.ort")
    assert found.labels == LABELS
    batch = batch_of(found)
    for one in (found, found.portable()):
        assert np.abs(one.runner()(batch) - expected(batch)).max() < 1e-6


# What does not fit


def net_of(text: str) -> Any:
    return filled(text)


@pytest.mark.parametrize(
    ("manifest", "want"),
    [
        (Manifest(Preprocessing(crop=(7, 8))), "takes 2x3x8x7, its preprocessing makes 1x3x7x8"),
        (Manifest(Preprocessing(crop=(8, 7), channel_order="grey")), "its preprocessing makes 1x1x8x7"),
        (Manifest(Preprocessing()), r"says no size \(give 'resize', \[height, width\]\)"),
        (Manifest(Preprocessing(input_blob="x", crop=(8, 7))), "has no input 'x' .*must be of 'data'"),
        (Manifest(Preprocessing(input_blob="x")), "2 problems:\n.*no input 'x'.*\n.*no size"),
        (dataclasses.replace(MANIFEST, output_blob="fc"), "has no output 'fc'; 'output_blob' must be of prob"),
        (Manifest(STEPS, labels=("a", "b")), "output 'prob' of small has 5 values, the manifest 2 labels"),
        (Manifest(STEPS, score=5), "has 5 values, so the score cannot be number 5"),
    ],
)
def test_a_manifest_of_another_net(tmp_path: Path, manifest: Manifest, want: str) -> None:
    with pytest.raises(GraphError, match=want):
        classifier_of(net_of(CONV_NET), manifest, name="small")
    with pytest.raises(GraphError, match=want.replace("2x3x8x7", r"\?x3x8x7").replace("small", "float32")):
        open_classifier(written_onnx(tmp_path, "float32", manifest))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (CONV_NET + one_input(1, 2, name="more"), "takes more than pictures: 'data', 'more'"),
        (
            CONV_NET + 'layer { name: "s" type: "Sigmoid" bottom: "pool1" top: "s" }',
            "has 2 outputs, which has the probabilities\\? prob, s .*'output_blob'",
        ),
        (CONV_NET[: CONV_NET.index('layer { name: "fc"')], "output 'pool1' of small is .*a classifier's is"),
    ],
)
def test_nets_that_are_no_classifiers(text: str, want: str) -> None:
    with pytest.raises(GraphError, match=want):
        classifier_of(net_of(text), Manifest(STEPS), name="small")


def test_what_is_missing_is_said(tmp_path: Path, model: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    definition, weights = tmp_path / "small.prototxt", tmp_path / "small.caffemodel"
    with pytest.raises(
        GraphError, match=r"nothing says .*small\.prototxt: give --preprocessing MANIFEST, or the proto"
    ):
        open_classifier(definition, [weights])
    with pytest.raises(WeightsError):
        open_classifier(definition, (), MANIFEST)
    with pytest.raises(DataError, match="neither a manifest nor a net with a data layer"):
        open_classifier(definition, [weights], definition)
    with pytest.raises(DataError, match="absent: cannot be read"):
        open_classifier(definition, [weights], tmp_path / "absent")
    with pytest.raises(GraphError, match="a manifest says itself how pictures are resized"):
        open_classifier(definition, [weights], MANIFEST, resize=(3, 4))
    with pytest.raises(FetchError, match="no such file"):
        open_classifier(tmp_path / "absent.onnx")
    with pytest.raises(GraphError, match="has its weights inside"):
        open_classifier(tmp_path / "absent.onnx", [weights])
    (tmp_path / "broken.onnx").write_bytes(b"\x00no model")
    with pytest.raises(ArtifactError, match=r"broken\.onnx: onnxruntime does not take the model"):
        open_classifier(tmp_path / "broken.onnx")
    with pytest.raises(GraphError, match=r"its preprocessing is inside; another cannot be given"):
        open_classifier(written_onnx(tmp_path, "picture in"), (), MANIFEST)
    with pytest.raises(GraphError, match=r"2 problems:\n.*unknown backend 'caffe'.*\n.*unknown precision 'int4'"):
        model.runner("caffe", "int4")
    with pytest.raises(GraphError, match="int8 is computed by onnxruntime, not by numpy"):
        model.runner("numpy", "int8")
    with pytest.raises(GraphError, match="0 threads are none"):
        model.runner(threads=0)
    of_file = open_classifier(written_onnx(tmp_path, "float32"))
    with pytest.raises(
        GraphError, match=r"2 problems:\n.*which torch does not run.*\n.*computed in what it was written"
    ):
        of_file.runner("torch", "int8")

    def absent(*_: object) -> None:
        raise MissingDependency("not here")

    makers = dict(runners._MAKERS)
    monkeypatch.setattr(runners, "_MAKERS", makers)
    makers["onnxruntime"] = absent  # type: ignore[assignment]
    with pytest.raises(MissingDependency):
        model.runner("onnxruntime")
    makers["torch"] = absent  # type: ignore[assignment]
    assert model.runner()(batch_of(model)).shape == (5, 5)


def test_a_picture_model_that_a_tool_has_changed(tmp_path: Path) -> None:
    path = written_onnx(tmp_path, "picture in")
    made = onnx.load(path)
    for node in made.graph.node:
        node.output[:] = ["renamed" if name == "data" else name for name in node.output]
        node.input[:] = ["renamed" if name == "data" else name for name in node.input]
    onnx.save(made, path)
    with pytest.raises(ArtifactError, match="its preprocessing cannot be told from the rest"):
        open_classifier(path)
    metadata = next(entry for entry in made.metadata_props if entry.key == METADATA_KEY)
    metadata.value = json.dumps({"format": FORMAT, "labels": "/etc/passwd"})
    onnx.save(made, path)
    with pytest.raises(DataError, match="cannot be named here"):
        open_classifier(path)


# Top-k


def test_top_k() -> None:
    probabilities = [0.1, 0.4, 0.05, 0.4, 0.05]
    assert top_k(probabilities, LABELS, 3) == [("bee", 0.4), ("dog", 0.4), ("ant", 0.1)]
    assert top_k(np.float32(probabilities), LABELS, 9)[-1] == ("eel", float(np.float32(0.05)))
    assert len(top_k(probabilities, LABELS, 9)) == 5
    for k, labels in ((0, LABELS), (1, LABELS[:4])):
        with pytest.raises(CaffePortError):
            top_k(probabilities, labels, k)


# Trained models


def trained(name: str, manifest: Manifest) -> Classifier:
    folder = MODELS / name
    if not folder.is_dir():
        pytest.skip("the trained models are not here")
    return open_classifier(folder / "net.prototxt", [folder / "weights.caffemodel"], manifest)


def drawn(digit: int) -> Image.Image:
    """A digit in white on black, as MNIST has them, but large and in colour."""
    image = Image.new("RGB", (140, 140))
    pen = ImageDraw.Draw(image)
    if digit == 0:
        pen.ellipse((40, 25, 100, 115), outline="white", width=13)
    lines = {
        1: [(72, 25), (66, 115)],
        2: [(42, 45), (60, 28), (85, 30), (92, 50), (80, 70), (42, 112), (100, 112)],
        4: [(80, 115), (84, 30), (45, 75), (104, 75)],
        7: [(40, 32), (98, 32), (62, 115)],
    }
    if digit in lines:
        pen.line(lines[digit], fill="white", width=13, joint="curve")
    return image


@pytest.mark.parametrize("backend", BACKENDS)
def test_lenet_reads_digits(backend: str) -> None:
    if backend != "numpy":
        pytest.importorskip(backend)
    steps = Preprocessing(resize=(28, 28), channel_order="grey", scale=1 / 256)
    lenet = trained("lenet", Manifest(steps))
    digits = (0, 1, 2, 4, 7)
    probabilities = lenet.runner(backend)(batch_of(lenet, map(drawn, digits)))
    assert [top_k(row, lenet.labels, 1)[0][0] for row in probabilities] == [str(digit) for digit in digits]
    assert probabilities.max(1).min() > 0.5


def test_lenet_by_what_its_train_val_says() -> None:
    folder, told = (
        MODELS / "lenet",
        MODELS.parent / "prototxt" / "BVLC__caffe__examples_mnist_lenet_train_test.prototxt",
    )
    if not folder.is_dir() or not told.is_file():
        pytest.skip("the trained models are not here")
    found = open_classifier(folder / "net.prototxt", [folder / "weights.caffemodel"], told)
    assert found.preprocessing == Preprocessing(
        resize=(28, 28), interpolation="opencv", channel_order="grey", scale=1 / 256
    )


@pytest.mark.parametrize(("name", "size"), [("mtcnn_det1", 12), ("mtcnn_det2", 24), ("mtcnn_det3", 48)])
def test_mtcnn_tells_a_face_from_none(name: str, size: int) -> None:
    """Two outputs, and one of them with axes of size 1; pictures lie on their side, as MTCNN was trained."""
    steps = Preprocessing(resize=(size, size), channel_order="RGB", mean=(127.5,), scale=1 / 128)
    with pytest.raises(GraphError, match=r"has [23] outputs"):
        trained(name, Manifest(steps))
    mtcnn = trained(name, Manifest(steps, "prob1", ("no face", "face"), 1))
    astronaut = Image.open(SHIPPED / "images" / "astronaut.png").convert("RGB")
    boxes = ((175, 50, 275, 150), (0, 0, 100, 100))
    batch = batch_of(mtcnn, [astronaut.crop(box).transpose(Image.Transpose.TRANSPOSE) for box in boxes])
    for backend in BACKENDS:
        if backend != "numpy":
            pytest.importorskip(backend)
        face, none = mtcnn.runner(backend)(batch)[:, 1]
        assert face > 0.9 and none < 0.1


# The released model


@pytest.fixture(scope="module")
def released() -> FetchedModel:
    try:
        return fetch("open_nsfw", offline=True)
    except FetchError as error:
        pytest.skip(f"the released model is not in the cache: {error}")


@pytest.fixture(scope="module")
def shipped() -> np.ndarray:
    return np.stack([tensor(SHIPPED / "images" / name, OPEN_NSFW) for name in GOOD])


def test_open_nsfw_converted_scores_as_released(released: FetchedModel, shipped: np.ndarray, tmp_path: Path) -> None:
    assert released.released is not None
    want = np.array([SCORES[name]["prob"] for name in GOOD])
    own = open_classifier("open_nsfw", offline=True)
    assert (own.labels, own.score_index, own.preprocessing) == (("not porn", "porn"), 1, OPEN_NSFW)
    assert np.abs(own.runner()(shipped) - want).max() <= 2e-7
    by_files = open_classifier(released.prototxt, [released.caffemodel])
    assert by_files.identity == own.identity and released.released.caffemodel.sha256 in own.identity
    net = cp.load(released.prototxt, released.caffemodel)
    # Unfolded, onnxruntime rounds more often: up to 4.2e-7 were measured.
    for name, bound in (("folded, picture in", 2e-7), ("plain", 5e-7)):
        made = cp.to_onnx(net if name == "plain" else fold_linear(net).net)
        embed(made, released_manifest(released.released))
        onnx.save(made if name == "plain" else with_preprocessing(made, OPEN_NSFW), tmp_path / f"{name}.onnx")
        found = open_classifier(tmp_path / f"{name}.onnx")
        assert (found.labels, found.score_index, found.preprocessing) == (own.labels, 1, OPEN_NSFW)
        assert np.abs(found.runner()(shipped) - want).max() <= bound
