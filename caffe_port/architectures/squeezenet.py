"""SqueezeNet 1.0 and 1.1 (Iandola et al. 2016): fire modules, which squeeze channels and expand them again."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_port.architectures.parts import TOP_5, Architecture, Recipe, conv_relu, ends
from caffe_port.netspec import NetSpec, Top
from caffe_port.netspec import layers as L  # noqa: N812
from caffe_port.netspec import params as P  # noqa: N812

__all__ = ["SQUEEZENET_1_0", "SQUEEZENET_1_1", "squeezenet"]


def squeezenet(
    n: NetSpec,
    label: Top | None,
    *,
    classes: int,
    first: tuple[int, int] = (96, 7),
    pooled: Sequence[int] = (1, 4, 8),
    head_pad: int = 1,
    base: int = 128,
    increase: int = 128,
    every: int = 2,
    squeeze_ratio: float = 0.125,
    share_3x3: float = 0.5,
    each_phase: bool = False,
) -> None:
    """A convolution, eight fire modules, a convolution to the classes, averaged.

    - `first`: channels and kernel of the first convolution.
    - `pooled`: the layers that max pooling follows, 1 being the first convolution and 2 to 9 the fire modules.
    - `head_pad`: padding of the last convolution.
    - `base`, `increase`, `every`, `squeeze_ratio`, `share_3x3`: the paper's metaparameters base_e, incr_e, freq, SR
      and pct3x3: module i expands to base + increase * (i // every) channels.
    - `each_phase`: loss and accuracy in both phases, as the file of 1.1 has them; else each in its own, as in 1.0.
    """
    xavier = {"weight_filler": {"type": "xavier"}}

    def pool_behind(number: int, bottom: Top) -> Top:
        if number not in pooled:
            return bottom
        n[f"pool{number}"] = L.Pooling(bottom, pool=P.Pooling.MAX, kernel_size=3, stride=2)
        top: Top = n[f"pool{number}"]
        return top

    def fire(name: str, bottom: Top, expanded: int) -> Top:
        def conv(part: str, bottom: Top, width: int, **window: int) -> Top:
            return conv_relu(n, f"{name}/{part}", bottom, f"{name}/relu_{part}", num_output=width, **window, **xavier)

        wide = round(share_3x3 * expanded)
        squeezed = conv("squeeze1x1", bottom, round(squeeze_ratio * expanded), kernel_size=1)
        conv("expand1x1", squeezed, expanded - wide, kernel_size=1)
        conv("expand3x3", squeezed, wide, kernel_size=3, pad=1)
        n[f"{name}/concat"] = L.Concat(n[f"{name}/expand1x1"], n[f"{name}/expand3x3"])
        top: Top = n[f"{name}/concat"]
        return top

    width, kernel = first
    top = conv_relu(n, "conv1", n.data, "relu_conv1", num_output=width, kernel_size=kernel, stride=2, **xavier)
    top = pool_behind(1, top)
    for index in range(8):
        top = fire(f"fire{index + 2}", top, base + increase * (index // every))
        top = pool_behind(index + 2, top)
    n.drop9 = L.Dropout(top, dropout_ratio=0.5, in_place=True)
    gaussian = {"weight_filler": {"type": "gaussian", "mean": 0, "std": 0.01}}
    top = conv_relu(n, "conv10", n.drop9, "relu_conv10", num_output=classes, kernel_size=1, pad=head_pad, **gaussian)
    n.pool10 = L.Pooling(top, pool=P.Pooling.AVE, global_pooling=True)
    if label is None:
        ends(n, n.pool10, label)
        return
    train, test = ({}, {}) if each_phase else ({"include": {"phase": "TRAIN"}}, {"include": {"phase": "TEST"}})
    n.loss = L.SoftmaxWithLoss(n.pool10, label, **train)
    n.accuracy = L.Accuracy(n.pool10, label, **test)
    if classes >= TOP_5:
        n.accuracy_top5 = L.Accuracy(n.pool10, label, top_k=5, **test)


def _architecture(version: str, **options: object) -> Architecture:
    return Architecture(
        name=f"squeezenet_v{version}",
        title=f"SqueezeNet_v{version}",
        paper="Iandola et al.: SqueezeNet: AlexNet-level accuracy with 50x fewer parameters (2016)",
        published=f"forresti/SqueezeNet, SqueezeNet_v{version}",
        layers=squeezenet,
        heads=("conv10",),
        crop=227,
        recipe=Recipe(
            solver={
                "test_iter": 2000,
                "test_interval": 1000,
                "test_initialization": False,
                "base_lr": 0.04,
                "lr_policy": "poly",
                "power": 1.0,
                "display": 40,
                "average_loss": 40,
                "max_iter": 170000,
                "iter_size": 16,
                "momentum": 0.9,
                "weight_decay": 0.0002,
                "random_seed": 42,
                "snapshot": 1000,
                "snapshot_prefix": "train",
            },
            train_batch=32,
            test_batch=25,
            source="forresti/SqueezeNet, SqueezeNet_v1.0/solver.prototxt and train_val.prototxt, also for 1.1",
            mirror=False,
        ),
        options=options,
    )


SQUEEZENET_1_0 = _architecture("1.0")
SQUEEZENET_1_1 = _architecture("1.1", first=(64, 3), pooled=(1, 3, 5), head_pad=0, each_phase=True)
