"""Looks at the values of learned blobs: those that are not finite are refused or told, many subnormal ones are told."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, replace

import numpy as np

from caffe_port.errors import Problem, Problems, WeightValuesError
from caffe_port.layers.base import Array
from caffe_port.net import Net, Weight
from caffe_port.shapes import format_shape

__all__ = ["SUBNORMAL_SHARE", "BlobValues", "check_weight_values", "look_at"]

BLOCK = 1 << 18
"""Values looked at at once: 1 MiB of float32 stays in the processor's cache."""

SAMPLE = 1 << 16
"""Values of a blob that are looked at for subnormal ones."""

_WORTH_GIVING_BACK = 1 << 16
"""Bytes; to ask the system takes longer than to look at fewer, and there are few such blobs."""

SUBNORMAL_SHARE = 0.1
"""The share of a blob's values that may be subnormal without a note. A few are in many trained nets, as what weight
decay has left of filters that died."""

_HINT = (
    "a damaged file, or a training that diverged; to load it all the same: allow_non_finite=True, --allow-non-finite"
)

_SMALLEST_NORMAL = float(np.finfo(np.float32).smallest_normal)


@dataclass(frozen=True, slots=True)
class BlobValues:
    """What is unusual about a blob's values, once they are float32, in which Caffe computes.

    - `nan`, `positive`, `negative`: how many are NaN, +inf, -inf; `too_large`: finite in float64 only.
    - `first`: the index of the first of these in the blob's shape, None if all values are finite.
    - `subnormal`: the share of an evenly spaced sample that is subnormal: not 0, but nearer to it than 1.2e-38.
    """

    nan: int
    positive: int
    negative: int
    too_large: int
    first: tuple[int, ...] | None
    subnormal: float

    def not_finite(self) -> str:
        """What is not finite, in words; "" if all is."""
        if self.first is None:
            return ""
        counts = (
            (self.nan, "NaN"),
            (self.positive, "inf"),
            (self.negative, "-inf"),
            (self.too_large, "beyond float32"),
        )
        told = ", ".join(f"{number:,} {what}" for number, what in counts if number)
        return f"{told}, the first at {list(self.first)}"


def check_weight_values(net: Net, *, allow_non_finite: bool = False, since: Net | None = None) -> Net:
    """`net`, if all its weights are finite numbers in float32, in which Caffe computes; with a note on each learned
    blob of which a lot is subnormal.

    - `allow_non_finite`: NaN and infinities become notes too.
    - `since`: the same net before it got more weights; those that it had already are not looked at again.

    Each value is read once, a block at a time, and what was mapped of a file for it is given back: this takes no memory
    to speak of, whatever the size. A blob that layers share is told once, at its owner.
    Raises: WeightValuesError naming every layer and learned blob with NaN or infinite values.
    """
    known = set() if since is None else {id(weight.data) for weight in since.weights()}
    problems = Problems()
    notes: list[Problem] = []
    for weight in net.weights():
        if weight.data is None or id(weight.data) in known:
            continue
        found = look_at(weight.data)
        if not_finite := found.not_finite():
            text = f"{_name(weight)} has values that are not finite: {not_finite}"
            if allow_non_finite:
                notes.append(Problem(WeightValuesError, text, weight.layer))
            else:
                problems.add(WeightValuesError, text, layer=weight.layer, hint=_HINT)
        if found.subnormal > SUBNORMAL_SHARE:
            text = (
                f"{found.subnormal:.0%} of {_name(weight)} is subnormal (nearer to 0 than {_SMALLEST_NORMAL:.2g}), "
                "which OpenVINO takes for 0 and other runtimes are slower with"
            )
            notes.append(Problem(WeightValuesError, text, weight.layer))
    problems.raise_if_any()
    return replace(net, notes=(*net.notes, *notes)) if notes else net


def _name(weight: Weight) -> str:
    return f"learned blob {weight.index} ({format_shape(weight.shape)})"


def look_at(values: Array) -> BlobValues:
    """Reads the values of a blob, float32 or float64, once, a block at a time, and gives back what that maps."""
    flat = values.reshape(-1)
    mapping = _mapping_of(flat)
    step = max(1, flat.size // SAMPLE)
    counts = np.zeros(4, np.int64)
    first = -1
    sampled = subnormal = 0
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        narrow = _narrow(block)
        finite = np.isfinite(narrow)
        if not finite.all():
            if first < 0:
                first = start + int(finite.argmin())
            bad = block[~finite]
            counts += [np.isnan(bad).sum(), (bad == np.inf).sum(), (bad == -np.inf).sum(), np.isfinite(bad).sum()]
        tiny = np.abs(narrow[::step]) < _SMALLEST_NORMAL
        sampled += tiny.size
        if tiny.any():
            subnormal += np.count_nonzero(tiny & (block[::step] != 0))
        if mapping is not None and block.nbytes >= _WORTH_GIVING_BACK:
            _give_back(mapping, block)
    index = None if first < 0 else tuple(int(i) for i in np.unravel_index(first, values.shape))
    nan, positive, negative, too_large = counts.tolist()
    return BlobValues(nan, positive, negative, too_large, index, subnormal / max(1, sampled))


def _narrow(values: Array) -> Array:
    if values.dtype == np.float32:
        return values
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return values.astype(np.float32)


def _mapping_of(array: Array) -> mmap.mmap | None:
    """The mapped file that the array looks at, if it does and the system can take pages back."""
    base: object = array
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED") else None


def _give_back(mapping: mmap.mmap, values: Array) -> None:
    """Takes the pages of a mapped file under `values` out of this process; they come back when they are looked at."""
    offset = _address(values) - _address(np.frombuffer(mapping, np.uint8))
    begin = offset - offset % mmap.PAGESIZE
    mapping.madvise(mmap.MADV_DONTNEED, begin, offset + values.nbytes - begin)


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])
