"""ONNX models with weights of 16 bits, or computing in float16 throughout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from caffe_port.errors import ArtifactError, MissingDependency, Problems
from caffe_port.layers.base import Array

if TYPE_CHECKING:
    import onnx

__all__ = ["KEPT_FLOAT", "KEPT_SHARE", "LARGEST", "lost_to_zero", "to_half"]

LARGEST = float(np.finfo(np.float16).max)
"""The largest value float16 holds."""

KEPT_SHARE = 0.02
"""Where weights are stored in 16 bits, the smallest constants stay float32 as long as they are together at most this
share of all values: biases, factors, and the first layers' weights, whose rounding all later layers would see."""

KEPT_FLOAT = ("Softmax", "Exp", "Log", "Softplus", "ReduceSumSquare", "ReduceL1", "ReduceSum", "ReduceMean", "LRN")
"""Operators that compute in float32 even if activations are float16: their sums or values leave its range."""


def to_half(
    model: onnx.ModelProto,
    *,
    activations: bool = False,
    calibration: Sequence[Mapping[str, Array]] = (),
) -> onnx.ModelProto:
    """`model` with weights of 16 bits; inputs and outputs stay float32 and keep their names.

    Weights are stored as float16, and a Cast behind each makes them float32 again, which a runtime does once, at
    loading: everything is computed in float32, and only the weights' rounding is lost.
    `calibration`: inputs like those the model will get. The mean error that rounded weights make of them is taken out
    of the biases of Conv and Gemm (on open_nsfw a third of the error is left).
    `activations`: everything but KEPT_FLOAT is computed in float16, for hardware that is fast at it.
    Raises: ArtifactError naming the constants that float16 cannot hold; MissingDependency.
    """
    if activations:
        _require_in_range(_floats(model), model)
        return _computing_in_half(model)
    chosen = _large(model)
    _require_in_range(chosen, model)
    names = {tensor.name for tensor in chosen}
    return _stored_small(_corrected(model, names, calibration) if calibration else model, names)


def lost_to_zero(model: onnx.ModelProto, *, activations: bool = False) -> str:
    """How many of the constants that `to_half` rounds become 0 by that, in words; "" if none does."""
    tensors = _floats(model) if activations else _large(model)
    arrays = [_array(tensor) for tensor in tensors]
    with np.errstate(over="ignore", under="ignore"):
        lost = sum(np.count_nonzero(array) - np.count_nonzero(array.astype(np.float16)) for array in arrays)
    if not lost:
        return ""
    return f"{lost:,} of {sum(array.size for array in arrays):,} weights are 0 in float16: nearer to it than 3e-08"


def _corrected(model: onnx.ModelProto, chosen: set[str], calibration: Sequence[Mapping[str, Array]]) -> onnx.ModelProto:
    """A copy with biases that make up for the rounding of the weights `chosen`, in the mean over `calibration`."""
    import onnx
    from onnx import numpy_helper

    from caffe_port.backends import run_onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in made.graph.initializer}
    readers: dict[str, int] = {}
    for node in made.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    nodes = [
        node
        for node in made.graph.node
        if node.op_type in ("Conv", "Gemm")
        and len(node.input) == 3
        and node.input[1] in chosen
        and node.input[2] in constants
        and readers[node.input[2]] == 1
        and _multiplies_rows(node)
    ]
    wanted = list(dict.fromkeys(node.input[0] for node in nodes))
    means: dict[str, Array] = {}
    for feeds in calibration:
        for name, value in run_onnx(model, feeds, wanted).items():
            mean = value.mean(axis=(0, *range(2, value.ndim)), dtype=np.float64) / len(calibration)
            means[name] = means[name] + mean if name in means else mean
    for node in nodes:
        weights = _array(constants[node.input[1]])
        # Of a Conv (M, C / group, …), of a Gemm with transB (M, C): what a mean input makes of each output's rounding.
        with np.errstate(invalid="ignore"):
            errors = weights.astype(np.float16).astype(np.float64) - weights
        rounding = _finite(errors).reshape(*weights.shape[:2], -1).sum(axis=2)
        given = means[node.input[0]].reshape(-1, weights.shape[1])
        shift = (rounding.reshape(len(given), -1, weights.shape[1]) * _finite(given)[:, None]).sum(axis=2).reshape(-1)
        bias = constants[node.input[2]]
        bias.CopyFrom(numpy_helper.from_array((_array(bias) - shift).astype(np.float32), bias.name))
    return made


def _finite(values: Array) -> Array:
    """`values` with 0 for NaN and infinities, which nothing makes up for."""
    return np.where(np.isfinite(values), values, 0)


def _multiplies_rows(node: onnx.NodeProto) -> bool:
    """Whether the weights' axis 0 is the outputs: of a Gemm only with transB and no factors."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Conv":
        return True
    plain = all(attributes[name].f == 1 for name in ("alpha", "beta") if name in attributes)
    return plain and "transB" in attributes and attributes["transB"].i == 1 and "transA" not in attributes


def _floats(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    import onnx

    return [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]


def _array(tensor: onnx.TensorProto) -> Array:
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor)


def _large(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The float constants but the smallest, which are KEPT_SHARE of all values, and the inputs' defaults."""
    given = {value.name for value in model.graph.input}
    by_size = sorted((tensor for tensor in _floats(model) if tensor.name not in given), key=_size)
    kept = KEPT_SHARE * sum(map(_size, by_size))
    while by_size and (kept := kept - _size(by_size[0])) >= 0:
        by_size = by_size[1:]
    return by_size


def _size(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims)


def _require_in_range(tensors: Sequence[onnx.TensorProto], model: onnx.ModelProto) -> None:
    problems = Problems()
    for tensor in tensors:
        # What rounds to infinity is what float16 cannot hold; infinities and NaN are the model's own.
        values = _array(tensor)
        with np.errstate(over="ignore"):
            lost = np.isinf(values.astype(np.float16)) & np.isfinite(values)
        if lost.any():
            readers = [node.name for node in model.graph.node if tensor.name in node.input]
            problems.add(
                ArtifactError,
                f"constant {tensor.name!r} of {', '.join(readers) or 'no node'} has values up to "
                f"{np.abs(values[lost]).max():.6g}; float16 ends at {LARGEST:g}",
                hint="keep the weights in float32",
            )
    problems.raise_if_any()


def _stored_small(model: onnx.ModelProto, chosen: set[str]) -> onnx.ModelProto:
    """The constants `chosen` under new names, and nodes that make them float32 under their own, so that every reader
    stays as it is."""
    import onnx
    from onnx import helper, numpy_helper

    made = onnx.ModelProto()
    made.CopyFrom(model)
    taken = {name for node in made.graph.node for name in (*node.input, *node.output, node.name)}

    def unique(wanted: str) -> str:
        while wanted in taken:
            wanted += "'"
        taken.add(wanted)
        return wanted

    nodes = []
    for tensor in made.graph.initializer:
        name = tensor.name
        if name not in chosen:
            continue
        stored = unique(f"{name}:stored")
        tensor.CopyFrom(numpy_helper.from_array(_array(tensor).astype(np.float16), stored))
        nodes.append(helper.make_node("Cast", [stored], [name], name=unique(f"{name}/Cast"), to=onnx.TensorProto.FLOAT))
    nodes += made.graph.node
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def _computing_in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
        from onnxruntime.transformers.onnx_model import OnnxModel
    except ImportError as error:
        raise MissingDependency(
            f"float16 activations need onnxruntime: pip install 'caffe_port[runtime]' ({error})"
        ) from None
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    # The converter makes a circle of an input that is given out as it comes.
    through = {value.name for value in copy.graph.input} & {value.name for value in copy.graph.output}
    for values in (copy.graph.input, copy.graph.output):
        left = [value for value in values if value.name not in through]
        del values[:]
        values.extend(left)
    made: onnx.ModelProto = convert_float_to_float16(
        copy, keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, *KEPT_FLOAT]
    )
    # The converter appends its Casts at the end.
    OnnxModel.graph_topological_sort(made.graph, is_deterministic=True)
    if through:
        # Inputs and outputs are float32 still, under their names.
        for values, wanted in ((made.graph.input, model.graph.input), (made.graph.output, model.graph.output)):
            del values[:]
            values.extend(wanted)
    return made
