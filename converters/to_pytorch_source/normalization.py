"""BatchNorm, with the Scale behind it, and LRN as calls."""

from __future__ import annotations

import numpy as np

from caffe_port.converters.to_pytorch_source.expressions import finite
from caffe_port.converters.to_pytorch_source.graph import Argument, Channels, Module, Tensor, Value, Written
from caffe_port.converters.to_pytorch_source.translation import Translation, writes
from caffe_port.errors import UnsupportedLayer
from caffe_port.layers import affine, normalization
from caffe_port.net import Layer
from caffe_port.shapes import Shape, canonical_axis


@writes(normalization.BatchNorm)
def _batch_norm(to: Translation, layer: Layer, d: normalization.BatchNorm, inputs: list[Value]) -> None:
    if not d.use_global_stats:
        raise UnsupportedLayer("BatchNorm with use_global_stats: false normalizes with the batch's own statistics")
    (x,) = inputs
    if not 2 <= len(x.shape) <= 5 or any(weight.owner or weight.name for weight in layer.weights):
        raise UnsupportedLayer(f"BatchNorm of {len(x.shape)} axes, or of shared learned blobs")
    mean, variance = d.stored_statistics([np.asarray(weight.data) for weight in layer.weights])
    scale = to.only_reader(layer.tops[0])
    if scale is not None and not _is_affine(scale, x.shape):
        scale = None
    arguments: list[tuple[str, Argument]] = [("", Channels(x, x.shape[1]))]
    if d.eps != np.float32(1e-5):
        arguments.append(("eps", Written(finite(d.eps))))
    if scale is None:
        arguments.append(("affine", Written("False")))
    dims = {2: 1, 3: 1, 4: 2, 5: 3}[len(x.shape)]
    layers = (layer.name,) if scale is None else (layer.name, scale.name)
    module = Module(f"nn.BatchNorm{dims}d", tuple(arguments), layer.name, "bn", layers)
    if scale is not None:
        module.tensors["weight"] = Tensor.of(scale.weights[0], "same")
        zeros = Tensor(np.zeros(x.shape[1], np.float32), scale.name, None, "zeros")
        module.tensors["bias"] = Tensor.of(scale.weights[1], "same") if len(scale.weights) > 1 else zeros
        to.done.add(scale)
    for own, data, index, kind in (
        ("running_mean", mean, 0, "batchnorm_mean"),
        ("running_var", variance, 1, "batchnorm_variance"),
    ):
        module.tensors[own] = Tensor(np.asarray(data, np.float32), layer.name, index, kind)
    tops = (scale or layer).tops
    to.add(layer, "{m0}({0})", inputs, role="light", modules=[module], tops=tops, keeps_channels=True)


def _is_affine(layer: Layer, shape: Shape) -> bool:
    """Whether a layer is a Scale with a learned factor for each channel."""
    d = layer.definition
    return (
        isinstance(d, affine.Scale)
        and len(layer.bottoms) == 1
        and canonical_axis(d.broadcast.axis, len(shape)) == 1
        and layer.weights[0].shape == shape[1:2]
        and not any(weight.owner or weight.name for weight in layer.weights)
    )


@writes(normalization.LRN)
def _lrn(to: Translation, layer: Layer, d: normalization.LRN, inputs: list[Value]) -> None:
    if d.within_channel:
        mean = f"F.avg_pool2d(torch.square({{0}}), {d.local_size}, 1, {d.local_size // 2})"
        text = f"{{0}} * (1 + {finite(d.alpha)} * {mean}) ** {finite(-d.beta)}"
    else:
        text = f"F.local_response_norm({{0}}, {d.local_size}, alpha={finite(d.alpha)}, beta={finite(d.beta)}"
        text += ")" if d.k == 1 else f", k={finite(d.k)})"
    to.add(layer, text, inputs, keeps_channels=True)
