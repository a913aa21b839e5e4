"""Source of whole nets: it computes what the net computes, reads as written by hand, and names what it cannot have."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import fill
import numpy as np
import pytest
from places import REFERENCE, ROOT
from pytorch_sources import assert_black, call, layer, written
from small import CONV_NET, built, filled, one_input, weights_of

import caffe_port as cp
from caffe_port.converters.to_pytorch_source import PyTorchSource, require_writable, to_pytorch_source
from caffe_port.errors import ArtifactError, FetchError, GraphError, UnsupportedLayer, WeightsError
from caffe_port.models.fetch import fetch
from caffe_port.net import Net
from caffe_port.preprocessing import OPEN_NSFW
from caffe_port.runtime import run_layers
from caffe_port.scoring import preprocess as pictures

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors.numpy")
from caffe_port.converters.to_pytorch_source import load_module  # noqa: E402

THEIRS = ROOT.parent / "shared" / "conformance"

IMAGES = REFERENCE / "open_nsfw"

# Whole nets

NETS = {
    # lines at most, classes, uses of the block
    "googlenet": (120, 2, ("Inception(", 9)),
    "squeezenet_v1.0": (90, 2, ("Fire(", 8)),
    "squeezenet_v1.1": (90, 2, ("Fire(", 8)),
    "resnet50_1by2": (130, 2, ("Bottleneck(", 16)),
    "lenet": (50, 1, None),
    "mtcnn_det1": (60, 1, None),
    "mtcnn_det2": (60, 1, None),
    "mtcnn_det3": (70, 1, None),
}


def prototxt_of(name: str) -> Path:
    ours = ROOT / "reference_outputs" / "nets" / f"{name}.prototxt"
    prototxt = ours if ours.exists() else THEIRS / "nets" / f"{name}.prototxt"
    if not prototxt.exists():
        pytest.skip(f"{name} belongs to another project and is not here")
    return prototxt


def load_net(name: str) -> Net:
    folder = THEIRS / "models" / name
    weights = folder / "weights.caffemodel" if folder.exists() else None
    prototxt = folder / "net.prototxt" if weights else prototxt_of(name)
    net = cp.load(prototxt, weights)
    net = net.with_input_shapes({blob: (1, *shape[1:]) for blob, shape in net.input_shapes.items()})
    return net if weights else net.with_weights(weights_of(net))


def assert_hooks(net: Net, source: PyTorchSource, module: Any, inputs: Any) -> None:
    """Float32, module by module: within 4 times NumPy's own float32 noise and 4 ulps of float64."""
    seen: dict[str, Any] = {}
    handles = [
        module.get_submodule(path).register_forward_hook(
            lambda _m, _i, out, path=path: seen.update({path: out.numpy()})
        )
        for path in source.hooks
    ]
    outputs = call(module, net, inputs, torch.float32)
    for handle in handles:
        handle.remove()
    assert seen.keys() == source.hooks.keys()
    got = {id(blob): (path, seen[path]) for path, blob in source.hooks.items()}
    got |= {id(blob.origin): (blob.name, outputs[blob.name].numpy()) for blob in net.output_blobs}
    cast = {name: value.astype(np.float64) for name, value in inputs.items()}
    compared = 0
    runs = zip(run_layers(net, inputs, "float32"), run_layers(net, cast, "float64"), strict=True)
    for (_, own), (_, exact) in runs:
        for blob, value in exact.items():
            if id(blob) in got:
                path, tensor = got[id(blob)]
                noise = np.abs(own[blob] - value).max()
                bound = 4 * noise + 4 * np.spacing(np.float32(np.abs(value).max()))
                assert np.abs(tensor - value).max() <= bound, path
                compared += 1
    assert compared == len(got)


@pytest.mark.parametrize("name", sorted(NETS))
def test_net(name: str, tmp_path: Path) -> None:
    net = load_net(name)
    lines, classes, block = NETS[name]
    source = to_pytorch_source(net, name)
    assert len(source.source.splitlines()) <= lines
    assert source.source.count("(nn.Module):") == classes
    if block:
        assert source.source.count(block[0]) == block[1] + 1, "in its own definition too"
    assert_black(source.source)
    inputs = {blob: fill.input_data(blob, shape) for blob, shape in net.input_shapes.items()}
    assert_hooks(net, source, written(source, tmp_path), inputs)


@pytest.mark.parametrize("name", ["alexnet", "caffenet", "ms_ctc", "vgg16", "resnet50"])
def test_net_of_many_weights(name: str) -> None:
    """Its text alone: all of its calls are in smaller nets too."""
    net = cp.load(prototxt_of(name))
    net = net.with_values({id(w): np.broadcast_to(np.float32(1), w.shape) for w in net.weights()})
    source = to_pytorch_source(net, name)
    assert len(source.source.splitlines()) < 130
    assert source.source.count("=Bottleneck(") == (16 if name == "resnet50" else 0)
    assert_black(source.source)
    shapes = {f"{weight.layer}/{weight.index}": weight.shape for weight in net.weights()}
    for key, row in source.blobs.items():
        assert source.tensors[key].size == np.prod(shapes[f"{row['layer']}/{row['blob']}"]), key


@pytest.fixture(scope="module")
def open_nsfw() -> Net:
    try:
        files = fetch("open_nsfw")
    except FetchError as error:
        pytest.skip(f"the released model cannot be had: {error}")
    return cp.load(files.prototxt, files.caffemodel)


def test_open_nsfw(open_nsfw: Net, tmp_path: Path) -> None:
    source = to_pytorch_source(open_nsfw, "open_nsfw", OPEN_NSFW)
    assert source.class_name == "OpenNsfw"
    assert len(source.source.splitlines()) < 150 and source.source.count("(nn.Module):") == 2
    assert_black(source.source)
    for file in open_nsfw.sources:
        assert hashlib.sha256(file.path.read_bytes()).hexdigest() in source.source
    module = written(source, tmp_path)
    assert {"stage0.block0.conv_branch2a", "stage3.block2", "stage2", "bn_1", "fc_nsfw"} <= source.hooks.keys()
    state = {key for key in module.state_dict() if not key.endswith("num_batches_tracked")}
    assert state == source.tensors.keys() == source.blobs.keys()
    assert not module.training
    assert_hooks(
        open_nsfw, source, module, {"data": pictures.tensor(IMAGES / "images" / "chelsea.png", OPEN_NSFW)[None]}
    )


# Refusals


def test_every_layer_without_a_plain_form_is_named() -> None:
    net = built(
        one_input(2, 4, 3, 3)
        + layer("MVN", "", "one")
        + layer("ArgMax", "", "two", "y", "z")
        + layer("ReLU", "", "three", "z", "w")
    )
    with pytest.raises(UnsupportedLayer, match="2 problems") as caught:
        to_pytorch_source(net, "net")
    assert "layer 'one': MVN" in str(caught.value) and "layer 'two': ArgMax" in str(caught.value)
    assert "target pytorch" in str(caught.value)


def test_what_can_be_written_is_known_without_weights() -> None:
    require_writable(built(CONV_NET))
    require_writable(built(one_input(2, 3) + layer("BatchNorm")))
    with pytest.raises(UnsupportedLayer, match="MVN"):
        require_writable(built(one_input(2, 4, 3, 3) + layer("MVN")))
    with pytest.raises(GraphError, match="TRAIN"):
        require_writable(built(CONV_NET, phase="TRAIN"))


def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        to_pytorch_source(built(CONV_NET), "net")
    with pytest.raises(GraphError, match="TRAIN"):
        to_pytorch_source(filled(CONV_NET, phase="TRAIN"), "net")
    text = one_input(2, 3) + layer("BatchNorm", "batch_norm_param { use_global_stats: false }")
    with pytest.raises(UnsupportedLayer, match="use_global_stats"):
        to_pytorch_source(filled(text), "net")
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        (tmp_path / "net.py").write_text("raise ValueError('no net')\n")
        load_module(tmp_path / "net.py", tmp_path / "net.safetensors")
