"""Nets of one layer of a fork, and running them by each backend."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import small
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

import caffe_port as cp
from caffe_port.net import Net

__all__ = ["F32", "PYTHON_PROPOSAL", "QUICK", "Floats", "Run", "layer", "roi_net", "runs"]

Floats = NDArray[np.float32]
Run = Callable[[dict[str, Floats]], Floats]

F32 = np.float32
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
PYTHON_PROPOSAL = "python_param { module: 'rpn.proposal_layer' layer: 'ProposalLayer' param_str: \"%s\" }"


def layer(type_name: str, *bottoms: str, params: str = "", top: str = "y", more: str = "") -> str:
    named = " ".join(f'bottom: "{bottom}"' for bottom in bottoms)
    return f'layer {{ name: "L" type: "{type_name}" {named} top: "{top}" {params} {more} }}\n'


def runs(net: Net) -> dict[str, Run]:
    """The net's only output by each backend; made once, run often. The ONNX file is checked in full."""
    onnx, torch = pytest.importorskip("onnx"), pytest.importorskip("torch")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = cp.to_onnx(net)
    assert {node.domain for node in model.graph.node} == {""}
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    module = cp.to_pytorch(net)

    def by_torch(inputs: dict[str, Floats]) -> Floats:
        with torch.no_grad():
            return np.asarray(module(*[torch.from_numpy(inputs[name]) for name in net.inputs]))

    return {
        "numpy": lambda inputs: cp.run(net, inputs)[net.outputs[0]],
        "torch": by_torch,
        "onnx": lambda inputs: np.asarray(
            session.run(None, {one.name: inputs[one.name] for one in session.get_inputs()})[0]
        ),
    }


def roi_net(kind: str, params: str, shape: tuple[int, ...], rois: int) -> Net:
    return small.built(
        small.one_input(*shape) + small.one_input(rois, 5, name="rois") + layer(kind, "x", "rois", params=params)
    )
