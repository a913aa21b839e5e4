"""Running on NumPy: what comes out, what is kept, and what is refused."""

from __future__ import annotations

import gc
import itertools
import weakref
from typing import Any

import numpy as np
import pytest
from small import CONV_NET, THROUGH, built, filled, inputs_of, one_input

from caffe_port.errors import GraphError, ShapeError, WeightsError
from caffe_port.layers.activation import Power
from caffe_port.layers.base import RunContext
from caffe_port.runtime import last_uses, run, run_layers, value_of


def chain(length: int, size: int) -> str:
    """x → p0 → p1 → …: each adds 1."""
    names = ["x", *(f"p{i}" for i in range(length))]
    return one_input(size) + "".join(
        f'layer {{ name: "{top}" type: "Power" bottom: "{bottom}" top: "{top}" power_param {{ shift: 1 }} }}\n'
        for bottom, top in itertools.pairwise(names)
    )


def test_every_blob_or_those_asked_for() -> None:
    net = filled(CONV_NET)
    x = inputs_of(net)
    everything = run(net, x)
    assert list(everything) == ["data", "conv1", "pool1", "fc", "prob"]
    assert {name: value.shape for name, value in everything.items()} == {
        "data": (2, 3, 8, 7),
        "conv1": (2, 4, 8, 7),
        "pool1": (2, 4, 4, 3),  # (8 - 3) / 2 = 2.5 and (7 - 3) / 2 = 2, rounded up, + 1
        "fc": (2, 5),
        "prob": (2, 5),
    }
    assert everything["conv1"].min() == 0, "the last version of a blob is given: behind the ReLU"
    some = run(net, x, outputs=["prob", "conv1"])
    assert list(some) == ["prob", "conv1"]
    assert all(np.array_equal(some[name], everything[name]) for name in some)
    assert run(net, x, outputs=["data"])["data"] is not None
    assert run(net, x, outputs=[]) == {}


def test_unknown_output() -> None:
    net = filled(CONV_NET)
    with pytest.raises(GraphError, match="net 'small' has no blob 'prop', 'relu1'"):
        run(net, inputs_of(net), outputs=["prop", "prob", "relu1"])


@pytest.mark.parametrize("keep_all", [False, True])
def test_memory_is_bounded_by_what_is_still_needed(monkeypatch: pytest.MonkeyPatch, keep_all: bool) -> None:
    """Of a chain of 12 layers, at most 3 tops live at a time: the one read, the one made, and the one passed on."""
    living: set[int] = set()
    most = 0
    forward = Power.forward

    class Counted(np.ndarray[Any, Any]):
        """An array that can be weakly referred to."""

    def counting(self: Power, ctx: RunContext, bottoms: Any, weights: Any) -> list[Any]:
        nonlocal most
        (top,) = forward(self, ctx, [np.asarray(bottoms[0])], weights)
        counted = top.view(Counted)
        key = len(made)
        made.append(key)
        living.add(key)
        weakref.finalize(counted, living.discard, key)
        gc.collect()
        most = max(most, len(living))
        return [counted]

    made: list[int] = []
    monkeypatch.setattr(Power, "forward", counting)
    net = built(chain(12, 1000))
    result = run(net, {"x": np.zeros(1000)}, outputs=None if keep_all else ["p11"])
    assert len(made) == 12 and np.all(result["p11"] == 12)
    assert most == 12 if keep_all else most <= 3


def test_a_value_lives_until_its_last_use() -> None:
    """p0 is read by the next layer and by the last one."""
    text = chain(4, 3) + 'layer { name: "s" type: "Eltwise" bottom: "p0" bottom: "p3" top: "s" }'
    net = built(text)
    assert np.array_equal(run(net, {"x": [0, 10, 20]}, outputs=["s"])["s"], [1 + 4, 11 + 14, 21 + 24])
    uses = last_uses(net)
    (split,) = [layer for layer in net.layers if layer.type == "Split"]
    assert [uses[id(top)] for top in split.tops] == [3, 6]


def test_run_layers_yields_versions_in_order() -> None:
    net = built(
        one_input(3)
        + 'layer { name: "p" type: "Power" bottom: "x" top: "x" power_param { scale: -1 } }'
        + 'layer { name: "r" type: "ReLU" bottom: "x" top: "x" }'
    )
    seen = [
        (layer.name, [(blob.name, blob.version, value.tolist()) for blob, value in tops.items()])
        for layer, tops in run_layers(net, {"x": np.float32([-1, 2, -3])})
    ]
    assert seen == [("x", [("x", 0, [-1, 2, -3])]), ("p", [("x", 1, [1, -2, 3])]), ("r", [("x", 2, [1, 0, 3])])]


def test_the_callers_array_is_never_written() -> None:
    net = built(one_input(2, 3) + 'layer { name: "r" type: "ReLU" bottom: "x" top: "x" }')
    x = np.float32([[-1, 2, -3], [4, -5, 6]])
    kept = x.copy()
    assert np.array_equal(run(net, {"x": x})["x"], np.maximum(kept, 0)) and np.array_equal(x, kept)


# Types


def test_float64() -> None:
    """1 + 2**-40 is 1 in float32."""
    net = built(chain(1, 1))
    x = np.array([2.0**-40])
    assert run(net, {"x": x}, dtype="float64")["p0"].dtype == np.float64
    assert run(net, {"x": x}, dtype="float64")["p0"][0] - 1 == 2.0**-40
    assert run(net, {"x": x})["p0"].dtype == np.float32 and run(net, {"x": x})["p0"][0] == 1
    for dtype in (np.float64, np.dtype("f8"), float):
        assert run(net, {"x": x}, dtype=dtype)["p0"].dtype == np.float64


def test_every_blob_has_the_dtype_asked_for() -> None:
    net = filled(CONV_NET)
    x = inputs_of(net)
    assert {value.dtype.name for value in run(net, x, dtype="float64").values()} == {"float64"}
    assert {value.dtype.name for value in run(net, {"data": x["data"].astype(np.float64)}).values()} == {"float32"}


@pytest.mark.parametrize("dtype", ["float16", "int32", "complex64", "banana", ">f4"])
def test_other_dtypes_are_refused(dtype: str) -> None:
    with pytest.raises(GraphError, match="dtype must be float32 or float64"):
        run(built(chain(1, 2)), {"x": np.zeros(2)}, dtype=dtype)


def test_inputs_may_be_any_real_numbers() -> None:
    net = built(chain(1, 2))
    for x in ([3, 4], np.array([3, 4], np.uint8), np.array([True, False]), np.array([3, 4], np.float16), (3.0, 4.0)):
        expected = np.asarray(x).astype(np.float32) + 1
        assert np.array_equal(run(net, {"x": x})["p0"], expected)


@pytest.mark.parametrize(
    "x", [np.array([1j, 2]), np.array(["1", "2"]), np.array([None, 1]), [[1], [2, 3]], np.array([b"1", b"2"]), "12"]
)
def test_inputs_that_are_no_real_numbers(x: Any) -> None:
    with pytest.raises(ShapeError, match="input 'x' is no array of"):
        run(built(chain(1, 2)), {"x": x})


# Inputs


def test_missing_and_unknown_inputs() -> None:
    net = built(one_input(2) + one_input(3, name="z"))
    with pytest.raises(GraphError, match=r"takes x, z; missing: z; not an input: q"):
        run(net, {"x": np.zeros(2), "q": np.zeros(1)})
    with pytest.raises(GraphError, match="missing: x, z"):
        run(net, {})


def test_another_batch() -> None:
    net = filled(CONV_NET)
    x = np.random.default_rng(1).standard_normal((7, 3, 8, 7)).astype(np.float32)
    whole = run(net, {"data": x}, dtype="float64")["prob"]
    assert whole.shape == (7, 5)
    for i in range(7):
        alone = run(net, {"data": x[i : i + 1]}, dtype="float64")["prob"]
        assert np.allclose(alone[0], whole[i], rtol=1e-12, atol=0)
    assert net.input_shapes == {"data": (2, 3, 8, 7)}


def test_an_empty_batch() -> None:
    assert run(filled(CONV_NET), {"data": np.zeros((0, 3, 8, 7))})["prob"].shape == (0, 5)


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match="layer 'conv1': learned blob 0 is 4x3x3x3; these inputs need 4x5x3x3"):
        run(filled(CONV_NET), {"data": np.zeros((2, 5, 8, 7))})
    with pytest.raises(ShapeError, match="layer 'conv1'"):
        run(filled(CONV_NET), {"data": np.zeros(3)})


def test_without_weights() -> None:
    net = built(CONV_NET)
    with pytest.raises(WeightsError, match="4 problems:"):
        run(net, inputs_of(net))


def test_errors_in_a_pass_name_the_layer() -> None:
    net = built(
        one_input(2, 3)
        + one_input(2, name="label")
        + 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" top: "loss" }'
    )
    with pytest.raises(ShapeError, match="layer 'loss': labels 0 to 3 are not all in 0 to 2"):
        run(net, {"x": np.zeros((2, 3)), "label": [0, 3]})


def test_a_layer_that_makes_another_shape_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Power, "forward", lambda self, ctx, bottoms, weights: [bottoms[0][:1]])
    with pytest.raises(ShapeError, match=r"layer 'p0' \(Power\) made 'p0' 1, not 2: a fault of caffe_port"):
        run(built(chain(1, 2)), {"x": np.zeros(2)})


# Caffe's quirks


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        # Caffe clears the top, which is bottom[0], before it reads it: 0 + 2 * z, and max(-FLT_MAX, z).
        ("operation: SUM coeff: 3 coeff: 2", [[2, -4, 6], [-8, 10, -12]]),
        ("operation: SUM", [[1, -2, 3], [-4, 5, -6]]),
        ("operation: MAX", [[1, -2, 3], [-4, 5, -6]]),
        # A product is made from the bottoms as they are.
        ("operation: PROD", [[10, -40, 90], [-160, 250, -360]]),
    ],
)
def test_eltwise_in_place(operation: str, expected: list[list[float]]) -> None:
    net = built(
        one_input(2, 3)
        + one_input(2, 3, name="z")
        + 'layer { name: "p" type: "Power" bottom: "x" top: "p" power_param { scale: 10 } }'
        + f'layer {{ name: "e" type: "Eltwise" bottom: "p" bottom: "z" top: "p" eltwise_param {{ {operation} }} }}'
    )
    inputs = {"x": np.float32([[1, 2, 3], [4, 5, 6]]), "z": np.float32([[1, -2, 3], [-4, 5, -6]])}
    for name, through in THROUGH.items():
        assert np.array_equal(through(net, inputs)["p"], expected), name


def test_values_by_blob() -> None:
    """A blob whose memory another's layer overwrote: that one's value, in its own shape."""
    net = built(
        one_input(2, 3, 2)
        + 'layer { name: "s" type: "Split" bottom: "x" top: "p" top: "q" }'
        + 'layer { name: "f" type: "Flatten" bottom: "p" top: "f" }'
        + 'layer { name: "r" type: "ReLU" bottom: "f" top: "f" }'
    )
    values: dict[int, Any] = {}
    for _ in run_layers(net, {"x": np.full((2, 3, 2), -1, np.float32)}, values=values):
        pass
    assert value_of(net.blobs["q"], values).shape == (2, 3, 2) and not value_of(net.blobs["q"], values).any()
    assert net.blobs["q"].origin is net.blobs["f"]
