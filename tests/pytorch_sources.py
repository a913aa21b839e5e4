"""Source of nets, written, loaded and compared."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import inputs_of

from caffe_port.converters.to_pytorch_source import PyTorchSource, to_pytorch_source
from caffe_port.net import Net
from caffe_port.runtime import run

torch = pytest.importorskip("torch")
save_file = pytest.importorskip("safetensors.numpy").save_file
from caffe_port.converters.to_pytorch_source import load_module  # noqa: E402

__all__ = ["SHAPE", "assert_black", "assert_computes", "call", "layer", "valued", "written"]


def written(source: PyTorchSource, folder: Path) -> Any:
    """The module of a source, by way of its files."""
    (folder / "net.py").write_text(source.source, encoding="utf-8")
    save_file(source.tensors, folder / "net.safetensors")
    return load_module(folder / "net.py", folder / "net.safetensors")


def call(module: Any, net: Net, inputs: Any, dtype: Any = torch.float64) -> dict[str, Any]:
    with warnings.catch_warnings():
        # The switch warns of a setting for other hardware.
        warnings.simplefilter("ignore", UserWarning)
        with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
            result = module.to(dtype)(*[torch.from_numpy(np.array(inputs[name])).to(dtype) for name in net.inputs])
    return result if isinstance(result, dict) else {net.outputs[0]: result}


def assert_computes(net: Net, folder: Path, inputs: Any = None, tolerance: float = 1e-6) -> PyTorchSource:
    """In float64 it is the net's own float64 run but for parameters, which are the same in float32 alone."""
    inputs = inputs_of(net) if inputs is None else inputs
    source = to_pytorch_source(net, "net")
    got = call(written(source, folder), net, inputs)
    want = run(net, inputs, "float64", outputs=net.outputs)
    assert list(got) == list(net.outputs)
    for name, value in want.items():
        assert tuple(got[name].shape) == value.shape, name
        scale = max(1e-30, float(np.abs(value).max(initial=0)))
        np.testing.assert_allclose(got[name].numpy(), value, rtol=0, atol=tolerance * scale, err_msg=name)
    assert_black(source.source)
    return source


def assert_black(source: str) -> None:
    black = pytest.importorskip("black")
    assert black.format_str(source, mode=black.Mode()) == source


def valued(net: Net) -> Net:
    """The net with positive weights, which do as variances too."""
    rng = np.random.default_rng(1)
    values = {id(w): (0.5 + rng.random(w.shape)).astype(np.float32) for w in net.weights()}
    return net.with_values({key: np.asarray(value) for key, value in values.items()})


def layer(kind: str, parameters: str = "", name: str = "l", bottom: str = "x", top: str = "y") -> str:
    bottoms = " ".join(f'bottom: "{one}"' for one in bottom.split())
    tops = " ".join(f'top: "{one}"' for one in top.split())
    return f'layer {{ name: "{name}" type: "{kind}" {bottoms} {tops} {parameters} }}\n'


SHAPE = (2, 4, 7, 6)
