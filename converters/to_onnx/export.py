"""Walks a net, calls the emitters, and makes the ModelProto."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from caffe_port import registry
from caffe_port._version import __version__
from caffe_port.converters.to_onnx.context import OnnxContext
from caffe_port.errors import CaffePortError, GraphError
from caffe_port.layers.base import Array
from caffe_port.net import Blob, Layer, Net
from caffe_port.passes.detection_boxes import DETECTIONS, detection_boxes

if TYPE_CHECKING:
    import onnx

__all__ = ["OPSET", "model_and_values", "to_onnx", "value_names"]

OPSET = 17
"""The opset every model is written for: the newest that runtimes of the last years all read."""

IR_VERSION = 8
"""The IR version of the ONNX release that brought OPSET."""

BATCH = "N"
"""The name of the symbolic batch dim."""

PASS_THROUGH = {"Split"}
"""Types whose tops are their bottom under other names: no node."""


def to_onnx(
    net: Net, *, batch: str | int = "symbolic", extra_outputs: Iterable[str] = (), detection: str = "rows"
) -> onnx.ModelProto:
    """The net as an ONNX model: inputs and outputs named as the blobs, learned blobs as initializers, no custom
    operator.

    `batch`: "symbolic" leaves axis 0 of all inputs open where the net allows it (and keeps the net's own size where it
    does not); a number fixes it. `extra_outputs`: further blobs to give out, by value name (see `value_names`).
    `detection`: "rows" gives a detection layer's top as Caffe does; "boxes" stops before suppression, for a runtime
    that brings its own (`passes.detection_boxes`).
    The metadata holds the tool's version, the sources' SHA-256, and the phase.
    Raises: UnsupportedLayer naming every layer that ONNX cannot express; WeightsError if learned blobs have no values.
    """
    model, values = model_and_values(net, batch=batch, extra_outputs=extra_outputs, detection=detection)
    for tensor in model.graph.initializer:
        tensor.raw_data = values[tensor.name].tobytes()
    return model


def model_and_values(
    net: Net, *, batch: str | int = "symbolic", extra_outputs: Iterable[str] = (), detection: str = "rows"
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """What `to_onnx` gives, but for the initializers' values, which stand beside the model, by name.

    They are views of the net's learned blobs wherever those go into the model as they are, so a model of any size takes
    no memory; `files.write_onnx` takes both. Raises: as `to_onnx`.
    """
    import onnx
    from onnx import helper

    net.require_weights()
    if isinstance(batch, int):
        net = net.with_input_shapes({name: (batch, *shape[1:]) for name, shape in net.input_shapes.items() if shape})
    elif batch != "symbolic":
        raise GraphError(f"batch must be 'symbolic' or a number, not {batch!r}")
    if detection not in DETECTIONS:
        raise GraphError(f"detection must be {' or '.join(map(repr, DETECTIONS))}, not {detection!r}")
    if detection == "boxes":
        net = detection_boxes(net)
    registry.require_expressible("onnx", net.layers)
    names = value_names(net)
    context = _emit(net, names)
    other = _at_another_batch(net, context, names) if batch == "symbolic" else None

    def value_info(blob: Blob, other_blob: Blob | None) -> onnx.ValueInfoProto:
        dims: list[int | str | None] = list(blob.shape)
        if blob in unknown:
            dims = [None] * len(dims)
        elif other_blob is not None:
            dims = [_symbol(a, b, net) if a != b else a for a, b in zip(blob.shape, other_blob.shape, strict=True)]
        return helper.make_tensor_value_info(names[blob], onnx.TensorProto.FLOAT, dims)

    counterpart = _counterparts(net, other)
    unknown = _data_dependent(net)
    by_name = {name: blob for blob, name in names.items()}
    wanted = list(extra_outputs)
    absent = [name for name in wanted if name not in by_name]
    if absent:
        raise GraphError(f"net {net.name!r} has no value {', '.join(map(repr, absent))} to give out")
    extra = [by_name[name] for name in wanted if name not in net.outputs]
    graph = helper.make_graph(
        [helper.make_node(n.op, n.inputs, n.outputs, name=n.name, **n.attributes) for n in context.nodes],
        net.name or "net",
        [value_info(blob, counterpart.get(blob)) for blob in net.input_blobs],
        [value_info(blob, counterpart.get(blob)) for blob in (*net.output_blobs, *extra)],
        initializer=[_without_values(name, array) for name, array in context.constants.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="caffe_port",
        producer_version=__version__,
    )
    metadata = {"caffe_port.version": __version__, "caffe_port.phase": net.phase}
    for role in ("definition", "weights"):
        for i, source in enumerate((source for source in net.sources if source.role == role), 1):
            key = f"caffe_port.{role}" if i == 1 else f"caffe_port.{role}.{i}"
            metadata[f"{key}.name"] = source.path.name
            metadata[f"{key}.sha256"] = source.sha256()
    helper.set_model_props(model, metadata)
    return model, context.constants


def value_names(net: Net) -> dict[Blob, str]:
    """The ONNX name of every blob's value.

    The last version of a blob has the blob's name; an earlier one, overwritten in place, has the name of the layer that
    made it behind an `@`. So has the last version of an input that a layer overwrites: ONNX assigns a name once, and
    the input has it. Blobs that are one value under several names (Split) share the name.
    """
    value_of: dict[Blob, Blob] = {}
    for layer in net.layers:
        for top in layer.tops:
            value_of[top] = value_of[layer.bottoms[0].origin] if _hands_on(layer) else top
    last = {id(blob) for blob in net.blobs.values() if blob.alias_of is None}
    makers = {top: layer for layer in net.layers for top in layer.tops}
    outputs = {id(blob) for blob in net.output_blobs}
    given = {id(blob) for blob in net.input_blobs}
    reserved = set(net.inputs) | set(net.outputs)
    taken = set(reserved)
    repeats: dict[str, int] = {}
    own: dict[Blob, str] = {}
    names: dict[Blob, str] = {}
    for blob, value in value_of.items():
        if value not in own:
            name = value.name
            if id(value) not in given and (id(value) not in last or name in net.inputs):
                name = f"{name}@{makers[value].name}"
            wanted = name
            while name in taken and not (name in reserved and (id(value) in outputs or id(value) in given)):
                # Counted, since a net may have thousands of layers of one name.
                repeats[wanted] = number = repeats.get(wanted, 0) + 1
                name = f"{wanted}'{number if number > 1 else ''}"
            taken.add(name)
            own[value] = name
        # An output that is another blob's value gets its own name, and an Identity that gives it.
        names[blob] = blob.name if id(blob) in outputs and blob is not value else own[value]
    return names


def _hands_on(layer: Layer) -> bool:
    """Whether the tops are the bottom's very value: not where its overwritten memory is a blob of another shape."""
    bottom = layer.bottoms[0] if layer.bottoms else None
    return layer.type in PASS_THROUGH and bottom is not None and bottom.shape == bottom.origin.shape


def _data_dependent(net: Net) -> set[Blob]:
    """The blobs whose shape only a run shows: what a data-dependent layer (Filter) makes, and all that follows."""
    found: set[Blob] = set()
    for layer in net.layers:
        if layer.definition.data_dependent or any(blob.origin in found for blob in layer.bottoms):
            found.update(layer.tops)
    return found | {blob for blob in net.blobs.values() if blob.origin in found}


def _emit(net: Net, names: dict[Blob, str]) -> OnnxContext:
    context = OnnxContext(taken=set(names.values()))
    for layer in net.layers:
        if layer.definition.is_input:
            continue
        context.layer = layer
        inputs = [_read(context, names, blob) for blob in layer.bottoms]
        context.tops = tuple(names[top] for top in layer.tops)
        if layer.type in PASS_THROUGH:
            for name in context.tops:
                if name != inputs[0]:
                    context.op("Identity", inputs[0], output=name)
            continue
        emit = registry.find_emitter("onnx", layer.type)
        assert emit is not None
        # What an emitter works out of the weights may overflow, as Caffe's own arithmetic would.
        with np.errstate(all="ignore"):
            emit(context, layer, layer.definition, inputs)
    for blob in net.output_blobs:
        # A net output nobody computes: a blob whose memory an in-place layer overwrote. An input that no layer reads is
        # another, which the graph gives out as it comes.
        if blob.alias_of is not None:
            names[blob] = blob.name
            value = blob.origin
            context.reshape(names[value], value.shape, blob.shape, output=blob.name)
    return context


def _read(context: OnnxContext, names: dict[Blob, str], blob: Blob) -> str:
    """The name to read a bottom under; a blob that shares overwritten memory is reshaped from what overwrote it."""
    if blob.alias_of is None:
        return names[blob]
    value = blob.origin
    if value.shape == blob.shape:
        return names[value]
    return context.reshape(names[value], value.shape, blob.shape)


def _at_another_batch(net: Net, context: OnnxContext, names: dict[Blob, str]) -> Net | None:
    """The net with one more item in the batch, if its ONNX graph is then the same node for node; else None."""
    sizes = {shape[0] if shape else 0 for shape in net.input_shapes.values()}
    if len(sizes) != 1 or 0 in sizes:
        return None
    try:
        larger = net.with_input_shapes({name: (shape[0] + 1, *shape[1:]) for name, shape in net.input_shapes.items()})
        again = _emit(larger, value_names(larger))
    except CaffePortError:
        return None
    same = again.nodes == context.nodes and list(again.constants) == list(context.constants)
    if not same or not all(_equal(context.constants[name], array) for name, array in again.constants.items()):
        return None
    return larger


def _equal(a: Array, b: Array) -> bool:
    if a.shape != b.shape:
        return False
    return _same_buffer(a, b) or np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _same_buffer(a: Array, b: Array) -> bool:
    same: bool = a.__array_interface__["data"] == b.__array_interface__["data"] and a.strides == b.strides
    return same and a.dtype == b.dtype


def _symbol(size: int, larger: int, net: Net) -> str:
    """The name of a dim that grows with the batch: `N`, or a multiple of it."""
    batch = next(iter(net.input_shapes.values()))[0]
    step = larger - size
    return (
        BATCH
        if (size, step) == (batch, 1)
        else f"{size // batch}*{BATCH}"
        if size == step * batch
        else f"{size}+{step}*{BATCH}"
    )


def _counterparts(net: Net, other: Net | None) -> dict[Blob, Blob]:
    """Each blob of `net` → the same blob of `other`."""
    if other is None:
        return {}
    pairs = {blob: other.blobs[name] for name, blob in net.blobs.items()}
    for mine, theirs in zip(net.layers, other.layers, strict=True):
        pairs.update(zip(mine.tops, theirs.tops, strict=True))
    return pairs


def _without_values(name: str, array: Array) -> onnx.TensorProto:
    import onnx

    element = {"float32": onnx.TensorProto.FLOAT, "int64": onnx.TensorProto.INT64, "bool": onnx.TensorProto.BOOL}
    return onnx.TensorProto(name=name, data_type=element[array.dtype.name], dims=array.shape)
