"""ONNX models as files: ONNX in one file or two, onnxruntime's format, OpenVINO's; and running them."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from caffe_port.errors import ArtifactError, MissingDependency
from caffe_port.layers.base import Array
from caffe_port.optional import require_onnxruntime
from caffe_port.proto import wire
from caffe_port.proto.files import hidden_folder, replacing
from caffe_port.proto.wire_format import tagged
from caffe_port.sessions import make_session

if TYPE_CHECKING:
    import onnx
    from google.protobuf.message import Message

__all__ = ["LARGEST_FILE", "run_openvino", "run_ort", "write_onnx", "write_openvino", "write_ort"]

LARGEST_FILE = (1 << 31) - 1
"""Bytes of the largest ONNX file: protobuf's limit."""

ALIGNMENT = 4096
"""Each external tensor starts at a multiple of this, so that a runtime can map it into memory."""

EXTERNAL_FROM = 1024
"""Bytes from which a tensor is external, if any is; smaller ones (shapes, axes) are needed to check the model."""


def write_onnx(
    model: onnx.ModelProto,
    path: Path,
    *,
    values: Mapping[str, Array] | None = None,
    external_data: bool | None = None,
    largest: int = LARGEST_FILE,
) -> list[Path]:
    """Writes `model` to `path`; returns the files written, `path` first.

    `values`: those of all initializers by name, for a model without them (`export.model_and_values`): they are written
    from where they lie, never copied. `external_data`: whether the weights go to a file of their own, `path` with
    `.data` appended, which has to stay beside it. None: only if one file would be larger than `largest` bytes. The same
    model gives the same bytes, which are protobuf's own.
    Raises: ArtifactError if a file cannot be written, or one file is asked for and would be too large.
    """
    if not external_data:
        pieces = _pieces(model, values, largest)
        if pieces is not None:
            wire.write_pieces(path, pieces)
            return [path]
        if external_data is not None:
            raise ArtifactError(
                f"{path}: the model is larger than the {largest} bytes an ONNX file holds: its weights need a file of "
                "their own"
            )
    data = path.with_name(f"{path.name}.data")
    with replacing(data) as weights, replacing(path) as stream:
        stream.write(_externalized(model, values, data.name, weights).SerializeToString(deterministic=True))
    return [path, data]


def _pieces(model: onnx.ModelProto, values: Mapping[str, Array] | None, largest: int) -> list[Any] | None:
    """The serialized model in pieces; None if it is larger than `largest` bytes."""
    if values is None:
        # Beyond its limit protobuf fails instead of counting.
        weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
        if weights > LARGEST_FILE or model.ByteSize() > largest:
            return None
        return [model.SerializeToString(deterministic=True)]
    graph: list[Any] = []
    for tensor in model.graph.initializer:
        raw = _bytes_of(values[tensor.name])
        fields = tensor.SerializeToString(deterministic=True) + tagged(_number(tensor, "raw_data"), len(raw))
        graph += [tagged(_number(model.graph, "initializer"), len(fields) + len(raw)) + fields, raw]
    pieces = _around(model.graph, "initializer", graph)
    pieces = _around(model, "graph", [tagged(_number(model, "graph"), sum(map(len, pieces))), *pieces])
    return pieces if sum(map(len, pieces)) <= largest else None


def _bytes_of(values: Array) -> memoryview:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def _number(message: Message, field: str) -> int:
    number: int = message.DESCRIPTOR.fields_by_name[field].number
    return number


def _around(message: Message, field: str, inner: list[Any]) -> list[Any]:
    """`inner` between the other fields of a message, which protobuf writes by number."""
    before, behind = type(message)(), type(message)()
    number = _number(message, field)
    for part, kept in ((before, range(number)), (behind, range(number + 1, 1 << 29))):
        part.CopyFrom(message)
        for spec, _ in part.ListFields():
            if spec.number not in kept:
                part.ClearField(spec.name)
    return [before.SerializeToString(deterministic=True), *inner, behind.SerializeToString(deterministic=True)]


def _externalized(
    model: onnx.ModelProto, values: Mapping[str, Array] | None, location: str, weights: BinaryIO
) -> onnx.ModelProto:
    """The model without its large tensors, which are written to `weights`."""
    import onnx
    from onnx import numpy_helper

    slim = onnx.ModelProto()
    slim.CopyFrom(model)
    for tensor in slim.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ArtifactError(f"tensor {tensor.name!r} is in another file: load the model with its external data")
        if values is not None:
            raw = _bytes_of(values[tensor.name])
        else:
            raw = memoryview(tensor.raw_data or numpy_helper.to_array(tensor).tobytes())
        if len(raw) < EXTERNAL_FROM:
            if values is not None:
                tensor.raw_data = bytes(raw)
            continue
        weights.write(bytes(-weights.tell() % ALIGNMENT))
        place = {"location": location, "offset": weights.tell(), "length": len(raw)}
        weights.write(raw)
        shape, element, name = list(tensor.dims), tensor.data_type, tensor.name
        tensor.Clear()
        tensor.dims.extend(shape)
        tensor.data_type, tensor.name, tensor.data_location = element, name, onnx.TensorProto.EXTERNAL
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
    return slim


def write_ort(onnx_path: Path, path: Path) -> list[Path]:
    """Writes the ONNX file as `path`, in onnxruntime's own format (`.ort`), for its small builds; returns the file.

    It is optimized as far as every processor can run it. onnxruntime orders a table in it by chance: the bytes differ
    from time to time.
    Raises: MissingDependency; ArtifactError if onnxruntime does not take the model, or the file cannot be written.
    """
    make = require_onnxruntime()
    options = make.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = make.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.save_model_format", "ORT")
    with _beside(path) as folder:
        options.optimized_model_filepath = str(folder / path.name)
        try:
            make.InferenceSession(str(onnx_path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common type
            raise ArtifactError(f"{onnx_path}: onnxruntime does not take the model: {error}") from error
    return [path]


def write_openvino(onnx_path: Path, path: Path) -> list[Path]:
    """Writes the ONNX file as OpenVINO IR: `path` (`.xml`) and the weights beside it (`.bin`), all in float32.

    Raises: MissingDependency; ArtifactError if OpenVINO does not take the model, or a file cannot be written.
    """
    openvino = _openvino()
    weights = path.with_suffix(".bin")
    if weights == path:
        raise ArtifactError(f"{path}: the file with the graph cannot end in .bin, as that with the weights does")
    with _beside(weights, path) as folder:
        try:
            # Not convert_model: it does the same and reports home.
            model = openvino.Core().read_model(str(onnx_path))
            _name_by_order(model)
        except Exception as error:  # so are OpenVINO's
            raise ArtifactError(f"{onnx_path}: OpenVINO does not take the model: {_first_line(error)}") from error
        try:
            openvino.save_model(model, str(folder / path.name), compress_to_fp16=False)
        except Exception as error:
            raise ArtifactError(f"{path}: cannot be written by OpenVINO: {_first_line(error)}") from error
    return [path, weights]


def _name_by_order(model: Any) -> None:
    """Names the operations OpenVINO made up by their place: its own counter runs through the whole process."""
    for i, operation in enumerate(model.get_ordered_ops()):
        kind, _, number = operation.get_friendly_name().rpartition("_")
        if kind == operation.get_type_name() and number.isdigit():
            operation.set_friendly_name(f"{kind}_{i}")


def run_ort(path: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs by name, of an ONNX file (with its external data) or one in onnxruntime's format."""
    session = make_session(str(path))
    names = [value.name for value in session.get_outputs()]
    given = {value.name: np.asarray(inputs[value.name]) for value in session.get_inputs()}
    return dict(zip(names, session.run(names, given), strict=True))


def run_openvino(path: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs by name, of a model in OpenVINO IR; computed in float32 on every processor."""
    openvino = _openvino()
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        given = {port: np.ascontiguousarray(inputs[_named(port, inputs)]) for port in compiled.inputs}
        results = compiled(given)
    except RuntimeError as error:
        raise ArtifactError(f"{path}: OpenVINO does not run the model: {_first_line(error)}") from error
    return {name: np.array(results[port]) for port in compiled.outputs for name in sorted(port.get_names())}


def _named(port: Any, inputs: Mapping[str, Array]) -> str:
    names: list[str] = sorted(port.get_names())
    return next(name for name in names if name in inputs)


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingDependency(f"OpenVINO is needed for its format: pip install openvino ({error})") from None
    return openvino


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextlib.contextmanager
def _beside(*paths: Path) -> Iterator[Path]:
    """A hidden folder beside `paths`, whose files of these names take their places when the block ends."""
    try:
        paths[0].parent.stat()  # a writer of files makes no folder
        with hidden_folder(paths[0].parent) as folder:
            yield folder
            for path in paths:
                if not (folder / path.name).is_file():
                    raise ArtifactError(f"{path}: nothing was written")
                # Copied, not moved: a new file gets the mode any new file gets.
                with replacing(path) as stream, (folder / path.name).open("rb") as made:
                    shutil.copyfileobj(made, stream)
    except OSError as error:
        raise ArtifactError(f"{paths[0]}: cannot be written: {error.strerror or error}") from error
