"""An ONNX model at another opset.

Upwards onnx's own converter does it. Downwards that converter knows few operators, and makes another function of some
(Softmax below 13, whose axis it keeps though it meant something else there); so what our emitters write has rules here,
and any other operator that changed in between is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe_port.converters.to_onnx.export import OPSET
from caffe_port.errors import ArtifactError, MissingDependency, Problems

if TYPE_CHECKING:
    import onnx

__all__ = ["NEWEST_OPSET", "OLDEST_OPSET", "at_opset"]

OLDEST_OPSET = 11
"""Before it Clip, Pad, TopK and others had their numbers in attributes, and GatherElements was not there."""

NEWEST_OPSET = 24
"""The newest that every recorded layer was run at."""

UNCHANGED = frozenset(
    (
        *("Abs", "Add", "And", "AveragePool", "Cast", "Clip", "Compress", "Concat", "Conv", "ConvTranspose", "Div"),
        *("Elu", "Equal", "Exp", "Expand", "Flatten", "Gather", "GatherElements", "Gemm", "Greater", "Identity"),
        *("LRN", "LeakyRelu", "Less", "Log", "MatMul", "Max", "MaxPool", "Min", "Mod", "Mul", "Neg", "Not"),
        *("PRelu", "Pad", "Pow", "RandomNormal", "RandomUniform", "ReduceL1", "ReduceMean", "ReduceProd"),
        *("ReduceSumSquare", "Relu", "Sigmoid", "Size", "Slice", "Softplus", "Sqrt", "Sub", "Sum", "Tanh", "Tile"),
        *("TopK", "Transpose", "Where"),
    )
)
"""Operators of which the versions between OLDEST_OPSET and the pinned opset differ only in the types they take."""


def at_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """`model` at that opset of ONNX's own operators, with the IR version that came with it.

    Names, inputs, outputs, weights and metadata stay. The result has passed ONNX's checker, and onnxruntime has taken
    it, where that is installed.
    Raises: ArtifactError naming the nodes and operators that opset cannot express, or for an opset outside
    OLDEST_OPSET … NEWEST_OPSET.
    """
    import onnx

    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise ArtifactError(f"opset {opset} cannot be written: {OLDEST_OPSET} to {NEWEST_OPSET} can")
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) >= onnx.checker.MAXIMUM_PROTOBUF:
        raise ArtifactError(f"a model of 2 GiB or more stays at opset {OPSET}: ONNX's checker cannot take it")
    ours = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if ours == [opset]:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return copy
    made = _lowered(model, opset) if ours and opset < ours[0] else _raised(model, opset)
    made.ir_version = onnx.helper.find_min_ir_version_for(made.opset_import, ignore_unknown=True)
    _check(made, opset)
    return made


def _raised(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    from onnx import version_converter

    try:
        made = version_converter.convert_version(model, opset)
    except Exception as error:  # what the C++ converter throws has no common type
        raise ArtifactError(f"the model cannot be raised to opset {opset}: {_first_line(error)}") from error
    for kind in ("input", "output"):
        before, after = getattr(model.graph, kind), getattr(made.graph, kind)
        if [value.name for value in before] != [value.name for value in after]:
            raise ArtifactError(f"onnx's converter renames an {kind} of the model on the way to opset {opset}")
        # It also gives names to dims of unknown size.
        del after[:]
        after.extend(before)
    # And it drops the metadata.
    made.producer_name, made.producer_version = model.producer_name, model.producer_version
    del made.metadata_props[:]
    made.metadata_props.extend(model.metadata_props)
    return made


def _lowered(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    import onnx

    (before,) = (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    problems = Problems()
    if before > OPSET:
        raise ArtifactError(f"a model of opset {before} cannot be lowered: {OPSET} and older can")
    made = onnx.ModelProto()
    made.CopyFrom(model)
    work = _Lowering(made, opset)
    nodes: list[onnx.NodeProto] = []
    for node in made.graph.node:
        if node.domain not in ("", "ai.onnx"):
            nodes.append(node)
            continue
        try:
            changed = node.op_type in RULES and opset < RULES[node.op_type].until
            if changed:
                nodes += RULES[node.op_type].rewrite(work, node)
            elif node.op_type in UNCHANGED or node.op_type in RULES or not _changed(node.op_type, before, opset):
                nodes.append(node)
            else:
                raise _Inexpressible(f"{node.op_type} means something else there")
        except _Inexpressible as reason:
            problems.add(ArtifactError, f"node {node.name!r} ({node.op_type}) cannot be at opset {opset}: {reason}")
    problems.raise_if_any()
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input} | {value.name for value in made.graph.output}
    kept = [tensor for tensor in made.graph.initializer if tensor.name in read or tensor.name not in work.folded]
    del made.graph.initializer[:]
    made.graph.initializer.extend([*kept, *work.added])
    for entry in made.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = opset
    return made


def _changed(op: str, before: int, opset: int) -> bool:
    import onnx

    try:
        old = onnx.defs.get_schema(op, opset)
    except onnx.defs.SchemaError:
        raise _Inexpressible("it is not there yet") from None
    return bool(old.since_version != onnx.defs.get_schema(op, before).since_version)


def _check(model: onnx.ModelProto, opset: int) -> None:
    import onnx

    from caffe_port.sessions import make_session

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ArtifactError(f"the model is not valid at opset {opset}: {_first_line(error)}") from error
    try:
        make_session(model.SerializeToString())
    except MissingDependency:
        return


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


class _Inexpressible(Exception):
    """Why a node has no form at the opset."""


@dataclass(slots=True)
class _Lowering:
    """The model whose nodes are rewritten, what was added to it, and the constants that became attributes."""

    model: onnx.ModelProto
    opset: int
    added: list[onnx.TensorProto] = field(default_factory=list)
    folded: set[str] = field(default_factory=set)
    _constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    _ranks: dict[str, int] | None = None
    _taken: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._taken = {name for node in graph.node for name in (*node.input, *node.output, node.name)}

    def unique(self, wanted: str) -> str:
        while wanted in self._taken:
            wanted += "'"
        self._taken.add(wanted)
        return wanted

    def integers(self, name: str) -> list[int]:
        """The values of a constant that is to become an attribute."""
        from onnx import numpy_helper

        if name not in self._constants:
            raise _Inexpressible(f"{name!r} is computed, and has to be a constant there")
        self.folded.add(name)
        return [int(value) for value in numpy_helper.to_array(self._constants[name]).reshape(-1)]

    def constant(self, values: list[int], wanted: str) -> str:
        from onnx import numpy_helper

        name = self.unique(wanted)
        self.added.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def rank(self, name: str) -> int:
        import onnx

        if self._ranks is None:
            graph = onnx.shape_inference.infer_shapes(self.model).graph
            self._ranks = {
                value.name: len(value.type.tensor_type.shape.dim)
                for value in (*graph.input, *graph.output, *graph.value_info)
                if value.type.tensor_type.HasField("shape")
            }
        if name not in self._ranks:
            raise _Inexpressible(f"the number of axes of {name!r} is not known")
        return self._ranks[name]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _node(like: onnx.NodeProto, op: str, inputs: list[str], outputs: list[str], name: str, **kw: Any) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node(op, inputs, outputs, name=name, doc_string=like.doc_string or None, **kw)


def _axes_to_attribute(attribute: str) -> Callable[[_Lowering, onnx.NodeProto], Iterable[onnx.NodeProto]]:
    """Input 1, a constant, becomes an attribute (ReduceSum, Split, Squeeze, Unsqueeze before 13)."""

    def rewrite(work: _Lowering, node: onnx.NodeProto) -> Iterable[onnx.NodeProto]:
        attributes = _attributes(node)
        if len(node.input) > 1 and node.input[1]:
            attributes[attribute] = work.integers(node.input[1])
        if attributes.pop("noop_with_empty_axes", 0):
            raise _Inexpressible("noop_with_empty_axes is not there yet")
        yield _node(node, node.op_type, [node.input[0]], list(node.output), node.name, **attributes)

    return rewrite


def _softmax(work: _Lowering, node: onnx.NodeProto) -> Iterable[onnx.NodeProto]:
    """Before 13 it went over `axis` and all behind it: the same where nothing is behind."""
    rank = work.rank(node.input[0])
    axis = _attributes(node).get("axis", -1) % rank
    last = rank - 1
    if axis == last:
        yield _node(node, node.op_type, list(node.input), list(node.output), node.name, axis=axis)
        return
    order = list(range(rank))
    order[axis], order[last] = last, axis
    turned, done = work.unique(f"{node.name}:turned"), work.unique(f"{node.name}:done")
    yield _node(node, "Transpose", list(node.input), [turned], work.unique(f"{node.name}/turn"), perm=order)
    yield _node(node, node.op_type, [turned], [done], node.name, axis=last)
    yield _node(node, "Transpose", [done], list(node.output), work.unique(f"{node.name}/back"), perm=order)


def _shape(work: _Lowering, node: onnx.NodeProto) -> Iterable[onnx.NodeProto]:
    """Before 15 it gave all dims: a Slice takes out those asked for."""
    attributes = _attributes(node)
    if not attributes:
        yield node
        return
    start, end = attributes.get("start", 0), attributes.get("end", np.iinfo(np.int64).max)
    whole = work.unique(f"{node.name}:whole")
    yield _node(node, "Shape", list(node.input), [whole], node.name)
    bounds = [work.constant([n], f"{node.name}.{what}") for n, what in ((start, "start"), (end, "end"), (0, "axis"))]
    yield _node(node, "Slice", [whole, *bounds], list(node.output), work.unique(f"{node.name}/Slice"))


def _reshape(work: _Lowering, node: onnx.NodeProto) -> Iterable[onnx.NodeProto]:
    if _attributes(node).get("allowzero", 0):
        raise _Inexpressible("dims of size 0 cannot be asked for before opset 14")
    yield _node(node, "Reshape", list(node.input), list(node.output), node.name)


def _batch_norm(work: _Lowering, node: onnx.NodeProto) -> Iterable[onnx.NodeProto]:
    attributes = _attributes(node)
    if attributes.pop("training_mode", 0):
        raise _Inexpressible("training_mode is not there yet")
    yield _node(node, node.op_type, list(node.input), list(node.output), node.name, **attributes)


def _or_equal(op: str) -> Callable[[_Lowering, onnx.NodeProto], Iterable[onnx.NodeProto]]:
    """GreaterOrEqual and LessOrEqual as two nodes and an Or: before 12 they were not there."""

    def rewrite(work: _Lowering, node: onnx.NodeProto) -> Iterable[onnx.NodeProto]:
        a, b = node.input
        beyond, same = work.unique(f"{node.name}:beyond"), work.unique(f"{node.name}:same")
        yield _node(node, op, [a, b], [beyond], node.name)
        yield _node(node, "Equal", [a, b], [same], work.unique(f"{node.name}/Equal"))
        yield _node(node, "Or", [beyond, same], list(node.output), work.unique(f"{node.name}/Or"))

    return rewrite


def _dropout(work: _Lowering, node: onnx.NodeProto) -> Iterable[onnx.NodeProto]:
    raise _Inexpressible("a Dropout that drops when run is not there yet")


@dataclass(frozen=True, slots=True)
class _Rule:
    """How a node is written at opsets before `until`."""

    until: int
    rewrite: Callable[[_Lowering, onnx.NodeProto], Iterable[onnx.NodeProto]]


RULES = {
    "BatchNormalization": _Rule(14, _batch_norm),
    "Dropout": _Rule(12, _dropout),
    "GreaterOrEqual": _Rule(12, _or_equal("Greater")),
    "LessOrEqual": _Rule(12, _or_equal("Less")),
    "ReduceSum": _Rule(13, _axes_to_attribute("axes")),
    "Reshape": _Rule(14, _reshape),
    "Shape": _Rule(15, _shape),
    "Softmax": _Rule(13, _softmax),
    "Split": _Rule(13, _axes_to_attribute("split")),
    "Squeeze": _Rule(13, _axes_to_attribute("axes")),
    "Unsqueeze": _Rule(13, _axes_to_attribute("axes")),
}
"""By operator. At `until` and above the node stays as it is."""
