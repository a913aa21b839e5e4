"""Model J' of He and Sun (2015): what is accurate at a given time, from an exchange of depth, width and kernels."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_port.architectures.parts import BIAS_TWICE, Architecture, Recipe, conv_relu, ends, fc_relu_dropout
from caffe_port.netspec import NetSpec, Top
from caffe_port.netspec import layers as L  # noqa: N812
from caffe_port.netspec import params as P  # noqa: N812

__all__ = ["MS_CTC", "ms_ctc"]


def ms_ctc(
    n: NetSpec,
    label: Top | None,
    *,
    classes: int,
    stages: Sequence[Sequence[int]] = ((128,) * 4, (256,) * 4, (2304, 256)),
    strides: Sequence[int] = (3, 2, 3),
    pyramid: Sequence[int] = (1, 2, 3, 6),
    fc: int = 4096,
) -> None:
    """A 7x7 convolution, three stages of 2x2 convolutions, a pyramid of pooled maps, three fully connected layers.

    - `stages`: channels of each stage's convolutions; they have padding 0 and 1 by turns, which keeps the size.
    - `strides`: of the first convolution of each stage.
    - `pyramid`: the sizes of the pooling windows over the last map, side by side.
    """
    learning = {
        "param": BIAS_TWICE,
        "weight_filler": {"type": "xavier"},
        "bias_filler": {"type": "constant", "value": 0},
    }

    def pool(name: str, bottom: Top, size: int, stride: int) -> Top:
        n[name] = L.Pooling(bottom, pool=P.Pooling.MAX, kernel_size=size, stride=stride)
        top: Top = n[name]
        return top

    top = conv_relu(n, "conv1", n.data, "relu_conv1", num_output=64, kernel_size=7, stride=2, **learning)
    number = 1
    for stage, (widths, stride) in enumerate(zip(stages, strides, strict=True), 1):
        top = pool(f"pool{stage}", top, 3, 1)
        for index, width in enumerate(widths):
            number += 1
            window = {"kernel_size": 2, "pad": index % 2, "stride": 1 if index else stride}
            top = conv_relu(n, f"conv{number}", top, f"relu_conv{number}", num_output=width, **window, **learning)
    flat = []
    for size in pyramid:
        n[f"flat_spp{size}"] = L.Flatten(pool(f"spp{size}", top, size, size))
        flat.append(n[f"flat_spp{size}"])
    n.spp = top = L.Concat(*flat)
    for _ in range(2):
        number += 1
        top = fc_relu_dropout(n, f"fc{number}", top, str(number), num_output=fc, **learning)
    n[f"fc{number + 1}"] = L.InnerProduct(top, num_output=classes, **learning)
    ends(n, n[f"fc{number + 1}"], label, "accuracy", "loss")


MS_CTC = Architecture(
    name="ms_ctc",
    title="MS_CTC",
    paper="He, Sun: Convolutional Neural Networks at Constrained Time Cost (2015), model J'",
    published="never as a prototxt; the layers are those of dmlc/cxxnet, example/ImageNet/kaiming.conf",
    layers=ms_ctc,
    heads=("fc14",),
    crop=224,
    recipe=Recipe(
        solver={
            "test_iter": 1000,
            "test_interval": 5000,
            "test_initialization": False,
            "base_lr": 0.01,
            "lr_policy": "step",
            "gamma": 0.1,
            "stepsize": 300000,
            "display": 20,
            "max_iter": 1000000,
            "momentum": 0.9,
            "weight_decay": 0.0005,
            "snapshot": 10000,
            "snapshot_prefix": "ms_ctc",
        },
        train_batch=128,
        test_batch=50,
        source="dmlc/cxxnet, example/ImageNet/kaiming.conf: 128 images a step, the rate a tenth after 300 thousand "
        "steps, 100 epochs; its random aspect ratios and sizes are not Caffe's",
    ),
)
