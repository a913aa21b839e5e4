"""Layers that make blobs from nothing, and HDF5Output, in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_port.converters.to_onnx.context import FLOAT, OnnxContext, Value
from caffe_port.fillers import Filler
from caffe_port.layers import data
from caffe_port.net import Layer
from caffe_port.registry import emitter
from caffe_port.shapes import Shape


@emitter("onnx", "Parameter")
def _parameter(ctx: OnnxContext, layer: Layer, parameter: data.Parameter, bottoms: Sequence[Value]) -> None:
    ctx.op("Identity", ctx.weight(0, "blob"), output=ctx.tops[0])


@emitter("onnx", "DummyData")
def _dummy_data(ctx: OnnxContext, layer: Layer, dummy: data.DummyData, bottoms: Sequence[Value]) -> None:
    for filler, shape, top in zip(dummy.fillers, dummy.shapes, ctx.tops, strict=True):
        _fill(ctx, filler, shape, top)


def _fill(ctx: OnnxContext, filler: Filler, shape: Shape, top: Value) -> None:
    """Draws anew in every run, as Caffe does; the stream of random numbers is the runtime's."""
    if not filler.is_random:
        ctx.op("Identity", ctx.constant(filler.fill(shape, np.random.default_rng(0)), "values"), output=top)
        return
    if filler.type in ("gaussian", "msra"):
        mean, scale = filler.normal(shape)
        if filler.sparse < 0:
            ctx.op("RandomNormal", output=top, shape=shape, mean=mean, scale=scale)
            return
        values = ctx.op("RandomNormal", shape=shape, mean=mean, scale=scale)
        chance = ctx.op("RandomUniform", shape=shape, low=0.0, high=1.0)
        kept = ctx.op("Less", chance, ctx.constant(filler.keep_probability(shape), "share"))
        ctx.op("Mul", values, ctx.op("Cast", kept, to=FLOAT), output=top)
        return
    low, high = filler.bounds(shape)
    if filler.type != "positive_unitball":
        ctx.op("RandomUniform", output=top, shape=shape, low=low, high=high)
        return
    values = ctx.op("RandomUniform", shape=shape, low=low, high=high)
    axes = ctx.integers(range(1, len(shape)), "axes")
    sums = values if len(shape) < 2 else ctx.op("ReduceSum", values, axes, keepdims=1)
    ctx.op("Div", values, sums, output=top)


@emitter("onnx", "HDF5Output")
def _hdf5_output(ctx: OnnxContext, layer: Layer, output: data.HDF5Output, bottoms: Sequence[Value]) -> None:
    """Nothing: it makes no value, and writing files is no business of an ONNX model."""
