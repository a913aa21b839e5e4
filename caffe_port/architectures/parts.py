"""What the families share: an architecture, layers that always come together, data layers, heads, and fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from caffe_port.errors import GraphError
from caffe_port.netspec import NetSpec, Top
from caffe_port.netspec import layers as L  # noqa: N812  # as everybody who writes nets calls it
from caffe_port.proto.schema import Message

__all__ = [
    "BIAS_TWICE",
    "IMAGENET_MEAN",
    "TOP_5",
    "Architecture",
    "Recipe",
    "UnknownArchitecture",
    "as_finetuned",
    "conv_relu",
    "data_layers",
    "ends",
    "fc_relu_dropout",
    "image_data_layers",
    "without_training",
]

TOP_5 = 5
"""The least classes that the accuracy among the five likeliest can be had of; Caffe refuses it of fewer."""

IMAGENET_MEAN = (104, 117, 123)
"""Of the pixels of ImageNet, in the order blue, green, red."""

BIAS_TWICE = [{"lr_mult": 1, "decay_mult": 1}, {"lr_mult": 2, "decay_mult": 0}]
"""Of a weight and its bias: the bias learns twice as fast and does not decay, as since cuda-convnet."""

_LEARNING_TYPES = ("Convolution", "InnerProduct", "Scale")


class UnknownArchitecture(GraphError):
    """A name that no architecture has, or an option that one does not take."""


@dataclass(frozen=True)
class Recipe:
    """How a net was trained: the solver's fields, the images of one step on one device, and the mean that is taken off.

    `mean` is a mean file or a value a channel. `source` says where the figures are from.
    """

    solver: Mapping[str, Any]
    train_batch: int
    test_batch: int
    source: str
    mean: str | Sequence[float] = IMAGENET_MEAN
    mirror: bool = True


@dataclass(frozen=True)
class Architecture:
    """A net that can be built at any number of classes.

    - `title`: the net's name in its file.
    - `layers`: `layers(n, label, classes=…, **options)` adds everything behind `n.data`. With a label (training) that
      is up to loss and accuracy, without (deploy) up to `prob`.
    - `heads`: the layers that are replaced for other classes, and those that have the head's name.
    - `crop`: height and width of its input.
    - `kept`: what the published deploy file keeps of training: `param`, `fillers`.
    - `options`: the options of `layers` that make it this net and no other of its family.
    - `finetuned`: of a net that was fine-tuned from another, what its head is called after.
    """

    name: str
    title: str
    paper: str
    published: str
    layers: Callable[..., None]
    heads: tuple[str, ...]
    crop: int
    recipe: Recipe
    kept: frozenset[str] = frozenset()
    options: Mapping[str, Any] = field(default_factory=dict)
    classes: int = 1000
    finetuned: str | None = None


# Layers


def conv_relu(n: NetSpec, name: str, bottom: Top, relu: str, **params: Any) -> Top:
    """A convolution and a ReLU in place behind it."""
    n[name] = L.Convolution(bottom, **params)
    n[relu] = L.ReLU(n[name], in_place=True)
    top: Top = n[relu]
    return top


def fc_relu_dropout(n: NetSpec, name: str, bottom: Top, number: str, **params: Any) -> Top:
    """A fully connected layer, and ReLU and Dropout in place behind it: relu6 and drop6 for fc6."""
    n[name] = L.InnerProduct(bottom, **params)
    n[f"relu{number}"] = L.ReLU(n[name], in_place=True)
    n[f"drop{number}"] = L.Dropout(n[f"relu{number}"], dropout_ratio=0.5, in_place=True)
    top: Top = n[f"drop{number}"]
    return top


def ends(n: NetSpec, scores: Top, label: Top | None, *names: str) -> None:
    """Softmax `prob` without a label; with one, the layers that are named, in that order.

    The names are `loss` and `accuracy`; `accuracy` counts in phase TEST alone.
    """
    if label is None:
        n.prob = L.Softmax(scores)
        return
    for name in names:
        if name == "loss":
            n.loss = L.SoftmaxWithLoss(scores, label)
        else:
            n[name] = L.Accuracy(scores, label, include={"phase": "TEST"})


# Data


def data_layers(
    n: NetSpec, sources: tuple[str, str], batches: tuple[int, int], crop: int, mean: str | Sequence[float], mirror: bool
) -> Top:
    """Adds the data layers of TRAIN and TEST, which read LMDB databases, and gives the labels."""
    layers = [
        {
            "include": {"phase": phase},
            "transform_param": _transform(crop, mean, mirror and phase == "TRAIN"),
            "data_param": {"source": source, "batch_size": batch, "backend": "LMDB"},
        }
        for phase, source, batch in zip(("TRAIN", "TEST"), sources, batches, strict=True)
    ]
    return _both(n, L.Data, layers)


def image_data_layers(
    n: NetSpec, lists: tuple[str, str], batches: tuple[int, int], crop: int, mean: str | Sequence[float], resize: int
) -> Top:
    """As `data_layers`, from lists of image files: resized, then cropped, at random and mirrored in TRAIN alone."""
    layers = [
        {
            "include": {"phase": phase},
            "transform_param": _transform(crop, mean, phase == "TRAIN"),
            "image_data_param": {
                "source": source,
                "batch_size": batch,
                "new_height": resize,
                "new_width": resize,
                "shuffle": phase == "TRAIN",
            },
        }
        for phase, source, batch in zip(("TRAIN", "TEST"), lists, batches, strict=True)
    ]
    return _both(n, L.ImageData, layers)


def _transform(crop: int, mean: str | Sequence[float], mirror: bool) -> dict[str, Any]:
    taken_off = {"mean_file": mean} if isinstance(mean, str) else {"mean_value": list(mean)}
    return {"mirror": mirror, "crop_size": crop, **taken_off}


def _both(n: NetSpec, layer: Callable[..., Any], params: list[dict[str, Any]]) -> Top:
    """Two layers of one name and with the same tops, of which each phase has one."""
    n.data, n.label = layer(ntop=2, **params[0])
    n["data of TEST"] = layer(ntop=0, name="data", top=["data", "label"], **params[1])
    label: Top = n.label
    return label


# From one net to another


def without_training(net: Message, kept: frozenset[str]) -> None:
    """Takes away what only training reads, but for what is kept: `param` (learning rates), `fillers`."""
    for layer in net.layer:
        if "param" not in kept:
            layer.ClearField("param")
        if "fillers" not in kept:
            # Clearing a field of a message that is not there would make the message.
            for name in filter(layer.HasField, ("convolution_param", "inner_product_param")):
                getattr(layer, name).ClearField("weight_filler")
                getattr(layer, name).ClearField("bias_filler")


def as_finetuned(net: Message, heads: Sequence[str], suffix: str, factor: float) -> None:
    """Renames the heads, so that they start anew and all else from the weights that are there, and multiplies their
    learning rates by `factor`.

    fc1000 becomes fc_SUFFIX, any other name NAME_SUFFIX.
    """
    new = {head: f"{head.removesuffix('1000').rstrip('_')}_{suffix}" for head in heads}
    for layer in net.layer:
        for names in (layer.bottom, layer.top):
            for index, name in enumerate(names):
                names[index] = new.get(name, name)
        if layer.name in new:
            layer.name = new[layer.name]
            if layer.type in _LEARNING_TYPES:
                for _ in range(2 - len(layer.param)):
                    layer.param.add()
                for spec in layer.param:
                    spec.lr_mult *= factor
