"""Files are verified as they are: whatever shape the outputs of a net take."""

from __future__ import annotations

from pathlib import Path

import pytest

import caffe_port as cp
from caffe_port.conversion import convert

INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 8 } } }\n'
NETS = {
    "one top of a layer is an output, the other is used": """
        layer { name: "pool" type: "Pooling" bottom: "x" top: "y" top: "mask"
          pooling_param { kernel_size: 2 stride: 2 } }
        layer { name: "relu" type: "ReLU" bottom: "y" top: "z" }""",
    "the outputs are a Split's": """
        layer { name: "power" type: "Power" bottom: "x" top: "y" power_param { scale: 2 } }
        layer { name: "split" type: "Split" bottom: "y" top: "a" top: "b" }""",
    "an output shares the memory of a blob overwritten in place": """
        layer { name: "power" type: "Power" bottom: "x" top: "y" power_param { scale: 2 } }
        layer { name: "split" type: "Split" bottom: "y" top: "a" top: "b" }
        layer { name: "relu" type: "ReLU" bottom: "a" top: "a" }""",
}


@pytest.mark.parametrize("what", sorted(NETS))
def test_every_kind_of_output_is_verified(what: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    file = tmp_path / "net.prototxt"
    file.write_text(INPUT + NETS[what])
    net = cp.load(file)
    done = convert(net, tmp_path / "out", "net")
    assert done.certificate.ok
    assert all(report.comparisons and not report.missing for report in done.certificate.reports)
    assert len(done.certificate.reports) == 6
