"""Blocks that follow each other, made one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from caffe_port.converters.to_pytorch_source import names
from caffe_port.converters.to_pytorch_source.blocks import BlockClass
from caffe_port.converters.to_pytorch_source.graph import Graph, Module, Op
from caffe_port.converters.to_pytorch_source.parts import Uses

__all__ = ["make_stages"]


def make_stages(graph: Graph, classes: Sequence[BlockClass]) -> None:
    """Makes a Sequential of blocks of one class that follow each other and are named as stage and block.

    stage0_block0, stage0_block1 become stage0 with block0 and block1; res2a, res2b become res2 with a and b.
    """
    blocks = {block.name for block in classes}
    uses = Uses(graph)
    runs: list[list[Op]] = []
    for op in graph.ops:
        stage = _stage_of(op, blocks)
        previous = runs[-1][-1] if runs else None
        follows = (
            previous is not None
            and stage is not None
            and uses.only_reader(previous.outputs[0]) is op
            and _stage_of(previous, blocks) == stage
        )
        if follows:
            runs[-1].append(op)
        elif stage is not None:
            runs.append([op])
    stages = [stage for run in runs if (stage := _stage_of(run[0], blocks))]
    for run in runs:
        stage = _stage_of(run[0], blocks)
        if stage is None or len(run) < 2 or stages.count(stage) > 1:
            continue
        scope = names.Names(set(_NOT_IN_SEQUENTIAL))
        children = tuple((scope.add(_split(op.modules[0].name)[1], "block"), op.modules[0]) for op in run)
        whole = Module("nn.Sequential", (), stage[1], "stage", children=children)
        for name, child in children:
            whole.tensors |= {f"{name}.{key}": tensor for key, tensor in child.tensors.items()}
            whole.hooks |= {f"{name}.{key}" if key else name: blob for key, blob in child.hooks.items()}
        last = run[-1].outputs[0]
        if last.blob is not None:
            whole.hooks[""] = last.blob
        graph.ops[graph.ops.index(run[0])] = Op("{m0}({0})", run[0].inputs, (last,), modules=(whole,))
        graph.ops[:] = [op for op in graph.ops if op not in run[1:]]


_NOT_IN_SEQUENTIAL = ("append", "extend", "insert", "pop")


def _stage_of(op: Op, blocks: set[str]) -> tuple[str, str] | None:
    if len(op.modules) != 1 or op.modules[0].constructor not in blocks:
        return None
    stage, block = _split(op.modules[0].name)
    return (op.modules[0].constructor, stage) if stage and block else None


def _split(name: str) -> tuple[str, str]:
    found = re.fullmatch(r"(.*?[A-Za-z].*?)(?:[^A-Za-z0-9]+|(?<=[0-9]))([A-Za-z]+[0-9]*)", name)
    return (found[1], found[2]) if found else ("", "")
