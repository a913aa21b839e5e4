"""The built nets against the published files and the recordings: layer by layer.

What is taken for the same, and nothing else:

- a field that says what is the default anyway, and its absence (`Canonical`);
- the `std` of a xavier filler, which xavier does not read (GoogLeNet's deploy file has one a layer);
- the name of the input layer where the file has old `input` fields, which have none;
- where a file is of one phase (pynetbuilder's train and test), `use_global_stats` and the default that does the same,
  and its data layer, which is a place holder (MemoryData), and no accuracy in train;
- a net's name where the file has none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from places import ROOT

import caffe_port as cp
from caffe_port import architectures, recording
from caffe_port.backends import make_backend
from caffe_port.errors import FetchError
from caffe_port.models.fetch import fetch
from caffe_port.proto import schema, text, upgrade
from caffe_port.verification import Reference

OURS = ROOT / "reference_outputs" / "nets"
NETS = ROOT.parent / "shared" / "conformance" / "nets"
PROTOTXT = ROOT.parent / "shared" / "conformance" / "prototxt"

HE = "KaimingHe__deep-residual-networks__prototxt_ResNet"
YAHOO = "jay-mahadeokar__pynetbuilder__models_imagenet"
DEPLOY = {
    "alexnet": NETS / "alexnet.prototxt",
    "caffenet": NETS / "caffenet.prototxt",
    "ms_ctc": OURS / "ms_ctc.prototxt",
    "squeezenet_v1.0": NETS / "squeezenet_v1.0.prototxt",
    "squeezenet_v1.1": NETS / "squeezenet_v1.1.prototxt",
    "vgg16": NETS / "vgg16.prototxt",
    "vgg19": PROTOTXT / "Xiangyu-CAS__caffe-model-gallery__Classification_VGG_VGG19.prototxt",
    "googlenet": NETS / "googlenet.prototxt",
    "resnet50": NETS / "resnet50.prototxt",
    "resnet101": PROTOTXT / f"{HE}-101-deploy.prototxt",
    "resnet152": PROTOTXT / f"{HE}-152-deploy.prototxt",
    "resnet50_1by2": NETS / "resnet50_1by2.prototxt",
    "open_nsfw": PROTOTXT / "yahoo__open_nsfw__nsfw_model_deploy.prototxt",
}
TRAIN_VAL = {
    "alexnet": "BVLC__caffe__models_bvlc_alexnet_train_val",
    "caffenet": "BVLC__caffe__models_bvlc_reference_caffenet_train_val",
    "googlenet": "BVLC__caffe__models_bvlc_googlenet_train_val",
    "squeezenet_v1.0": "forresti__SqueezeNet__SqueezeNet_v1.0_train_val",
    "squeezenet_v1.1": "forresti__SqueezeNet__SqueezeNet_v1.1_train_val",
}
BY_PHASE = {
    "resnet50_pynetbuilder": "resnet_50",
    "resnet50_1by2": "resnet_50_1by2",
    "resnet77_1by2": "resnet_77_1by2",
    "resnet66_1by2_inception_trick": "resnet_66_1by2_inception_trick_bottleneck",
    "resnet68_1by2_4k": "resnet_68_1by2_inception_trick_bottleneck_with4k",
    "resnet34_inception_trick": "resnet_34_inception_trick",
    "resnet36_inception_trick_4k": "resnet_36_inception_trick_with4k",
}


def published(path: Path) -> Any:
    """The net of a file, in today's form."""
    if not path.exists():
        pytest.skip(f"{path.name} belongs to another project and is not here")
    return upgrade.upgrade_net(*text.read(path)).net


def clear_defaults(message: Any) -> None:
    """Takes away every field that says what its absence says."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in value if schema.is_repeated(field) else (value,):
                clear_defaults(one)
            if not schema.is_repeated(field) and not value.ListFields():
                message.ClearField(field.name)
        elif not schema.is_repeated(field):
            if value == field.default_value:
                message.ClearField(field.name)
        elif (field.name, list(value)) in [("pad", [0]), ("stride", [1]), ("dilation", [1])]:
            # Repeated in ConvolutionParameter: one value for all axes, and these when there is none.
            message.ClearField(field.name)


def canonical(net: Any, *, legacy_input: bool = False) -> list[str]:
    """The layers as text, a default being no text."""
    found = []
    for original in net.layer:
        layer = type(original)()
        layer.CopyFrom(original)
        if legacy_input and layer.type == "Input":
            layer.name = "input"
        for message in (layer.convolution_param, layer.inner_product_param):
            if message.HasField("weight_filler") and message.weight_filler.type == "xavier":
                message.weight_filler.ClearField("std")
        clear_defaults(layer)
        found.append(text.dumps(layer))
    return found


def batch_of(net: Any) -> int:
    return int(net.layer[0].input_param.shape[0].dim[0])


def outline(net: cp.Net) -> list[Any]:
    """Layers with the shapes of what they read, give and learn; names are compared elsewhere."""
    return [
        (
            layer.type,
            [(blob.name, blob.shape) for blob in layer.bottoms],
            [(blob.name, blob.shape) for blob in layer.tops],
            [weight.shape for weight in layer.weights],
        )
        for layer in net.layers
    ]


def test_every_architecture_is_compared() -> None:
    assert {*DEPLOY, *TRAIN_VAL, *BY_PHASE} == set(architectures.ARCHITECTURES)


@pytest.mark.parametrize("name", DEPLOY)
def test_deploy_equals_the_published_file(name: str, tmp_path: Path) -> None:
    theirs = published(DEPLOY[name])
    ours = architectures.deploy(name, batch=batch_of(theirs))
    legacy = theirs.layer[0].name == "input"
    assert canonical(ours, legacy_input=legacy) == canonical(theirs, legacy_input=legacy)
    assert ours.name == theirs.name or (not theirs.name and ours.name)
    text.write(tmp_path / "deploy.prototxt", ours)
    assert outline(cp.load(tmp_path / "deploy.prototxt")) == outline(cp.load(DEPLOY[name]))


@pytest.mark.parametrize("name", TRAIN_VAL)
def test_train_val_equals_the_published_file(name: str) -> None:
    theirs = published(PROTOTXT / f"{TRAIN_VAL[name]}.prototxt")
    assert canonical(architectures.train_val(name)) == canonical(theirs)


def of_phase(net: Any, phase: str) -> Any:
    """The layers of a phase behind the data, without rules."""
    left = schema.message("NetParameter")
    for layer in net.layer:
        phases = {("TRAIN", "TEST")[rule.phase] for rule in layer.include} or {phase}
        if phase in phases and layer.type not in ("Data", "MemoryData"):
            kept = left.layer.add()
            kept.CopyFrom(layer)
            kept.ClearField("include")
            if kept.type == "BatchNorm" and kept.batch_norm_param.use_global_stats == (phase == "TEST"):
                kept.batch_norm_param.ClearField("use_global_stats")
    return left


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
@pytest.mark.parametrize("name", BY_PHASE)
def test_train_val_equals_the_file_of_each_phase(name: str, phase: str) -> None:
    theirs = published(PROTOTXT / f"{YAHOO}_{BY_PHASE[name]}_{phase.lower()}.prototxt")
    ours = architectures.train_val(name)
    assert canonical(of_phase(ours, phase)) == canonical(of_phase(theirs, phase))
    assert ours.name == theirs.name or (not theirs.name and ours.name)


def test_released_weights_in_the_built_open_nsfw(tmp_path: Path) -> None:
    """All 228 layers of a recorded image; and in a net with another head, all but the head."""
    try:
        weights = fetch("open_nsfw").caffemodel
    except FetchError as error:
        pytest.skip(f"the released model cannot be had: {error}")
    path = tmp_path / "deploy.prototxt"
    text.write(path, architectures.deploy("open_nsfw"))
    net = cp.load(path, weights, refuse_unused_weights=True)
    recorded = recording.read(ROOT / "reference_outputs" / "open_nsfw" / "astronaut.npz")
    report = Reference.make(net, recorded).compare(make_backend("numpy"))
    assert report.ok, report.explanation()
    assert len(report.comparisons) == 228
    text.write(path, architectures.train_val("resnet50_1by2", 5, finetune="pets"))
    tuned = cp.load(path, weights, phase="TRAIN", allow_missing_weights=True)
    without = [layer.name for layer in tuned.layers if any(weight.data is None for weight in layer.weights)]
    assert without == ["fc_pets"]
