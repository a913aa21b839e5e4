"""VGG (Simonyan and Zisserman 2014): 3x3 convolutions in five stages."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_port.architectures.parts import BIAS_TWICE, Architecture, Recipe, conv_relu, ends, fc_relu_dropout
from caffe_port.netspec import NetSpec, Top
from caffe_port.netspec import layers as L  # noqa: N812
from caffe_port.netspec import params as P  # noqa: N812

__all__ = ["VGG16", "VGG19", "vgg"]


def vgg(
    n: NetSpec,
    label: Top | None,
    *,
    classes: int,
    convolutions: Sequence[int],
    widths: Sequence[int] = (64, 128, 256, 512, 512),
    fc: int = 4096,
) -> None:
    """`convolutions` of each stage, of `widths` channels, each stage pooled by 2, and three fully connected layers."""
    # The paper's own initialization is a shallower net; it found Glorot's to do as well.
    learning = {
        "param": BIAS_TWICE,
        "weight_filler": {"type": "xavier"},
        "bias_filler": {"type": "constant", "value": 0},
    }
    top = n.data
    for stage, (count, width) in enumerate(zip(convolutions, widths, strict=True), 1):
        for number in range(1, count + 1):
            one = f"{stage}_{number}"
            top = conv_relu(n, f"conv{one}", top, f"relu{one}", num_output=width, kernel_size=3, pad=1, **learning)
        top = n[f"pool{stage}"] = L.Pooling(top, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    top = fc_relu_dropout(n, "fc6", top, "6", num_output=fc, **learning)
    top = fc_relu_dropout(n, "fc7", top, "7", num_output=fc, **learning)
    n.fc8 = L.InnerProduct(top, num_output=classes, **learning)
    ends(n, n.fc8, label, "accuracy", "loss")


def _architecture(depth: int, published: str, convolutions: Sequence[int]) -> Architecture:
    return Architecture(
        name=f"vgg{depth}",
        title=f"VGG_ILSVRC_{depth}_layers",
        paper="Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition (2014)",
        published=published,
        layers=vgg,
        heads=("fc8",),
        crop=224,
        recipe=Recipe(
            solver={
                "test_iter": 2000,
                "test_interval": 1000,
                "test_initialization": False,
                "base_lr": 0.01,
                "lr_policy": "multistep",
                "gamma": 0.1,
                "stepvalue": [100000, 200000, 300000],
                "display": 20,
                "max_iter": 370000,
                "momentum": 0.9,
                "weight_decay": 0.0005,
                "iter_size": 4,
                "snapshot": 10000,
                "snapshot_prefix": f"vgg{depth}",
            },
            train_batch=64,
            test_batch=25,
            source="the paper, section 3.1 (256 images a step, 370 thousand steps, the rate lowered three times); "
            "when it was lowered is not published",
        ),
        options={"convolutions": tuple(convolutions)},
    )


VGG16 = _architecture(16, "K. Simonyan's gist ksimonyan/211839e770f7b538e2d8", (2, 2, 3, 3, 3))
VGG19 = _architecture(19, "K. Simonyan's gist ksimonyan/3785162f95cd2d5fee77", (2, 2, 4, 4, 4))
