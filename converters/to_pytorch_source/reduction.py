"""Reduction as a call."""

from __future__ import annotations

from caffe_port.converters.to_pytorch_source.expressions import times
from caffe_port.converters.to_pytorch_source.graph import Value
from caffe_port.converters.to_pytorch_source.translation import Translation, writes
from caffe_port.layers import reduction
from caffe_port.net import Layer
from caffe_port.shapes import canonical_axis


@writes(reduction.Reduction)
def _reduction(to: Translation, layer: Layer, d: reduction.Reduction, inputs: list[Value]) -> None:
    axis = canonical_axis(d.axis, len(inputs[0].shape))
    whole = f"torch.flatten({{0}}, {axis})"
    rows = {"ASUM": f"torch.abs({whole})", "SUMSQ": f"torch.square({whole})"}.get(d.operation, whole)
    text = f"torch.{'mean' if d.operation == 'MEAN' else 'sum'}({rows}, dim=-1)"
    to.add(layer, times(d.coeff, text), inputs)
