"""The values a blob starts with when no file brings them (FillerParameter).

The distributions are Caffe's; the stream of random numbers is NumPy's, so single values are others than Caffe would
draw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from caffe_port.errors import ShapeError, UnsupportedParameter
from caffe_port.shapes import Shape, count, format_shape

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FILLER_TYPES", "Filler", "bilinear"]

FILLER_TYPES = ("bilinear", "constant", "gaussian", "msra", "positive_unitball", "uniform", "xavier")


@dataclass(frozen=True, slots=True)
class Filler:
    """One FillerParameter.

    constant: `value`. uniform: [low, high). gaussian: mean and std; with sparse >= 0 a value is kept with probability
    sparse / dim 0, else 0. positive_unitball: uniform in [0, 1), each item of axis 0 divided by its sum. xavier:
    uniform in ±sqrt(3/n). msra: gaussian of std sqrt(2/n). bilinear: the kernel that upsamples. n is the fan_in, the
    fan_out, or their mean, as variance_norm says.
    Source: BVLC/caffe @ 9b89154, filler.hpp.
    """

    type: str = "constant"
    value: float = 0.0
    low: float = 0.0
    high: float = 1.0
    mean: float = 0.0
    std: float = 1.0
    sparse: int = -1
    variance_norm: str = "FAN_IN"

    @classmethod
    def parse(cls, message: Any, default_fill: float = 0.0) -> Self:
        """Reads a FillerParameter; None gives a constant `default_fill`.

        Raises: UnsupportedParameter for an unknown type, and for sparse with a type other than gaussian.
        """
        if message is None:
            return cls(value=default_fill)
        if message.type not in FILLER_TYPES:
            raise UnsupportedParameter(f"unknown filler {message.type!r}; known: {', '.join(FILLER_TYPES)}")
        if message.sparse != -1 and message.type != "gaussian":
            raise UnsupportedParameter(f"sparse is for the gaussian filler, not for {message.type}")
        if message.sparse < -1:
            raise UnsupportedParameter(f"sparse must be -1 (off) or more, it is {message.sparse}")
        return cls(
            type=str(message.type),
            value=float(message.value),
            low=float(message.min),
            high=float(message.max),
            mean=float(message.mean),
            std=float(message.std),
            sparse=int(message.sparse),
            variance_norm=("FAN_IN", "FAN_OUT", "AVERAGE")[message.variance_norm],
        )

    @property
    def is_random(self) -> bool:
        """Whether two fills differ."""
        return self.type not in ("constant", "bilinear")

    def check(self, shape: Shape) -> None:
        """Raises ShapeError if Caffe would not fill a blob of this shape."""
        if count(shape) == 0:
            raise ShapeError(f"a filler needs a blob with values, not {format_shape(shape)}")
        if self.type == "bilinear" and (len(shape) != 4 or shape[2] != shape[3]):
            raise ShapeError(f"the bilinear filler needs 4 axes and a square kernel, not {format_shape(shape)}")
        if not shape and (self.type in ("xavier", "msra") or self.sparse >= 0):
            raise ShapeError(f"the {self.type} filler needs a blob of at least 1 axis")

    def fan(self, shape: Shape) -> float:
        """The n of xavier and msra."""
        fan_in = count(shape) // shape[0]
        fan_out = count(shape) // shape[1] if len(shape) > 1 else count(shape)
        return {"FAN_IN": float(fan_in), "FAN_OUT": float(fan_out), "AVERAGE": (fan_in + fan_out) / 2}[
            self.variance_norm
        ]

    def bounds(self, shape: Shape) -> tuple[float, float]:
        """Lower and upper bound of the uniform distribution that uniform, xavier and positive_unitball draw from."""
        if self.type == "uniform":
            return self.low, self.high
        if self.type == "xavier":
            scale = math.sqrt(3 / self.fan(shape))
            return -scale, scale
        return 0.0, 1.0

    def normal(self, shape: Shape) -> tuple[float, float]:
        """Mean and standard deviation of the normal distribution that gaussian and msra draw from."""
        if self.type == "msra":
            return 0.0, math.sqrt(2 / self.fan(shape))
        return self.mean, self.std

    def keep_probability(self, shape: Shape) -> float:
        """The share of values that a sparse gaussian leaves; 1 where there is no sparse."""
        return min(self.sparse / shape[0], 1.0) if self.sparse >= 0 else 1.0

    def fill(self, shape: Shape, rng: np.random.Generator, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """A new blob of `shape`. Raises: ShapeError as `check` does."""
        self.check(shape)
        if self.type == "constant":
            return np.full(shape, self.value, dtype=dtype)
        if self.type == "bilinear":
            return bilinear(shape).astype(dtype)
        if self.type in ("gaussian", "msra"):
            values = rng.normal(*self.normal(shape), size=shape)
            if self.sparse >= 0:
                values *= rng.random(shape) < self.keep_probability(shape)
        else:
            values = rng.uniform(*self.bounds(shape), size=shape)
            if self.type == "positive_unitball":
                items = values.reshape(shape[0] if shape else 1, -1)
                values = (items / items.sum(axis=1, keepdims=True)).reshape(shape)
        return np.asarray(values, dtype=dtype)


def bilinear(shape: Shape) -> npt.NDArray[np.float64]:
    """The kernel of bilinear upsampling (k, k), the same for each filter of `shape` (…, k, k)."""
    size = shape[-1]
    factor = math.ceil(size / 2)
    centre = (size - 1) / (2 * factor)
    weights = 1 - np.abs(np.arange(size) / factor - centre)
    kernels: npt.NDArray[np.float64] = np.broadcast_to(np.outer(weights, weights), shape).copy()
    return kernels
