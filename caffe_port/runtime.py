"""Runs a net on NumPy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from caffe_port.errors import CaffePortError, GraphError, ShapeError
from caffe_port.layers.base import Array, RunContext
from caffe_port.net import Blob, Layer, Net, Weight
from caffe_port.shapes import Shape, count, format_shape

__all__ = ["check_inputs", "last_uses", "run", "run_layer", "run_layers", "shapes_of_tops", "value_of"]

_NUMBERS = "biuf"
"""NumPy's kinds of dtype that become float32: booleans, integers, floats; no complex numbers, no text."""


def check_inputs(net: Net, inputs: Mapping[str, npt.ArrayLike], dtype: npt.DTypeLike = np.float32) -> dict[str, Array]:
    """The inputs as arrays of `dtype`.

    Raises: GraphError unless there is exactly one for each input of the net; ShapeError for what is no array of
    numbers.
    """
    real = _real(dtype)
    missing = [name for name in net.inputs if name not in inputs]
    extra = [name for name in inputs if name not in net.inputs]
    if missing or extra:
        wrong = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"not an input: {', '.join(extra)}"] * bool(extra)
        raise GraphError(f"net {net.name!r} takes {', '.join(net.inputs) or 'no inputs'}; {'; '.join(wrong)}")
    arrays = {}
    for name in net.inputs:
        try:
            given = np.asarray(inputs[name])
            if given.dtype.kind not in _NUMBERS:
                raise ShapeError(f"input {name!r} is no array of real numbers but of {given.dtype}")
            with np.errstate(over="ignore", under="ignore"):
                arrays[name] = given.astype(real, copy=False)
        except (TypeError, ValueError) as error:
            raise ShapeError(f"input {name!r} is no array of numbers: {error}") from None
    return arrays


def _real(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """The dtype to compute in. Raises GraphError if it is neither float32 nor float64."""
    try:
        real = np.dtype(dtype)
    except TypeError:
        raise GraphError(f"dtype must be float32 or float64, not {dtype!r}") from None
    if real not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise GraphError(f"dtype must be float32 or float64, not {real}")
    return real


def run(
    net: Net,
    inputs: Mapping[str, npt.ArrayLike],
    dtype: npt.DTypeLike = "float32",
    *,
    outputs: Iterable[str] | None = None,
    seed: int = 0,
) -> dict[str, Array]:
    """Runs the net and returns its blobs, each with its last value.

    `inputs`: an array for each of `net.inputs`; shapes other than the net's reshape it first, as Caffe would.
    `dtype`: float32 as Caffe computes, or float64. `outputs`: the blobs wanted (default all); with it, every other
    value is dropped as soon as no layer needs it any more. `seed`: for Dropout in TRAIN.
    Raises: GraphError for missing or unknown inputs and outputs, ShapeError for shapes that do not fit, WeightsError
    if a learned blob has no values.
    """
    arrays = check_inputs(net, inputs, dtype)
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != net.input_shapes:
        net = net.with_input_shapes(shapes)
    wanted = list(net.blobs) if outputs is None else list(outputs)
    unknown = [name for name in wanted if name not in net.blobs]
    if unknown:
        raise GraphError(f"net {net.name!r} has no blob {', '.join(map(repr, unknown))}")
    keep = {id(net.blobs[name].origin) for name in wanted}
    last_use = last_uses(net)
    values: dict[int, Array] = {}
    for position, _ in enumerate(run_layers(net, arrays, dtype, seed=seed, values=values)):
        for key in [key for key in values if last_use.get(key, -1) <= position and key not in keep]:
            del values[key]
    return {name: value_of(net.blobs[name], values) for name in wanted}


def run_layers(
    net: Net,
    inputs: Mapping[str, Array],
    dtype: npt.DTypeLike = "float32",
    *,
    seed: int = 0,
    values: dict[int, Array] | None = None,
    new_weights: dict[str, dict[int, Array]] | None = None,
) -> Iterator[tuple[Layer, dict[Blob, Array]]]:
    """Runs the net layer by layer: yields each layer and its tops' values right after it ran.

    `inputs` are of `dtype` and of the net's shapes. `values` (by id of the Blob) holds what is alive; a caller may
    delete from it what nobody needs any more. `new_weights` receives, by layer name and index, learned blobs that the
    pass moved (BatchNorm in TRAIN).
    """
    net.require_weights()
    real = _real(dtype)
    rng = np.random.default_rng(seed)
    values = {} if values is None else values
    for layer in net.layers:
        if layer.definition.is_input:
            tops = [inputs[blob.name] for blob in layer.tops]
            _check_values(layer, tops, tuple(blob.shape for blob in layer.tops))
        else:
            bottoms = [value_of(blob, values) for blob in layer.bottoms]
            weights = [_weight(weight, real) for weight in layer.weights]
            tops, moved = run_layer(layer, bottoms, weights, rng=rng, dtype=real)
            if new_weights is not None and moved:
                new_weights[layer.name] = moved
        values.update((id(blob), value) for blob, value in zip(layer.tops, tops, strict=True))
        yield layer, dict(zip(layer.tops, tops, strict=True))


def run_layer(
    layer: Layer,
    bottoms: Sequence[Array],
    weights: Sequence[Array],
    *,
    rng: np.random.Generator,
    dtype: npt.DTypeLike = "float32",
) -> tuple[list[Array], dict[int, Array]]:
    """Runs one layer that is no input: its tops' values, and by index the learned blobs that it moved.

    `bottoms` and `weights` are of `dtype`, and are never written to; a top may be a view of a bottom. Bottoms may have
    other shapes than the layer's own.
    Raises: ShapeError where they do not fit, and what the layer itself raises, with the layer's name.
    """
    try:
        expected = shapes_of_tops(layer, [bottom.shape for bottom in bottoms])
        context = RunContext(phase=layer.phase, dtype=dtype, rng=rng, in_place=layer.is_in_place, top_shapes=expected)
        if _computes_nothing(layer, expected):
            tops = [np.empty(shape, dtype) for shape in expected]
        else:
            # As Caffe does: what overflows is infinite, what has no value is NaN, and nobody is told.
            with np.errstate(all="ignore"):
                tops = layer.definition.forward(context, bottoms, weights)
    except CaffePortError as error:
        raise type(error)(f"layer {layer.name!r}: {error}") from error
    except MemoryError:
        raise CaffePortError(f"layer {layer.name!r}: not enough memory for this batch") from None
    except ValueError as error:
        if all(bottom.size for bottom in bottoms):
            raise
        raise ShapeError(f"layer {layer.name!r}: {layer.type} needs values, and a bottom has none: {error}") from None
    _check_values(layer, tops, expected)
    return tops, context.new_weights


def _computes_nothing(layer: Layer, tops: Sequence[Shape]) -> bool:
    """Whether all tops are known to be empty; what a Python layer does beside its tops is not."""
    own = layer.definition.data_dependent or layer.type == "Python"
    return bool(tops) and not own and not any(map(count, tops))


def _check_values(layer: Layer, tops: Sequence[Array], expected: Sequence[Shape]) -> None:
    for blob, value, shape in zip(layer.tops, tops, expected, strict=True):
        if not layer.definition.fits(shape, value.shape):
            raise ShapeError(
                f"layer {layer.name!r} ({layer.type}) made {blob.name!r} {format_shape(value.shape)}, "
                f"not {format_shape(shape)}: a fault of caffe_port"
            )


def shapes_of_tops(layer: Layer, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
    """The tops' shapes for bottoms of these shapes, which may be others than the layer's own.

    Raises: ShapeError where they do not fit the layer or its learned blobs.
    """
    shapes = list(bottoms)
    if shapes == [blob.shape for blob in layer.bottoms]:
        return tuple(top.shape for top in layer.tops)
    if [spec.shape for spec in layer.definition.weight_specs(shapes)] != [weight.shape for weight in layer.weights]:
        raise ShapeError(f"bottoms {', '.join(map(format_shape, shapes))} do not fit the learned blobs")
    return tuple(layer.definition.top_shapes(shapes))


def _weight(weight: Weight, dtype: np.dtype[Any]) -> Array:
    assert weight.data is not None
    # Values viewed in a mapped file may lie unaligned; BLAS would copy them for each call.
    with np.errstate(over="ignore", under="ignore"):
        return np.require(weight.data, dtype=dtype, requirements=["A"])


def value_of(blob: Blob, values: Mapping[int, Array]) -> Array:
    """The value of a blob among the living `values`; that of an alias in its own shape."""
    if blob.alias_of is None:
        return values[id(blob)]
    value = values[id(blob.origin)]
    if value.size == count(blob.shape):
        return value.reshape(blob.shape)
    # A data-dependent layer changed how many items there are.
    return value.reshape(-1, *blob.shape[1:])


def last_uses(net: Net) -> dict[int, int]:
    """By id of the Blob that holds the value: position of the last layer that reads it."""
    uses: dict[int, int] = {}
    for position, layer in enumerate(net.layers):
        for blob in layer.bottoms:
            uses[id(blob.origin)] = position
    return uses
