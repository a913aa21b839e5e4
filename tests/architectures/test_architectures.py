"""What can be asked of an architecture: classes, batches, the options of its family, heads for fine-tuning, solvers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import weights_of

import caffe_port as cp
from caffe_port import architectures
from caffe_port.architectures import ARCHITECTURES, HEAD_FACTOR, UnknownArchitecture
from caffe_port.architectures.pynetbuilder import MAIN_BRANCHES
from caffe_port.errors import CaffePortError, UnsupportedParameter
from caffe_port.proto import text
from caffe_port.runtime import run
from caffe_port.summary import summarize

NAMES = tuple(ARCHITECTURES)


def loaded(folder: Path, message: Any, **options: Any) -> cp.Net:
    text.write(folder / "net.prototxt", message)
    return cp.load(folder / "net.prototxt", **options)


def learning_rates(message: Any) -> dict[str, tuple[float, ...]]:
    """Of every layer with learned blobs: its lr_mult, 1 where nothing is said."""
    rates = {}
    for layer in message.layer:
        if layer.type in ("Convolution", "InnerProduct", "Scale"):
            rates[layer.name] = tuple(spec.lr_mult for spec in layer.param) or (1.0, 1.0)
    return rates


@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_classes(name: str, tmp_path: Path) -> None:
    net = loaded(tmp_path, architectures.deploy(name, classes=7, batch=3))
    crop = ARCHITECTURES[name].crop
    assert net.input_shapes == {"data": (3, 3, crop, crop)}
    assert [(blob.name, blob.shape[:2]) for blob in net.output_blobs] == [("prob", (3, 7))]
    published = loaded(tmp_path, architectures.deploy(name))
    assert published.output_blobs[0].shape[1] == (2 if name == "open_nsfw" else 1000)
    changed = [
        layer.name
        for layer, other in zip(net.layers, published.layers, strict=True)
        if [weight.shape for weight in layer.weights] != [weight.shape for weight in other.weights]
    ]
    heads = {head.replace("1000", "_nsfw") if name == "open_nsfw" else head for head in ARCHITECTURES[name].heads}
    assert set(changed) <= heads and changed


PARAMETERS = {
    "alexnet": 60965224,
    "caffenet": 60965224,
    "vgg16": 138357544,
    "vgg19": 143667240,
    "squeezenet_v1.0": 1248424,
    "squeezenet_v1.1": 1235496,
    "googlenet": 6998552,
}
"""Weights and biases, as they are known from elsewhere: torchvision's vgg16, vgg19, squeezenet1_0 and squeezenet1_1
have as many; AlexNet's and GoogLeNet's are those of their BVLC models."""


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name: str, tmp_path: Path) -> None:
    assert summarize(loaded(tmp_path, architectures.deploy(name))).parameters == PARAMETERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_deploy_has_nothing_to_note(name: str, tmp_path: Path) -> None:
    """No message of a parameter that does not belong to its layer, not even an empty one."""
    message = architectures.deploy(name)
    assert not loaded(tmp_path, message).notes
    assert not any(layer.HasField("convolution_param") for layer in message.layer if layer.type != "Convolution")


@pytest.mark.parametrize("classes", [7, 2])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_train_val_loads_in_each_phase(name: str, phase: str, classes: int, tmp_path: Path) -> None:
    """Where the mean is a value a channel, the file alone says all shapes; two classes have no top-5 accuracy."""
    message = architectures.train_val(name, classes, mean=architectures.IMAGENET_MEAN, batches=(4, 2))
    net = loaded(tmp_path, message, phase=phase)
    assert not net.notes
    batch, crop = {"TRAIN": 4, "TEST": 2}[phase], ARCHITECTURES[name].crop
    assert net.input_shapes == {"data": (batch, 3, crop, crop), "label": (batch,)}
    types = [layer.type for layer in net.layers]
    assert types.count("SoftmaxWithLoss") == (
        0 if (name, phase) == ("squeezenet_v1.0", "TEST") else 3 if name == "googlenet" else 1
    )
    assert ("Accuracy" in types) == (phase == "TEST" or name == "squeezenet_v1.1")


def test_deploy_and_train_val_share_their_weights(tmp_path: Path) -> None:
    """So that what the one learned the other takes: same names, same shapes. GoogLeNet's other heads are left over."""
    for name in set(NAMES) - {"resnet101", "resnet152", "resnet77_1by2", "resnet66_1by2_inception_trick"}:
        deployed = loaded(tmp_path, architectures.deploy(name, finetune="pets"))
        trained = loaded(tmp_path, architectures.train_val(name, finetune="pets"), phase="TRAIN")
        shapes = {layer.name: [weight.shape for weight in layer.weights] for layer in trained.layers}
        for layer in deployed.layers:
            if layer.weights:
                assert [weight.shape for weight in layer.weights] == shapes[layer.name], (name, layer.name)


# Fine-tuning


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("caffenet", ["fc8_pets"]),
        ("ms_ctc", ["fc14_pets"]),
        ("squeezenet_v1.1", ["conv10_pets"]),
        ("googlenet", ["loss1/classifier_pets", "loss2/classifier_pets", "loss3/classifier_pets"]),
        ("resnet50", ["fc_pets"]),
        ("resnet36_inception_trick_4k", ["conv_1by1_pets", "scale_1by1_pets"]),
        ("open_nsfw", ["fc_pets"]),
    ],
)
def test_a_replaced_head(name: str, heads: list[str]) -> None:
    """Its learned layers have new names and five times the rate; nothing else changes."""
    plain = learning_rates(
        architectures.train_val(name, 3) if name != "open_nsfw" else architectures.train_val("resnet50_1by2")
    )
    tuned = learning_rates(architectures.train_val(name, 3, finetune="pets"))
    assert [new for new in tuned if new not in plain] == heads
    for (old, before), (new, after) in zip(plain.items(), tuned.items(), strict=True):
        factor = HEAD_FACTOR if new in heads else 1
        assert after == tuple(factor * rate for rate in before), new
        assert (old == new) == (new not in heads)


def test_the_announcements_images(tmp_path: Path) -> None:
    """Resized to 256 x 256; a crop of 224, mirrored, in TRAIN."""
    message = architectures.train_val("resnet50_1by2", 2, finetune="nsfw", sources=("a.txt", "b.txt"))
    train, test = message.layer[0], message.layer[1]
    assert [layer.type for layer in (train, test)] == ["ImageData", "ImageData"]
    for layer, source, mirror in ((train, "a.txt", True), (test, "b.txt", False)):
        params = layer.image_data_param
        assert (params.source, params.new_height, params.new_width) == (source, 256, 256)
        assert (layer.transform_param.crop_size, layer.transform_param.mirror) == (224, mirror)
        assert list(layer.transform_param.mean_value) == [104, 117, 123]
    assert loaded(tmp_path, message, phase="TRAIN").input_shapes["data"][1:] == (3, 224, 224)


def test_open_nsfw_is_the_fine_tuned_1by2() -> None:
    """But for how its head began."""
    made = architectures.deploy("resnet50_1by2", 2, finetune="nsfw")
    released = architectures.deploy("open_nsfw")
    released.name = made.name
    fillers = [layer.inner_product_param for net in (made, released) for layer in net.layer if layer.name == "fc_nsfw"]
    assert [params.weight_filler.type for params in fillers] == ["msra", "xavier"]
    for params in fillers:
        params.ClearField("weight_filler")
        params.ClearField("bias_filler")
    assert made == released


def test_every_blob_of_the_head_is_renamed_where_it_is_read(tmp_path: Path) -> None:
    message = architectures.deploy("resnet36_inception_trick_4k", 3, finetune="pets")
    names = {name for layer in message.layer for name in (layer.name, *layer.bottom, *layer.top)}
    assert not [name for name in names if "1by1_1000" in name] and "conv_1by1_pets" in names
    assert loaded(tmp_path, message).output_blobs[0].shape == (1, 3, 1, 1)


# Options of the families


@pytest.mark.parametrize("main_branch", MAIN_BRANCHES)
def test_main_branches(main_branch: str, tmp_path: Path) -> None:
    """Every kind of block of pynetbuilder, in a small net: it halves and doubles as it should."""
    message = architectures.deploy(
        "resnet50_1by2", 5, main_branch=main_branch, blocks=(1, 2, 1, 1), num_output_stage1=64
    )
    net = loaded(tmp_path, message)
    shapes = {blob.name: blob.shape for blob in net.blobs.values()}
    assert [shapes[f"eltwise_stage{stage}_block0"][1:] for stage in range(4)] == [
        (64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)
    ]  # fmt: skip
    projected = [layer.name for layer in net.layers if layer.name.startswith("conv") and "proj" in layer.name]
    assert len(projected) == (3 if main_branch in ("normal", "inception_trick") else 4)


def test_depths_and_widths(tmp_path: Path) -> None:
    """ResNet-26 of half the width: its blocks give half as many channels."""
    net = loaded(tmp_path, architectures.deploy("resnet50", 5, blocks=(2, 2, 2, 2), width=32))
    convolutions = [layer for layer in net.layers if layer.type == "Convolution"]
    assert len(convolutions) == 1 + 3 * 8 + 4
    assert net.blobs["res5b"].shape == (1, 1024, 7, 7)
    vgg11 = loaded(tmp_path, architectures.deploy("vgg16", convolutions=(1, 1, 2, 2, 2)))
    # torchvision's vgg11 has as many.
    assert summarize(vgg11).parameters == 132863336
    small = loaded(tmp_path, architectures.deploy("squeezenet_v1.1", base=64, increase=64, share_3x3=0.25))
    assert small.blobs["fire9/expand3x3"].shape[1] == 64 and small.blobs["fire9/expand1x1"].shape[1] == 192
    assert small.blobs["fire9/squeeze1x1"].shape[1] == 32
    without = architectures.train_val("googlenet", auxiliary={})
    assert not [layer.name for layer in without.layer if layer.name.startswith(("loss1", "loss2"))]


def test_a_built_net_computes(tmp_path: Path) -> None:
    net = loaded(
        tmp_path, architectures.deploy("resnet34_inception_trick", 5, blocks=(1, 1, 1, 1), num_output_stage1=8)
    )
    net = net.with_weights(weights_of(net))
    prob = run(net, {"data": np.ones(net.input_shapes["data"], np.float32)})["prob"]
    assert prob.shape == (1, 5) and abs(float(prob.sum()) - 1) < 1e-5 and float(prob.std()) > 0


# Solvers


def test_solvers(tmp_path: Path) -> None:
    """AlexNet's and GoogLeNet's as their repository has them."""
    alexnet = architectures.solver("alexnet", net="models/bvlc_alexnet/train_val.prototxt")
    assert (alexnet.base_lr, alexnet.lr_policy, alexnet.stepsize) == (pytest.approx(0.01), "step", 100000)
    assert (alexnet.max_iter, alexnet.momentum) == (450000, pytest.approx(0.9))
    assert (alexnet.weight_decay, list(alexnet.test_iter)) == (pytest.approx(0.0005), [1000])
    assert alexnet.net == "models/bvlc_alexnet/train_val.prototxt"
    googlenet = architectures.solver("googlenet", base_lr=0.02)
    assert (googlenet.lr_policy, googlenet.power, googlenet.max_iter) == ("poly", 0.5, 2400000)
    assert (googlenet.base_lr, googlenet.average_loss) == (pytest.approx(0.02), 40)
    for name in NAMES:
        for finetune in (False, True):
            message = architectures.solver(name, finetune=finetune)
            text.write(tmp_path / "solver.prototxt", message)
            assert text.read(tmp_path / "solver.prototxt", "SolverParameter")[0] == message


def test_a_fine_tuning_solver_begins_slower() -> None:
    for name in NAMES:
        tuned = architectures.solver(name, finetune=True)
        assert tuned.base_lr < ARCHITECTURES[name].recipe.solver["base_lr"]
        assert (tuned.lr_policy, tuned.max_iter) == ("step", 100000)
        assert tuned.weight_decay == pytest.approx(ARCHITECTURES[name].recipe.solver["weight_decay"])
    assert architectures.solver("open_nsfw") == architectures.solver("open_nsfw", finetune=True)


def test_test_iterations_see_all_of_imagenet() -> None:
    for architecture in ARCHITECTURES.values():
        assert architecture.recipe.test_batch * architecture.recipe.solver["test_iter"] == 50000


# What is refused


def refused(match: str, **arguments: Any) -> None:
    name = arguments.pop("name", "resnet50_1by2")
    with pytest.raises(UnknownArchitecture, match=match):
        architectures.deploy(name, **arguments)


def test_what_cannot_be() -> None:
    refused("there is no architecture 'resnet18'; did you mean resnet1", name="resnet18")
    refused("there is no architecture 'zzz'; known: alexnet, caffenet", name="zzz")
    refused("classes must be a whole number from 1 on, not 0", classes=0)
    refused("classes must be a whole number from 1 on, not True", classes=True)
    refused("a batch must be a whole number from 1 on, not -1", batch=-1)
    refused("resnet50_1by2 has no option 'depth'; it has main_branch, num_output_stage1, blocks", depth=5)
    refused(r"blocks cannot be 5; its default is \(3, 4, 6, 3\)", blocks=5)
    refused("fc_layers cannot be 'no'; its default is False", fc_layers="no")
    refused("main_branch 'basic': it is one of normal, bottleneck", main_branch="basic")
    refused("its options do not fit together", name="vgg16", convolutions=(1, 1))
    refused("its options do not fit together", name="alexnet", widths=(96, 256))
    for word in ("a b", "", "ä"):
        refused(f"a head cannot be called after {word!r}", finetune=word)
    assert issubclass(UnknownArchitecture, CaffePortError)
    with pytest.raises(UnknownArchitecture, match="a batch must be"):
        architectures.train_val("vgg16", batches=(0, 1))
    with pytest.raises(UnsupportedParameter, match="SolverParameter has no field 'lr'"):
        architectures.solver("vgg16", lr=1)


def test_options_of_one_call_are_of_no_other() -> None:
    before = architectures.deploy("resnet50_1by2")
    architectures.deploy("resnet50_1by2", blocks=(1, 1, 1, 1), finetune="x")
    assert architectures.deploy("resnet50_1by2") == before
