"""Python layers: run only where allowed, with the methods and attributes that pycaffe gives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe_port as cp
from caffe_port import cli
from caffe_port.errors import GraphError, UnsupportedLayer

MODULE = '''
import caffe
import numpy as np


class Halves(caffe.Layer):
    """Splits the channels in two and scales the second half by param_str."""

    def setup(self, bottom, top):
        if len(top) != 2:
            raise Exception("needs two tops")
        self.factor = float(self.param_str)

    def reshape(self, bottom, top):
        n, c, h, w = bottom[0].num, bottom[0].channels, bottom[0].height, bottom[0].width
        top[0].reshape(n, c // 2, h, w)
        top[1].reshape(n, c - c // 2, h, w)

    def forward(self, bottom, top):
        half = bottom[0].channels // 2
        top[0].data[...] = bottom[0].data[:, :half]
        top[1].data[...] = bottom[0].data[:, half:] * self.factor + self.phase

    def backward(self, top, propagate_down, bottom):
        pass
'''

NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 5 dim: 3 dim: 4 } } }
layer { name: "p" type: "Python" bottom: "x" top: "a" top: "b"
  python_param { module: "MODULE" layer: "Halves" param_str: "3" } }
"""


@pytest.fixture
def net_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    name = f"halves_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "net.prototxt"
    file.write_text(NET.replace("MODULE", name))
    return file


def test_a_net_does_not_run_code_unasked(net_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnsupportedLayer, match=r"net\.prototxt:3.*'p'.*code that the net chose.*--allow-python-layers"):
        cp.load(net_file)
    assert cli.main(["convert", str(net_file), "--no-verify"]) == 2
    assert "--allow-python-layers" in capsys.readouterr().err


@pytest.mark.parametrize(("phase", "number"), [("TEST", 1), ("TRAIN", 0)])
def test_the_class_is_run_where_allowed(net_file: Path, phase: str, number: int) -> None:
    """5 channels: 2 as they are, 3 times 3 plus the phase (TRAIN 0, TEST 1)."""
    net = cp.load(net_file, phase=phase, allow_python_layers=True)
    assert [blob.shape for blob in net.output_blobs] == [(2, 2, 3, 4), (2, 3, 3, 4)]
    x = np.arange(120, dtype=np.float32).reshape(2, 5, 3, 4)
    for dtype in ("float32", "float64"):
        blobs = cp.run(net, {"x": x}, dtype=dtype)
        assert np.array_equal(blobs["a"], x[:, :2])
        assert np.array_equal(blobs["b"], x[:, 2:] * 3 + number)
        assert blobs["b"].dtype == dtype
    larger = cp.run(net, {"x": np.ones((1, 7, 2, 2), np.float32)})
    assert larger["a"].shape == (1, 3, 2, 2) and larger["b"].shape == (1, 4, 2, 2)


def test_what_the_class_raises_names_the_layer_and_the_method(net_file: Path) -> None:
    net_file.write_text(net_file.read_text().replace(' top: "b"', ""))
    with pytest.raises(GraphError, match=r"layer 'p': Halves.setup raised Exception: needs two tops"):
        cp.load(net_file, allow_python_layers=True)
    net_file.write_text(net_file.read_text().replace("Halves", "Thirds"))
    with pytest.raises(GraphError, match=r"has no class 'Thirds'"):
        cp.load(net_file, allow_python_layers=True)
    net_file.write_text(net_file.read_text().replace('module: "halves', 'module: "no_halves'))
    with pytest.raises(GraphError, match=r"cannot be imported: ModuleNotFoundError"):
        cp.load(net_file, allow_python_layers=True)


def test_neither_backend_can_hold_it(net_file: Path) -> None:
    net = cp.load(net_file, allow_python_layers=True)
    with pytest.raises(UnsupportedLayer, match="'p': Python cannot be written as ONNX: it is Python code"):
        cp.to_onnx(net)
    pytest.importorskip("torch")
    with pytest.raises(UnsupportedLayer, match="'p': Python cannot be written as PyTorch: it is Python code"):
        cp.to_pytorch(net)
