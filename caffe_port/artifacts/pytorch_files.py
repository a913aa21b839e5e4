"""PyTorch: the exported program with its state dict, and the module as source."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caffe_port.artifacts.draft import DeployedFile, Draft, Survivors, folded
from caffe_port.artifacts.form import Form
from caffe_port.backends import TorchBackend
from caffe_port.errors import CaffePortError, GraphError
from caffe_port.layers.base import Array
from caffe_port.net import Layer, Net
from caffe_port.preprocessing import Preprocessing
from caffe_port.proto.files import replacing

__all__ = ["write_pytorch", "write_pytorch_source"]


def write_pytorch(net: Net, workshop: Path, name: str, form: Form) -> Draft:
    """`name.pt2`, a torch.export program, and `name.safetensors`, the state dict of `to_pytorch(net)`."""
    from caffe_port.converters.to_pytorch import to_pytorch

    draft = Draft()
    wanted = folded(net) if form.fold else net
    module = to_pytorch(wanted)
    import torch
    from safetensors.torch import save

    weights = workshop / f"{name}.safetensors"
    with replacing(weights) as stream:
        stream.write(save(_unshared(module.state_dict()), metadata={"format": "pt"}))
    program, symbolic = _export(wanted, module, form.batch)
    path = workshop / f"{name}.pt2"
    # Not straight to the file: where that cannot be written, PyTorch raises its C++ stack instead of an OSError.
    archive = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, archive)
    with replacing(path) as stream:
        stream.write(archive.getbuffer())
    draft.add("pytorch program (torch.export)", path, batch="symbolic" if symbolic else "fixed")
    draft.add("pytorch state dict (safetensors)", weights)
    reloaded = _Reloaded(weights)
    draft.exact.append(Survivors(reloaded, folded) if form.fold else reloaded)
    made: list[Any] = []

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            if not made:
                made.append(torch.export.load(path).module())
            return _as_blobs(net, made[0](*_tensors(net, inputs)))

    draft.exact.append(DeployedFile("torch, the exported program", run))
    return draft


def _unshared(state: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors, copied where another has the same memory, which safetensors refuses: those shared by name."""
    seen: set[int] = set()
    tensors = {}
    for key, value in state.items():
        memory = value.untyped_storage().data_ptr()
        tensors[key] = (value.clone() if memory in seen else value).contiguous()
        seen.add(memory)
    return tensors


def write_pytorch_source(net: Net, workshop: Path, name: str, form: Form, preprocessing: Preprocessing | None) -> Draft:
    """`name.py`, a module to be read and changed, and `name.weights.safetensors`, what it loads."""
    from caffe_port.converters.to_pytorch_source import to_pytorch_source

    draft = Draft()
    wanted = folded(net) if form.fold else net
    written = to_pytorch_source(wanted, name, preprocessing)
    from safetensors.numpy import save

    source, weights = workshop / f"{name}.py", workshop / f"{name}.weights.safetensors"
    with replacing(source) as stream:
        stream.write(written.source.encode())
    # One entry only: safetensors writes several in an order that changes from run to run.
    metadata = {"caffe_port.blobs": json.dumps(written.blobs, sort_keys=True)}
    with replacing(weights) as stream:
        stream.write(save({key: np.ascontiguousarray(array) for key, array in written.tensors.items()}, metadata))
    draft.add("pytorch source", source)
    draft.add("weights of the pytorch source (safetensors)", weights)
    places = {top: (layer.index, j) for layer in net.layers for j, top in enumerate(layer.tops)}
    draft.exact.append(_Source(source, weights, {path: places[blob] for path, blob in written.hooks.items()}))
    return draft


@dataclass(frozen=True, slots=True)
class _Source:
    """The source file as it is, with the weights from its file; submodules whose output is a layer's top show it.

    `seen`: the submodule's path → index of the layer in the net, and which top.
    """

    source: Path
    weights: Path
    seen: Mapping[str, tuple[int, int]]
    name: str = "torch, the source as it is"
    outputs_only: bool = True

    def trace(self, net: Net, inputs: Mapping[str, Array]) -> Iterator[tuple[Layer, tuple[Array | None, ...]]]:
        import torch

        from caffe_port.converters.to_pytorch_source import load_module

        module = load_module(self.source, self.weights)
        values: dict[int, dict[int, Array]] = {}

        def keep(path: str) -> Any:
            index, top = self.seen[path]

            def hook(_: Any, given: Any, result: Any) -> None:
                # Cloned: the next operation may work in place.
                values.setdefault(index, {})[top] = result.clone().numpy().reshape(net.layers[index].tops[top].shape)

            return hook

        for path in self.seen:
            module.get_submodule(path).register_forward_hook(keep(path))
        with torch.no_grad():
            outputs = _as_blobs(net, module(*_tensors(net, inputs)))
        for layer, tops in DeployedFile(self.name, lambda _: outputs).trace(net, inputs):
            values[layer.index] = {j: top for j, top in enumerate(tops) if top is not None}
        for index in sorted(values):
            layer = net.layers[index]
            yield layer, tuple(values[index].get(j) for j in range(len(layer.tops)))


def _tensors(net: Net, inputs: Mapping[str, Array]) -> list[Any]:
    import torch

    return [torch.from_numpy(np.array(inputs[name])) for name in net.inputs]


def _as_blobs(net: Net, result: Any) -> dict[str, Array]:
    outputs = result if isinstance(result, dict) else {net.outputs[0]: result}
    return {name: value.numpy() for name, value in outputs.items()}


def _export(net: Net, module: Any, batch: int | str | None) -> tuple[Any, bool]:
    """The exported program; of any batch where the net allows it and no number is asked for."""
    import torch

    def program(size: int | None, fixed: bool) -> Any:
        shapes = [shape if size is None else (size, *shape[1:]) for shape in net.input_shapes.values()]
        example = tuple(torch.zeros(shape) for shape in shapes)
        dims = None if fixed else (tuple({0: torch.export.Dim("N")} for _ in shapes),)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = torch.export.export(module, example, dynamic_shapes=dims)
        # The example would be pickled into the file, and the stack traces name this machine's folders.
        exported.example_inputs = None
        for part in exported.graph_module.modules():
            for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
                node.meta.pop("stack_trace", None)
        return exported

    if isinstance(batch, int):
        return program(batch, True), False
    sizes = {shape[0] if shape else 0 for shape in net.input_shapes.values()}
    if len(sizes) == 1 and 0 not in sizes and _takes_any_batch(net):
        try:
            return program(2, False), True
        except (RuntimeError, ValueError, torch._dynamo.exc.UserError):
            # Some nets fix their batch (a Reshape with all dims given); torch says so in several ways.
            pass
    if batch == "symbolic":
        raise GraphError("the net fixes its batch (a layer depends on it): give --batch N, or change the prototxt")
    return program(None, True), False


def _takes_any_batch(net: Net) -> bool:
    try:
        net.with_input_shapes({name: (2 * shape[0] + 1, *shape[1:]) for name, shape in net.input_shapes.items()})
    except CaffePortError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Reloaded:
    """The module with its weights read back from the safetensors file."""

    path: Path
    name: str = "torch (without oneDNN)"
    outputs_only: bool = False

    def trace(self, net: Net, inputs: Mapping[str, Array]) -> Iterator[tuple[Layer, tuple[Array, ...]]]:
        from safetensors.torch import load_file

        from caffe_port.converters.to_pytorch import to_pytorch

        # Made anew for each net: a module can only be looked into by the blobs of the net it was made from.
        module = to_pytorch(net)
        for parameter in module.state_dict().values():
            parameter.zero_()
        module.load_state_dict(load_file(self.path))
        return TorchBackend(module).trace(net, inputs)
