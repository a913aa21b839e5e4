"""PyTorch → Net: the weights of a module that was made from the net, perhaps trained since. Needs no PyTorch itself."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe_port.converters.to_pytorch.names import child_names, learned_names
from caffe_port.errors import MissingDependency, Problems, WeightsError
from caffe_port.layers.base import Array
from caffe_port.layers.normalization import BatchNorm
from caffe_port.net import Layer, Net, Weight
from caffe_port.reading import open_regular, parse_json
from caffe_port.shapes import format_shape
from caffe_port.weight_values import check_weight_values
from caffe_port.weights import same_bits, targets_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BlobTable", "read_safetensors", "with_state_dict"]

BlobTable = Mapping[str, Mapping[str, Any]]
"""For each key of a state dict the learned blob it is: `{"layer": name, "blob": index, "as": how}`.

`how` is `same` (axes of one element may be more or fewer), `transposed` (of a matrix), `batchnorm_mean` and
`batchnorm_variance` (nn.BatchNorm's running statistics), or `zeros`: a bias that PyTorch's module has and Caffe's layer
has not (`blob` is None), which must have stayed 0.
"""

_METADATA = "caffe_port.blobs"
_STATISTICS = ("batchnorm_mean", "batchnorm_variance")
_HOWS = ("same", "transposed", "zeros", *_STATISTICS)

_DTYPES: Mapping[str, str] = dict(
    zip(
        ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"),
        ("<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "i1", "<u8", "<u4", "<u2", "u1", "?"),
        strict=True,
    )
)
"""What safetensors calls NumPy's dtypes."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A key of the state dict and the learned blob it is, None for `zeros`."""

    key: str
    layer: Layer
    weight: Weight | None
    how: str

    @property
    def owner(self) -> Weight | None:
        return self.weight and (self.weight.owner or self.weight)


def with_state_dict(
    net: Net, state: Mapping[str, Tensor | Array], blobs: BlobTable | None = None, *, allow_non_finite: bool = False
) -> Net:
    """`net` with the weights that a PyTorch module has.

    - `state`: the module's state dict, of tensors or arrays of any floating-point type. BatchNorm's counters
      (`num_batches_tracked`) are not looked at. Of a blob that layers share one key will do.
    - `blobs`: which learned blob each key is, for a module of the source that `to_pytorch_source` writes; it stands in
      that source's safetensors file (`read_safetensors`). None: the state dict of `to_pytorch(net)`.

    Values are kept in the precision that the net's learned blobs have, float32 where there are none. What is the same
    as the net's own stays the net's own, to the last bit, so that a module that was not changed gives the net again;
    nn.BatchNorm's running statistics too, which are Caffe's sums divided by its factor. Changed ones become the
    statistics themselves with the factor 1. `allow_non_finite`: NaN and infinity are notes of the net, not an error.
    Raises: WeightsError with all that does not fit: keys that are missing or belong to nothing, other shapes, what is
    no floating-point number or too large for float32, different values for a shared blob, NaN or infinite ones;
    UnsupportedLayer.
    """
    net.require_known()
    problems = Problems()
    entries = list(_module_entries(net) if blobs is None else _table_entries(net, blobs, problems))
    problems.raise_if_any()
    # Their factors have no key.
    running = [entry.layer for entry in entries if entry.how == _STATISTICS[0]]
    reader = _Reader(net, running, problems)
    expected = {entry.key for entry in entries}
    present = {id(entry.owner) for entry in entries if entry.owner is not None and entry.key in state}
    extra = [key for key in state if key not in expected and not key.endswith("num_batches_tracked")]
    for entry in entries:
        if entry.key in state:
            reader.take(entry, state[entry.key])
    for entry in entries:
        if entry.key not in state and id(entry.owner) not in present:
            shape = f" ({format_shape(entry.weight.shape)})" if entry.weight is not None else ""
            problems.add(WeightsError, f"{entry.key!r}{shape} is not in the state dict", layer=entry.layer.name)
    known = {id(entry.owner) for entry in entries} | {id(layer.weights[2]) for layer in running}
    for weight in net.weights():
        if id(weight) not in known:
            shape = format_shape(weight.shape)
            problems.add(WeightsError, f"no key is learned blob {weight.index} ({shape})", layer=weight.layer)
    for key in extra:
        problems.add(WeightsError, f"{key!r} in the state dict is no learned blob of the net")
    if problems and extra:
        problems.found[-1] = replace(problems.found[-1], hint=_prefix_hint(expected, state))
    problems.raise_if_any()
    return check_weight_values(net.with_values(reader.values()), allow_non_finite=allow_non_finite, since=net)


def _prefix_hint(expected: set[str], state: Mapping[str, Any]) -> str:
    """What to do where a wrapper's name stands before each key (`module.`, `_orig_mod.`)."""
    one = min(expected, default="")
    for prefix in sorted(key.removesuffix(one) for key in state if key.endswith(one)):
        if prefix and all(prefix + key in state for key in expected):
            return f"all keys begin with {prefix!r}: give the state dict of the module inside"
    return ""


def _module_entries(net: Net) -> Iterator[_Entry]:
    """The state dict of `to_pytorch(net)`."""
    for layer, child in child_names(net).items():
        for name, weight in zip(learned_names(layer), layer.weights, strict=True):
            yield _Entry(f"{child}.{name}", layer, weight, "same")


def _table_entries(net: Net, blobs: BlobTable, problems: Problems) -> Iterator[_Entry]:
    layers = targets_of(net)
    hows: dict[str, list[str]] = {}
    for key, place in blobs.items():
        name, index, how = (place.get(part) for part in ("layer", "blob", "as"))
        layer = layers.get(str(name))
        if layer is None:
            problems.add(WeightsError, f"{key!r} is of a layer that net {net.name!r} does not have", layer=str(name))
        elif how not in _HOWS:
            problems.add(WeightsError, f"{key!r} is {how!r} of it, which nobody here knows", layer=layer.name)
        elif how == "zeros":
            yield _Entry(key, layer, None, how)
        elif not isinstance(index, int) or not 0 <= index < len(layer.weights):
            message = f"{key!r} is learned blob {index}; {layer.type} has {len(layer.weights)} here"
            problems.add(WeightsError, message, layer=layer.name)
        elif how in _STATISTICS and (not isinstance(layer.definition, BatchNorm) or index != _STATISTICS.index(how)):
            problems.add(WeightsError, f"{key!r} is no {how} ({layer.type}, blob {index})", layer=layer.name)
        elif how in _STATISTICS and any(weight.name for weight in layer.weights):
            problems.add(WeightsError, f"{key!r} is {how} of a BatchNorm whose blobs are shared", layer=layer.name)
        else:
            hows.setdefault(layer.name, []).append(str(how))
            yield _Entry(key, layer, layer.weights[index], str(how))
    for name, own in hows.items():
        if set(own) & set(_STATISTICS) and sorted(own) != list(_STATISTICS):
            problems.add(WeightsError, f"needs one key for each running statistic, it has {', '.join(own)}", layer=name)


class _Reader:
    """What a state dict gives, learned blob by learned blob."""

    def __init__(self, net: Net, statistics: Sequence[Layer], problems: Problems) -> None:
        self.problems = problems
        self.given: dict[int, tuple[str, Array]] = {}
        self.weights = {id(weight): weight for weight in net.weights()}
        self.statistics = statistics

    def take(self, entry: _Entry, value: Any) -> None:
        """Reads the value of a key; what is wrong with it goes to the problems."""

        def wrong(message: str, hint: str = "") -> None:
            self.problems.add(WeightsError, f"{entry.key!r} {message}", layer=entry.layer.name, hint=hint)

        array, fault = _numbers(value)
        if fault:
            wrong(fault)
            return
        weight, owner = entry.weight, entry.owner
        if weight is None or owner is None:
            if np.any(array != 0):
                wrong("is not zero any more, and Caffe's layer has no such blob", "it takes `bias_term: true`")
            return
        shape = weight.shape[::-1] if entry.how == "transposed" else weight.shape
        if [dim for dim in array.shape if dim != 1] != [dim for dim in shape if dim != 1]:
            wrong(f"is {format_shape(array.shape)}, learned blob {weight.index} needs {format_shape(shape)}")
            return
        array = array.reshape(shape)
        array = (array.T if entry.how == "transposed" else array).reshape(owner.shape)
        wide = np.float64 if owner.data is not None and owner.data.dtype == np.float64 else np.float32
        if array.dtype.itemsize > np.dtype(wide).itemsize:
            with np.errstate(over="ignore"):
                narrow = array.astype(wide)
            if np.any(np.isinf(narrow) & np.isfinite(array)):
                wrong("has values beyond what float32 holds")
            array = narrow
        elif array.dtype.itemsize < 4:
            array = array.astype(np.float32)
        key, earlier = self.given.setdefault(id(owner), (entry.key, array))
        if earlier is not array and not np.array_equal(earlier, array, equal_nan=True):
            wrong(f"has other values than {key!r}; the net has one learned blob for both")

    def values(self) -> dict[int, Array]:
        """The learned blobs that are others than the net's, by id of the owner."""
        renewed: dict[int, Array] = {}
        for layer in self.statistics:
            mean, variance, factor = (weight.owner or weight for weight in layer.weights)
            given = (self.given.pop(id(mean))[1], self.given.pop(id(variance))[1])
            if not _are_own_statistics(layer, given):
                values = zip((mean, variance, factor), (*given, np.ones(factor.shape)), strict=True)
                renewed.update({id(owner): _frozen(value, owner) for owner, value in values})
        for key, (_, array) in self.given.items():
            weight = self.weights.get(key)
            if weight is not None and (weight.data is None or not same_bits(weight.data.astype(array.dtype), array)):
                renewed[key] = _frozen(array, weight)
        return renewed


def _are_own_statistics(layer: Layer, given: Sequence[Array]) -> bool:
    """Whether mean and variance are what the net's own blobs give: in float32 as Caffe does it, or rounded once."""
    if not isinstance(layer.definition, BatchNorm) or any(weight.data is None for weight in layer.weights):
        return False
    for dtype in (np.float32, np.float64):
        own = layer.definition.stored_statistics([np.asarray(weight.data, dtype) for weight in layer.weights])
        if all(same_bits(a.astype(np.float32).astype(b.dtype), b) for a, b in zip(own, given, strict=True)):
            return True
    return False


def _numbers(value: Any) -> tuple[Array, str]:
    """A tensor or an array as an array of floating-point numbers that NumPy has, and what is wrong with it, if so."""
    if hasattr(value, "is_floating_point"):
        if not value.is_floating_point():
            return _NOTHING, f"is {value.dtype}; learned blobs are floating-point numbers"
        try:
            value = value.detach().cpu()
            wide = str(value.dtype) in ("torch.float16", "torch.float32", "torch.float64")
            return np.asarray((value if wide else value.float()).numpy()), ""
        except (NotImplementedError, RuntimeError, TypeError) as error:
            return _NOTHING, f"cannot be read: {error}"
    array = np.asarray(value)
    if array.dtype.name.startswith(("bfloat16", "float8")):
        array = array.astype(np.float32)
    if array.dtype.kind != "f":
        return _NOTHING, f"is {array.dtype}; learned blobs are floating-point numbers"
    return array, ""


_NOTHING: Array = np.zeros(0, np.float32)


def _frozen(values: Array, weight: Weight) -> Array:
    dtype = np.float32 if weight.data is None else weight.data.dtype
    # A copy in any case: a tensor's memory is changed by the next step of training.
    array = np.array(values, dtype, order="C").reshape(weight.shape)
    array.flags.writeable = False
    return array


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, dict[str, Any]] | None]:
    """The tensors of a .safetensors file as arrays, bfloat16 as float32, and the BlobTable in it, None without one.

    Raises: WeightsError for a file that is missing, damaged or no safetensors file, a PyTorch pickle above all, and for
    types that NumPy does not have; MissingDependency.
    """
    name = os.fspath(path)
    try:
        from safetensors import SafetensorError, deserialize
    except ImportError as error:
        raise MissingDependency(f"safetensors is needed for this: pip install safetensors ({error})") from None
    try:
        with open_regular(path) as stream:
            data = stream.read()
    except OSError as error:
        raise WeightsError(f"{name}: cannot be read: {error.strerror or error}") from None
    if data[8:9] != b"{":
        if data.startswith((b"PK\x03\x04", b"\x80")):
            raise WeightsError(
                f"{name}: is a PyTorch archive, which may run code as it is loaded and is not read here; save the "
                "weights with `safetensors.torch.save_model(module, 'weights.safetensors')`"
            )
        raise WeightsError(f"{name}: is no safetensors file")
    try:
        stored = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise WeightsError(f"{name}: cannot be read: {error}; the file is damaged") from None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    problems = Problems()
    tensors = {}
    for key, entry in stored:
        kind, raw = entry["dtype"], entry["data"]
        if kind == "BF16":
            flat = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        elif kind in _DTYPES:
            flat = np.frombuffer(raw, _DTYPES[kind])
        else:
            problems.add(WeightsError, f"{name}: {key!r} is {kind}, which NumPy does not have")
            continue
        try:
            tensors[key] = flat.reshape(entry["shape"])
        except (ValueError, OverflowError) as error:
            # More axes than NumPy has, or a dim of 0 beside one beyond its integers.
            problems.add(WeightsError, f"{name}: {key!r} has a shape that NumPy does not have: {error}")
    problems.raise_if_any()
    return tensors, _table(name, (header.get("__metadata__") or {}).get(_METADATA))


def _table(name: str, text: str | None) -> dict[str, dict[str, Any]] | None:
    if text is None:
        return None
    try:
        table = parse_json(text)
    except ValueError as error:
        raise WeightsError(f"{name}: its table of learned blobs cannot be read: {error}") from None
    if not isinstance(table, dict) or not all(isinstance(entry, dict) for entry in table.values()):
        raise WeightsError(f"{name}: its table of learned blobs is no table")
    return table
