"""AlexNet (Krizhevsky et al. 2012) as Caffe trained it, and CaffeNet, which pools before it normalizes."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_port.architectures.parts import BIAS_TWICE, Architecture, Recipe, conv_relu, ends, fc_relu_dropout
from caffe_port.netspec import NetSpec, Top
from caffe_port.netspec import layers as L  # noqa: N812
from caffe_port.netspec import params as P  # noqa: N812

__all__ = ["ALEXNET", "CAFFENET", "alexnet"]


def alexnet(
    n: NetSpec,
    label: Top | None,
    *,
    classes: int,
    pool_first: bool = False,
    bias: float = 0.1,
    widths: Sequence[int] = (96, 256, 384, 384, 256),
    fc: int = 4096,
) -> None:
    """Five convolutions, of which 2, 4 and 5 have two groups, and three fully connected layers.

    - `pool_first`: pool before normalizing (CaffeNet).
    - `bias`: what the biases of layers 2, 4, 5, 6 and 7 start with; the others start with 0.
    - `widths`: channels of the convolutions; `fc`: of the first two fully connected layers.
    """

    def learning(std: float, value: float) -> dict[str, object]:
        weight, constant = {"type": "gaussian", "std": std}, {"type": "constant", "value": value}
        return {"param": BIAS_TWICE, "weight_filler": weight, "bias_filler": constant}

    def conv(number: int, bottom: Top, value: float, **window: int) -> Top:
        params = learning(0.01, value)
        return conv_relu(n, f"conv{number}", bottom, f"relu{number}", num_output=widths[number - 1], **window, **params)

    def pool(number: int, bottom: Top) -> Top:
        n[f"pool{number}"] = L.Pooling(bottom, pool=P.Pooling.MAX, kernel_size=3, stride=2)
        top: Top = n[f"pool{number}"]
        return top

    def norm(number: int, bottom: Top) -> Top:
        n[f"norm{number}"] = L.LRN(bottom, local_size=5, alpha=1e-4, beta=0.75)
        top: Top = n[f"norm{number}"]
        return top

    def smaller(number: int, bottom: Top) -> Top:
        return norm(number, pool(number, bottom)) if pool_first else pool(number, norm(number, bottom))

    top = smaller(1, conv(1, n.data, 0, kernel_size=11, stride=4))
    top = smaller(2, conv(2, top, bias, kernel_size=5, pad=2, group=2))
    top = conv(3, top, 0, kernel_size=3, pad=1)
    top = conv(4, top, bias, kernel_size=3, pad=1, group=2)
    top = pool(5, conv(5, top, bias, kernel_size=3, pad=1, group=2))
    top = fc_relu_dropout(n, "fc6", top, "6", num_output=fc, **learning(0.005, bias))
    top = fc_relu_dropout(n, "fc7", top, "7", num_output=fc, **learning(0.005, bias))
    n.fc8 = L.InnerProduct(top, num_output=classes, **learning(0.01, 0))
    ends(n, n.fc8, label, "accuracy", "loss")


def _recipe(folder: str, prefix: str) -> Recipe:
    return Recipe(
        solver={
            "test_iter": 1000,
            "test_interval": 1000,
            "base_lr": 0.01,
            "lr_policy": "step",
            "gamma": 0.1,
            "stepsize": 100000,
            "display": 20,
            "max_iter": 450000,
            "momentum": 0.9,
            "weight_decay": 0.0005,
            "snapshot": 10000,
            "snapshot_prefix": prefix,
        },
        train_batch=256,
        test_batch=50,
        source=f"BVLC/caffe, {folder}/solver.prototxt and train_val.prototxt",
        mean="data/ilsvrc12/imagenet_mean.binaryproto",
    )


ALEXNET = Architecture(
    name="alexnet",
    title="AlexNet",
    paper="Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional Neural Networks (2012)",
    published="BVLC/caffe, models/bvlc_alexnet",
    layers=alexnet,
    heads=("fc8",),
    crop=227,
    recipe=_recipe("models/bvlc_alexnet", "caffe_alexnet_train"),
    kept=frozenset({"param"}),
)

CAFFENET = Architecture(
    name="caffenet",
    title="CaffeNet",
    paper="Jia et al.: Caffe: Convolutional Architecture for Fast Feature Embedding (2014)",
    published="BVLC/caffe, models/bvlc_reference_caffenet",
    layers=alexnet,
    heads=("fc8",),
    crop=227,
    recipe=_recipe("models/bvlc_reference_caffenet", "caffenet_train"),
    options={"pool_first": True, "bias": 1.0},
)
