"""From a module's state dict back to the net: nothing changes unasked, and what does is where it belongs."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import all_cases, load_case
from numpy.typing import NDArray
from small import CONV_NET, built, filled, one_input, write_model

import caffe_port as cp
from caffe_port import registry
from caffe_port.converters.from_pytorch import read_safetensors, with_state_dict
from caffe_port.converters.to_caffemodel import to_caffemodel
from caffe_port.converters.to_pytorch.names import RESERVED, child_names, learned_names
from caffe_port.errors import FetchError, WeightsError
from caffe_port.models.fetch import fetch

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

BN_NET = (
    one_input(2, 3, 6, 6)
    + 'layer { name: "conv" type: "Convolution" bottom: "x" top: "c" '
    + "convolution_param { num_output: 4 kernel_size: 3 bias_term: false } }\n"
    + 'layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" }\n'
    + 'layer { name: "scale" type: "Scale" bottom: "c" top: "c" }\n'
    + 'layer { name: "fc" type: "InnerProduct" bottom: "c" top: "y" '
    + "inner_product_param { num_output: 2 transpose: true } }\n"
)
BN_TABLE = {
    "a.weight": {"layer": "conv", "blob": 0, "as": "same"},
    "b.running_mean": {"layer": "bn", "blob": 0, "as": "batchnorm_mean"},
    "b.running_var": {"layer": "bn", "blob": 1, "as": "batchnorm_variance"},
    "b.weight": {"layer": "scale", "blob": 0, "as": "same"},
    "b.bias": {"layer": "scale", "blob": None, "as": "zeros"},
    "c.weight": {"layer": "fc", "blob": 0, "as": "transposed"},
    "c.bias": {"layer": "fc", "blob": 1, "as": "same"},
}
TIED = (
    one_input(1, 3)
    + 'layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" } '
    + "inner_product_param { num_output: 3 } }\n"
    + 'layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" } '
    + "inner_product_param { num_output: 3 } }\n"
)


def data(net: cp.Net, name: str, index: int = 0) -> NDArray[Any]:
    value = net.layer(name).weights[index].data
    assert value is not None
    return value


def bn_net() -> cp.Net:
    """A factor of 3, so that sums divided by it are rounded."""
    net = filled(BN_NET)
    return net.with_weights({"bn": [data(net, "bn"), data(net, "bn", 1), np.array([3], np.float32)]}, partial=True)


def bn_state(net: cp.Net) -> dict[str, NDArray[Any]]:
    """What the module of BN_TABLE would hold."""
    definition = net.layer("bn").definition
    mean, variance = definition.stored_statistics([data(net, "bn", i) for i in range(3)])  # type: ignore[attr-defined]
    return {
        "a.weight": data(net, "conv"),
        "b.running_mean": mean,
        "b.running_var": variance,
        "b.num_batches_tracked": np.array(7),
        "b.weight": data(net, "scale"),
        "b.bias": np.zeros(4, np.float32),
        "c.weight": data(net, "fc").T,
        "c.bias": data(net, "fc", 1),
    }


def messages(net: cp.Net, state: dict[str, Any], blobs: Any = None) -> list[str]:
    with pytest.raises(WeightsError) as caught:
        with_state_dict(net, state, blobs)
    return [str(problem) for problem in caught.value.problems]


# Round trips


def test_the_released_model_through_pytorch_and_back() -> None:
    try:
        files = fetch("open_nsfw")
    except FetchError as error:
        pytest.skip(f"the released model cannot be had: {error}")
    net = cp.load(files.prototxt, files.caffemodel)
    module = cp.to_pytorch(net)
    back = with_state_dict(net, module.state_dict())
    assert hashlib.sha256(to_caffemodel(back)).hexdigest() == hashlib.sha256(files.caffemodel.read_bytes()).hexdigest()
    with torch.no_grad():
        module.get_submodule("conv_stage1_block0_branch2a").weight[3, 2, 0, 0] += 1
    new = with_state_dict(net, module.state_dict())
    for before, after in zip(net.weights(), new.weights(), strict=True):
        differing = np.argwhere(np.asarray(before.data) != np.asarray(after.data)).tolist()
        assert differing == ([[3, 2, 0, 0]] if before.label == "conv_stage1_block0_branch2a/0" else [])
        assert differing or before.data is after.data


CASES = sorted(
    name
    for name, case in all_cases().items()
    if case.weights and not case.rejected and not load_case(case).unknown_layers()
    and all(registry.find_emitter("pytorch", one.type) or not one.weights for one in load_case(case).layers)
)  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_layer_type_with_learned_blobs(name: str) -> None:
    """By its state dict, without and with a change; in float64 and half precision too."""
    case = all_cases()[name]
    net = load_case(case)
    module = cp.to_pytorch(net)
    assert to_caffemodel(with_state_dict(net, module.state_dict())) == case.weights
    assert to_caffemodel(with_state_dict(net, module.double().state_dict())) == case.weights
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor += 1
    changed = with_state_dict(net, module.state_dict())
    for before, after in zip(net.weights(), changed.weights(), strict=True):
        want = (np.asarray(before.data, np.float64) + 1).astype(np.float32)
        assert np.array_equal(np.asarray(after.data), want) and np.asarray(after.data).dtype == np.float32
    for kind in (torch.float16, torch.bfloat16):
        halves = {key: tensor.to(kind) for key, tensor in module.state_dict().items()}
        half = with_state_dict(net, halves)
        for (key, tensor), weight in zip(halves.items(), half.weights(), strict=True):
            assert np.array_equal(np.asarray(weight.data).ravel(), tensor.float().numpy().ravel()), key


def test_names_are_those_of_the_modules() -> None:
    """The lists that need no PyTorch are what PyTorch has."""
    from torch import nn

    from caffe_port.converters.to_pytorch.modules.graph import GraphModule, blob_names

    attributes = {*dir(GraphModule), *vars(nn.Module()), "input_names", "output_names", "value_slots"}
    attributes |= {"_outputs", "_inputs", "_slots", "_steps"}
    assert {name for name in attributes if not name.startswith("__")} <= RESERVED
    for case in all_cases().values():
        if case.rejected or any(not registry.find_emitter("pytorch", one.type) for one in load_case(case).layers[1:]):
            continue
        net = load_case(case)
        module = cp.to_pytorch(net)
        for layer, child in child_names(net).items():
            if layer.weights:
                assert learned_names(layer) == blob_names(module.get_submodule(child))


def test_float64_blobs_stay_float64(tmp_path: Path) -> None:
    """PyTorch's float32 copy of a double is no change of it; another value is."""
    net = filled(CONV_NET)
    third = np.full((5, 48), 1 / 3)
    net = net.with_weights({"fc": [third, data(net, "fc", 1)]}, partial=True)
    state = dict(cp.to_pytorch(net).state_dict())
    assert data(with_state_dict(net, state), "fc") is data(net, "fc")
    state["fc.weight"] = torch.from_numpy(third * 2)
    new = data(with_state_dict(net, state), "fc")
    assert new.dtype == np.float64 and np.array_equal(new, third * 2)


def test_a_net_without_weights_gets_them(tmp_path: Path) -> None:
    definition, _ = write_model(tmp_path)
    net = cp.load(definition, allow_missing_weights=True)
    state = {key: tensor.numpy().copy() for key, tensor in cp.to_pytorch(filled(CONV_NET)).state_dict().items()}
    new = with_state_dict(net, state)
    assert not new.missing_weights()
    assert all(np.array_equal(data(new, name), data(filled(CONV_NET), name)) for name in ("conv1", "fc"))
    # The state dict's own memory may change afterwards.
    before = data(new, "fc").copy()
    state["fc.weight"] += 1
    assert np.array_equal(data(new, "fc"), before) and not data(new, "fc").flags.writeable


def test_shared_parameters() -> None:
    square = np.arange(9, dtype=np.float32).reshape(3, 3)
    net = built(TIED).with_weights({"a": [square, np.ones(3)], "b": [square, np.zeros(3)]})
    module = cp.to_pytorch(net)
    with torch.no_grad():
        module.get_submodule("b").weight += 1
    state = dict(module.state_dict())
    new = with_state_dict(net, state)
    assert np.array_equal(data(new, "a"), data(net, "a") + 1) and new.layer("b").weights[0].data is not None
    # As safetensors' save_model leaves it: one key of the two.
    del state["b.weight"]
    assert np.array_equal(data(with_state_dict(net, state), "b"), data(net, "a") + 1)
    state["b.weight"] = state["a.weight"] + 1
    assert messages(net, state) == [
        "layer 'b': 'b.weight' has other values than 'a.weight'; the net has one learned blob for both"
    ]


# The generated source's state dict


def test_a_table_of_blobs() -> None:
    net = bn_net()
    back = with_state_dict(net, bn_state(net), BN_TABLE)
    assert all(a.data is b.data for a, b in zip(net.weights(), back.weights(), strict=True))
    wider = {key: value.astype(np.float64) for key, value in bn_state(net).items()}
    back = with_state_dict(net, wider, BN_TABLE)
    assert all(a.data is b.data for a, b in zip(net.weights(), back.weights(), strict=True))


def test_changed_statistics_come_with_the_factor_one() -> None:
    net = bn_net()
    state = bn_state(net)
    state["b.running_var"] = state["b.running_var"] * np.float32(1.5)
    new = with_state_dict(net, state, BN_TABLE)
    assert np.array_equal(data(new, "bn"), state["b.running_mean"])
    assert np.array_equal(data(new, "bn", 1), state["b.running_var"]) and data(new, "bn", 2).tolist() == [1]
    # The rest is as it was.
    assert all(new.layer(name).weights[0].data is net.layer(name).weights[0].data for name in ("conv", "scale", "fc"))


def test_values_of_a_table_arrive() -> None:
    net = bn_net()
    state = bn_state(net)
    state["c.weight"] = state["c.weight"] + 1
    state["b.weight"] = (state["b.weight"] * 2).reshape(4, 1, 1)
    new = with_state_dict(net, state, BN_TABLE)
    assert np.array_equal(data(new, "fc"), data(net, "fc") + 1)
    assert np.array_equal(data(new, "scale"), data(net, "scale") * 2)


def test_a_table_that_does_not_fit() -> None:
    net = bn_net()
    state = bn_state(net)
    state["b.bias"] = np.ones(4, np.float32)
    assert messages(net, state, BN_TABLE) == [
        "layer 'scale': 'b.bias' is not zero any more, and Caffe's layer has no such blob (it takes `bias_term: true`)"
    ]
    wrong = {
        "a": {"layer": "none", "blob": 0, "as": "same"},
        "b": {"layer": "conv", "blob": 1, "as": "same"},
        "c": {"layer": "conv", "blob": 0, "as": "squared"},
        "d": {"layer": "conv", "blob": 0, "as": "batchnorm_mean"},
        "e": {"layer": "bn", "blob": 0, "as": "batchnorm_mean"},
        "f": {},
    }
    assert messages(net, {}, wrong) == [
        "layer 'none': 'a' is of a layer that net '' does not have".replace("''", repr(net.name)),
        "layer 'conv': 'b' is learned blob 1; Convolution has 1 here",
        "layer 'conv': 'c' is 'squared' of it, which nobody here knows",
        "layer 'conv': 'd' is no batchnorm_mean (Convolution, blob 0)",
        f"layer 'None': 'f' is of a layer that net {net.name!r} does not have",
        "layer 'bn': needs one key for each running statistic, it has batchnorm_mean",
    ]
    short = {key: place for key, place in BN_TABLE.items() if key[0] != "c"}
    assert messages(net, bn_state(net), short) == [
        "layer 'fc': no key is learned blob 0 (64x2)",
        "layer 'fc': no key is learned blob 1 (2)",
        "'c.weight' in the state dict is no learned blob of the net",
        "'c.bias' in the state dict is no learned blob of the net",
    ]


# What does not fit


def test_all_that_is_wrong_is_told_at_once() -> None:
    net = filled(CONV_NET)
    state: dict[str, Any] = dict(cp.to_pytorch(net).state_dict())
    state["fc.weight"] = state["fc.weight"].T
    state["fc.bias"] = torch.ones(5, dtype=torch.int64)
    state["conv1.bias"] = np.ones(4, np.complex64)
    del state["conv1.weight"]
    state["conv2.weight"] = torch.ones(1)
    state["bn.num_batches_tracked"] = torch.tensor(3)
    assert messages(net, state) == [
        "layer 'conv1': 'conv1.bias' is complex64; learned blobs are floating-point numbers",
        "layer 'fc': 'fc.weight' is 48x5, learned blob 0 needs 5x48",
        "layer 'fc': 'fc.bias' is torch.int64; learned blobs are floating-point numbers",
        "layer 'conv1': 'conv1.weight' (4x3x3x3) is not in the state dict",
        "'conv2.weight' in the state dict is no learned blob of the net",
    ]
    wide = dict(cp.to_pytorch(net).double().state_dict())
    wide["fc.bias"] = torch.full((5,), 1e300, dtype=torch.float64)
    assert messages(net, wide) == ["layer 'fc': 'fc.bias' has values beyond what float32 holds"]
    meta = {key: tensor.to("meta") for key, tensor in cp.to_pytorch(net).state_dict().items()}
    assert len(messages(net, meta)) == 4 and "cannot be read" in messages(net, meta)[0]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_the_state_dict_of_a_wrapper(prefix: str) -> None:
    net = filled(CONV_NET)
    state = {prefix + key: tensor for key, tensor in cp.to_pytorch(net).state_dict().items()}
    told = messages(net, state)
    assert len(told) == 8
    assert told[-1].endswith(f"(all keys begin with {prefix!r}: give the state dict of the module inside)")


def test_values_that_are_not_finite_are_refused_or_told() -> None:
    net = filled(CONV_NET)
    state = dict(cp.to_pytorch(net).state_dict())
    state["fc.bias"] = torch.tensor([1.0, float("nan"), float("inf"), 2.0, 3.0])
    told = "layer 'fc': learned blob 1 (5) has values that are not finite: 1 NaN, 1 inf, the first at [1]"
    assert [text.partition(" (a damaged file")[0] for text in messages(net, state)] == [told]
    new = with_state_dict(net, state, allow_non_finite=True)
    assert np.isnan(data(new, "fc", 1)[1]) and np.isinf(data(new, "fc", 1)[2])
    assert [str(note) for note in new.notes] == [told]


# safetensors


def test_safetensors_of_every_type(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    values = torch.tensor([[1.5, -2.25], [3e-3, float("nan")]])
    kinds = {"f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
    tensors = {name: values.to(kind) for name, kind in kinds.items()}
    tensors |= {"i64": torch.tensor(5), "flag": torch.tensor([True]), "empty": torch.zeros(0, 3)}
    table = {"f32": {"layer": "a", "blob": 0, "as": "same"}}
    save_file(tensors, tmp_path / "w.safetensors", metadata={"caffe_port.blobs": json.dumps(table)})
    read, blobs = read_safetensors(tmp_path / "w.safetensors")
    assert blobs == table and set(read) == set(tensors)
    for name, tensor in tensors.items():
        want = tensor.float().numpy() if name == "bf16" else tensor.numpy()
        assert read[name].dtype == want.dtype and read[name].tobytes() == want.tobytes(), name
    save_file({"x": torch.ones(2)}, tmp_path / "plain.safetensors")
    assert read_safetensors(tmp_path / "plain.safetensors")[1] is None
    save_file({"x": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "f8.safetensors")
    with pytest.raises(WeightsError, match="'x' is F8_E4M3, which NumPy does not have"):
        read_safetensors(tmp_path / "f8.safetensors")
    save_file({"x": torch.ones(2)}, tmp_path / "bad.safetensors", metadata={"caffe_port.blobs": "{"})
    with pytest.raises(WeightsError, match="its table of learned blobs cannot be read"):
        read_safetensors(tmp_path / "bad.safetensors")


def test_files_that_are_no_safetensors(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pt")
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("w.pt", "old.pth"):
        with pytest.raises(
            WeightsError, match=rf"{name}: is a PyTorch archive, .* save the weights with .safetensors.torch.save_model"
        ):
            read_safetensors(tmp_path / name)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(WeightsError, match="text: is no safetensors file"):
        read_safetensors(tmp_path / "text")
    with pytest.raises(WeightsError, match="none: cannot be read: No such file"):
        read_safetensors(tmp_path / "none")
    from safetensors.torch import save

    (tmp_path / "cut").write_bytes(save({"x": torch.ones(200)})[:-4])
    with pytest.raises(WeightsError, match=r"cut: cannot be read: .*; the file is damaged"):
        read_safetensors(tmp_path / "cut")


def test_safetensors_to_a_caffemodel_without_pytorch(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    definition, weights = write_model(tmp_path)
    module = cp.to_pytorch(cp.load(definition, weights))
    with torch.no_grad():
        module.get_submodule("fc").bias[2] = 42
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import caffe_port as cp\n"
        "from caffe_port.converters.from_pytorch import read_safetensors, with_state_dict\n"
        "from caffe_port.converters.to_caffemodel import write_caffemodel\n"
        "state, table = read_safetensors('w.safetensors')\n"
        "net = with_state_dict(cp.load('small.prototxt', 'small.caffemodel'), state, table)\n"
        "write_caffemodel(net, 'new.caffemodel')\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    new = cp.load(definition, tmp_path / "new.caffemodel")
    assert data(new, "fc", 1)[2] == 42
    assert len((tmp_path / "new.caffemodel").read_bytes()) == len(weights.read_bytes())
    assert (
        sum(a != b for a, b in zip((tmp_path / "new.caffemodel").read_bytes(), weights.read_bytes(), strict=True)) <= 4
    )
