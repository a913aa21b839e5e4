"""The PyTorch module: Caffe's names, Caffe's sharing, any batch, and torch.export takes it."""

from __future__ import annotations

import itertools
import pickle
import warnings
import weakref
from typing import Any

import numpy as np
import pytest
from small import CONV_NET, built, filled, inputs_of, one_input, weights_of

from caffe_port.errors import GraphError, UnsupportedLayer, WeightsError
from caffe_port.runtime import run

torch = pytest.importorskip("torch")

from caffe_port.converters.to_pytorch import child_names, to_pytorch  # noqa: E402


def result(module: Any, *inputs: Any) -> Any:
    with torch.no_grad():
        return module(*[torch.from_numpy(np.array(x, np.float32)) for x in inputs])


def relu(name: str, bottom: str = "x", top: str | None = None) -> str:
    return f'layer {{ name: "{name}" type: "ReLU" bottom: "{bottom}" top: "{top or name}" }}\n'


# Names


def test_parameters_have_caffes_names_shapes_and_values() -> None:
    net = filled(CONV_NET)
    parameters = dict(to_pytorch(net).named_parameters())
    assert {name: tuple(value.shape) for name, value in parameters.items()} == {
        "conv1.weight": (4, 3, 3, 3),
        "conv1.bias": (4,),
        "fc.weight": (5, 48),
        "fc.bias": (5,),
    }
    for layer, values in weights_of(net).items():
        for name, value in zip(("weight", "bias"), values, strict=True):
            assert np.array_equal(parameters[f"{layer}.{name}"].detach().numpy(), value)


def test_children_are_the_layers_in_their_order() -> None:
    net = filled(CONV_NET)
    assert [name for name, _ in to_pytorch(net).named_children()] == ["conv1", "relu1", "pool1", "fc", "prob"]
    assert isinstance(to_pytorch(net).conv1, torch.nn.Conv2d)


def test_names_with_dots_and_slashes() -> None:
    """A dot is no part of a child's name in PyTorch; a slash, as GoogLeNet has them, is."""
    net = filled(CONV_NET.replace('"conv1" type', '"inception.3a/1x1" type').replace('"fc" type', '"fc.8" type'))
    assert sorted(dict(to_pytorch(net).named_parameters())) == [
        "fc_8.bias",
        "fc_8.weight",
        "inception_3a/1x1.bias",
        "inception_3a/1x1.weight",
    ]
    x = inputs_of(net)
    assert np.allclose(result(to_pytorch(net), x["data"]), run(net, x)["prob"], atol=1e-6)


def test_names_that_become_one_are_told_apart() -> None:
    net = built(one_input(2) + relu("a.b", "x", "p") + relu("a_b", "p", "q") + relu("a_b", "q", "r"))
    assert list(child_names(net).values()) == ["a_b", "a_b_1", "a_b_2"]


@pytest.mark.parametrize(
    "name",
    [
        "forward",
        "train",
        "parameters",
        "state_dict",
        "trace",
        "training",
        "input_names",
        "output_names",
        "value_slots",
        "_steps",
        "_inputs",
        "_outputs",
        "_slots",
        "_run",
        "_modules",
        "view_2",
        "class",
        "lambda",
        "1x1",
        "T",
        "x y",
        "ü",
    ],
)
def test_any_layer_name_will_do(name: str) -> None:
    """Also one that a module has for something else. The Flatten makes a view of a blob that is overwritten."""
    net = built(
        one_input(2, 3, 2)
        + f'layer {{ name: "{name}" type: "Power" bottom: "x" top: "a" power_param {{ shift: 1 }} }}'
        + 'layer { name: "f" type: "Flatten" bottom: "a" top: "f" }'
        + relu("r", "f", "f")
        + f'layer {{ name: "{name}" type: "Power" bottom: "a" top: "b" power_param {{ scale: 2 }} }}'
    )
    x = np.random.default_rng(0).standard_normal((2, 3, 2)).astype(np.float32)
    module = to_pytorch(net)
    values = result(module, x)
    assert np.allclose(values["b"], 2 * np.maximum(x + 1, 0))
    assert module.training is False and list(module.state_dict()) == []
    assert np.allclose(result(module.train(), x)["f"].reshape(2, 3, 2), np.maximum(x + 1, 0))


@pytest.mark.parametrize("number", range(8))
def test_a_layer_called_as_a_view_is_not_replaced_by_one(number: int) -> None:
    net = built(
        one_input(2, 6)
        + 'layer { name: "a" type: "Power" bottom: "x" top: "a" power_param { shift: 1 } }'
        + 'layer { name: "f" type: "Reshape" bottom: "a" top: "f" reshape_param { shape { dim: 0 dim: 2 dim: 3 } } }'
        + relu("r", "f", "f")
        + f'layer {{ name: "view_{number}" type: "Power" bottom: "a" top: "b" power_param {{ scale: 2 }} }}'
    )
    x = np.arange(12, dtype=np.float32).reshape(2, 6) - 6
    assert np.array_equal(result(to_pytorch(net), x)["b"], 2 * np.maximum(x + 1, 0))


def test_a_layer_without_a_name() -> None:
    net = built(one_input(2) + 'layer { type: "ReLU" bottom: "x" top: "y" }')
    assert [name for name, _ in to_pytorch(net).named_children()] == ["ReLU"]


# Sharing

SHARED = one_input(2, 3) + "".join(
    f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" param {{ name: "w" }} '
    "inner_product_param { num_output: 3 bias_term: false } }\n"
    for bottom, name in (("x", "a"), ("a", "b"))
)


def test_shared_blobs_are_one_parameter() -> None:
    net = built(SHARED).with_weights({"a": [np.arange(9).reshape(3, 3)]})
    module = to_pytorch(net)
    assert module.a.weight is module.b.weight
    assert [name for name, _ in module.named_parameters()] == ["a.weight"]
    with torch.no_grad():
        module.b.weight.copy_(torch.eye(3) * 2)
    assert np.array_equal(result(module, np.eye(2, 3)), np.eye(2, 3) * 4)


def test_a_shared_parameter_gets_both_gradients() -> None:
    """y = w (w x), all 1x1: dy/dw = 2 w x."""
    net = built(SHARED.replace("dim: 2 dim: 3", "dim: 1 dim: 1").replace("num_output: 3", "num_output: 1"))
    module = to_pytorch(net.with_weights({"a": [[[3]]]}))
    module(torch.tensor([[5.0]])).sum().backward()
    assert module.a.weight.grad.item() == 30


# Calls


def test_one_output_is_a_tensor_several_are_a_dict() -> None:
    one = to_pytorch(filled(CONV_NET))
    assert result(one, np.zeros((2, 3, 8, 7))).shape == (2, 5)
    several = to_pytorch(built(one_input(2, 3) + relu("b") + relu("a") + relu("C")))
    values = result(several, np.full((2, 3), -1))
    assert list(values) == ["C", "a", "b"] and not values["a"].any()


def test_inputs_are_in_the_nets_order() -> None:
    net = built(
        one_input(2, name="z")
        + one_input(2, name="a")
        + 'layer { name: "e" type: "Eltwise" bottom: "a" bottom: "z" top: "e" eltwise_param { coeff: 1 coeff: 10 } }'
    )
    module = to_pytorch(net)
    assert module.input_names == ("z", "a") and module.output_names == ("e",)
    assert result(module, [1, 2], [3, 4]).tolist() == [13, 24]
    with pytest.raises(GraphError, match=r"1 inputs for 2 \(z, a\)"):
        module(torch.zeros(2))


def test_any_batch() -> None:
    net = filled(CONV_NET)
    module = to_pytorch(net)
    for batch in (1, 3, 0):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 8, 7)).astype(np.float32)
        assert np.allclose(result(module, x), run(net, {"data": x})["prob"], atol=1e-6)


def test_the_callers_tensor_is_never_written() -> None:
    module = to_pytorch(built(one_input(2, 3) + relu("r", "x", "x")))
    x = torch.tensor([[-1.0, 2, -3], [4, -5, 6]])
    assert module(x).min() == 0 and x.min() == -5


def test_trace_gives_every_version() -> None:
    net = built(
        one_input(3)
        + relu("r", "x", "x")
        + 'layer { name: "p" type: "Power" bottom: "x" top: "x" power_param { scale: 2 } }'
    )
    values = to_pytorch(net).trace(torch.tensor([-1.0, 2, -3]))
    assert [(blob.version, value.tolist()) for blob, value in values.items()] == [
        (0, [-1, 2, -3]),
        (1, [0, 2, 0]),
        (2, [0, 4, 0]),
    ]


def test_values_are_dropped_when_nobody_needs_them() -> None:
    """Of a chain of 9 layers, no more than 3 values live at a time."""
    names = ["x", *(f"p{i}" for i in range(9))]
    net = built(
        one_input(4)
        + "".join(
            f'layer {{ name: "{top}" type: "Power" bottom: "{bottom}" top: "{top}" power_param {{ shift: 1 }} }}'
            for bottom, top in itertools.pairwise(names)
        )
    )
    module = to_pytorch(net)
    living: set[int] = set()
    most = 0

    def watch(_: Any, inputs: Any, output: Any) -> None:
        nonlocal most
        key = len(made)
        made.append(key)
        living.add(key)
        weakref.finalize(output, living.discard, key)
        most = max(most, len(living))

    made: list[int] = []
    for child in module.children():
        child.register_forward_hook(watch)
    assert module(torch.zeros(4)).tolist() == [9] * 4
    assert len(made) == 9 and most <= 3


# Modes


def test_phase_decides_the_mode() -> None:
    assert to_pytorch(filled(CONV_NET)).training is False
    module = to_pytorch(filled(CONV_NET, phase="TRAIN"))
    assert module.training is True and all(child.training for child in module.children())


def test_dropout_by_mode() -> None:
    text = one_input(100, 50) + (
        'layer { name: "d" type: "Dropout" bottom: "x" top: "y" dropout_param { dropout_ratio: 0.75 } }'
    )
    x = torch.ones(100, 50)
    assert torch.equal(to_pytorch(built(text)).train()(x), x), "a layer of phase TEST drops nothing"
    module = to_pytorch(built(text, phase="TRAIN"))
    assert torch.equal(module.eval()(x), x)
    torch.manual_seed(1)
    dropped = module.train()(x)
    assert set(dropped.unique().tolist()) == {0.0, 4.0}, "what is kept is scaled by 1 / (1 - 0.75)"
    assert 0.2 < (dropped != 0).float().mean() < 0.3


def test_gradients_reach_every_parameter() -> None:
    module = to_pytorch(filled(CONV_NET)).train()
    module(torch.randn(2, 3, 8, 7, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in module.parameters())


def test_changing_the_module_leaves_the_net() -> None:
    net = filled(CONV_NET)
    module = to_pytorch(net)
    with torch.no_grad():
        for value in module.parameters():
            value.zero_()
    for weight, value in zip(net.layer("fc").weights, weights_of(net)["fc"], strict=True):
        assert weight.data is not None and np.array_equal(weight.data, value)


# What PyTorch does with modules


def test_state_dict_goes_round() -> None:
    net = filled(CONV_NET)
    module, other = (
        to_pytorch(net),
        to_pytorch(net.with_weights({k: [v * 0 for v in vs] for k, vs in weights_of(net).items()})),
    )
    x = inputs_of(net)["data"]
    assert not np.allclose(result(module, x), result(other, x))
    other.load_state_dict(module.state_dict())
    assert np.array_equal(result(module, x), result(other, x))


def test_float64_and_pickle() -> None:
    net = filled(CONV_NET)
    x = inputs_of(net)["data"]
    module = pickle.loads(pickle.dumps(to_pytorch(net))).double()
    with torch.no_grad():
        value = module(torch.from_numpy(x.astype(np.float64)))
    assert np.allclose(value.numpy(), run(net, {"data": x}, dtype="float64")["prob"], rtol=1e-12)


@pytest.mark.parametrize("name", ["conv1", "inception.3a/1x1", "class", "forward", "1x1", "x y", "ü", "a-b"])
def test_torch_export(name: str) -> None:
    """The exported program runs at a batch it has never seen."""
    net = filled(CONV_NET.replace('"conv1" type', f'"{name}" type'))
    module = to_pytorch(net)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            module, (torch.zeros(2, 3, 8, 7),), dynamic_shapes=(({0: torch.export.Dim("N")},),)
        )
    x = np.random.default_rng(5).standard_normal((5, 3, 8, 7)).astype(np.float32)
    assert np.allclose(result(program.module(), x), run(net, {"data": x})["prob"], atol=1e-6)


# Refusals


def test_without_weights() -> None:
    with pytest.raises(WeightsError, match="4 problems"):
        to_pytorch(built(CONV_NET))


def test_every_layer_that_pytorch_cannot_express_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from caffe_port import registry

    to_pytorch(filled(CONV_NET))
    monkeypatch.delitem(registry._emitters, ("pytorch", "ReLU"))
    monkeypatch.delitem(registry._emitters, ("pytorch", "Softmax"))
    monkeypatch.setitem(registry._reasons, ("pytorch", "ReLU"), "it is too good for it")
    with pytest.raises(UnsupportedLayer) as caught:
        to_pytorch(filled(CONV_NET))
    assert "layer 'relu1': ReLU cannot be written as PyTorch: it is too good for it" in str(caught.value)
    assert "layer 'prob': Softmax cannot be written as PyTorch: no emitter" in str(caught.value)
