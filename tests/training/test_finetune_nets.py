"""From a deploy net to the nets of a fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_port.errors import DataError, GraphError
from caffe_port.finetuning.nets import finetuned_nets, transform_of, write_class_weights
from caffe_port.finetuning.recipe import Recipe
from caffe_port.loading import load
from caffe_port.preprocessing import MeanImage, Preprocessing
from caffe_port.proto import text
from caffe_port.runtime import run

STEPS = Preprocessing(resize=(18, 18), crop=(16, 16), mean=(1.0, 2.0, 3.0))
DEPLOY = """
name: "net"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 10 dim: 3 dim: 16 dim: 16 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" param { name: "w" } param { lr_mult: 2 }
        convolution_param { num_output: 4 kernel_size: 3 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1" }
layer { name: "pool" type: "Pooling" bottom: "conv1" top: "pool" pooling_param { pool: AVE kernel_size: 7 } }
layer { name: "fc1000" type: "InnerProduct" bottom: "pool" top: "fc1000" inner_product_param { num_output: 5 } }
layer { name: "prob" type: "Softmax" bottom: "fc1000" top: "prob" }
"""
CONVOLUTION = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv10" type: "Convolution" bottom: "data" top: "conv10"
        convolution_param { num_output: 7 kernel_size: 1 bias_term: false weight_filler { type: "msra" } } }
layer { name: "relu" type: "ReLU" bottom: "conv10" top: "conv10" }
layer { name: "pool10" type: "Pooling" bottom: "conv10" top: "pool10" pooling_param { pool: AVE global_pooling: true } }
layer { name: "prob" type: "Softmax" bottom: "pool10" top: "prob" }
"""


def made(folder: Path, prototxt: str = DEPLOY, **options: Any) -> Any:
    path = folder / "deploy.prototxt"
    path.write_text(prototxt)
    return finetuned_nets(path, **{"classes": 3, "preprocessing": STEPS, **options})


def layers(message: Any) -> dict[str, Any]:
    return {layer.name: layer for layer in message.layer}


def written(folder: Path, message: Any) -> Path:
    path = folder / "made.prototxt"
    text.write(path, message)
    return path


def test_both_nets(tmp_path: Path) -> None:
    nets = made(tmp_path, lists=("a.txt", "b.txt"), batches=(4, 2))
    assert (nets.head, nets.output, nets.frozen) == ("fc_finetuned", "prob", ())
    deploy = layers(nets.deploy)
    assert list(deploy) == ["data", "conv1", "bn1", "pool", "fc_finetuned", "prob"]
    assert list(deploy["data"].input_param.shape[0].dim) == [1, 3, 16, 16]
    head = deploy["fc_finetuned"]
    assert head.inner_product_param.num_output == 3 and list(head.top) == ["fc_finetuned"]
    assert [(spec.lr_mult, spec.decay_mult) for spec in head.param] == [(5, 1), (10, 0)]
    assert (head.inner_product_param.weight_filler.type, deploy["conv1"].param[1].lr_mult) == ("gaussian", 2)
    for phase, source, batch, mirror in (("TRAIN", "a.txt", 4, True), ("TEST", "b.txt", 2, False)):
        net = load(written(tmp_path, nets.train_val), phase=phase, allow_missing_weights=True)
        data, *_, last = net.layers
        assert data.type == "ImageData" and data.tops[0].shape == (batch, 3, 16, 16)
        message = data.message
        assert (message.image_data_param.source, message.transform_param.mirror) == (source, mirror)
        assert (message.image_data_param.new_height, message.transform_param.crop_size) == (18, 16)
        assert list(message.transform_param.mean_value) == [1, 2, 3]
        assert last.type == ("Accuracy" if phase == "TEST" else "SoftmaxWithLoss")
        assert next(layer for layer in net.layers if layer.name == "bn1").definition.use_global_stats  # type: ignore[attr-defined]


def test_frozen_layers(tmp_path: Path) -> None:
    nets = made(tmp_path, freeze=["c*1", "bn*"], batch_statistics=True)
    assert nets.frozen == ("conv1", "bn1")
    conv = layers(nets.train_val)["conv1"]
    assert [(spec.name, spec.lr_mult, spec.decay_mult) for spec in conv.param] == [("w", 0, 0), ("", 0, 0)]
    net = load(written(tmp_path, nets.train_val), phase="TRAIN", allow_missing_weights=True)
    assert next(layer for layer in net.layers if layer.name == "bn1").definition.use_global_stats  # type: ignore[attr-defined]
    with pytest.raises(GraphError, match="no layer that learns, but for the head, is called 'fc1000'"):
        made(tmp_path, freeze=["fc1000"])


def test_batch_statistics(tmp_path: Path) -> None:
    path = written(tmp_path, made(tmp_path, batch_statistics=True).train_val)
    for phase in ("TRAIN", "TEST"):
        net = load(path, phase=phase, allow_missing_weights=True)
        bn = next(layer.definition for layer in net.layers if layer.name == "bn1")
        assert bn.use_global_stats == (phase == "TEST")  # type: ignore[attr-defined]


def test_another_size(tmp_path: Path) -> None:
    """A window over all of its bottom becomes global; at the old size that would be the same."""
    nets = made(tmp_path, preprocessing=Preprocessing(resize=(40, 40), crop=(32, 32)))
    pooling = layers(nets.deploy)["pool"].pooling_param
    assert pooling.global_pooling and not pooling.HasField("kernel_size")
    net = load(written(tmp_path, nets.deploy), allow_missing_weights=True)
    assert net.output_blobs[0].shape == (1, 3)


def test_a_convolution_as_head(tmp_path: Path) -> None:
    nets = made(tmp_path, CONVOLUTION, preprocessing=Preprocessing(resize=(9, 9), crop=(8, 8)), factor=2)
    assert nets.head == "conv10_finetuned"
    head = layers(nets.deploy)["conv10_finetuned"]
    assert [spec.lr_mult for spec in head.param] == [2] and head.convolution_param.weight_filler.type == "msra"
    # What works on it in place follows the name.
    assert list(layers(nets.deploy)["relu"].top) == ["conv10_finetuned"]
    assert load(written(tmp_path, nets.deploy), allow_missing_weights=True).output_blobs[0].shape == (1, 3, 1, 1)


def test_a_head_that_is_kept(tmp_path: Path) -> None:
    nets = made(tmp_path, classes=5, keep_head=True)
    assert nets.head == "fc1000" and [spec.lr_mult for spec in layers(nets.deploy)["fc1000"].param] == [5, 10]
    with pytest.raises(GraphError, match="'fc1000' has 5 outputs, so it cannot be kept"):
        made(tmp_path, classes=3, keep_head=True)


def test_class_weights_are_an_infogain_loss(tmp_path: Path) -> None:
    matrix = tmp_path / "weights.binaryproto"
    write_class_weights(matrix, [0.5, 2, 1])
    nets = made(tmp_path, class_weights=matrix, batches=(4, 4))
    net = load(written(tmp_path, nets.train_val), phase="TRAIN", allow_missing_weights=True).filled(0)
    labels = np.array([0, 1, 2, 1], np.float32)
    data = np.random.default_rng(0).normal(size=(4, 3, 16, 16)).astype(np.float32)
    blobs = run(net, {"data": data, "label": labels}, dtype="float64")
    scores = np.asarray(blobs["fc_finetuned"])
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    want = -np.mean([0.5 * logs[0, 0], 2 * logs[1, 1], logs[2, 2], 2 * logs[3, 1]])
    assert np.isclose(float(blobs["loss"]), want, rtol=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('type: "Softmax"', 'type: "Sigmoid"', "one Softmax at the end is needed"),
        ('bottom: "fc1000" top: "prob"', 'bottom: "pool" top: "prob"', "its outputs are fc1000, prob"),
        ("dim: 16 dim: 16", "dim: 256", "one Input of images is needed"),
        ("dim: 10 dim: 3", "dim: 10 dim: 1", "takes 1 channels, the preprocessing makes 3"),
        ('"bn1"', '"loss"', "has a layer or a blob 'loss'"),
        ('"conv1"', '"label"', "has a blob 'label'"),
        ('top: "fc1000" inner', 'top: "fc1000" param { name: "w2" } inner', "shares its learned blobs by name"),
    ],
)
def test_what_cannot_be(tmp_path: Path, old: str, new: str, said: str) -> None:
    prototxt = DEPLOY.replace(old, new)
    if "256" in new:
        prototxt = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 10 dim: 256 } } }
            layer { name: "fc1000" type: "InnerProduct" bottom: "data" top: "fc1000"
                inner_product_param { num_output: 5 } }
            layer { name: "prob" type: "Softmax" bottom: "fc1000" top: "prob" }"""
    with pytest.raises(GraphError) as caught:
        made(tmp_path, prototxt)
    assert said in str(caught.value)


def test_the_head_that_is_named(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="the Softmax reads what layer 'fc1000' makes, not 'conv1'"):
        made(tmp_path, head="conv1")
    assert made(tmp_path, head="fc1000").head == "fc_finetuned"


def test_transforms() -> None:
    steps = Preprocessing(crop=(8, 8), raw_scale=1.0, mean=(0.5,), scale=2.0)
    fields = transform_of(steps)
    # (x / 255 - 0.5) * 2, from 8-bit pixels.
    assert np.isclose(fields["mean_value"][0], 127.5) and np.isclose(fields["scale"], 2 / 255)
    mean = MeanImage((3, 8, 8), "float32", np.zeros((3, 8, 8), "<f4").tobytes())
    with pytest.raises(DataError, match="the mean is an image"):
        transform_of(Preprocessing(crop=(8, 8), mean=mean))
    with pytest.raises(GraphError, match="8x9"):
        transform_of(Preprocessing(crop=(8, 9)))


def test_recipes() -> None:
    recipe = Recipe(epochs=2, batch=8)
    assert (recipe.max_iter(20), recipe.interval(20)) == (5, 3)
    assert Recipe(iterations=2, batch=8).interval(20) == 2
    assert recipe.weights_of([10, 30]) is None
    assert Recipe(class_weights="balanced").weights_of([10, 30]) == [2.0, 40 / 60]
    assert Recipe(class_weights=(1, 3)).weights_of([10, 30]) == [1.0, 3.0]
    assert Recipe().shorter_side(224) == (256, 480) and Recipe().shorter_side(112) == (128, 240)
    assert Recipe(scale_augmentation=False).shorter_side(224) is None
    with pytest.raises(GraphError, match="3 class weights for 2 classes"):
        Recipe(class_weights=(1, 2, 3)).weights_of([1, 1])
    with pytest.raises(GraphError, match="between 100 and 200, the crop is 224"):
        Recipe(scale=(100, 200)).shorter_side(224)
    with pytest.raises(GraphError) as caught:
        Recipe(batch=0, epochs=-1, base_lr=float("nan"), class_weights="some", seed=-1)
    for word in ("batch", "epochs", "base_lr", "class weights", "seed"):
        assert word in str(caught.value)
