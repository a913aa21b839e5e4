"""Residual nets (He et al. 2015) of bottleneck blocks, under the names of their authors' files."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_port.architectures.parts import BIAS_TWICE, Architecture, Recipe, ends
from caffe_port.netspec import NetSpec, Top
from caffe_port.netspec import layers as L  # noqa: N812
from caffe_port.netspec import params as P  # noqa: N812

__all__ = ["RESNET50", "RESNET101", "RESNET152", "resnet"]


def resnet(
    n: NetSpec,
    label: Top | None,
    *,
    classes: int,
    blocks: Sequence[int],
    width: int = 64,
    numbered: bool = True,
    conv1_bias: bool = False,
) -> None:
    """A 7x7 convolution and four stages of blocks 1x1, 3x3, 1x1, each added to what it read.

    - `blocks`: how many each stage has.
    - `width`: channels of the 3x3 convolutions of the first stage; each further stage has twice as many, and a block
      gives four times as many.
    - `numbered`: blocks of the second and third stage are called a, b1, b2, … and not a, b, c.
    - `conv1_bias`: whether the first convolution has a bias, as ResNet-50's has.
    """

    def conv(name: str, norm: str, bottom: Top, width: int, size: int, stride: int = 1, bias: bool = False) -> Top:
        """Convolution, normalization, scale; `norm` is the end of the names of the latter."""
        window = {"kernel_size": size, "stride": stride, "pad": size // 2, "bias_term": bias}
        n[name] = L.Convolution(bottom, num_output=width, weight_filler={"type": "msra"}, **window)
        # Deployed, statistics are the stored ones; in training the default does what each phase needs.
        statistics = {"use_global_stats": True} if label is None else {}
        n[f"bn{norm}"] = L.BatchNorm(n[name], in_place=True, **statistics)
        n[f"scale{norm}"] = L.Scale(n[f"bn{norm}"], bias_term=True, in_place=True)
        top: Top = n[f"scale{norm}"]
        return top

    def relu(name: str, bottom: Top) -> Top:
        n[name] = L.ReLU(bottom, in_place=True)
        top: Top = n[name]
        return top

    def block(name: str, bottom: Top, width: int, stride: int, first: bool) -> Top:
        def branch(part: str, bottom: Top, width: int, size: int, stride: int = 1) -> Top:
            return conv(f"res{name}_branch{part}", f"{name}_branch{part}", bottom, width, size, stride)

        shortcut = branch("1", bottom, 4 * width, 1, stride) if first else bottom
        top = relu(f"res{name}_branch2a_relu", branch("2a", bottom, width, 1, stride))
        top = relu(f"res{name}_branch2b_relu", branch("2b", top, width, 3))
        n[f"res{name}"] = L.Eltwise(shortcut, branch("2c", top, 4 * width, 1))
        return relu(f"res{name}_relu", n[f"res{name}"])

    top = relu("conv1_relu", conv("conv1", "_conv1", n.data, 64, 7, 2, conv1_bias))
    top = n.pool1 = L.Pooling(top, pool=P.Pooling.MAX, kernel_size=3, stride=2)
    for stage, count in enumerate(blocks, 2):
        for index in range(count):
            # The authors' files count only where a deeper net has more blocks than the other stages.
            counted = numbered and stage in (3, 4) and index
            name = f"{stage}b{index}" if counted else f"{stage}{chr(ord('a') + index)}"
            stride = 2 if stage > 2 and index == 0 else 1
            top = block(name, top, width * 2 ** (stage - 2), stride, index == 0)
    n.pool5 = L.Pooling(top, pool=P.Pooling.AVE, kernel_size=7, stride=1)
    n.fc1000 = L.InnerProduct(n.pool5, num_output=classes, param=BIAS_TWICE, weight_filler={"type": "msra"})
    ends(n, n.fc1000, label, "accuracy", "loss")


RECIPE = Recipe(
    solver={
        "test_iter": 2000,
        "test_interval": 5000,
        "test_initialization": False,
        "base_lr": 0.1,
        "lr_policy": "multistep",
        "gamma": 0.1,
        "stepvalue": [150000, 300000, 450000],
        "display": 20,
        "average_loss": 20,
        "max_iter": 600000,
        "iter_size": 8,
        "momentum": 0.9,
        "weight_decay": 0.0001,
        "snapshot": 10000,
        "snapshot_prefix": "resnet",
    },
    train_batch=32,
    test_batch=25,
    source="the paper, section 3.4 (256 images a step, 600 thousand steps, the rate a tenth at plateaus); the first "
    "two plateaus are those of jay-mahadeokar/pynetbuilder, models/imagenet/Readme.md",
)
"""Of He's nets, which were published without one, and of pynetbuilder's, which were trained like them."""


def _architecture(depth: int, blocks: Sequence[int]) -> Architecture:
    deeper = depth > 50
    return Architecture(
        name=f"resnet{depth}",
        title=f"ResNet-{depth}",
        paper="He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition (2015)",
        published=f"KaimingHe/deep-residual-networks, prototxt/ResNet-{depth}-deploy.prototxt",
        layers=resnet,
        heads=("fc1000",),
        crop=224,
        recipe=RECIPE,
        options={"blocks": tuple(blocks), "numbered": deeper, "conv1_bias": not deeper},
    )


RESNET50 = _architecture(50, (3, 4, 6, 3))
RESNET101 = _architecture(101, (3, 4, 23, 3))
RESNET152 = _architecture(152, (3, 8, 36, 3))
