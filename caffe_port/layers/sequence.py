"""Layers of forks for sequences: Lstm, ContinuationIndicator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe_port.errors import ShapeError
from caffe_port.layers.activation import sigmoid
from caffe_port.layers.base import Array, Count, LayerDef, LayerSpec, RunContext, WeightSpec, refuse
from caffe_port.proto.dialects import Meaning, meaning
from caffe_port.registry import layer
from caffe_port.shapes import Shape, count, format_shape

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ContinuationIndicator", "Lstm"]

ROWS = {
    "rows": Meaning("axis 0 of the bottom is time and streams together, batch_size streams", ("junhyukoh/caffe-lstm",)),
    "axes": Meaning("axis 0 of the bottom is time, axis 1 the streams", ("tianzhi0549/CTPN",)),
}


@layer("Lstm")
@dataclass(frozen=True, slots=True)
class Lstm(LayerDef):
    """The LSTM of caffe-lstm, unrolled over time; every sequence starts from zeros.

    c = f c_prev + sig(i) tanh(g), h = sig(o) tanh(c), gates i, f, o, g. bottom[1], `clip`, says with 0 where a sequence
    starts anew: there f is 0 and h_prev counts for nothing. In caffe-lstm h_prev is multiplied with it, in CTPN's copy
    only its being 0 matters. Where clip is given the forks carry the state over to the next run; here a run starts from
    zeros, as their first does.
    Shapes: caffe-lstm's: (T * N, …), clip of T * N elements → (T * N, num_output), N being lstm_param.batch_size.
    CTPN's: (T, N, …), clip (T * N,) → (T, N, num_output). Weights: (4H, D), (4H, H), (4H,).
    Raises: UnsupportedParameter without num_output; ShapeError where shapes do not fit.
    Source: junhyukoh/caffe-lstm and tianzhi0549/CTPN, lstm_layer.cpp.
    """

    bottoms = Count(1, 2)

    num_output: int
    streams: int | None
    """N of caffe-lstm's form; None: axis 1 is."""
    weight_filler: Any
    bias_filler: Any

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("lstm_param")
        # Clips gradients, no value.
        params.inert("clipping_threshold")
        num_output, streams = params.integer("num_output"), params.integer("batch_size")
        if num_output <= 0 or streams <= 0:
            raise refuse("num_output and batch_size must be positive")
        rows = params.has("batch_size") or meaning("the bottom of an Lstm layer", ROWS, "rows") == "rows"
        return cls(num_output, streams if rows else None, params.raw("weight_filler"), params.raw("bias_filler"))

    def steps(self, bottom: Shape) -> Shape:
        """(T, N, D) of a bottom. Raises ShapeError if it has none."""
        if self.streams is None:
            if len(bottom) < 2:
                raise ShapeError(f"Lstm needs a bottom (time steps, streams, …), it is {format_shape(bottom)}")
            return (*bottom[:2], count(bottom, 2))
        if not bottom or bottom[0] % self.streams:
            raise ShapeError(
                f"batch_size {self.streams} must divide axis 0 of the bottom, it is {format_shape(bottom)}"
            )
        return bottom[0] // self.streams, self.streams, count(bottom, 1)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        steps, streams, _ = self.steps(bottoms[0])
        if len(bottoms) == 2 and count(bottoms[1]) != steps * streams:
            raise ShapeError(
                f"bottom[1] must have {steps * streams} elements, one a time step and stream, it is "
                f"{format_shape(bottoms[1])}"
            )
        first = (steps, streams) if self.streams is None else (steps * streams,)
        return [(*first, self.num_output)]

    def weight_specs(self, bottoms: Sequence[Shape]) -> list[WeightSpec]:
        rows, size = 4 * self.num_output, self.steps(bottoms[0])[2]
        return [
            WeightSpec((rows, size), self.weight_filler),
            WeightSpec((rows, self.num_output), self.weight_filler),
            WeightSpec((rows,), self.bias_filler),
        ]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        x = bottoms[0]
        steps, streams, size = self.steps(x.shape)
        terms = (x.reshape(-1, size) @ weights[0].T + weights[2]).reshape(steps, streams, -1)
        clip: Array = np.ones((steps, streams, 1), x.dtype)
        if len(bottoms) == 2:
            clip = bottoms[1].reshape(steps, streams, 1)
        if self.streams is None:
            clip = (clip != 0).astype(x.dtype)
        hidden = cell = np.zeros((streams, self.num_output), x.dtype)
        outputs = []
        for step, goes_on in zip(terms, clip, strict=True):
            gates = step + (hidden * goes_on) @ weights[1].T
            i, f, o = (sigmoid(gate) for gate in np.split(gates, 4, axis=1)[:3])
            cell = np.where(goes_on == 0, 0, f) * cell + i * np.tanh(gates[:, 3 * self.num_output :])
            hidden = o * np.tanh(cell)
            outputs.append(hidden)
        return [np.stack(outputs).reshape(self.top_shapes([x.shape])[0])]

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        steps, streams, size = self.steps(bottoms[0])
        return steps * streams * 4 * self.num_output * (size + self.num_output)


@layer("ContinuationIndicator")
@dataclass(frozen=True, slots=True)
class ContinuationIndicator(LayerDef):
    """0 for the first time step and 1 for all others: the `cont` of an LSTM whose sequences all start at once.

    Shapes: nothing → (time_step, batch_size). Raises: UnsupportedParameter unless both are positive.
    Source: yalecyu/crnn.caffe and intel/caffe, continuation_indicator_layer.cpp.
    """

    bottoms = Count(0, 0)

    steps: int
    streams: int

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("continuation_indicator_param")
        steps, streams = params.integer("time_step"), params.integer("batch_size")
        if steps <= 0 or streams <= 0:
            raise refuse("time_step and batch_size must be given and positive")
        return cls(steps, streams)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [(self.steps, self.streams)]

    def values(self, dtype: Any) -> Array:
        """The top."""
        top = np.ones((self.steps, self.streams), dtype)
        top[0] = 0
        return top

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        return [self.values(ctx.dtype)]
