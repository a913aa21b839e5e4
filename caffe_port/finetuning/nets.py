"""From the net that is used to the nets of its fine-tuning: that is trained, and that is used afterwards."""

from __future__ import annotations

import copy
import fnmatch
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from caffe_port.architectures import HEAD_FACTOR
from caffe_port.architectures.parts import BIAS_TWICE, as_finetuned
from caffe_port.errors import DataError, GraphError, Problems
from caffe_port.layers.pooling import Pooling
from caffe_port.loading import load
from caffe_port.net import Layer, Net
from caffe_port.netspec import assign_proto
from caffe_port.preprocessing import MeanImage, Preprocessing
from caffe_port.proto import text, upgrade, wire
from caffe_port.proto.blobs import BlobData
from caffe_port.proto.schema import Message

__all__ = ["FinetunedNets", "finetuned_nets", "transform_of", "write_class_weights"]

LABEL = "label"
_PASSED = ("Pooling", "ReLU", "Dropout", "Flatten", "Split")
"""What may lie between the layer that makes the scores and the Softmax: it takes any number of classes."""
_LEARNING = ("Convolution", "InnerProduct")


@dataclass(frozen=True, slots=True)
class FinetunedNets:
    """The net that is trained and the one that is used, as messages.

    head: the layer that makes the scores, as it is called in them. output: the blob of the probabilities. frozen:
    layers with learned blobs that do not learn.
    """

    train_val: Message = field(repr=False)
    deploy: Message = field(repr=False)
    head: str
    output: str
    frozen: tuple[str, ...]


def finetuned_nets(
    definition: str | os.PathLike[str],
    *,
    classes: int,
    preprocessing: Preprocessing,
    batches: tuple[int, int] = (32, 10),
    lists: tuple[str, str] = ("train.txt", "val.txt"),
    head: str | None = None,
    keep_head: bool = False,
    suffix: str = "finetuned",
    factor: float = HEAD_FACTOR,
    freeze: Sequence[str] = (),
    batch_statistics: bool = False,
    class_weights: str | os.PathLike[str] | None = None,
) -> FinetunedNets:
    """The nets of a fine-tuning.

    - `definition`: a prototxt to use a net with: one Input of images, one Softmax at the end.
    - `classes`: that are to be told apart. `preprocessing`: of the net that comes of it; its `size` may be another than
      the net's: a pooling window that covers its whole bottom then becomes global.
    - `head`: the layer whose outputs are the classes (default: the one that the Softmax reads). It starts anew under
      another name, with `suffix`, unless `keep_head`. Its weight learns `factor` times as fast as `lr_mult` 1, its bias
      twice that.
    - `freeze`: patterns (`conv_1*`) of layers that do not learn; never the head.
    - `batch_statistics`: layers of type BatchNorm that learn normalize by the batch, and their statistics move. Without
      it, and where frozen, they keep the statistics that they have.
    - `class_weights`: the path of a matrix for InfogainLoss, see `write_class_weights`.

    Raises: GraphError for a net that has another form, a pattern that no layer fits, a head that is kept and has
    another number of outputs; PrototxtError and what else reading a net raises.
    """
    if wire.looks_binary(definition):
        raise GraphError(
            f"{os.fspath(definition)}: is a caffemodel, so a net that was trained; give its deploy prototxt"
        )
    message, where = text.read(definition)
    deploy: Any = upgrade.upgrade_net(message, where, None).net
    net = load(definition, allow_missing_weights=True)
    entry, output, own_head = _ends(net, head)
    if keep_head and classes != own_head.tops[0].shape[1]:
        raise GraphError(f"the head {own_head.name!r} has {own_head.tops[0].shape[1]} outputs, so it cannot be kept")
    assert preprocessing.size is not None
    _resize(deploy, net, entry, preprocessing)
    frozen = _freeze(deploy, net, freeze, own_head)
    name = _renew(deploy, own_head, classes, keep_head, suffix, factor)
    train_val = copy.deepcopy(deploy)
    _for_training(train_val, net, entry, output, preprocessing, batches, lists, class_weights)
    _set_statistics(train_val, net, frozen, batch_statistics)
    return FinetunedNets(train_val, deploy, name, output.tops[0].name, tuple(frozen))


def transform_of(steps: Preprocessing) -> dict[str, Any]:
    """The fields of `transform_param` that do what `steps` do with 8-bit pixels. Raises: DataError for a mean image."""
    if isinstance(steps.mean, MeanImage):
        raise DataError("the mean is an image, which fits one size of picture alone; give one value a channel")
    # (x * raw / 255 - mean) * scale = (x - mean * 255 / raw) * scale * raw / 255
    share = steps.raw_scale / 255
    assert steps.size is not None
    if steps.size[0] != steps.size[1]:
        raise GraphError(f"the input is {steps.size[0]}x{steps.size[1]}; Caffe crops squares alone")
    return {
        "crop_size": steps.size[0],
        "mean_value": [value / share for value in steps.mean],
        **({} if share * steps.scale == 1 else {"scale": share * steps.scale}),
    }


def write_class_weights(path: str | os.PathLike[str], weights: Sequence[float]) -> None:
    """Writes the matrix with which InfogainLoss is a cross entropy that counts class k `weights[k]` times.

    It has the weights on its diagonal: the loss is the mean over the batch of -weight[label] * log p[label].
    Raises: ArtifactError.
    """
    matrix = np.diag(np.asarray(weights, np.float32))
    wire.write_blob(path, BlobData((1, 1, *matrix.shape), True, matrix.reshape(-1)))


# What the net is like


def _ends(net: Net, head: str | None) -> tuple[Layer, Layer, Layer]:
    """The Input, the Softmax, and the layer that makes the scores."""
    entries = [layer for layer in net.layers if layer.type == "Input"]
    outputs = [layer for layer in net.layers if layer.type == "Softmax" and layer.tops[0].name in net.outputs]
    if len(net.inputs) != 1 or len(entries) != 1 or len(entries[0].tops[0].shape) != 4:
        raise GraphError(f"net {net.name!r}: one Input of images is needed; its inputs are {', '.join(net.inputs)}")
    if len(outputs) != 1 or len(net.outputs) != 1:
        raise GraphError(
            f"net {net.name!r}: one Softmax at the end is needed, as a deploy net has it; "
            f"its outputs are {', '.join(net.outputs)}"
        )
    makers = {top: layer for layer in net.layers for top in layer.tops}
    layer = makers[outputs[0].bottoms[0]]
    while layer.type in _PASSED:
        layer = makers[layer.bottoms[0]]
    if head is not None and layer.name != head:
        raise GraphError(f"net {net.name!r}: the Softmax reads what layer {layer.name!r} makes, not {head!r}")
    if layer.type not in _LEARNING or (layer.type == "Convolution" and layer.weights[0].shape[2:] != (1, 1)):
        raise GraphError(
            f"net {net.name!r}: the Softmax reads what layer {layer.name!r} ({layer.type}) makes; an InnerProduct, "
            "or a Convolution of 1x1, can be replaced"
        )
    if sum(bottom in layer.tops for other in net.layers for bottom in other.bottoms) != 1:
        raise GraphError(f"net {net.name!r}: more than the Softmax reads the head {layer.name!r}")
    return entries[0], outputs[0], layer


def _named(message: Any, name: str) -> Any:
    """The layer of a name; of several, each in a phase of its own, the one in TEST."""
    found = [layer for layer in message.layer if layer.name == name]
    return next((layer for layer in found if not any(rule.phase == 0 for rule in layer.include)), found[0])


def _learning(net: Net) -> list[Layer]:
    return [layer for layer in net.layers if layer.weights]


# What is changed


def _resize(message: Any, net: Net, entry: Layer, steps: Preprocessing) -> None:
    assert steps.size is not None
    shape = (1, steps.channels, *steps.size)
    own = entry.tops[0].shape
    if own[1] != steps.channels:
        raise GraphError(f"net {net.name!r} takes {own[1]} channels, the preprocessing makes {steps.channels}")
    layer = _named(message, entry.name)
    assign_proto(layer, "input_param", {"shape": {"dim": list(shape)}})
    del layer.input_param.shape[:-1]
    if own[2:] == shape[2:]:
        return
    for pooling in net.layers:
        definition = pooling.definition
        if (
            isinstance(definition, Pooling)
            and definition.kernel == pooling.bottoms[0].shape[2:]
            and not any(definition.pad)
        ):
            param = _named(message, pooling.name).pooling_param
            for name in ("kernel_size", "kernel_h", "kernel_w", "stride", "stride_h", "stride_w"):
                param.ClearField(name)
            param.global_pooling = True


def _freeze(message: Any, net: Net, patterns: Sequence[str], head: Layer) -> list[str]:
    problems = Problems()
    names = [layer.name for layer in _learning(net) if layer.name != head.name]
    frozen: list[str] = []
    for pattern in patterns:
        found = fnmatch.filter(names, pattern)
        if not found:
            problems.add(GraphError, f"no layer that learns, but for the head, is called {pattern!r}")
        frozen += [name for name in found if name not in frozen]
    problems.raise_if_any()
    for layer in _learning(net):
        if layer.name in frozen:
            spec = _named(message, layer.name)
            _give_specs(spec, len(layer.weights))
            for param in spec.param:
                param.lr_mult = param.decay_mult = 0
    return frozen


def _give_specs(layer: Any, count: int) -> None:
    for _ in range(count - len(layer.param)):
        layer.param.add()


def _renew(message: Any, head: Layer, classes: int, keep: bool, suffix: str, factor: float) -> str:
    """Gives the head its outputs, its rates and its name, which is returned."""
    layer = _named(message, head.name)
    param = layer.inner_product_param if head.type == "InnerProduct" else layer.convolution_param
    param.num_output = classes
    if not param.HasField("weight_filler"):
        param.weight_filler.type, param.weight_filler.std = "gaussian", 0.01
    names = [spec.name for spec in layer.param]
    if any(names):
        raise GraphError(f"the head {head.name!r} shares its learned blobs by name, so it cannot be replaced")
    del layer.param[:]
    for rates in BIAS_TWICE[: len(head.weights)]:
        spec = layer.param.add()
        spec.lr_mult, spec.decay_mult = rates["lr_mult"], rates["decay_mult"]
    if keep:
        for spec in layer.param:
            spec.lr_mult *= factor
        return head.name
    place = [one.name for one in message.layer].index(head.name)
    as_finetuned(message, [head.name], suffix, factor)
    layer = message.layer[place]
    # One without a bias has one learned blob.
    del layer.param[len(head.weights) :]
    return str(layer.name)


def _for_training(
    message: Any,
    net: Net,
    entry: Layer,
    output: Layer,
    steps: Preprocessing,
    batches: tuple[int, int],
    lists: tuple[str, str],
    class_weights: str | os.PathLike[str] | None,
) -> None:
    """Puts data layers in the place of the Input, and loss and accuracy in that of the Softmax."""
    if LABEL in net.blobs:
        raise GraphError(f"net {net.name!r} has a blob {LABEL!r}, which the labels would be called")
    scores = _named(message, output.name).bottom[0]
    kept = [layer for layer in message.layer if layer.name not in (entry.name, output.name)]
    taken = {layer.name for layer in kept}
    added: list[dict[str, Any]] = []
    for phase, source, batch in zip(("TRAIN", "TEST"), lists, batches, strict=True):
        image: dict[str, Any] = {"source": source, "batch_size": batch, "is_color": steps.channels == 3}
        if steps.resize is not None:
            image |= {"new_height": steps.resize[0], "new_width": steps.resize[1]}
        if phase == "TRAIN":
            image["shuffle"] = True
        added.append(
            {
                "name": entry.name,
                "type": "ImageData",
                "top": [entry.tops[0].name, LABEL],
                "include": {"phase": phase},
                "transform_param": {"mirror": phase == "TRAIN", **transform_of(steps)},
                "image_data_param": image,
            }
        )
    loss: dict[str, Any] = {"name": "loss", "type": "SoftmaxWithLoss", "bottom": [scores, LABEL], "top": ["loss"]}
    if class_weights is not None:
        loss |= {"type": "InfogainLoss", "infogain_loss_param": {"source": os.fspath(Path(class_weights).resolve())}}
    accuracy = {
        "name": "accuracy",
        "type": "Accuracy",
        "bottom": [scores, LABEL],
        "top": ["accuracy"],
        "include": {"phase": "TEST"},
    }
    for one in (loss, accuracy):
        if one["name"] in taken or one["name"] in net.blobs:
            raise GraphError(f"net {net.name!r} has a layer or a blob {one['name']!r}, as the loss layers are called")
    layers = copy.deepcopy(kept)
    del message.layer[:]
    for fields in added:
        _add(message, fields)
    message.layer.extend(layers)
    for fields in (loss, accuracy):
        _add(message, fields)


def _add(message: Any, fields: dict[str, Any]) -> None:
    layer = message.layer.add()
    for name, value in fields.items():
        assign_proto(layer, name, value)


def _set_statistics(message: Any, net: Net, frozen: Sequence[str], by_batch: bool) -> None:
    for layer in net.layers:
        if layer.type == "BatchNorm":
            param = _named(message, layer.name).batch_norm_param
            param.use_global_stats = layer.name in frozen or not by_batch
            if not param.use_global_stats:
                # In TEST the statistics that were gathered count, as the phase has it.
                param.ClearField("use_global_stats")
