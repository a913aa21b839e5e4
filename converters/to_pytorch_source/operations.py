"""Layers as calls: what stands in `__init__` and in `forward` for each, in PyTorch's own parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from caffe_port.converters.to_pytorch_source.names import number
from caffe_port.errors import Problems, UnsupportedLayer
from caffe_port.layers import (
    activation,
    affine,
    arrangement,
    convolution,
    dense,
    loss,
    mobile,
    normalization,
    pooling,
    reduction,
    selection,
    structure,
    upsampling,
)
from caffe_port.layers.base import LayerDef
from caffe_port.net import Blob, Layer, Net, Weight
from caffe_port.shapes import Shape, canonical_axis

__all__ = [
    "Argument",
    "Channels",
    "Graph",
    "Module",
    "Op",
    "Stride",
    "Tensor",
    "Value",
    "Written",
    "literal",
    "to_graph",
]

Array = npt.NDArray[Any]
FLT_MAX = float(np.finfo(np.float32).max)
ELSEWHERE = "convert with the target pytorch, which has every type"


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """What a variable of `forward` holds: the value of `blob`, in its shape."""

    shape: Shape
    blob: Blob | None = None


@dataclass(frozen=True, slots=True)
class Channels:
    """An argument that is the number of channels of a value."""

    of: Value
    number: int


@dataclass(frozen=True, slots=True)
class Stride:
    """An argument that may differ between the uses of a block."""

    number: int


@dataclass(frozen=True, slots=True)
class Written:
    """An argument as source text."""

    text: str


Argument = Channels | Stride | Written | int


def literal(argument: Argument) -> str:
    """An argument as source text, where it is no parameter of a block."""
    if isinstance(argument, Written):
        return argument.text
    return str(argument if isinstance(argument, int) else argument.number)


@dataclass(frozen=True, slots=True)
class Tensor:
    """An entry of the state dict, and the learned blob it comes from (see docs/pytorch-source.md for `kind`)."""

    data: Array
    layer: str
    blob: int | None
    kind: str


@dataclass(slots=True, eq=False)
class Module:
    """An attribute of a module: what makes it, and what it holds.

    `tensors` and `hooks` go by path below the attribute; the empty path is the attribute itself. A hook is a path where
    a submodule gives exactly the value of a blob.
    """

    constructor: str
    arguments: tuple[tuple[str, Argument], ...]
    name: str
    """Caffe's, or one made from it."""
    kind: str
    """What it is, in a word that can begin an identifier."""
    layers: tuple[str, ...] = ()
    """Names of the layers it stands for."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    hooks: dict[str, Blob] = field(default_factory=dict)
    children: tuple[tuple[str, Module], ...] = ()
    """Of a Sequential, instead of arguments."""
    tied: tuple[tuple[str, Module, str], ...] = ()
    """Own parameter, module and parameter that it is the same as."""
    comment: str = ""


@dataclass(slots=True, eq=False)
class Op:
    """A call in `forward`. In `expression`, {0} … are the inputs and {m0} … the modules."""

    expression: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    role: str = "heavy"
    """heavy: begins a statement; light: goes around what makes its input; view: goes into what takes its output."""
    modules: tuple[Module, ...] = ()
    layers: tuple[str, ...] = ()
    """Names of the layers that only the expression stands for."""
    keeps_channels: bool = False
    comment: str = ""

    @property
    def is_operator(self) -> bool:
        """Whether the expression is no call, so that it needs brackets inside another one that is not."""
        return not self.expression.endswith(")") or self.expression.startswith("(")


@dataclass(slots=True, eq=False)
class Graph:
    """A net in calls. Values are given by position, and taken by name of the blob."""

    inputs: tuple[Value, ...]
    outputs: tuple[tuple[str, Value], ...]
    ops: list[Op]


def to_graph(net: Net) -> Graph:
    """The calls of a net. Raises: UnsupportedLayer naming every layer that there is no plain PyTorch for."""
    translation = _Translation(net)
    problems = Problems()
    for layer in net.layers:
        if layer in translation.done or layer.definition.is_input:
            continue
        inputs = [translation.value(blob) for blob in layer.bottoms]
        try:
            write = _WRITERS.get(type(layer.definition))
            if write is None:
                raise UnsupportedLayer(f"{layer.type} has no plain form in PyTorch here")
            write(translation, layer, layer.definition, inputs)
        except UnsupportedLayer as error:
            problems.add(UnsupportedLayer, str(error), layer=layer.name, location=layer.location, hint=ELSEWHERE)
            for top in layer.tops:
                translation.values[top] = Value(top.shape)
    problems.raise_if_any()
    outputs = tuple((blob.name, translation.value(blob)) for blob in net.output_blobs)
    return Graph(tuple(translation.values[blob] for blob in net.input_blobs), outputs, translation.ops)


class _Translation:
    """The state of a walk over a net."""

    def __init__(self, net: Net) -> None:
        self.values = {blob: Value(blob.shape, blob) for blob in net.input_blobs}
        self.ops: list[Op] = []
        self.done: set[Layer] = set()
        self._modules: dict[tuple[int, ...], Module] = {}
        self._holders: dict[int, tuple[Module, str]] = {}
        self._readers: dict[Blob, list[Layer]] = {}
        for layer in net.layers:
            for blob in layer.bottoms:
                self._readers.setdefault(blob.origin, []).append(layer)
        self._taken = {blob.origin for blob in net.output_blobs}

    def value(self, blob: Blob) -> Value:
        """The value of a blob; one that shares overwritten memory is that value in another shape."""
        if blob not in self.values:
            assert blob.alias_of is not None
            source = self.value(blob.alias_of)
            dims = "".join(f", {dim}" for dim in blob.shape[1:])
            self.values[blob] = Value(blob.shape)
            self.ops.append(Op(f"{{0}}.reshape(-1{dims})", (source,), (self.values[blob],), "view"))
        return self.values[blob]

    def add(
        self,
        layer: Layer,
        expression: str,
        inputs: Sequence[Value],
        *,
        role: str = "heavy",
        modules: Sequence[Module] = (),
        tops: Sequence[Blob] | None = None,
        keeps_channels: bool = False,
    ) -> None:
        """A call that makes `tops` (the layer's)."""
        made = layer.tops if tops is None else tops
        outputs = tuple(self.values.setdefault(top, Value(top.shape, top)) for top in made)
        layers = () if modules else (layer.name,)
        op = Op(expression, tuple(inputs), outputs, role, tuple(modules), layers, keeps_channels)
        if expression == "{m0}({0})" and len(outputs) == 1:
            (module,) = modules
            # Not where it is called twice: which of the values would it be?
            if any(module in earlier.modules for earlier in self.ops):
                module.hooks.clear()
            elif outputs[0].blob is not None:
                module.hooks[""] = outputs[0].blob
        self.ops.append(op)

    def module(
        self,
        layer: Layer,
        constructor: str,
        arguments: Sequence[tuple[str, Argument]],
        kind: str,
        blobs: Sequence[tuple[str, Weight, str]],
        suffix: str = "",
    ) -> Module:
        """A module with the learned blobs `blobs` (own name, blob, kind); an earlier one, if it shares all of them."""
        key = tuple(id(weight.owner or weight) for _, weight, _ in blobs)
        earlier = self._modules.get(key) if any(weight.owner for _, weight, _ in blobs) else None
        if earlier is not None and _made_alike(earlier, constructor, arguments):
            earlier.layers = (*earlier.layers, layer.name)
            return earlier
        name = f"{layer.name}_{suffix}" if suffix else layer.name
        module = Module(constructor, tuple(arguments), name, kind, (layer.name,))
        tied = []
        for own, weight, how in blobs:
            module.tensors[own] = _tensor(weight, how)
            if weight.owner is not None:
                holder, other = self._holders[id(weight.owner)]
                if holder.tensors[other].data.shape != module.tensors[own].data.shape:
                    raise UnsupportedLayer("shares a learned blob in another shape")
                tied.append((own, holder, other))
            self._holders.setdefault(id(weight.owner or weight), (module, own))
        module.tied = tuple(tied)
        self._modules.setdefault(key, module)
        return module

    def only_reader(self, blob: Blob) -> Layer | None:
        """The one layer that reads a blob, if no other and no caller does."""
        readers = self._readers.get(blob, [])
        return readers[0] if len(readers) == 1 and blob not in self._taken else None


def _made_alike(module: Module, constructor: str, arguments: Sequence[tuple[str, Argument]]) -> bool:
    def plain(of: Sequence[tuple[str, Argument]]) -> list[tuple[str, object]]:
        return [(key, value if isinstance(value, int | Written) else value.number) for key, value in of]

    return module.constructor == constructor and plain(module.arguments) == plain(arguments)


def _tensor(weight: Weight, kind: str) -> Tensor:
    owner = weight.owner or weight
    data = np.asarray(weight.data, np.float32)
    if kind == "transposed":
        data = data.T
    return Tensor(data, owner.layer, owner.index, kind)


_Writer = Callable[[_Translation, Layer, Any, list[Value]], None]
_W = TypeVar("_W", bound=_Writer)
_WRITERS: dict[type[LayerDef], _Writer] = {}


def _writes(definition: type[LayerDef]) -> Callable[[_W], _W]:
    def register(write: _W) -> _W:
        _WRITERS[definition] = write
        return write

    return register


# Activations


def _activation(definition: type[LayerDef], expression: Callable[[Any], str]) -> None:
    def write(to: _Translation, layer: Layer, d: Any, inputs: list[Value]) -> None:
        to.add(layer, expression(d), inputs, role="light", keeps_channels=True)

    _WRITERS[definition] = write


def _finite(value: float) -> str:
    if not math.isfinite(value):
        raise UnsupportedLayer(f"a parameter is {value}")
    return number(value)


def _power(d: activation.Power) -> str:
    if d.constant is not None:
        return f"torch.full_like({{0}}, {_finite(d.constant)})"
    inner = _linear(d.scale, d.shift)
    if d.power == 1:
        return inner
    base = inner if inner == "{0}" else f"({inner})"
    return f"torch.square({inner})" if d.power == 2 else f"{base} ** {_finite(d.power)}"


def _linear(scale: float, shift: float) -> str:
    text = "{0}" if scale == 1 else f"{_finite(scale)} * {{0}}"
    if shift == 0:
        return text
    return f"{text} {'-' if shift < 0 else '+'} {_finite(abs(shift))}"


def _times(scale: float, text: str) -> str:
    return text if scale == 1 else f"{_finite(scale)} * {text}"


_activation(
    activation.ReLU,
    lambda d: f"F.leaky_relu({{0}}, {_finite(d.negative_slope)})" if d.negative_slope else "F.relu({0})",
)
_activation(activation.Sigmoid, lambda d: "torch.sigmoid({0})")
_activation(activation.TanH, lambda d: "torch.tanh({0})")
_activation(activation.AbsVal, lambda d: "torch.abs({0})")
# Linear from the threshold on, where the rest is beyond what float32 and float64 resolve.
_activation(activation.BNLL, lambda d: "F.softplus({0}, threshold=50)")
_activation(activation.ELU, lambda d: "F.elu({0})" if d.alpha == 1 else f"F.elu({{0}}, {_finite(d.alpha)})")
_activation(
    activation.Swish, lambda d: "F.silu({0})" if d.beta == 1 else f"{{0}} * torch.sigmoid({_finite(d.beta)} * {{0}})"
)
_activation(activation.Clip, lambda d: f"torch.clamp({{0}}, {_finite(d.low)}, {_finite(d.high)})")
_activation(activation.Threshold, lambda d: f"({{0}} > {_finite(d.threshold)}).to({{0}}.dtype)")
_activation(activation.Exp, lambda d: _times(d.outer_scale, f"torch.exp({_linear(d.inner_scale, 0)})"))
_activation(activation.Log, lambda d: _times(d.outer_scale, f"torch.log({_linear(d.scale, d.shift)})"))
_activation(activation.Power, _power)
_activation(mobile.ReLU6, lambda d: "F.relu6({0})")
_activation(mobile.Mish, lambda d: "F.mish({0})")


@_writes(activation.PReLU)
def _prelu(to: _Translation, layer: Layer, d: activation.PReLU, inputs: list[Value]) -> None:
    arguments = [] if d.channel_shared else [("", Channels(inputs[0], inputs[0].shape[1]))]
    module = to.module(layer, "nn.PReLU", arguments, "prelu", [("weight", layer.weights[0], "same")])
    if d.channel_shared:
        module.tensors["weight"] = _reshaped(module.tensors["weight"], (1,))
    to.add(layer, "{m0}({0})", inputs, role="light", modules=[module], keeps_channels=True)


def _reshaped(tensor: Tensor, shape: Shape) -> Tensor:
    return Tensor(tensor.data.reshape(shape), tensor.layer, tensor.blob, tensor.kind)


@_writes(activation.Dropout)
def _dropout(to: _Translation, layer: Layer, d: activation.Dropout, inputs: list[Value]) -> None:
    to.values[layer.tops[0]] = inputs[0]


@_writes(structure.Split)
def _split(to: _Translation, layer: Layer, d: structure.Split, inputs: list[Value]) -> None:
    to.values.update(dict.fromkeys(layer.tops, inputs[0]))


@_writes(structure.Silence)
def _silence(to: _Translation, layer: Layer, d: structure.Silence, inputs: list[Value]) -> None:
    """Nothing: it only takes a value."""


# Convolution, dense layers


def _size(values: Shape) -> Written | int:
    return values[0] if len(set(values)) == 1 else Written(f"({', '.join(map(str, values))})")


def _window(window: convolution.Window, pad: bool = True) -> list[tuple[str, Argument]]:
    stride = Stride(window.stride[0]) if len(set(window.stride)) == 1 else _size(window.stride)
    arguments: list[tuple[str, Argument]] = [("", _size(window.kernel)), ("stride", stride)]
    if pad and any(window.pad):
        arguments.append(("padding", _size(window.pad)))
    if any(dilation != 1 for dilation in window.dilation):
        arguments.append(("dilation", _size(window.dilation)))
    return arguments


def _convolved(
    to: _Translation, layer: Layer, d: convolution.Convolution, inputs: list[Value], name: str, kind: str, pad: bool
) -> None:
    window, channels = d.window(inputs[0].shape), inputs[0].shape[1]
    blobs = [(own, weight, "same") for own, weight in zip(("weight", "bias"), layer.weights, strict=False)]
    output = to.values[layer.tops[0]] = Value(layer.tops[0].shape, layer.tops[0])
    arguments: list[tuple[str, Argument]] = [
        ("", Channels(inputs[0], channels)),
        ("", Channels(output, d.num_output)),
        *_window(window, pad),
    ]
    if d.group == channels > 1:
        arguments.append(("groups", Channels(inputs[0], channels)))
    elif d.group > 1:
        arguments.append(("groups", d.group))
    if not d.bias_term:
        arguments.append(("bias", Written("False")))
    module = to.module(layer, f"nn.{name}{window.axes}d", arguments, kind, blobs)
    # Of several bottoms each goes through the same module.
    for x, top in zip(inputs, layer.tops, strict=True):
        to.add(layer, "{m0}({0})", [x], modules=[module], tops=[top])


def _check_convolution(layer: Layer, d: convolution.Convolution) -> convolution.Window:
    shape = layer.bottoms[0].shape
    window = d.window(shape)
    if d.channel_axis(shape) != 1 or not 1 <= window.axes <= 3:
        raise UnsupportedLayer(f"channels on axis {d.channel_axis(shape)} and {window.axes} spatial axes")
    return window


@_writes(mobile.ConvolutionDepthwise)
@_writes(mobile.DepthwiseConvolution)
@_writes(convolution.Convolution)
def _convolution(to: _Translation, layer: Layer, d: convolution.Convolution, inputs: list[Value]) -> None:
    window = _check_convolution(layer, d)
    after = window.pad_after(inputs[0].shape[2:])
    if after == window.pad:
        _convolved(to, layer, d, inputs, "Conv", "conv", pad=True)
        return
    padded = []
    for x in inputs:
        sides = [side for pair in zip(reversed(window.pad), reversed(after), strict=True) for side in pair]
        sizes = zip(x.shape[2:], window.pad, after, strict=True)
        value = Value((*x.shape[:2], *(size + one + other for size, one, other in sizes)))
        text = f"F.pad({{0}}, ({', '.join(map(str, sides))}))"
        to.ops.append(Op(text, (x,), (value,), layers=(layer.name,), keeps_channels=True))
        padded.append(value)
    _convolved(to, layer, d, padded, "Conv", "conv", pad=False)


@_writes(convolution.Deconvolution)
def _deconvolution(to: _Translation, layer: Layer, d: convolution.Deconvolution, inputs: list[Value]) -> None:
    _check_convolution(layer, d)
    _convolved(to, layer, d, inputs, "ConvTranspose", "deconv", pad=True)


def _flattened(to: _Translation, x: Value, start: int, layers: tuple[str, ...] = (), blob: Blob | None = None) -> Value:
    """x with one axis for all from `start` on."""
    shape = (*x.shape[:start], math.prod(x.shape[start:]))
    if len(shape) == len(x.shape) and not layers:
        return x
    value = Value(shape, blob)
    to.ops.append(Op(f"torch.flatten({{0}}, {start})", (x,), (value,), "view", layers=layers))
    return value


@_writes(dense.InnerProduct)
def _inner_product(to: _Translation, layer: Layer, d: dense.InnerProduct, inputs: list[Value]) -> None:
    x = _flattened(to, inputs[0], d.start(inputs[0].shape))
    output = to.values[layer.tops[0]] = Value(layer.tops[0].shape, layer.tops[0])
    kinds = ("transposed" if d.transpose else "same", "same")
    blobs = list(zip(("weight", "bias"), layer.weights, kinds, strict=False))
    arguments: list[tuple[str, Argument]] = [("", x.shape[-1]), ("", d.num_output)]
    if len(x.shape) == 2:
        arguments = [("", Channels(x, x.shape[1])), ("", Channels(output, d.num_output))]
    if not d.bias_term:
        arguments.append(("bias", Written("False")))
    module = to.module(layer, "nn.Linear", arguments, "fc", blobs)
    to.add(layer, "{m0}({0})", [x], modules=[module])


@_writes(dense.Embed)
def _embed(to: _Translation, layer: Layer, d: dense.Embed, inputs: list[Value]) -> None:
    module = to.module(
        layer, "nn.Embedding", [("", d.input_dim), ("", d.num_output)], "embed", [("weight", layer.weights[0], "same")]
    )
    modules, text = [module], "{m0}({0}.long())"
    if d.bias_term:
        modules.append(_parameter(to, layer, 1, (d.num_output,), [d.num_output], "bias"))
        text += " + {m1}"
    to.add(layer, text, inputs, modules=modules)


# Normalization, Scale and Bias


def _parameter(
    to: _Translation, layer: Layer, index: int, shape: Shape, dims: Sequence[Argument], suffix: str
) -> Module:
    """A learned blob as an attribute, in a shape that broadcasts."""
    arguments = [("", dim) for dim in dims]
    make = "torch.zeros" if suffix == "bias" else "torch.ones"
    module = to.module(layer, make, arguments, "scale", [("", layer.weights[index], "same")], suffix)
    if module.tensors[""].data.shape != shape:
        module.tensors[""] = _reshaped(module.tensors[""], shape)
    return module


@_writes(normalization.BatchNorm)
def _batch_norm(to: _Translation, layer: Layer, d: normalization.BatchNorm, inputs: list[Value]) -> None:
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
        arguments.append(("eps", Written(_finite(d.eps))))
    if scale is None:
        arguments.append(("affine", Written("False")))
    dims = {2: 1, 3: 1, 4: 2, 5: 3}[len(x.shape)]
    layers = (layer.name,) if scale is None else (layer.name, scale.name)
    module = Module(f"nn.BatchNorm{dims}d", tuple(arguments), layer.name, "bn", layers)
    if scale is not None:
        module.tensors["weight"] = _tensor(scale.weights[0], "same")
        zeros = Tensor(np.zeros(x.shape[1], np.float32), scale.name, None, "zeros")
        module.tensors["bias"] = _tensor(scale.weights[1], "same") if len(scale.weights) > 1 else zeros
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


def _column(x: Value, place: affine.Broadcast, operand: Shape) -> tuple[Shape, list[Argument]]:
    """The operand's shape with 1s behind, so that it broadcasts; its dims as arguments."""
    column = place.column(x.shape, operand)
    start = canonical_axis(place.axis, len(x.shape)) if operand else 0
    shape = column[start:] if operand else ()
    dims: list[Argument] = list(shape)
    if start == 1 and len(operand) == 1:
        dims[0] = Channels(x, x.shape[1])
    return shape, dims


def _operand(x: Value, y: Value, place: affine.Broadcast) -> str:
    """The second bottom, {1}, so that it broadcasts."""
    behind = len(x.shape) - canonical_axis(place.axis, len(x.shape)) - len(y.shape) if y.shape else 0
    return f"{{1}}[{', '.join(['...', *['None'] * behind])}]" if behind else "{1}"


@_writes(affine.Scale)
def _scale(to: _Translation, layer: Layer, d: affine.Scale, inputs: list[Value]) -> None:
    shape, dims = _column(inputs[0], d.broadcast, d.broadcast.operand_shape([value.shape for value in inputs]))
    modules = []
    if len(inputs) == 1:
        modules.append(_parameter(to, layer, 0, shape, dims, "weight"))
        text = "{0} * {m0}"
    else:
        text = f"{{0}} * {_operand(inputs[0], inputs[1], d.broadcast)}"
    if d.bias_term:
        text += f" + {{m{len(modules)}}}"
        modules.append(_parameter(to, layer, len(layer.weights) - 1, shape, dims, "bias"))
    to.add(layer, text, inputs, modules=modules, keeps_channels=len(inputs) == 1)


@_writes(affine.Bias)
def _bias(to: _Translation, layer: Layer, d: affine.Bias, inputs: list[Value]) -> None:
    if len(inputs) == 2:
        to.add(layer, f"{{0}} + {_operand(inputs[0], inputs[1], d.broadcast)}", inputs)
        return
    shape, dims = _column(inputs[0], d.broadcast, d.broadcast.operand_shape([inputs[0].shape]))
    module = _parameter(to, layer, 0, shape, dims, "bias")
    to.add(layer, "{0} + {m0}", inputs, modules=[module], keeps_channels=True)


@_writes(normalization.LRN)
def _lrn(to: _Translation, layer: Layer, d: normalization.LRN, inputs: list[Value]) -> None:
    if d.within_channel:
        mean = f"F.avg_pool2d(torch.square({{0}}), {d.local_size}, 1, {d.local_size // 2})"
        text = f"{{0}} * (1 + {_finite(d.alpha)} * {mean}) ** {_finite(-d.beta)}"
    else:
        text = f"F.local_response_norm({{0}}, {d.local_size}, alpha={_finite(d.alpha)}, beta={_finite(d.beta)}"
        text += ")" if d.k == 1 else f", k={_finite(d.k)})"
    to.add(layer, text, inputs, keeps_channels=True)


# Pooling


@_writes(pooling.Pooling)
def _pooling(to: _Translation, layer: Layer, d: pooling.Pooling, inputs: list[Value]) -> None:
    (x,) = inputs
    if d.num_tops == 2:
        raise UnsupportedLayer("Pooling with a mask as second top")
    short = "max" if d.method == "MAX" else "avg"
    if d.global_pooling:
        to.add(layer, f"F.adaptive_{short}_pool2d({{0}}, 1)", inputs, keeps_channels=True)
        return
    window = d.window(x.shape)
    arguments = [_text(window.kernel)]
    if window.stride != window.kernel or any(window.pad):
        arguments.append(_text(window.stride))
    ceil = d.round_mode == "CEIL" and window.stride != (1, 1)
    if _fits(window, ceil):
        if any(window.pad):
            arguments.append(f"padding={_text(window.pad)}")
        if ceil:
            arguments.append("ceil_mode=True")
    elif d.method == "AVE":
        raise UnsupportedLayer("average pooling whose last windows lie past what PyTorch pads")
    else:
        # Caffe's windows reach further past the input than PyTorch's may; a window without a cell gives -FLT_MAX.
        (top, left), (bottom, right) = window.pad, window.pad_after
        sides = f"({left}, {right}, {top}, {bottom})"
        padded = Value((*x.shape[:2], x.shape[2] + top + bottom, x.shape[3] + left + right))
        text = f"F.pad({{0}}, {sides}, value=torch.finfo(torch.float32).min)"
        to.ops.append(Op(text, (x,), (padded,), layers=(layer.name,), keeps_channels=True))
        arguments, x = [_text(window.kernel), _text(window.stride)], padded
    to.add(layer, f"F.{short}_pool2d({{0}}, {', '.join(arguments)})", [x], keeps_channels=True)


def _text(values: Shape) -> str:
    size = _size(values)
    return size.text if isinstance(size, Written) else str(size)


def _fits(window: pooling.PoolWindow, ceil: bool) -> bool:
    """Whether PyTorch takes the pad and makes an output of the same size; its cells and divisors are Caffe's then."""
    for size, kernel, stride, pad, wanted in zip(
        window.input, window.kernel, window.stride, window.pad, window.output, strict=True
    ):
        room = size + 2 * pad - kernel
        steps = -(-room // stride) if ceil else room // stride
        output = steps if ceil and steps * stride >= size + pad else steps + 1
        if 2 * pad > kernel or output != wanted or room < 0:
            return False
    return True


# Joining, cutting, reshaping


@_writes(structure.Concat)
def _concat(to: _Translation, layer: Layer, d: structure.Concat, inputs: list[Value]) -> None:
    if len(inputs) == 1:
        to.values[layer.tops[0]] = inputs[0]
        return
    listed = ", ".join(f"{{{i}}}" for i in range(len(inputs)))
    to.add(layer, f"torch.cat([{listed}], dim={canonical_axis(d.axis, len(inputs[0].shape))})", inputs)


@_writes(arrangement.Transpose)
@_writes(arrangement.Permute)
def _permute(to: _Translation, layer: Layer, d: arrangement.Permute, inputs: list[Value]) -> None:
    to.add(layer, f"{{0}}.permute({', '.join(map(str, d.axes(len(inputs[0].shape))))})", inputs)


@_writes(arrangement.Reverse)
def _reverse(to: _Translation, layer: Layer, d: arrangement.Reverse, inputs: list[Value]) -> None:
    to.add(layer, f"torch.flip({{0}}, dims=[{d.axis}])", inputs)


@_writes(arrangement.ShuffleChannel)
def _shuffle(to: _Translation, layer: Layer, d: arrangement.ShuffleChannel, inputs: list[Value]) -> None:
    to.add(layer, f"F.channel_shuffle({{0}}, {d.group})", inputs, keeps_channels=True)


@_writes(arrangement.Padding)
def _padding(to: _Translation, layer: Layer, d: arrangement.Padding, inputs: list[Value]) -> None:
    sides = ", ".join(map(str, (d.before, d.after) * 2))
    to.add(layer, f"F.pad({{0}}, ({sides}))", inputs, keeps_channels=True)


@_writes(upsampling.Interp)
def _interp(to: _Translation, layer: Layer, d: upsampling.Interp, inputs: list[Value]) -> None:
    before, after = d.pad
    height, width = (f"{-before}:{side + after}" for side in inputs[0].shape[2:])
    cut = f"{{0}}[:, :, {height}, {width}]" if any(d.pad) else "{0}"
    size = ", ".join(map(str, layer.tops[0].shape[2:]))
    text = f'F.interpolate({cut}, size=({size}), mode="bilinear", align_corners=True)'
    to.add(layer, text, inputs, keeps_channels=True)


@_writes(upsampling.Upsample)
def _upsample(to: _Translation, layer: Layer, d: upsampling.Upsample, inputs: list[Value]) -> None:
    if d.masked:
        raise UnsupportedLayer("Upsample with a mask")
    text = f'F.interpolate({{0}}, scale_factor=({d.scale[0]}, {d.scale[1]}), mode="nearest")'
    to.add(layer, text, inputs, keeps_channels=True)


@_writes(mobile.Axpy)
def _axpy(to: _Translation, layer: Layer, d: mobile.Axpy, inputs: list[Value]) -> None:
    if len(inputs[0].shape) != len(inputs[1].shape):
        raise UnsupportedLayer("Axpy with a factor of 2 axes")
    to.add(layer, "{0} * {1} + {2}", inputs)


@_writes(structure.Eltwise)
def _eltwise(to: _Translation, layer: Layer, d: structure.Eltwise, inputs: list[Value]) -> None:
    if layer.is_in_place and d.operation != "PROD":
        raise UnsupportedLayer(f"Eltwise {d.operation} in place, by which Caffe loses the first bottom")
    slots = [f"{{{i}}}" for i in range(len(inputs))]
    if d.operation == "PROD":
        text = " * ".join(slots)
    elif d.operation == "MAX":
        text = slots[0]
        for slot in slots[1:]:
            text = f"torch.maximum({text}, {slot})"
    else:
        text = ""
        for factor, slot in zip(d.coefficients(len(inputs)), slots, strict=True):
            term = slot if abs(factor) == 1 else f"{_finite(abs(factor))} * {slot}"
            if not text:
                text = f"-{term}" if factor < 0 else term
            else:
                text = f"{text} {'-' if factor < 0 else '+'} {term}"
    to.add(layer, text, inputs, keeps_channels=True)


@_writes(structure.Flatten)
def _flatten(to: _Translation, layer: Layer, d: structure.Flatten, inputs: list[Value]) -> None:
    (x,), axes = inputs, len(inputs[0].shape)
    start, end = canonical_axis(d.axis, axes), canonical_axis(d.end_axis, axes)
    behind = "" if end == axes - 1 else f", {end}"
    to.add(layer, f"torch.flatten({{0}}, {start}{behind})", [x], role="view")


@_writes(structure.Reshape)
def _reshape(to: _Translation, layer: Layer, d: structure.Reshape, inputs: list[Value]) -> None:
    (x,) = inputs
    top = layer.tops[0].shape
    start, end = d.replaced(x.shape)
    dims = [x.shape[start + i] if dim == 0 else dim for i, dim in enumerate(d.dims)]
    copied = start > 0 or (bool(d.dims) and d.dims[0] == 0)
    if copied and 0 not in top[1:]:
        # Axis 0 stays, whatever it is; the others are known.
        if len(top) == 2 and len(x.shape) > 2:
            text = "torch.flatten({0}, 1)"
        else:
            text = f"{{0}}.reshape({', '.join(map(str, (-1, *top[1:])))})"
    else:
        whole = [*x.shape[:start], *dims, *x.shape[end:]]
        text = f"{{0}}.reshape({', '.join(map(str, whole)) or '()'})"
    to.add(layer, text, inputs, role="view")


@_writes(selection.Slice)
def _slice(to: _Translation, layer: Layer, d: selection.Slice, inputs: list[Value]) -> None:
    axis, sizes = canonical_axis(d.axis, len(inputs[0].shape)), d.sizes(inputs[0].shape)
    if len(sizes) == 1:
        to.values[layer.tops[0]] = inputs[0]
    elif not d.points:
        to.add(layer, f"torch.chunk({{0}}, {len(sizes)}, dim={axis})", inputs)
    else:
        to.add(layer, f"torch.split({{0}}, [{', '.join(map(str, sizes))}], dim={axis})", inputs)


@_writes(selection.Crop)
def _crop(to: _Translation, layer: Layer, d: selection.Crop, inputs: list[Value]) -> None:
    starts, axis = d.starts(inputs[0].shape), canonical_axis(d.axis, len(inputs[0].shape))
    cuts = []
    for i, start in enumerate(starts):
        size = f"{{1}}.shape[{i}]"
        cuts.append(":" if i < axis else f"{start} : {start} + {size}" if start else f": {size}")
    to.add(layer, f"{{0}}[{', '.join(cuts)}]", inputs)


@_writes(selection.Tile)
def _tile(to: _Translation, layer: Layer, d: selection.Tile, inputs: list[Value]) -> None:
    to.add(layer, f"{{0}}.repeat({', '.join(map(str, d.repeats(inputs[0].shape)))})", inputs)


@_writes(reduction.Reduction)
def _reduction(to: _Translation, layer: Layer, d: reduction.Reduction, inputs: list[Value]) -> None:
    axis = canonical_axis(d.axis, len(inputs[0].shape))
    whole = f"torch.flatten({{0}}, {axis})"
    rows = {"ASUM": f"torch.abs({whole})", "SUMSQ": f"torch.square({whole})"}.get(d.operation, whole)
    text = f"torch.{'mean' if d.operation == 'MEAN' else 'sum'}({rows}, dim=-1)"
    to.add(layer, _times(d.coeff, text), inputs)


@_writes(loss.Softmax)
def _softmax(to: _Translation, layer: Layer, d: loss.Softmax, inputs: list[Value]) -> None:
    axis = canonical_axis(d.axis, len(inputs[0].shape))
    to.add(layer, f"F.softmax({{0}}, dim={axis})", inputs, keeps_channels=True)
