"""ONNX files that are to score pictures: the part behind the preprocessing, and the hash of all their files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe_port.errors import ArtifactError
from caffe_port.preprocessing import Preprocessing
from caffe_port.proto.files import sha256_of

if TYPE_CHECKING:
    import onnx

__all__ = ["sha256_of_onnx", "without_preprocessing"]


def without_preprocessing(path: Path, steps: Preprocessing) -> bytes:
    """The part of a model behind its preprocessing, which `tensor` does as well, to the last bit, and quicker.

    Raises: ArtifactError if the two cannot be told apart (any more).
    """
    import onnx

    if path.suffix.lower() != ".onnx":
        raise ArtifactError(f"{path}: preprocessing inside is taken out of ONNX files only: give the .onnx file")
    model = onnx.load(path)
    graph = model.graph
    made = [i for i, node in enumerate(graph.node) if steps.input_blob in node.output]
    behind = list(graph.node)[made[0] + 1 :] if made else []
    used = {name for node in behind for name in _read_by(node)}
    constants = [constant for constant in graph.initializer if constant.name in used]
    have = {steps.input_blob, *(constant.name for constant in constants), *(o for node in behind for o in node.output)}
    if not behind or not (used | {value.name for value in graph.output}) - {""} <= have:
        raise ArtifactError(f"{path}: its preprocessing cannot be told from the rest: the file was changed by a tool")
    del graph.node[:], graph.initializer[:], graph.input[:]
    graph.node.extend(behind)
    graph.initializer.extend(constants)
    shape = [1, steps.channels, *(steps.size or ("height", "width"))]
    graph.input.append(onnx.helper.make_tensor_value_info(steps.input_blob, onnx.TensorProto.FLOAT, shape))
    cut: bytes = model.SerializeToString()
    return cut


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads of the values around it: its inputs, and what its bodies read and do not make."""
    import onnx

    yield from node.input
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            body = attribute.g
            own = {value.name for value in body.input} | {constant.name for constant in body.initializer}
            own |= {name for inner in body.node for name in inner.output}
            yield from (name for inner in body.node for name in _read_by(inner) if name not in own)


def sha256_of_onnx(path: Path) -> str:
    """Of the file, and of those with its weights that it names."""
    digests = [sha256_of(path)]
    if path.suffix.lower() == ".onnx":
        import onnx

        graph = onnx.load(path, load_external_data=False).graph
        entries: Iterable[Any] = chain.from_iterable(tensor.external_data for tensor in graph.initializer)
        named = {entry.value for entry in entries if entry.key == "location"}
        digests += [sha256_of(path.parent / name) for name in sorted(named)]
    return "+".join(digests)
