"""The released model itself: every layer, every image, every backend, and every mutation caught.

It is fetched as a user would fetch it, and kept in the cache; without it and without a network these tests skip.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest
from places import REFERENCE

import caffe_port as cp
from caffe_port import recording
from caffe_port.backends import BACKENDS, make_backend
from caffe_port.errors import FetchError
from caffe_port.layers import normalization, pooling
from caffe_port.models.fetch import FetchedModel, fetch
from caffe_port.net import Net
from caffe_port.passes.fold_linear import fold_linear
from caffe_port.preprocessing import OPEN_NSFW
from caffe_port.scoring.preprocess import tensor
from caffe_port.scoring.scorer import Scorer
from caffe_port.verification import Reference, verify_isolated

RECORDINGS = REFERENCE / "open_nsfw"
SCORES = json.loads((RECORDINGS / "scores.json").read_text())
GOOD = sorted(name for name, entry in SCORES.items() if "prob" in entry)
NAMES = ["astronaut", "chelsea", "retina"]


@pytest.fixture(scope="module")
def files() -> FetchedModel:
    try:
        return fetch("open_nsfw")
    except FetchError as error:
        pytest.skip(f"the released model cannot be had: {error}")


@pytest.fixture(scope="module")
def net(files: FetchedModel) -> Net:
    return cp.load(files.prototxt, files.caffemodel)


@pytest.fixture(scope="module")
def tensors() -> np.ndarray:
    return np.stack([tensor(RECORDINGS / "images" / name, OPEN_NSFW) for name in GOOD])


@pytest.mark.parametrize("name", NAMES)
def test_all_228_layers_in_all_backends(net: Net, name: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    reference = Reference.make(net, recording.read(RECORDINGS / f"{name}.npz"))
    for backend in BACKENDS:
        report = reference.compare(make_backend(backend))
        assert report.ok, report.explanation()
        assert len(report.comparisons) == 228


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_recorded_in_full_agree_by_themselves(net: Net, backend: str) -> None:
    """conv_1 (the input is recorded in full), fc_nsfw and prob."""
    report = verify_isolated(net, recording.read(RECORDINGS / "astronaut.npz"), backend)
    assert report.ok, report.explanation()
    assert [comparison.layer for comparison in report.comparisons] == ["conv_1", "fc_nsfw", "prob"]


@pytest.mark.parametrize("backend", ["numpy", "torch", "onnxruntime"])
def test_every_image_scores_as_caffe_scored_it(net: Net, tensors: np.ndarray, backend: str) -> None:
    """In one batch, which also proves that the batch is free."""
    if backend != "numpy":
        pytest.importorskip(backend)
    scores = Scorer(net=net, backend=backend).classify(tensors)
    expected = np.array([SCORES[name]["prob"] for name in GOOD])
    assert len(GOOD) == 25
    assert np.abs(scores.astype(np.float64) - expected)[:, 1].max() <= 2e-7


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_the_plain_exports_score_every_image_within_rounding(net: Net, tensors: np.ndarray, backend: str) -> None:
    """The float32 exports as they are. Their kernels round differently on every processor (see docs/accuracy.md).

    Rounding each layer of the float64 net to float32, one layer at a time, moves the most sensitive score
    (coffee_1x1.png, a single colour) by 6.9e-7 in all: that is one standard deviation; four are allowed.
    """
    if backend == "torch":
        torch = pytest.importorskip("torch")
        with torch.no_grad():
            scores = cp.to_pytorch(net)(torch.from_numpy(tensors)).numpy()
    else:
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(cp.to_onnx(net).SerializeToString(), providers=["CPUExecutionProvider"])
        scores = session.run(["prob"], {"data": tensors})[0]
    expected = np.array([SCORES[name]["prob"] for name in GOOD])
    assert np.abs(scores.astype(np.float64) - expected).max() <= 4 * 6.9e-7


def test_folding_batch_norm_keeps_every_score(net: Net, tensors: np.ndarray) -> None:
    """In float64 nothing but the rounding of the folded weights to float32 remains."""
    result = fold_linear(net)
    assert len(result.folded) == 53
    assert all(len(taken) == 2 for taken in result.folded.values())
    assert not any(layer.type in ("BatchNorm", "Scale") for layer in result.net.layers)
    few = tensors[:3]
    before = cp.run(net, {"data": few}, dtype="float64", outputs=["prob"])["prob"]
    after = cp.run(result.net, {"data": few}, dtype="float64", outputs=["prob"])["prob"]
    assert np.abs(after - before).max() <= 2e-7


def test_preprocessing_is_the_original_s_bit_for_bit(tensors: np.ndarray) -> None:
    import hashlib

    for name, blob in zip(GOOD, tensors, strict=True):
        assert hashlib.sha256(blob.tobytes()).hexdigest() == SCORES[name]["tensor"], name


def perturbed(layer: str) -> Callable[[Net], Net]:
    def mutate(net: Net) -> Net:
        weights = [np.array(weight.data) for weight in net.layer(layer).weights]
        row = weights[0][0].reshape(-1)
        row[np.argsort(np.abs(row))[row.size * 9 // 10]] *= np.float32(1.001)
        return net.with_weights({layer: weights}, partial=True)

    return mutate


def swapped(layer: str) -> Callable[[Net], Net]:
    def mutate(net: Net) -> Net:
        weights = [np.array(weight.data) for weight in net.layer(layer).weights]
        for array in weights:
            array[[0, 1]] = array[[1, 0]]
        return net.with_weights({layer: weights}, partial=True)

    return mutate


def factor_ignored(net: Net) -> Net:
    """Every BatchNorm takes its stored sums for the statistics."""
    ignoring = {}
    for layer in net.layers:
        if isinstance(layer.definition, normalization.BatchNorm):
            mean, variance, factor = (np.array(weight.data) for weight in layer.weights)
            assert factor[0] != 1
            ignoring[layer.name] = [mean, variance, np.ones(1, np.float32)]
    return net.with_weights(ignoring, partial=True)


MUTATIONS = {
    "one weight of conv_1 times 1.001": perturbed("conv_1"),
    "one weight of conv_stage2_block3_branch2b times 1.001": perturbed("conv_stage2_block3_branch2b"),
    "one weight of fc_nsfw times 1.001": perturbed("fc_nsfw"),
    "two channels of conv_stage1_block1_branch2a swapped": swapped("conv_stage1_block1_branch2a"),
    "the two classes swapped": swapped("fc_nsfw"),
    "BatchNorm's factor ignored": factor_ignored,
}


@pytest.mark.parametrize("what", sorted(MUTATIONS))
def test_a_mutated_net_is_caught_by_every_backend(net: Net, what: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    mutated = MUTATIONS[what](net)
    reference = Reference.make(mutated, recording.read(RECORDINGS / "chelsea.npz"))
    for backend in BACKENDS:
        assert not reference.compare(make_backend(backend)).ok


def test_floor_instead_of_ceil_is_caught(net: Net) -> None:
    """pool1: 3x3, stride 2 on 112 rows is 56 with ceil and 55 with floor."""
    layers = []
    for layer in net.layers:
        definition = layer.definition
        if isinstance(definition, pooling.Pooling):
            definition = dataclasses.replace(definition, round_mode="FLOOR")
        layers.append(dataclasses.replace(layer, definition=definition))
    floored = dataclasses.replace(net, layers=tuple(layers))
    floored = floored.with_input_shapes({"data": (1, 3, 224, 224)})
    report = Reference.make(floored, recording.read(RECORDINGS / "chelsea.npz")).compare(make_backend("numpy"))
    assert not report.ok
    assert report.first_divergence is not None
    assert report.first_divergence.type == "Pooling"
