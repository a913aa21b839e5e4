"""Fields that forks and old nets set without any effect on what is computed, and one that has an effect."""

from __future__ import annotations

import numpy as np
import pytest
import small

import caffe_port as cp
from caffe_port.errors import UnsupportedParameter

CONVOLUTION = """layer {{ name: "c" type: "Convolution" bottom: "x" top: "c" {more}
convolution_param {{ num_output: 2 kernel_size: 3 }} }}"""


def convolution(more: str) -> str:
    return small.one_input(1, 3, 5, 5) + CONVOLUTION.format(more=more)


@pytest.mark.parametrize("engine", ["MKL2017", "MKLDNN:CPU", "CAFFE"])
def test_the_engine_of_a_layer_changes_nothing(engine: str) -> None:
    plain, chosen = (small.filled(convolution(more)) for more in ("", f'engine: "{engine}"'))
    inputs = small.inputs_of(plain)
    np.testing.assert_array_equal(cp.run(chosen, inputs)["c"], cp.run(plain, inputs)["c"])
    (note,) = chosen.notes
    assert note.layer == "c"
    assert "chooses an implementation" in note.message
    assert plain.notes == ()


def test_quantization_is_no_such_field() -> None:
    """intel/caffe runs such a layer in 8 bits, so what comes of it is not what float32 gives."""
    with pytest.raises(UnsupportedParameter, match=r"reduced precision.*remove it to have the layer in float32"):
        small.built(convolution("quantization_param { bw_layer_in: 8 bw_layer_out: 8 bw_params: 8 }"))


@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
def test_dropout_of_nothing(phase: str) -> None:
    prototxt = small.one_input(2, 3) + 'layer { name: "d" type: "Dropout" bottom: "x" top: "y" dropout_param { %s } }'
    net = small.built(prototxt % "dropout_ratio: 0", phase=phase)
    inputs = small.inputs_of(net)
    np.testing.assert_array_equal(cp.run(net, inputs)["y"], inputs["x"])
    if phase == "TEST":
        np.testing.assert_array_equal(small.through_torch(net, inputs)["y"], inputs["x"])
        np.testing.assert_array_equal(small.through_onnx(net, inputs)["y"], inputs["x"])
    for ratio in (1, -0.5):
        with pytest.raises(UnsupportedParameter, match="at least 0 and below 1"):
            small.built(prototxt % f"dropout_ratio: {ratio}", phase=phase)
