"""Layers of forks that normalize: Normalize, and BN in its several kinds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe_port.errors import ShapeError
from caffe_port.layers.base import Array, Count, LayerDef, LayerSpec, RunContext, WeightSpec, refuse
from caffe_port.proto.dialects import Meaning, meaning
from caffe_port.registry import layer
from caffe_port.shapes import Shape, format_shape, legacy_dim

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["BN", "Normalize"]

NORMALIZE = {
    "scaled": Meaning(
        "division by the norm over channels (or the whole item) and a learned scale",
        ("weiliu89/caffe", "chuanqi305/ssd", "NVIDIA/caffe", "jolibrain/caffe", "eric612/MobileNet-YOLO"),
    ),
    "unit": Meaning("division by the norm, without a scale", ("happynear/caffe-windows",)),
}


@layer("Normalize")
@dataclass(frozen=True, slots=True)
class Normalize(LayerDef):
    """x / sqrt(sum of x^2 + eps) * scale. The sum goes over the channels of each cell, or with across_spatial over the
    whole item.

    Shapes: (N, C, …) of up to 4 axes → the same. Weights: scale (C,), or a scalar () if channel_shared; 1 if no filler
    is given.
    Raises: UnsupportedParameter for happynear's layer of this name, which has no scale; ShapeError for a bottom of
    fewer than 2 axes or more than 4.
    Source: weiliu89/caffe (ssd), normalize_layer.cpp; recorded.
    """

    across_spatial: bool
    channel_shared: bool
    eps: float
    filler: Any

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("norm_param")
        written = any(params.has(name) for name in ("across_spatial", "channel_shared", "eps", "scale_filler"))
        if not written and meaning("a Normalize layer without norm_param", NORMALIZE) == "unit":
            raise refuse("happynear's Normalize, without a learned scale, is not known here")
        return cls(
            params.flag("across_spatial"),
            params.flag("channel_shared"),
            params.real("eps"),
            params.raw("scale_filler") if params.has("scale_filler") else None,
        )

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (x,) = bottoms
        if not 2 <= len(x) <= 4:
            raise ShapeError(f"Normalize needs a bottom of 2 to 4 axes, it is {format_shape(x)}")
        return [x]

    def weight_specs(self, bottoms: Sequence[Shape]) -> list[WeightSpec]:
        shape = () if self.channel_shared else (bottoms[0][1],)
        return [WeightSpec(shape, self.filler, default_fill=1.0)]

    def axes(self, num_axes: int) -> tuple[int, ...]:
        """The axes that the sum goes over."""
        return tuple(range(1, num_axes)) if self.across_spatial else (1,)

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        squares = np.square(x).sum(axis=self.axes(x.ndim), keepdims=True, dtype=x.dtype)
        scale = weights[0].reshape(() if self.channel_shared else (-1, *[1] * (x.ndim - 2)))
        return [x / np.sqrt(squares + x.dtype.type(self.eps)) * scale]


SCALE_AND_SHIFT = {
    "segnet": Meaning(
        "two learned blobs, and the batch's statistics unless bn_mode is INFERENCE",
        ("alexgkendall/caffe-segnet", "TimoSaemann/caffe-segnet-cudnn5", "HyeonwooNoh/caffe"),
    ),
    "averaged": Meaning(
        "four learned blobs, moving averages among them, used in TEST if moving_average is set",
        ("tianzhi0549/CTPN", "tonyyangToBeNo1/colorization_flow_caffe", "ducha-aiki/caffe"),
    ),
}
BARE = {
    **SCALE_AND_SHIFT,
    "pspnet": Meaning(
        "four learned blobs, moving averages among them, used in TEST",
        ("hszhao/PSPNet", "yjxiong/caffe", "happynear/caffe-windows"),
    ),
}


@layer("BN")
@dataclass(frozen=True, slots=True)
class BN(LayerDef):
    """Normalization by channel with scale and shift, (x - mean) / sqrt(var + eps) * scale + shift, as three forks do.

    - SegNet's (`segnet`): mean and variance are the batch's, in TEST too; with bn_mode INFERENCE there are none, only
      x * scale + shift. eps 1e-9. Weights: scale, shift (1, C, 1, 1). top[1] and top[2] are the batch's mean and
      variance (1, C, 1, 1).
    - PSPNet's (`pspnet`): in TEST, or if frozen, mean and variance are learned blobs, else the batch's, and the blobs
      move: blob * momentum + statistic * (1 - momentum). Weights: slope, bias, mean, variance (1, C).
    - `averaged`: as PSPNet's, but moving averages are used in TEST only with moving_average; eps is var_eps, momentum
      1 - decay. Weights (1, C, 1, 1).

    Which one follows from the fields of bn_param: bn_mode is SegNet's; slope_filler, bias_filler, frozen, momentum and
    eps are PSPNet's; var_eps, decay and moving_average the third's. scale_filler and shift_filler are in the first and
    the third, where the net's other fields decide, else SegNet's is taken.
    Shapes: (N, C, H, W), missing axes as 1 → the same, of SegNet's with 4 axes. Raises: UnsupportedParameter for fields
    of different forks, and where nothing tells which one; ShapeError for more than 4 axes.
    Source: alexgkendall/caffe-segnet, hszhao/PSPNet and yjxiong/caffe, tianzhi0549/CTPN: bn_layer.cpp.
    """

    tops = Count(1, 3)
    in_place = "ok"

    kind: str
    uses_batch: bool
    """Whether mean and variance are the batch's."""
    eps: float = 1e-9
    momentum: float = 0.0
    scale_filler: Any = None
    shift_filler: Any = None
    moves: bool = False
    frozen: bool = False
    num_tops: int = 1

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("bn_param")
        params.inert("engine")
        given = {name for name in _FIELDS if params.has(name)}
        kind = _kind(given)
        if spec.num_tops > 1 and kind != "segnet":
            raise refuse(f"{spec.num_tops} tops; only SegNet's BN has more than one")

        def filler(name: str) -> Any:
            return params.raw(name) if name in given else None

        test = spec.phase == "TEST"
        if kind == "segnet":
            return cls(
                kind,
                params.enum("bn_mode") == "LEARN",
                scale_filler=filler("scale_filler"),
                shift_filler=filler("shift_filler"),
                num_tops=spec.num_tops,
            )
        if kind == "pspnet":
            frozen = params.flag("frozen")
            return cls(
                kind,
                not (test or frozen),
                params.real("eps"),
                params.real("momentum"),
                filler("slope_filler"),
                filler("bias_filler"),
                moves=not (test or frozen),
                frozen=frozen,
            )
        if params.real("axis") != 1:
            raise refuse(f"axis {params.real('axis'):g}: only 1 is known here")
        return cls(
            kind,
            not (test and params.flag("moving_average")),
            params.real("var_eps"),
            1 - params.real("decay"),
            filler("scale_filler"),
            filler("shift_filler"),
            moves=not test,
        )

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (x,) = bottoms
        four = tuple(legacy_dim(x, axis) for axis in range(4))
        channels = (1, four[1], 1, 1)
        return [four if self.kind == "segnet" else x, *[channels] * (self.num_tops - 1)]

    def weight_specs(self, bottoms: Sequence[Shape]) -> list[WeightSpec]:
        channels = legacy_dim(bottoms[0], 1)
        shape = (1, channels) if self.kind == "pspnet" else (1, channels, 1, 1)
        specs = [WeightSpec(shape, self.scale_filler), WeightSpec(shape, self.shift_filler)]
        if self.kind != "segnet":
            specs += [WeightSpec(shape), WeightSpec(shape, default_fill=1.0 if self.frozen else 0.0)]
        return specs

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (shape, *_) = self.top_shapes([bottoms[0].shape])
        x = bottoms[0].reshape(shape)
        column = (1, -1, *[1] * (x.ndim - 2))
        scale, shift = (weight.reshape(column) for weight in weights[:2])
        statistics: list[Array] = []
        if self.uses_batch:
            axes = (0, *range(2, x.ndim))
            mean = x.mean(axis=axes, keepdims=True, dtype=x.dtype)
            variance = np.square(x - mean).mean(axis=axes, keepdims=True, dtype=x.dtype)
            statistics = [mean.reshape(1, -1, 1, 1), variance.reshape(1, -1, 1, 1)]
            if self.moves:
                keep = x.dtype.type(self.momentum)
                for i, statistic in enumerate((mean, variance), 2):
                    ctx.new_weights[i] = weights[i] * keep + statistic.reshape(weights[i].shape) * (1 - keep)
        elif self.kind == "segnet":
            if self.num_tops > 1:
                # The fork leaves their memory as it is, which is zeros at first.
                statistics = [np.zeros((1, shape[1], 1, 1), x.dtype)] * 2
            return [x * scale + shift, *statistics[: self.num_tops - 1]]
        else:
            mean, variance = (weight.reshape(column) for weight in weights[2:])
        top = (x - mean) / np.sqrt(variance + x.dtype.type(self.eps)) * scale + shift
        return [top, *statistics[: self.num_tops - 1]]


_FIELDS = {
    "bn_mode": "segnet",
    "slope_filler": "pspnet",
    "bias_filler": "pspnet",
    "frozen": "pspnet",
    "momentum": "pspnet",
    "eps": "pspnet",
    "var_eps": "averaged",
    "decay": "averaged",
    "moving_average": "averaged",
    "axis": "averaged",
    "scale_filler": "",
    "shift_filler": "",
}
"""The fields of bn_param by the kind that alone has them; "" for those of `segnet` and `averaged`."""


def _kind(given: set[str]) -> str:
    kinds = {_FIELDS[name] for name in given}
    certain = kinds - {""}
    if len(certain) > 1 or (certain == {"pspnet"} and "" in kinds):
        raise refuse(f"bn_param has fields of different forks: {', '.join(sorted(given))}")
    if certain:
        return certain.pop()
    return (
        meaning("a BN layer with scale_filler and shift_filler alone", SCALE_AND_SHIFT, "segnet")
        if kinds
        else meaning("a BN layer without bn_param", BARE)
    )
