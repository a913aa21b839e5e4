"""A fine-tuning of the released model on photographs, and the whole of it on a small net."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")
pytest.importorskip("scipy")
pytest.importorskip("sklearn")

import photographs
import torch
import toys
from PIL import Image
from small import write_caffemodel

import caffe_port as cp
from caffe_port.errors import ArtifactError, DataError, FetchError, GraphError, ParityError
from caffe_port.finetuning.augmentation import AugmentedImages
from caffe_port.finetuning.data import LabelledImage, read_dataset
from caffe_port.finetuning.evaluation import Scores, class_aucs, evaluate
from caffe_port.finetuning.finishing import finish
from caffe_port.finetuning.recipe import Recipe
from caffe_port.finetuning.run import Finetuning
from caffe_port.preprocessing import Manifest, Preprocessing
from caffe_port.scoring.preprocess import tensor
from caffe_port.sources import ModelFiles, locate
from caffe_port.training.errors import TrainingError
from caffe_port.training.solver import Solver


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_released_model_learns_other_classes(tmp_path: Path) -> None:
    """Animals and round things in the dark, validated on the other halves of the photographs: from no idea to far
    better than chance in a few steps. The exported file scores as the trained module does."""
    onnxruntime: Any = pytest.importorskip("onnxruntime")
    try:
        files = locate("open_nsfw")
    except FetchError as error:
        pytest.skip(f"the released model cannot be had: {error}")
    train = photographs.write(tmp_path / "train", 10, half="left")
    held = photographs.write(tmp_path / "held", 8, half="right", seed=1)
    recipe = Recipe(size=112, iterations=8, batch=8, evaluate_every=4, freeze=("*_1", "*stage[012]*"), seed=1)
    work = Finetuning(files, train, tmp_path / "out", recipe, validation=held)
    before = work.before()
    assert before is not None and before.accuracy.estimate < 0.8
    done = work.train(workers=0)
    assert done.iteration == 8 and [look.iteration for look in done.looks] == [4, 8]
    result = finish(work, ["onnx"], before=before, trained=done, verify=False)
    # 16 images: by chance 14 or more are right once in 480 times.
    assert result.after.accuracy.count >= 14
    (auc,) = result.aucs
    assert auc.name == "sky" and auc.after.estimate > 0.95
    assert auc.before is not None and auc.after.estimate > auc.before.estimate
    # What did not learn is what it was; the rest moved.
    old, new = files.load(), work.tuned_net()
    frozen = ("conv_1", "conv_stage2_block0_branch2a")
    for name in (*frozen, "conv_stage3_block2_branch2a", "scale_stage3_block0_branch2b"):
        weights = [next(weight.data for weight in net.weights() if weight.layer == name) for net in (old, new)]
        assert np.array_equal(*weights) == (name in frozen), name
    # The exported file and the trained module, both against float64.
    inputs = np.stack([tensor(image.path, work.manifest.preprocessing) for image in work.dataset.validation[::4]])
    exact = cp.run(new.with_input_shapes({"data": inputs.shape}), {"data": inputs}, dtype="float64")["prob"]
    module = cp.to_pytorch(new).eval()
    with torch.no_grad():
        of_module = module(torch.from_numpy(inputs)).numpy()
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "open_nsfw_finetuned.onnx"))
    (of_file,) = session.run(None, {"data": inputs})
    floor = np.abs(of_module - exact).max()
    assert floor < 1e-5
    assert np.abs(of_file - exact).max() <= 4 * floor + 4 * np.spacing(np.float32(1))
    assert np.abs(result.after.probabilities[::4] - of_module).max() < 1e-5


# A small net

DEPLOY = """
name: "toy"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 6 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc"
        inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
STEPS = Preprocessing(resize=(10, 10), crop=(8, 8), mean=(128.0,), scale=0.01, interpolation="opencv")
MANIFEST = Manifest(STEPS, None, ("down", "up"), 1)
RECIPE = Recipe(epochs=6, batch=8, base_lr=0.05, mirror=False, seed=3)


@pytest.fixture
def model(tmp_path: Path) -> ModelFiles:
    return toy_model(tmp_path)


def toy_model(folder: Path) -> ModelFiles:
    rng = np.random.default_rng(0)
    blobs = {
        "conv": [rng.normal(size=(6, 3, 3, 3)) * 0.3, np.zeros(6)],
        "fc": [rng.normal(size=(2, 216)) * 0.05, np.zeros(2)],
    }
    prototxt = folder / "toy.prototxt"
    prototxt.write_text(DEPLOY)
    return locate(str(prototxt), [write_caffemodel(folder / "toy.caffemodel", DEPLOY, blobs)])


def pictures(folder: Path, count: int = 40, classes: tuple[str, str] = ("down", "up")) -> Path:
    """Of class 1 the upper half is brighter, of class 0 the lower."""
    for number in range(count):
        place = folder / classes[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(toys.pixels(number).transpose(1, 2, 0)).save(place / f"{number}.png")
    return folder


def tuning(folder: Path, model: ModelFiles, recipe: Recipe = RECIPE, out: str = "out", **options: Any) -> Finetuning:
    data = folder / "data"
    if not data.exists():
        pictures(data)
    return Finetuning(model, data, folder / out, recipe, **{"manifest": MANIFEST, "name": "tuned", **options})


def learned(path: Path) -> dict[str, NDArray[Any]]:
    net = cp.load(path, allow_missing_weights=True)
    return {weight.label: np.asarray(weight.data) for weight in net.weights()}


def test_all_of_it(tmp_path: Path, model: ModelFiles) -> None:
    pytest.importorskip("onnxruntime")
    work = tuning(tmp_path, model)
    before = work.before()
    done = work.train(workers=0)
    result = finish(work, before=before, trained=done)
    out = tmp_path / "out"
    assert result.conversion is not None
    assert result.conversion.certificate.verdict == "verified against the float64 run, not against Caffe"
    assert {path.name for path in result.files} == {
        "tuned.onnx", "tuned.pt2", "tuned.safetensors", "tuned.caffemodel", "tuned.certificate.json",
        "tuned.certificate.html", "validation.csv", "report.md", "report.json", "validation.html",
    }  # fmt: skip
    assert result.after.accuracy.estimate == 1 and result.calibration is not None
    certificate = json.loads((out / "tuned.certificate.json").read_text())
    roles = [(source["role"], source["name"]) for source in certificate["sources"]]
    assert ("fine-tuned from", "toy.caffemodel") in roles and ("training images", "train.txt") in roles
    report = json.loads((out / "report.json").read_text())
    assert report["images"] == {"train": [16, 16], "validation": [4, 4]}
    assert report["after"]["accuracy"]["estimate"] == 1 and report["best_iteration"] == done.best.iteration  # type: ignore[union-attr]
    assert "AUC of up" in (out / "report.md").read_text()
    with (out / "validation.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 8 and all(float(row[f"after: {row['label']}"]) > 0.5 for row in rows)
    # The caffemodel is the net that is used, and the manifest what scoring needs.
    tuned = cp.load(out / "deploy.prototxt", out / "tuned.caffemodel")
    again = evaluate(tuned, cp.preprocessing.read_manifest(out / "manifest.json"), work.dataset.validation)
    assert np.array_equal(again.probabilities, result.after.probabilities)
    assert cp.load(out / "tuned.caffemodel").layers[0].type == "Input"
    # The best snapshot and the last are kept, and no other.
    kept = {work.best.iteration, done.iteration}  # type: ignore[union-attr]
    assert {path.name for path in (out / "snapshots").iterdir()} == {
        f"tuned_iter_{number}.{ending}" for number in kept for ending in ("caffemodel", "solverstate")
    }
    with pytest.raises(ArtifactError, match="has a fine-tuning already"):
        tuning(tmp_path, model)


def test_a_file_that_disagrees_leaves_the_report(tmp_path: Path, model: ModelFiles) -> None:
    work = tuning(tmp_path, model, Recipe(iterations=2, batch=8))
    done = work.train(workers=0)

    def refuse(*_: Any, **__: Any) -> None:
        raise ParityError("it diverges")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("caffe_port.finetuning.finishing.convert", refuse)
        with pytest.raises(ParityError, match=r"it diverges\nthe trained weights stay in .*tuned_iter_2\.caffemodel"):
            finish(work, trained=done)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["verdict"] == "failed" and report["notes"][-1] == "the model was not written: it diverges"
    assert "it diverges" in (tmp_path / "out" / "report.md").read_text()


def test_real_caffe_could_train_with_the_files(tmp_path: Path, model: ModelFiles) -> None:
    """They are a solver and a net as `train` takes them."""
    from caffe_port.training.settings import read_settings

    tuning(tmp_path, model, Recipe(iterations=6, batch=8, evaluate_every=3, class_weights="balanced"))
    out = tmp_path / "out"
    solver = Solver(read_settings(out / "solver.prototxt", out), weights=model.weights, workers=0)
    assert solver.solve().iteration == 6
    assert {"accuracy", "loss"} == set(solver.test())


def test_the_same_from_a_seed(tmp_path: Path, model: ModelFiles) -> None:
    found = []
    for out, seed, workers in (("a", 3, 0), ("b", 3, 1), ("c", 4, 0)):
        work = tuning(tmp_path, model, Recipe(iterations=6, batch=8, evaluate_every=3, seed=seed), out)
        work.train(workers=workers)
        found.append(learned(tmp_path / out / "snapshots" / "tuned_iter_6.caffemodel"))
    assert all(np.array_equal(found[0][label], found[1][label]) for label in found[0])
    assert not all(np.array_equal(found[0][label], found[2][label]) for label in found[0])


class Stopping:
    """Asks a solver to stop when its iteration is reached."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def __call__(self, solver: Solver) -> Stopping:
        def look(made: Solver) -> None:
            if made.iteration == self.iteration:
                made.request_stop()

        solver.on_gradients.append(look)
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def test_stopped_and_resumed_is_the_whole(tmp_path: Path, model: ModelFiles) -> None:
    recipe = Recipe(iterations=9, batch=8, evaluate_every=3, base_lr=0.02, seed=5)
    whole = tuning(tmp_path, model, recipe, "whole")
    ended = whole.train(workers=0)
    part = tuning(tmp_path, model, recipe, "part").train(workers=0, around=Stopping(3))
    assert part.stopped and part.iteration == 4
    assert part.snapshot is not None and part.snapshot.name == "tuned_iter_4.solverstate" and part.snapshot.is_file()
    with pytest.raises(GraphError, match="was made with another recipe"):
        tuning(tmp_path, model, Recipe(iterations=9, batch=4), "part", resume=True)
    resumed = tuning(tmp_path, model, recipe, "part", resume=True)
    assert [look.iteration for look in resumed.looks] == [3]
    rest = resumed.train(workers=0)
    assert rest.looks == ended.looks and not rest.stopped
    a, b = (learned(tmp_path / name / "snapshots" / "tuned_iter_9.caffemodel") for name in ("whole", "part"))
    assert all(np.array_equal(a[label], b[label]) for label in a)
    with pytest.raises(ArtifactError, match="has no fine-tuning that could go on"):
        tuning(tmp_path, model, recipe, "none", resume=True)


def test_early_stopping_keeps_the_best(tmp_path: Path, model: ModelFiles) -> None:
    """Two looks without a smaller loss end it, and the best weights are those of before. The losses are made up."""
    recipe = Recipe(iterations=60, batch=8, evaluate_every=2, base_lr=0.001, momentum=0, patience=2, steps=0, seed=1)
    work = tuning(tmp_path, model, recipe)
    losses = iter([0.5, 0.4, 0.6, 0.7, 0.1])
    real = evaluate

    def worse(*args: Any, **options: Any) -> Scores:
        made = real(*args, **options)
        value = np.exp(-next(losses))
        probabilities = np.full_like(made.probabilities, 1 - value)
        probabilities[np.arange(len(made.labels)), made.labels] = value
        return Scores(probabilities, made.labels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("caffe_port.finetuning.run.evaluate", worse)
        done = work.train(workers=0)
    assert done.early and done.iteration == 8 and work.best is not None and work.best.iteration == 4
    names = {path.name for path in (tmp_path / "out" / "snapshots").glob("*.caffemodel")}
    assert names == {"tuned_iter_4.caffemodel", "tuned_iter_8.caffemodel"}
    weights = [source.path.name for source in work.tuned_net().sources if source.role == "weights"]
    assert weights == ["tuned_iter_4.caffemodel"]


def test_a_loss_that_is_no_number_names_the_last_snapshot(tmp_path: Path, model: ModelFiles) -> None:
    work = tuning(tmp_path, model, Recipe(iterations=40, batch=8, evaluate_every=1, base_lr=0.01, patience=0))

    def spoil(solver: Solver) -> Stopping:
        def look(made: Solver) -> None:
            if made.iteration == 2:
                made.train.blobs[0].tensor.data.fill_(float("nan"))

        solver.on_gradients.append(look)
        return Stopping(1000)

    with pytest.raises(TrainingError) as caught:
        work.train(workers=0, around=spoil)
    last = tmp_path / "out" / "snapshots" / "tuned_iter_2.solverstate"
    assert str(caught.value).endswith(f"the last good snapshot is {last}") and last.is_file()


def test_an_image_that_is_gone_names_the_last_snapshot(tmp_path: Path, model: ModelFiles) -> None:
    work = tuning(tmp_path, model, Recipe(iterations=40, batch=32, evaluate_every=1, patience=0))

    def spoil(solver: Solver) -> Stopping:
        def look(made: Solver) -> None:
            if made.iteration == 1:
                work.dataset.train[5].path.unlink()

        solver.on_gradients.append(look)
        return Stopping(1000)

    with pytest.raises(cp.CaffePortError) as caught:
        work.train(workers=0, around=spoil)
    assert "no such file" in str(caught.value) and "the last good snapshot is" in str(caught.value)


def test_a_head_that_is_kept(tmp_path: Path, model: ModelFiles) -> None:
    with pytest.raises(GraphError, match="name them all in that of the model, which is down, up"):
        pictures(tmp_path / "data", classes=("a", "b"))
        tuning(tmp_path, model, Recipe(iterations=1, keep_head=True))
    work = tuning(tmp_path, model, Recipe(iterations=1, batch=8, base_lr=1e-9, keep_head=True), classes=["b", "a"])
    work.train(workers=0)
    before, after = work.before(), evaluate(work.tuned_net(), work.manifest, work.dataset.validation)
    assert before is not None
    assert np.allclose(before.probabilities, after.probabilities, atol=1e-5)


def test_before_by_the_positive_class(tmp_path: Path, model: ModelFiles) -> None:
    """Classes of other names: what is positive is held against the class that is the model's score."""
    pictures(tmp_path / "data", classes=("z", "a"))
    straight, crossed = (
        tuning(tmp_path, model, Recipe(iterations=1), out, positive=positive)
        for out, positive in (("s", "z"), ("c", "a"))
    )
    first, second = straight.before(), crossed.before()
    assert first is not None and second is not None
    assert np.array_equal(first.probabilities[:, ::-1], second.probabilities)
    assert "'up' against 'z'" in straight.notes[-1] and "'up' against 'a'" in crossed.notes[-1]


def test_three_classes(tmp_path: Path, model: ModelFiles) -> None:
    pictures(tmp_path / "data", 24)
    for number in range(12):
        place = tmp_path / "data" / "grey"
        place.mkdir(exist_ok=True)
        noise = np.random.default_rng(100 + number).integers(100, 156, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(noise).save(place / f"{number}.png")
    work = tuning(tmp_path, model, Recipe(epochs=12, batch=8, base_lr=0.05, mirror=False, class_weights=(1, 2, 1)))
    assert work.before() is None and "the model has 2 classes, the data 3" in work.notes[-1]
    done = work.train(workers=0)
    result = finish(work, ["caffemodel"], trained=done, verify=False)
    assert result.calibration is None and [auc.name for auc in result.aucs] == ["down", "grey", "up"]
    assert result.after.accuracy.estimate > 0.6
    # The loss that chose the best weights counts as the training's does.
    best = done.best
    assert best is not None and np.isclose(best.loss, result.after.loss([1, 2, 1]), rtol=1e-6)
    assert work.manifest.score is None


def test_without_a_manifest(tmp_path: Path, model: ModelFiles) -> None:
    work = tuning(tmp_path, model, manifest=None)
    assert "nothing says how a picture becomes the input" in work.notes[0]
    assert work.manifest.preprocessing.mean == (104.0, 117.0, 123.0) and work.manifest.preprocessing.resize == (9, 9)


def test_bad_data_and_models(tmp_path: Path, model: ModelFiles) -> None:
    (tmp_path / "data" / "only").mkdir(parents=True)
    Image.fromarray(toys.pixels(0).transpose(1, 2, 0)).save(tmp_path / "data" / "only" / "0.png")
    with pytest.raises(DataError, match="all images are of one class"):
        tuning(tmp_path, model)
    with pytest.raises(GraphError, match="the weights to start from are needed too"):
        tuning(tmp_path, ModelFiles("toy", model.definition, ()))
    pictures(tmp_path / "other")
    with pytest.raises(GraphError, match="the positive class 'left' is none of down, up"):
        Finetuning(model, tmp_path / "other", tmp_path / "out", RECIPE, manifest=MANIFEST, positive="left")


# Parts


def test_augmented_images(tmp_path: Path) -> None:
    gradient = np.zeros((20, 40, 3), np.uint8)
    gradient[:, :, 0] = np.linspace(0, 255, 40, dtype=np.uint8)
    Image.fromarray(gradient).save(tmp_path / "a.png")
    Image.fromarray(gradient[:, ::-1]).save(tmp_path / "b.png")
    images = [LabelledImage(tmp_path / "a.png", 0), LabelledImage(tmp_path / "b.png", 1)]
    items = AugmentedImages(images, STEPS, batch_size=2, scale=(8, 16), seed=4)
    first = next(items.batches())
    assert first[0].shape == (2, 3, 8, 8) and sorted(first[1]) == [0, 1]
    # Red is the last channel, and values are (pixel - 128) / 100.
    assert np.allclose(first[0][:, 0], -1.28) and first[0][:, 2].max() > -1.28 and first[0].max() <= 1.27 + 1e-6
    # The picture keeps its proportions: a wider one shows less of the gradient in a crop.
    tickets = items.tickets()
    spans = []
    for ticket in (next(tickets) for _ in range(60)):
        item, _ = items.load(ticket)
        spans.append(float(np.ptp(item[2])) * 100)
    # 7 of the 15 to 31 steps between the middles of the columns.
    assert 40 < min(spans) < 75 and 95 < max(spans) < 140


def test_tickets_are_the_same_after_a_skip(tmp_path: Path) -> None:
    images = [LabelledImage(tmp_path / f"{number}.png", number % 2) for number in range(5)]

    def made() -> AugmentedImages:
        return AugmentedImages(images, STEPS, batch_size=2, scale=(8, 16), seed=4)

    whole = [ticket for ticket, _ in zip(made().tickets(), range(20), strict=False)]
    assert [ticket for ticket, _ in zip(made().tickets(8), range(12), strict=False)] == whole[8:]
    assert sorted(index for index, _ in whole[:5]) == [0, 1, 2, 3, 4]


def test_scores() -> None:
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]])
    scores = Scores(probabilities, np.array([0, 0, 1, 1]))
    assert scores.confusion.tolist() == [[1, 1], [0, 2]]
    assert scores.accuracy.count == 3 and scores.balanced_accuracy == 0.75
    assert np.isclose(scores.loss(), -np.log([0.9, 0.4, 0.7, 0.8]).mean())
    assert np.isclose(scores.loss([2, 1]), -(2 * np.log([0.9, 0.4]).sum() + np.log([0.7, 0.8]).sum()) / 4)
    (auc,) = class_aucs(["no", "yes"], [1], scores, Scores(probabilities[::-1], scores.labels))
    assert auc.after.estimate == 1 and auc.before is not None and auc.before.estimate == 0
    assert auc.test is not None and auc.test.difference.estimate == 1


def test_the_split_is_the_one_of_the_recipe(tmp_path: Path, model: ModelFiles) -> None:
    work = tuning(tmp_path, model, Recipe(iterations=1, seed=9))
    assert work.dataset == read_dataset(tmp_path / "data", seed=9, preferred=("down", "up"))
    assert (tmp_path / "out" / "train.txt").read_text().splitlines()[0] == (
        f"{work.dataset.train[0].path} {work.dataset.train[0].label}"
    )
