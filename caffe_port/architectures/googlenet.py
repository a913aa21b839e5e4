"""GoogLeNet (Szegedy et al. 2014) as Caffe trained it: nine inception modules, and two more heads in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caffe_port.architectures.parts import BIAS_TWICE, TOP_5, Architecture, Recipe, conv_relu, ends
from caffe_port.netspec import NetSpec, Top
from caffe_port.netspec import layers as L  # noqa: N812
from caffe_port.netspec import params as P  # noqa: N812

__all__ = ["AUXILIARY", "GOOGLENET", "MODULES", "googlenet"]

MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""Channels of each module, as table 1 of the paper has them: 1x1, 3x3 reduced, 3x3, 5x5 reduced, 5x5, pooled."""

AUXILIARY = {"loss1": "4a", "loss2": "4d"}
"""The further heads of training, and the modules they stand behind."""


def googlenet(
    n: NetSpec,
    label: Top | None,
    *,
    classes: int,
    modules: Mapping[str, tuple[int, int, int, int, int, int]] = MODULES,
    auxiliary: Mapping[str, str] = AUXILIARY,
) -> None:
    """Two stages of convolutions, and inception modules with pooling where the stage changes.

    - `modules`: their channels by name, as in MODULES; the name's first character is the stage.
    - `auxiliary`: the further heads of training, as in AUXILIARY.
    """

    def learning(bias: float) -> dict[str, Any]:
        constant = {"type": "constant", "value": bias}
        return {"param": BIAS_TWICE, "weight_filler": {"type": "xavier"}, "bias_filler": constant}

    def conv(block: str, name: str, bottom: Top, width: int, size: int, relu: str = "", **window: int) -> Top:
        window = {"kernel_size": size, **window}
        relu = f"{block}/relu_{relu or name}"
        return conv_relu(n, f"{block}/{name}", bottom, relu, num_output=width, **window, **learning(0.2))

    def pool(name: str, bottom: Top, method: int = P.Pooling.MAX, **window: int) -> Top:
        n[name] = L.Pooling(bottom, pool=method, **window)
        top: Top = n[name]
        return top

    def norm(name: str, bottom: Top) -> Top:
        n[name] = L.LRN(bottom, local_size=5, alpha=1e-4, beta=0.75)
        top: Top = n[name]
        return top

    def inception(name: str, bottom: Top, widths: tuple[int, int, int, int, int, int]) -> Top:
        plain, reduced_3, wide_3, reduced_5, wide_5, pooled = widths
        branches = [
            conv(name, "1x1", bottom, plain, 1),
            conv(name, "3x3", conv(name, "3x3_reduce", bottom, reduced_3, 1), wide_3, 3, pad=1),
            conv(name, "5x5", conv(name, "5x5_reduce", bottom, reduced_5, 1), wide_5, 5, pad=2),
            conv(name, "pool_proj", pool(f"{name}/pool", bottom, kernel_size=3, stride=1, pad=1), pooled, 1),
        ]
        n[f"{name}/output"] = L.Concat(*branches)
        top: Top = n[f"{name}/output"]
        return top

    def classified(head: str, bottom: Top, layer: str, weight: float) -> None:
        """Classifier, and in training its loss and accuracies."""
        n[f"{head}/classifier"] = L.InnerProduct(bottom, num_output=classes, **learning(0))
        scores = n[f"{head}/classifier"]
        if label is None:
            ends(n, scores, label)
            return
        n[f"{head}/{head}"] = L.SoftmaxWithLoss(scores, label, name=f"{head}/{layer}", loss_weight=weight)
        n[f"{head}/top-1"] = L.Accuracy(scores, label, include={"phase": "TEST"})
        if classes >= TOP_5:
            n[f"{head}/top-5"] = L.Accuracy(scores, label, include={"phase": "TEST"}, top_k=5)

    def auxiliary_head(head: str, bottom: Top) -> None:
        top = pool(f"{head}/ave_pool", bottom, P.Pooling.AVE, kernel_size=5, stride=3)
        top = conv(head, "conv", top, 128, 1)
        n[f"{head}/fc"] = L.InnerProduct(top, num_output=1024, **learning(0.2))
        n[f"{head}/relu_fc"] = L.ReLU(n[f"{head}/fc"], in_place=True)
        n[f"{head}/drop_fc"] = L.Dropout(n[f"{head}/relu_fc"], dropout_ratio=0.7, in_place=True)
        classified(head, n[f"{head}/drop_fc"], "loss", 0.3)

    top = conv("conv1", "7x7_s2", n.data, 64, 7, relu="7x7", pad=3, stride=2)
    top = norm("pool1/norm1", pool("pool1/3x3_s2", top, kernel_size=3, stride=2))
    top = conv("conv2", "3x3", conv("conv2", "3x3_reduce", top, 64, 1), 192, 3, pad=1)
    top = pool("pool2/3x3_s2", norm("conv2/norm2", top), kernel_size=3, stride=2)
    heads = {module: head for head, module in auxiliary.items()} if label is not None else {}
    stage = next(iter(modules))[0]
    for name, widths in modules.items():
        if name[0] != stage:
            top = pool(f"pool{stage}/3x3_s2", top, kernel_size=3, stride=2)
            stage = name[0]
        top = inception(f"inception_{name}", top, widths)
        if name in heads:
            auxiliary_head(heads[name], top)
    top = pool("pool5/7x7_s1", top, P.Pooling.AVE, kernel_size=7, stride=1)
    n["pool5/drop_7x7_s1"] = L.Dropout(top, dropout_ratio=0.4, in_place=True)
    classified("loss3", n["pool5/drop_7x7_s1"], "loss3", 1)


GOOGLENET = Architecture(
    name="googlenet",
    title="GoogleNet",
    paper="Szegedy et al.: Going Deeper with Convolutions (2014)",
    published="BVLC/caffe, models/bvlc_googlenet",
    layers=googlenet,
    heads=("loss1/classifier", "loss2/classifier", "loss3/classifier"),
    crop=224,
    recipe=Recipe(
        solver={
            "test_iter": 1000,
            "test_interval": 4000,
            "test_initialization": False,
            "display": 40,
            "average_loss": 40,
            "base_lr": 0.01,
            "lr_policy": "poly",
            "power": 0.5,
            "max_iter": 2400000,
            "momentum": 0.9,
            "weight_decay": 0.0002,
            "snapshot": 40000,
            "snapshot_prefix": "bvlc_googlenet_quick",
        },
        train_batch=32,
        test_batch=50,
        source="BVLC/caffe, models/bvlc_googlenet/quick_solver.prototxt, which the released weights were trained with",
    ),
    kept=frozenset({"param", "fillers"}),
)
