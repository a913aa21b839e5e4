"""The ways to compute a net: NumPy in two precisions, PyTorch, onnxruntime. Each gives every layer's tops."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from caffe_port.errors import ArtifactError, GraphError, MissingDependency
from caffe_port.layers.base import Array
from caffe_port.net import Layer, Net
from caffe_port.optional import require_onnxruntime, require_torch
from caffe_port.runtime import last_uses, run_layers, value_of
from caffe_port.sessions import make_session

if TYPE_CHECKING:
    import onnx
    from torch import nn

__all__ = [
    "BACKENDS",
    "Backend",
    "NumpyBackend",
    "OnnxBackend",
    "TorchBackend",
    "installed_backends",
    "make_backend",
    "run_onnx",
]


class Backend(Protocol):
    """Computes a net, layer by layer."""

    @property
    def name(self) -> str: ...

    @property
    def outputs_only(self) -> bool:
        """Whether only the layers that make the net's outputs can be seen (a file run as it is)."""
        ...

    def trace(self, net: Net, inputs: Mapping[str, Array]) -> Iterator[tuple[Layer, tuple[Array | None, ...]]]:
        """Each layer that is no input and no Split, in order, with its tops' values right after it ran.

        None stands for a top that cannot be seen, of a layer that makes an output too (`outputs_only`). `inputs` are
        float32, of the net's input shapes.
        """
        ...


def _computing(net: Net) -> Iterator[Layer]:
    return (layer for layer in net.layers if not layer.definition.is_input and layer.type != "Split")


@dataclass(frozen=True, slots=True)
class NumpyBackend:
    """This package's own forward pass."""

    dtype: str = "float32"
    outputs_only: bool = False

    @property
    def name(self) -> str:
        return f"numpy {self.dtype}"

    def trace(self, net: Net, inputs: Mapping[str, Array]) -> Iterator[tuple[Layer, tuple[Array, ...]]]:
        for layer, _, tops in self.trace_with_bottoms(net, inputs):
            if layer.type != "Split":
                yield layer, tops

    def trace_with_bottoms(
        self, net: Net, inputs: Mapping[str, Array]
    ) -> Iterator[tuple[Layer, tuple[Array, ...], tuple[Array, ...]]]:
        """Each layer that is no input, Split too, with its bottoms' and tops' values."""
        cast = {name: array.astype(self.dtype) for name, array in inputs.items()}
        values: dict[int, Array] = {}
        last_use = last_uses(net)
        for layer, tops in run_layers(net, cast, self.dtype, values=values):
            if not layer.definition.is_input:
                yield layer, tuple(value_of(blob, values) for blob in layer.bottoms), tuple(tops.values())
            for key in [key for key in values if last_use.get(key, -1) <= layer.index]:
                del values[key]


@dataclass(frozen=True, slots=True)
class TorchBackend:
    """PyTorch in float32: the module given, or what `to_pytorch` makes of the net.

    oneDNN is switched off: its blocked sums add rounding of their own (measured on open_nsfw: up to 2.5 times as
    much in single blobs, another on every processor), and what is to be proven is the module, not the kernels.
    """

    module: nn.Module | None = None
    name: str = "torch (without oneDNN)"
    outputs_only: bool = False

    def trace(self, net: Net, inputs: Mapping[str, Array]) -> Iterator[tuple[Layer, tuple[Array, ...]]]:
        from caffe_port.converters.to_pytorch import to_pytorch

        module = to_pytorch(net) if self.module is None else self.module
        import torch

        from caffe_port.converters.to_pytorch.modules.graph import GraphModule

        if not isinstance(module, GraphModule):
            raise GraphError("only a module made by to_pytorch can be looked into layer by layer")
        tensors = [torch.from_numpy(np.array(inputs[name])) for name in net.inputs]
        with warnings.catch_warnings():
            # The switch warns of a setting for other hardware.
            warnings.simplefilter("ignore", UserWarning)
            with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
                values = module.trace(*tensors)
        for layer in _computing(net):
            yield layer, tuple(values[top].numpy() for top in layer.tops)


@dataclass(frozen=True, slots=True)
class OnnxBackend:
    """onnxruntime on the CPU: the model or the .onnx file given, or what `to_onnx` makes of the net."""

    model: onnx.ModelProto | Path | None = None
    name: str = "onnxruntime"
    outputs_only: bool = False

    def trace(self, net: Net, inputs: Mapping[str, Array]) -> Iterator[tuple[Layer, tuple[Array, ...]]]:
        from caffe_port.converters.to_onnx import to_onnx, value_names

        model = to_onnx(net) if self.model is None else self.model
        names = value_names(net)
        layers = list(_computing(net))
        wanted = [names[top] for layer in layers for top in layer.tops]
        if isinstance(model, Path):
            values = _run_file(model, inputs, dict.fromkeys(wanted), net.outputs)
        else:
            values = run_onnx(model, inputs, wanted)
        for layer in layers:
            yield layer, tuple(values[names[top]] for top in layer.tops)


def run_onnx(model: onnx.ModelProto, inputs: Mapping[str, Array], wanted: list[str]) -> dict[str, Array]:
    """Runs a model with any of its values given out. Raises ArtifactError if it does not have them or cannot be run."""
    import onnx

    have = {output for node in model.graph.node for output in node.output} | {v.name for v in model.graph.input}
    missing = [name for name in wanted if name not in have]
    if missing:
        raise ArtifactError(f"the ONNX model has no value {', '.join(map(repr, missing[:3]))}: not made from this net")
    outputs = {value.name for value in model.graph.output}
    extra = [name for name in dict.fromkeys(wanted) if name not in outputs]
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra)
    session = make_session(opened.SerializeToString())
    names = list(dict.fromkeys(wanted))
    given = {value.name: np.asarray(inputs[value.name]) for value in session.get_inputs()}
    return dict(zip(names, session.run(names, given), strict=True))


def _run_file(
    path: Path, inputs: Mapping[str, Array], wanted: Iterable[str], outputs: Sequence[str]
) -> dict[str, Array]:
    """As `run_onnx`, with the model in a file, which has these outputs, and which only onnxruntime reads."""
    import onnx

    graph = onnx.GraphProto(output=[onnx.ValueInfoProto(name=name) for name in wanted if name not in outputs])
    # Beside the file, where its external data are.
    opened = path.with_name(f".{secrets.token_hex(6)}.onnx")
    try:
        shutil.copyfile(path, opened)
        with opened.open("ab") as stream:
            # Protobuf reads messages behind each other as one, so these outputs join those that are there.
            stream.write(onnx.ModelProto(graph=graph).SerializeToString())
        session = make_session(str(opened))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be copied to be verified: {error.strerror or error}") from error
    finally:
        opened.unlink(missing_ok=True)
    given = {value.name: np.asarray(inputs[value.name]) for value in session.get_inputs()}
    names = list(wanted)
    return dict(zip(names, session.run(names, given), strict=True))


BACKENDS = ("numpy", "numpy64", "torch", "onnxruntime")
"""The names `make_backend` takes."""


def make_backend(name: str) -> Backend:
    """The backend of that name. Raises GraphError for an unknown one."""
    if name == "numpy":
        return NumpyBackend("float32")
    if name == "numpy64":
        return NumpyBackend("float64")
    if name == "torch":
        return TorchBackend()
    if name == "onnxruntime":
        return OnnxBackend()
    raise GraphError(f"unknown backend {name!r}; known: {', '.join(BACKENDS)}")


def installed_backends() -> list[Backend]:
    """Every way to compute a net that is installed here; NumPy's two always are."""
    backends: list[Backend] = [NumpyBackend("float64"), NumpyBackend("float32")]
    with contextlib.suppress(MissingDependency):
        require_torch()
        backends.append(TorchBackend())
    with contextlib.suppress(MissingDependency):
        require_onnxruntime()
        backends.append(OnnxBackend())
    return backends
