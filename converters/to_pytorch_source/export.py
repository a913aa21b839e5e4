"""The source of a net, with its weights and the table of where they come from."""

from __future__ import annotations

import ast
import importlib.util
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from caffe_port._version import __version__
from caffe_port.converters.to_pytorch_source import names
from caffe_port.converters.to_pytorch_source.blocks import BlockClass, extract_blocks
from caffe_port.converters.to_pytorch_source.checking import require_expected
from caffe_port.converters.to_pytorch_source.graph import Graph, Module, Tensor, Value
from caffe_port.converters.to_pytorch_source.stages import make_stages
from caffe_port.converters.to_pytorch_source.translation import to_graph
from caffe_port.converters.to_pytorch_source.writing import INDENT, Call, constructor, forward_body, laid_out
from caffe_port.errors import ArtifactError, GraphError, Problems
from caffe_port.net import Blob, Net
from caffe_port.preprocessing import MeanImage, Preprocessing

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PyTorchSource", "load_module", "require_writable", "to_pytorch_source"]


@dataclass(frozen=True, slots=True)
class PyTorchSource:
    """A net as source, and what belongs to it.

    - `source`: the file; `class_name`: the net's class in it.
    - `tensors`: the state dict of that class, float32, without BatchNorm's counters, which a new module has.
    - `blobs`: for each key of `tensors` the learned blob it comes from and how, fit for JSON: `{"layer": …, "blob": …,
      "as": …}`, see docs/pytorch-source.md.
    - `hooks`: paths of submodules whose output is exactly the value of a blob of the net.
    """

    source: str
    class_name: str
    tensors: dict[str, npt.NDArray[np.float32]]
    blobs: dict[str, dict[str, Any]]
    hooks: dict[str, Blob]


def to_pytorch_source(net: Net, name: str, preprocessing: Preprocessing | None = None) -> PyTorchSource:
    """The source of a module that computes `net`, of PyTorch's own parts; `name`: what the file is called, without .py.

    The module takes the net's inputs by position, in any batch size the net allows, and returns the output's tensor, or
    a dict by blob name if there are several. It is for inference: Dropout is left out. With `preprocessing` the source
    has a function that makes the input from a picture.
    Raises: UnsupportedLayer naming every layer there is no plain form for; GraphError for a net of phase TRAIN;
    WeightsError if learned blobs have no values; ArtifactError if the net's files cannot be read any more.
    """
    net.require_weights()
    graph = _graph_of(net)
    is_same = names.cleaned(net.name).replace("_", "").lower() == names.cleaned(name).replace("_", "").lower()
    scope = names.Names()
    class_name = scope.add(names.class_name(net.name if is_same else name, "Net"), "Net")
    classes = extract_blocks(graph, scope)
    make_stages(graph, classes)
    attributes = _attributes(graph)
    for op in graph.ops:
        op.comment = ", ".join(map(names.label, op.layers))
        for module in op.modules:
            same, *others = module.layers or ("",)
            if same and same != attributes[module]:
                module.comment = ", ".join(map(names.label, module.layers))
            elif others and not module.comment:
                module.comment = f"with {', '.join(map(names.label, others))}"
    pieces = [block_class(block) for block in classes]
    pieces.append(_net_class(net, graph, class_name, attributes))
    pieces.append(_load_function(class_name))
    if preprocessing is not None:
        pieces.append(preprocess_function(preprocessing))
    body = "\n\n\n".join("\n".join(piece) for piece in pieces)
    source = f"{_docstring(net, name, graph)}\n\n{_imports(body)}\n\n\n{body}\n"
    require_expected(source, f"{name}.py")
    tensors: dict[str, Tensor] = {}
    hooks: dict[str, Blob] = {}
    for module, attribute in attributes.items():
        tensors |= {f"{attribute}.{key}" if key else attribute: tensor for key, tensor in module.tensors.items()}
        hooks |= {f"{attribute}.{key}" if key else attribute: blob for key, blob in module.hooks.items()}
    return PyTorchSource(
        source,
        class_name,
        {key: np.ascontiguousarray(tensor.data).reshape(tensor.data.shape) for key, tensor in tensors.items()},
        {key: {"layer": t.layer, "blob": t.blob, "as": t.kind} for key, t in tensors.items()},
        hooks,
    )


def require_writable(net: Net) -> None:
    """Raises what `to_pytorch_source` would raise of the net's layers and phase; the net may lack its weights."""
    net.require_known()
    zero = np.zeros((), np.float32)
    _graph_of(net.with_values({id(weight): np.broadcast_to(zero, weight.shape) for weight in net.missing_weights()}))


def _graph_of(net: Net) -> Graph:
    if net.phase != "TEST":
        raise GraphError(f"net {net.name!r} is of phase {net.phase}; source is written of nets of phase TEST")
    return to_graph(net)


def load_module(path_py: Path, path_safetensors: Path) -> nn.Module:
    """The module of a written source with its weights, in eval mode: what the file's own `load` returns.

    It runs the file. Raises: ArtifactError if that, or reading the weights, fails.
    """
    name = f"_caffe_port_source_{secrets.token_hex(6)}"
    spec = importlib.util.spec_from_file_location(name, path_py)
    if spec is None or spec.loader is None:
        raise ArtifactError(f"{path_py}: this is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        loaded: nn.Module = module.load(path_safetensors)
    except Exception as error:
        raise ArtifactError(f"{path_py}: cannot be loaded with {path_safetensors}: {error}") from error
    return loaded


def _attributes(graph: Graph) -> dict[Module, str]:
    scope = names.Names()
    modules = dict.fromkeys(module for op in graph.ops for module in op.modules)
    return {module: scope.add(module.name, module.kind) for module in modules}


# Parts of the file


def _docstring(net: Net, name: str, graph: Graph) -> str:
    lines = [f'"""The net {names.label(net.name or name)}, converted from Caffe by caffe_port {__version__}.', ""]
    for source in net.sources:
        try:
            lines += [f"{source.role}: {names.label(source.path.name)}", f"    SHA-256 {source.sha256()}"]
        except OSError as error:
            raise ArtifactError(f"{source.path}: cannot be read: {error.strerror or error}") from error
    for title, blobs in (("input", net.input_blobs), ("output", net.output_blobs)):
        lines += [f"{title}: {names.label(blob.name)}, {_dims(blob.shape)}" for blob in blobs]
    arguments = ", ".join(_argument_names(graph, net).values())
    lines += [
        "",
        f"    net = load({names.string(f'{name}.weights.safetensors')})",
        "    with torch.no_grad():",
        f"        y = net({arguments})",
        '"""',
    ]
    return "\n".join(lines)


def _dims(shape: Sequence[int]) -> str:
    return f"({', '.join(['N', *map(str, shape[1:])])}{',' if len(shape) == 1 else ''})" if shape else "()"


def _imports(body: str) -> str:
    """Those that the rest of the file uses."""
    used = {node.id for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Name)}
    standard = {"io": "import io", "OrderedDict": "from collections import OrderedDict"}
    others = {"torch": "import torch", "F": "import torch.nn.functional as F"}
    lines = [text for name, text in standard.items() if name in used]
    if lines:
        lines.append("")
    lines += [text for name, text in others.items() if name in used]
    return "\n".join([*lines, "from safetensors.torch import load_file", "from torch import Tensor, nn"])


def block_class(block: BlockClass) -> list[str]:
    """The lines of a block's class."""
    lines = [f"class {block.name}(nn.Module):", *_block_docstring(block), ""]
    parameters = ("self", *(f"{name}: {annotation}" for name, annotation in block.parameters))
    lines += laid_out(Call("def __init__(", parameters, ") -> None:"), 4)
    lines.append(f"{' ' * INDENT}super().__init__()")
    chosen = {module for op in block.optional for module in op.modules}
    if block.optional:
        lines.append(f"{' ' * INDENT}self.projection = projection")
    groups = [[m for m in block.attributes if m in chosen], [m for m in block.attributes if m not in chosen]]
    if block.optional:
        lines.append(f"{' ' * INDENT}if projection:")
    for group, indent in zip(groups, (INDENT + 4, INDENT), strict=True):
        for module in group:
            lines += constructor(block.attributes[module], module, block.arguments[module], indent)
    lines += ["", "    def forward(self, x: Tensor) -> Tensor:"]
    inputs = {block.entry: "x"}
    if block.optional:
        end = block.optional[-1].outputs[0]
        chain = forward_body(block.optional, {block.entry: "x"}, [("", end)], block.attributes)
        lines += [f"{' ' * INDENT}shortcut = x", f"{' ' * INDENT}if self.projection:"]
        lines += [f"    {line.replace('return ', 'shortcut = ', 1)}" for line in chain]
        inputs[end] = "shortcut"
    return lines + forward_body(block.ops, inputs, [("", block.exit)], block.attributes)


def _block_docstring(block: BlockClass) -> list[str]:
    if not block.uses:
        return ['    """A block that the net repeats."""']
    first, last = names.label(block.uses[0]), names.label(block.uses[-1])
    return [
        f'    """Caffe\'s {first} to {last}, * in the comments.',
        "",
        f"    Its layer {names.label(block.example[0])} is {block.example[1]} here.",
        '    """',
    ]


def _argument_names(graph: Graph, net: Net) -> dict[Value, str]:
    if len(graph.inputs) == 1:
        return {graph.inputs[0]: "x"}
    scope = names.Names()
    return {value: scope.add(blob.name, "x") for value, blob in zip(graph.inputs, net.input_blobs, strict=True)}


def _net_class(net: Net, graph: Graph, class_name: str, attributes: Mapping[Module, str]) -> list[str]:
    lines = [f"class {class_name}(nn.Module):"]
    if attributes:
        lines += ["    def __init__(self) -> None:", f"{' ' * INDENT}super().__init__()"]
        for module, attribute in attributes.items():
            lines += constructor(attribute, module)
        for module in attributes:
            for own, holder, other in module.tied:
                target = ".".join(filter(None, (f"self.{attributes[module]}", own)))
                lines.append(
                    f"{' ' * INDENT}{target} = {'.'.join(filter(None, (f'self.{attributes[holder]}', other)))}"
                )
        lines.append("")
    arguments = _argument_names(graph, net)
    returned = "Tensor" if len(graph.outputs) == 1 else "dict[str, Tensor]"
    parts = ("self", *(f"{argument}: Tensor" for argument in arguments.values()))
    lines += laid_out(Call("def forward(", parts, f") -> {returned}:"), 4)
    return lines + forward_body(graph.ops, arguments, graph.outputs, attributes)


def _load_function(class_name: str) -> list[str]:
    return [
        f"def load(path: str) -> {class_name}:",
        '    """The net with the weights of a safetensors file, for inference."""',
        f"    net = {class_name}()",
        "    net.load_state_dict(load_file(path))",
        "    return net.eval()",
    ]


def preprocess_function(steps: Preprocessing) -> list[str]:
    """The lines of a function that does what `steps` say, rounded as Caffe's Python code rounds it.

    Raises: GraphError for what a source of a page cannot hold or Pillow cannot do.
    """
    problems = Problems()
    if isinstance(steps.mean, MeanImage):
        hint = 'give its averages, {"file": …, "per_channel": true}, or convert to onnx'
        problems.add(GraphError, "a mean image has too many numbers for a source", hint=hint)
    if steps.resize is not None and steps.interpolation != "pillow":
        what = f"resizing by {steps.interpolation!r} interpolation is not written as PyTorch source"
        problems.add(GraphError, what, hint="convert to onnx")
    problems.raise_if_any()
    assert not isinstance(steps.mean, MeanImage)
    wanted = steps.crop or steps.resize
    size = f"{wanted[0]}, {wanted[1]}" if wanted else "height, width"
    shape = f"(1, {steps.channels}, {size})"
    lines = [
        "def preprocess(image) -> Tensor:",
        f'    """A picture of Pillow as input of the net: {shape}, channels {steps.channel_order}."""',
    ]
    if steps.resize is not None or steps.jpeg_round_trip:
        lines += ["    from PIL import Image", ""]
    grey = '.convert("L")' if steps.channels == 1 else ""
    lines.append(f'    image = image.convert("RGB"){grey}')
    if steps.resize is not None:
        height, width = steps.resize
        lines += [
            "    # Rows first: Pillow rounds to 8 bits in between.",
            f"    image = image.resize(({width}, image.height), Image.Resampling.BILINEAR)",
            f"    image = image.resize(({width}, {height}), Image.Resampling.BILINEAR)",
        ]
    if steps.jpeg_round_trip:
        lines += [
            "    # The net was trained on pictures that had been saved as JPEG once more.",
            "    image.info = {}",
            "    stream = io.BytesIO()",
            '    image.save(stream, "JPEG")',
            "    image = Image.open(stream)",
        ]
    if steps.crop is not None:
        height, width = steps.crop
        if steps.resize is not None:
            top, left = (steps.resize[0] - height) // 2, (steps.resize[1] - width) // 2
            lines.append(f"    image = image.crop({(left, top, left + width, top + height)})")
        else:
            lines += [
                f"    left, top = (image.width - {width}) // 2, (image.height - {height}) // 2",
                "    if left < 0 or top < 0:",
                f'        raise ValueError("the picture is smaller than {width}x{height} pixels")',
                f"    image = image.crop((left, top, left + {width}, top + {height}))",
            ]
    mean = ", ".join(map(_short, steps.mean))
    lines += [
        "    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)",
        f"    x = pixels.reshape(image.height, image.width, {steps.channels}).permute(2, 0, 1)",
    ]
    if steps.channel_order == "BGR":
        lines[-1] += ".flip(0)"
    lines += [
        "    # Rounded to float32 where Caffe's own preprocessing did, so that no bit differs.",
        f"    x = (x.double() / 255).float() * {_short(steps.raw_scale)}",
    ]
    if any(steps.mean):
        lines += [
            f"    mean = torch.tensor([{mean}], dtype=torch.float64)",
            "    x = (x.double() - mean.reshape(-1, 1, 1)).float()",
        ]
    lines.append(f"    return x[None]{'' if steps.scale == 1 else f' * {names.number(steps.scale)}'}")
    return lines


def _short(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
