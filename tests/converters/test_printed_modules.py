"""A converted module printed shows what each layer does, where torch's own modules do not."""

from __future__ import annotations

import pytest
import small
from everywhere import layer

pytest.importorskip("torch")

from caffe_port.converters.to_pytorch import to_pytorch


@pytest.mark.parametrize(
    ("kind", "parameters", "shown"),
    [
        ("Power", "power_param { power: 2 scale: 3 shift: 4 }", ["power=2", "scale=3", "shift=4"]),
        ("Swish", "swish_param { beta: 2.5 }", ["beta=2.5"]),
        ("Clip", "clip_param { min: -2 max: 3 }", ["low=-2", "high=3"]),
        ("Threshold", "threshold_param { threshold: 0.25 }", ["threshold=0.25"]),
        ("Exp", "exp_param { base: 2 scale: 3 }", ["base=2", "scale=3"]),
        ("Log", "log_param { base: 10 shift: 5 }", ["base=10", "shift=5"]),
        ("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }", ["kernel=(3, 3)", "stride=(2, 2)"]),
        ("Permute", "permute_param { order: [0, 2, 3, 1] }", ["0, 2, 3, 1"]),
        ("ArgMax", "argmax_param { axis: 1 top_k: 2 }", ["top_k=2", "axis=1"]),
        ("Interp", "interp_param { zoom_factor: 2 }", ["zoom=2"]),
        ("LRN", "lrn_param { local_size: 3 alpha: 0.5 }", ["3", "0.5"]),
        ("MVN", "mvn_param { across_channels: true }", ["across_channels=True"]),
        ("Reduction", "reduction_param { operation: SUMSQ axis: 1 }", ["SUMSQ", "1"]),
    ],
)
def test_settings_are_shown(kind: str, parameters: str, shown: list[str]) -> None:
    module = to_pytorch(small.filled(small.one_input(1, 3, 6, 6) + layer(kind, parameters)))
    (printed,) = [line for line in str(module).splitlines() if "(L)" in line]
    for text in shown:
        assert text in printed
