"""What an ONNX emitter works with: it adds nodes and constants, and knows nothing of the model around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from caffe_port.net import Layer
from caffe_port.shapes import Shape, count

__all__ = ["BOOL", "FLOAT", "INT64", "Node", "OnnxContext", "Value"]

Value = str
"""The name of an ONNX value."""

# onnx.TensorProto's numbers of the element types, without importing onnx.
FLOAT, INT64, BOOL = 1, 7, 9


@dataclass(slots=True)
class Node:
    """An ONNX node before it is a NodeProto."""

    op: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    name: str
    attributes: dict[str, Any]


@dataclass(slots=True)
class OnnxContext:
    """Collects the nodes and constants of one model.

    `layer` is the one being emitted; its tops' names are in `tops`. An emitter returns the names of the values it made
    for them, and gives the last node of each the top's own name by passing `output=`.
    """

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    layer: Layer | None = None
    tops: tuple[Value, ...] = ()
    taken: set[str] = field(default_factory=set)

    def unique(self, wanted: str) -> str:
        """`wanted`, or `wanted_1`, …: a name nothing else in the graph has."""
        name, i = wanted, 0
        while name in self.taken:
            i += 1
            name = f"{wanted}_{i}"
        self.taken.add(name)
        return name

    def op(self, op: str, *inputs: Value, output: Value | None = None, **attributes: Any) -> Value:
        """Adds a node of one output; returns the output's name."""
        return self.ops(op, *inputs, outputs=[output], **attributes)[0]

    def ops(self, op: str, *inputs: Value, outputs: Sequence[Value | None], **attributes: Any) -> list[Value]:
        """Adds a node of several outputs (None: any name will do); returns their names."""
        assert self.layer is not None
        names = [self.unique(f"{self.layer.name}:{op}") if name is None else name for name in outputs]
        node_name = self.unique(f"{self.layer.name}/{op}")
        self.nodes.append(Node(op, inputs, tuple(names), node_name, attributes))
        return names

    def constant(self, values: npt.ArrayLike, what: str, dtype: npt.DTypeLike = np.float32) -> Value:
        """Adds a constant; `what` becomes part of its name."""
        assert self.layer is not None
        name = self.unique(f"{self.layer.name}.{what}")
        self.constants[name] = np.asarray(values, dtype=dtype)
        return name

    def weight(self, index: int, what: str, shape: Shape | None = None) -> Value:
        """Adds learned blob `index` of the layer (in another shape, if given); a shared one is added once."""
        assert self.layer is not None
        weight = self.layer.weights[index]
        data = weight.data
        assert data is not None
        return self.constant(data if shape is None else data.reshape(shape), what)

    def integers(self, values: Sequence[int], what: str) -> Value:
        """Adds an int64 vector: axes, a shape."""
        return self.constant(np.array(values, dtype=np.int64), what, np.int64)

    def reshape(self, x: Value, before: Shape, after: Shape, output: Value | None = None) -> Value:
        """Reshapes `x`, without naming the size of axis 0 where it can be copied or inferred."""
        if 0 in after:
            return self.op("Reshape", x, self.integers(after, "shape"), output=output, allowzero=1)
        dims = list(after)
        if before and after and before[0] == after[0]:
            dims[0] = 0
        elif after and before and count(after, 1) and count(before) % count(after, 1) == 0:
            dims[0] = -1
        return self.op("Reshape", x, self.integers(dims, "shape"), output=output)
