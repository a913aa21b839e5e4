"""Static int8 quantization of an ONNX model: signed weights per channel, unsigned activations, in QDQ form.

onnxruntime's own quantizer writes the model. What is done around it, because its calibrations lose more:

- A range is the one with the least error, not the extremes: rare large values are clipped.
- The means that quantizing shifts are put back into the biases, layer after layer (Nagel et al., Data-Free Quantization
  Through Weight Equalization and Bias Correction, 2019; here with measured means).
- What only makes the outputs of the model (a Softmax, say) stays float: an int8 probability has 256 values.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe_port.errors import ArtifactError, GraphError
from caffe_port.layers.base import Array
from caffe_port.sessions import make_session

if TYPE_CHECKING:
    import onnx

__all__ = ["MULTIPLYING", "Error", "Quantized", "quantize"]

MULTIPLYING = ("Conv", "Gemm", "MatMul")
"""The operators quantizing is for: nearly all of a net's arithmetic and weights."""

ALONG = (
    *("Add", "Clip", "Concat", "Flatten", "LeakyRelu", "MaxPool"),
    *("Relu", "Reshape", "Squeeze", "Transpose", "Unsqueeze"),
)
"""Further operators that are quantized, so that int8 values stay int8 between those of MULTIPLYING."""

OLDEST_OPSET = 13
"""The first opset whose DequantizeLinear has a scale a channel."""

BINS = 1 << 12
"""Of the histogram an activation's range is chosen by."""

SHARES = tuple(np.linspace(0.2, 1, 33).tolist())
"""The shares of the full range that are tried."""

Feeds = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Error:
    """Distance from the float model's outputs, as a share of each output's largest magnitude there."""

    largest: float
    mean: float

    def __str__(self) -> str:
        return f"largest {self.largest:.3g}, mean {self.mean:.3g}"


@dataclass(frozen=True, slots=True)
class Quantized:
    """An int8 model and how it was come by.

    `quantized` and `float_nodes` name the nodes of MULTIPLYING; `error` is on the inputs to check with, `full_error`
    the one with nothing kept in float for the budget's sake. `tried` has, of each node that was tried alone in float,
    the largest error that was left.
    """

    model: onnx.ModelProto
    quantized: tuple[str, ...]
    float_nodes: tuple[str, ...]
    error: Error
    full_error: Error | None = None
    tried: Mapping[str, float] = field(default_factory=dict)


def quantize(
    model: onnx.ModelProto,
    calibration: Sequence[Feeds],
    *,
    budget: float | None = None,
    check: Sequence[Feeds] | None = None,
    float_nodes: Iterable[str] = (),
    reduce_range: bool = False,
) -> Quantized:
    """`model` with int8 weights and activations; inputs and outputs keep their names, types and shapes.

    `calibration`: inputs as the model will get them, several dozen; each is run by itself. Ranges and biases are
    measured on them, so they have to be as various as the real ones: dark, bright and flat areas included.
    `budget`: the largest distance of an output from the float model's on `check` (None: on the calibration), as a share
    of that output's largest magnitude there. Where int8 throughout is further off, each node of MULTIPLYING is tried
    alone in float, and then, the most helpful first, each stays float that lowers the error further, until the budget
    is met. That takes one or two quantizations for each such node.
    `float_nodes`: nodes of MULTIPLYING that stay float in any case.
    `reduce_range`: weights of 7 bits, for x86 processors without VNNI, whose int8 products can overflow 16 bits.
    The same arguments give the same bytes.
    Raises: GraphError if nothing can be quantized, or a node or an input is not there; ArtifactError if the budget
    cannot be met; MissingDependency.
    """
    if not calibration or (check is not None and not check):
        raise GraphError("quantizing needs inputs to calibrate and to check with, and there are none")
    if budget is not None and not budget > 0:
        raise GraphError(f"the budget of quantizing must be above 0, not {budget}")
    work = _Workbench(model, calibration, calibration if check is None else check, reduce_range)
    given = tuple(dict.fromkeys(float_nodes))
    unknown = [name for name in given if name not in work.nodes]
    if unknown:
        raise GraphError(f"no {', '.join(MULTIPLYING)} node that can be quantized is named {', '.join(unknown)}")
    if len(given) == len(work.nodes):
        raise GraphError("every node that could be quantized is to stay float")

    def made(kept: Sequence[str]) -> Quantized:
        result = work.corrected(kept)
        quantized = tuple(name for name in work.nodes if name not in kept)
        left = tuple(name for name in work.nodes if name in kept)
        return Quantized(result, quantized, left, work.error(result))

    best = first = made(given)
    tried: dict[str, Quantized] = {}
    if budget is not None and first.error.largest > budget:
        tried = {name: made((*given, name)) for name in first.quantized if len(first.quantized) > 1}
        order = sorted(tried, key=lambda name: tried[name].error.largest)
        best = min(first, tried[order[0]], key=lambda one: one.error.largest)
        for name in order[1:]:
            if best.error.largest <= budget:
                break
            if len(best.quantized) > 1:
                # Errors cancel or add up: what helps alone need not help beside others.
                more = made((*best.float_nodes, name))
                best = min(best, more, key=lambda one: one.error.largest)
        if best.error.largest > budget:
            raise ArtifactError(
                f"int8 cannot be within {budget:g} of the float outputs: the least largest error is "
                f"{best.error.largest:.3g}, with {len(best.float_nodes)} of {len(work.nodes)} nodes in float"
            )
    return replace(best, full_error=first.error, tried={name: one.error.largest for name, one in tried.items()})


class _Workbench:
    """The float model, what was measured of it, and how to make int8 models of it."""

    def __init__(
        self, model: onnx.ModelProto, calibration: Sequence[Feeds], check: Sequence[Feeds], reduce_range: bool
    ) -> None:
        import onnx

        opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
        if opset < OLDEST_OPSET:
            raise GraphError(f"quantizing needs opset {OLDEST_OPSET} or newer; the model has {opset}")
        names = {value.name for value in model.graph.input}
        for feeds in (*calibration, *check):
            if set(feeds) != names:
                raise GraphError(
                    f"an input to calibrate or check with has {sorted(feeds)}; the model takes {sorted(names)}"
                )
        self.calibration = calibration
        self.check = check
        self.reduce_range = reduce_range
        self.model = onnx.shape_inference.infer_shapes(_with_biases(model))
        graph = self.model.graph
        self.metadata = list(model.metadata_props)
        self.outputs = [value.name for value in graph.output]
        self.constants = {tensor.name for tensor in graph.initializer}
        self.nodes = [
            node.name
            for node in graph.node
            if node.op_type in MULTIPLYING and node.input[1] in self.constants and node.input[0] not in self.constants
        ]
        if not self.nodes:
            raise GraphError(f"the model has no {', '.join(MULTIPLYING)} with constant weights: nothing to quantize")
        self.tail = _tail(graph)
        self.means: dict[str, Array] = {}
        self.ranges: dict[str, tuple[float, float]] = {}
        self._measure()
        session = _session(self.model)
        self.expected = [session.run(self.outputs, dict(feeds)) for feeds in check]

    def _measure(self) -> None:
        """Runs the float model twice an input: extremes, and means of what has a bias; then histograms."""
        import onnx

        graph = self.model.graph
        elements = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
        given = [value.name for value in graph.input]
        values_of = [*given, *(name for node in graph.node for name in node.output if name)]
        names = [name for name in values_of if elements.get(name) == onnx.TensorProto.FLOAT]
        computed = [name for name in names if name not in given]
        opened = onnx.ModelProto()
        opened.CopyFrom(self.model)
        del opened.graph.output[:]
        opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in computed)
        session = _session(opened)
        biased = {node.output[0]: node.name for node in graph.node if _bias_of(node)}

        def runs() -> Iterator[dict[str, Array]]:
            for feeds in self.calibration:
                yield {**feeds, **dict(zip(computed, session.run(computed, dict(feeds)), strict=True))}

        low: dict[str, float] = dict.fromkeys(names, 0.0)
        high = dict(low)
        for values in runs():
            for name in names:
                if not np.isfinite(values[name]).all():
                    raise GraphError(f"{name!r} is not finite on a calibration input")
                low[name] = min(low[name], float(values[name].min(initial=0)))
                high[name] = max(high[name], float(values[name].max(initial=0)))
            for name, node in biased.items():
                mean = _channel_mean(values[name]) / len(self.calibration)
                self.means[node] = self.means.get(node, 0) + mean
        counts = {name: np.zeros(BINS, np.int64) for name in names if low[name] < high[name]}
        for values in runs():
            for name, count in counts.items():
                # 0 is a level of every range, and the half of what a ReLU gives.
                value = values[name][values[name] != 0]
                bins_of = BINS / (high[name] - low[name])
                # Of a range that is subnormal the bins are beyond float32.
                real = np.float32 if bins_of <= float(np.finfo(np.float32).max) else np.float64
                place = (value - real(low[name])) * real(bins_of)
                count += np.bincount(np.minimum(place.astype(np.int32), BINS - 1), minlength=BINS)
        self.ranges = {
            name: best_range(counts[name], low[name], high[name]) if name in counts else (0.0, 0.0) for name in names
        }

    def written(self, kept: Sequence[str]) -> onnx.ModelProto:
        """The int8 model with the nodes `kept` in float; biases as they were."""
        import onnx
        from onnxruntime.quantization import CalibrationMethod, QuantType
        from onnxruntime.quantization.calibrate import TensorData, TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        ranges = {
            name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
            for name, (low, high) in self.ranges.items()
        }
        quantizer = QDQQuantizer(
            copy,
            per_channel=True,
            reduce_range=self.reduce_range,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
            nodes_to_quantize=[],
            nodes_to_exclude=[*self.tail, *self._behind(kept)],
            op_types_to_quantize=[*MULTIPLYING, *ALONG],
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
        )
        with _quiet():
            quantizer.quantize_model()
        quantizer.model.topological_sort()
        made: onnx.ModelProto = quantizer.model.model
        made.producer_name, made.producer_version = self.model.producer_name, self.model.producer_version
        del made.metadata_props[:]
        made.metadata_props.extend(self.metadata)
        return made

    def _behind(self, kept: Sequence[str]) -> list[str]:
        """The nodes `kept`, and those that work on nothing but their results: int8 would gain nothing there."""
        names, results = set(kept), set[str]()
        for node in self.model.graph.node:
            computed = [name for name in node.input if name and name not in self.constants]
            if node.op_type in ALONG and computed and results.issuperset(computed):
                names.add(node.name)
            if node.name in names:
                results.update(node.output)
        return sorted(names)

    def corrected(self, kept: Sequence[str]) -> onnx.ModelProto:
        """The int8 model with biases that give every layer the float model's mean, channel by channel."""
        from onnx import numpy_helper

        made = self.written(kept)
        constants = {tensor.name: tensor for tensor in made.graph.initializer}
        makers = {node.output[0]: node for node in made.graph.node}
        for node, values in _walk(made, self.calibration):
            bias = _bias_of(node)
            stored = list(makers[bias].input) if bias in makers else []
            if node.name not in self.means or len(stored) < 2:
                continue
            mean = sum(_channel_mean(value) for value in values) / len(values)
            tensor = constants[stored[0]]
            scale = numpy_helper.to_array(constants[stored[1]]).astype(np.float64)
            whole = numpy_helper.to_array(tensor)
            moved = np.round(whole + (self.means[node.name] - mean) / scale)
            bounds = np.iinfo(whole.dtype)
            fitting = np.clip(moved, bounds.min, bounds.max).astype(whole.dtype)
            tensor.CopyFrom(numpy_helper.from_array(fitting, tensor.name))
            shift = ((fitting.astype(np.float64) - whole) * scale).astype(np.float32)
            for value in values:
                value += shift.reshape(-1, *[1] * (value.ndim - 2))
        return made

    def error(self, made: onnx.ModelProto) -> Error:
        """How far the outputs are from the float model's."""
        session = _session(made)
        largest = mean = 0.0
        got = [session.run(self.outputs, dict(feeds)) for feeds in self.check]
        for i in range(len(self.outputs)):
            scale = max(float(np.abs(values[i]).max(initial=0)) for values in self.expected) or 1.0
            distances = [np.abs(a[i] - b[i]).ravel() for a, b in zip(got, self.expected, strict=True)]
            each = np.concatenate(distances).astype(np.float64) / scale
            largest, mean = max(largest, float(each.max(initial=0))), max(mean, float(each.mean()) if each.size else 0)
        return Error(largest, mean)


def best_range(counts: Array, low: float, high: float) -> tuple[float, float]:
    """The range within `low` … `high` (which hold 0) with the least squared distance of the values from its 256 levels;
    `counts` has how many of them are in each of equal bins from `low` to `high`."""
    full = np.flatnonzero(counts)
    values = low + (full + 0.5) * ((high - low) / len(counts))
    weights = counts[full].astype(np.float64)

    def cost(low: float, high: float) -> float:
        scale = (high - low) / 255
        # Within the range a value is anywhere between two levels.
        beyond = np.maximum(np.maximum(low - values, values - high), 0)
        return float((weights * (beyond**2 + scale**2 / 12)).sum())

    share = min(SHARES, key=lambda share: cost(low * share, high * share))
    best = low * share, high * share
    if low < 0 < high:
        for _ in range(2):
            best = min((low * share for share in SHARES), key=lambda end: cost(end, best[1])), best[1]
            best = best[0], min((high * share for share in SHARES), key=lambda end: cost(best[0], end))
    return best


def _with_biases(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every Conv has a bias, as what is put right is put right there."""
    import onnx
    from onnx import numpy_helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in copy.graph.initializer}
    for node in copy.graph.node:
        if node.op_type == "Conv" and len(node.input) == 2 and node.input[1] in constants:
            zeros = np.zeros(constants[node.input[1]].dims[0], np.float32)
            copy.graph.initializer.append(numpy_helper.from_array(zeros, f"{node.name}:bias"))
            node.input.append(f"{node.name}:bias")
    return copy


def _tail(graph: onnx.GraphProto) -> list[str]:
    """The nodes behind the last MULTIPLYING ones: those only outputs of the model come of."""
    makers = {output: node for node in graph.node for output in node.output}
    seen: dict[str, None] = {}
    waiting = [value.name for value in graph.output]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.op_type not in MULTIPLYING and node.name not in seen:
            seen[node.name] = None
            waiting += node.input
    feeds_on = {name: [node for node in graph.node if name in node.input] for name in makers}

    def only_outputs(node: onnx.NodeProto) -> bool:
        return all(reader.name in seen for output in node.output for reader in feeds_on[output])

    by_name = {node.name: node for node in graph.node}
    while wrong := [name for name in seen if not only_outputs(by_name[name])]:
        for name in wrong:
            del seen[name]
    return list(seen)


def _bias_of(node: onnx.NodeProto) -> str:
    """The name of a Conv's or Gemm's bias; empty if it has none."""
    return node.input[2] if node.op_type in ("Conv", "Gemm") and len(node.input) == 3 else ""


def _channel_mean(value: Array) -> Array:
    """Mean (C,) of (N, C, …), float64."""
    mean: Array = value.mean(axis=(0, *range(2, value.ndim)), dtype=np.float64)
    return mean


def _walk(model: onnx.ModelProto, inputs: Sequence[Feeds]) -> Iterator[tuple[onnx.NodeProto, list[Array]]]:
    """Runs a model node by node on all inputs; what is changed in the first output's values counts further on."""
    from onnx import helper, numpy_helper

    uses: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    values: dict[str, list[Array]] = {
        value.name: [np.asarray(feeds[value.name]) for feeds in inputs] for value in model.graph.input
    }
    for node in model.graph.node:
        names = [name for name in dict.fromkeys(node.input) if name]
        fixed = [name for name in names if name in constants]
        given = [name for name in names if name not in constants]
        graph = helper.make_graph(
            [node],
            "node",
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(values[name][0].dtype), None)
                for name in given
            ],
            [helper.make_empty_tensor_value_info(name) for name in node.output if name],
            initializer=[constants[name] for name in fixed],
        )
        session = _session(helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version))
        outputs = [name for name in node.output if name]
        # Of constants alone: once is enough.
        count = len(inputs) if given else 1
        results = [session.run(outputs, {name: values[name][i] for name in given}) for i in range(count)]
        for k, name in enumerate(outputs):
            values[name] = [result[k] for result in results]
            if not given:
                constants[name] = numpy_helper.from_array(values.pop(name)[0], name)
        for name in names:
            uses[name] -= node.input[:].count(name)
            if not uses[name]:
                values.pop(name, None)
        if given:
            yield node, [result[0] for result in results]


def _session(model: onnx.ModelProto) -> Any:
    """A session of one thread, so that sums are taken in one order."""
    return make_session(model.SerializeToString(), threads=1)


class _quiet(logging.Filter):  # noqa: N801
    """While open, onnxruntime's quantizer says nothing: its remarks are for those who call it by hand."""

    def filter(self, record: logging.LogRecord) -> bool:
        return False

    def __enter__(self) -> None:
        logging.getLogger().addFilter(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeFilter(self)
