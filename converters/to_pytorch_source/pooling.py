"""Pooling as a call."""

from __future__ import annotations

from caffe_port.converters.to_pytorch_source.expressions import sized
from caffe_port.converters.to_pytorch_source.graph import Op, Value
from caffe_port.converters.to_pytorch_source.translation import Translation, writes
from caffe_port.errors import UnsupportedLayer
from caffe_port.layers import pooling
from caffe_port.net import Layer


@writes(pooling.Pooling)
def _pooling(to: Translation, layer: Layer, d: pooling.Pooling, inputs: list[Value]) -> None:
    (x,) = inputs
    if d.num_tops == 2:
        raise UnsupportedLayer("Pooling with a mask as second top")
    short = "max" if d.method == "MAX" else "avg"
    if d.global_pooling:
        to.add(layer, f"F.adaptive_{short}_pool2d({{0}}, 1)", inputs, keeps_channels=True)
        return
    window = d.window(x.shape)
    arguments = [sized(window.kernel)]
    if window.stride != window.kernel or any(window.pad):
        arguments.append(sized(window.stride))
    ceil = d.round_mode == "CEIL" and window.stride != (1, 1)
    if _fits(window, ceil):
        if any(window.pad):
            arguments.append(f"padding={sized(window.pad)}")
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
        arguments, x = [sized(window.kernel), sized(window.stride)], padded
    to.add(layer, f"F.{short}_pool2d({{0}}, {', '.join(arguments)})", [x], keeps_channels=True)


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
