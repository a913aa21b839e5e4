"""Python layers in `caffe.Net`: what upstream tests check, learned blobs, backward, errors as they were raised."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import one_input

import caffe_port.pycaffe as caffe
from caffe_port.errors import GraphError

MODULE = '''
import caffe
import numpy as np

made = []


class Times(caffe.Layer):
    """Times param_str, forward and backward."""

    def setup(self, bottom, top):
        made.append(self)
        self.value = float(self.param_str)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.value * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            bottom[0].diff[...] = self.value * top[0].diff


class Raises(caffe.Layer):
    """Raises in the method that param_str names."""

    def setup(self, bottom, top):
        self.fail("setup")

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)
        self.fail("reshape")

    def forward(self, bottom, top):
        self.fail("forward")

    def backward(self, top, propagate_down, bottom):
        self.fail("backward")

    def fail(self, method):
        if method == self.param_str:
            raise ZeroDivisionError("told to in " + method)


class Learns(caffe.Layer):
    """Adds its learned blob, of which the gradient is 1."""

    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[0] = 0

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data + self.blobs[0].data[0]

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[0] += 1


class Tells(caffe.Layer):
    """A source: its phase, and what setup wrote once."""

    def setup(self, bottom, top):
        assert len(bottom) == 0
        top[1].reshape(3)
        top[1].data[...] = 7

    def reshape(self, bottom, top):
        top[0].reshape()

    def forward(self, bottom, top):
        top[0].data[()] = self.phase

    def backward(self, top, propagate_down, bottom):
        pass


class Stateful(caffe.Layer):
    """In place; counts its passes. Has an __init__ of its own."""

    def __init__(self, param):
        self.passes = 0
        self.name = param.name

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        self.passes += 1
        top[0].data[...] += self.passes

    def backward(self, top, propagate_down, bottom):
        pass
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"python_layers_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def layer(module: str, kind: str, bottom: str = "", top: str = "", param: str = "", name: str = "layer") -> str:
    bottoms, tops = (
        " ".join(f'{what}: "{blob}"' for blob in names.split()) for what, names in (("bottom", bottom), ("top", top))
    )
    return (
        f'layer {{ name: "{name}" type: "Python" {bottoms} {tops} '
        f'python_param {{ module: "{module}" layer: "{kind}" param_str: "{param}" }} }}\n'
    )


def net_of(folder: Path, text: str, phase: int = caffe.TRAIN, **options: Any) -> caffe.Net:
    file = folder / "net.prototxt"
    file.write_text("force_backward: true\n" + text)
    return caffe.Net(str(file), phase, **options)


@pytest.fixture
def chain(tmp_path: Path, module: str) -> caffe.Net:
    """Three layers, times 10, 10 and 3, the values from param_str."""
    layers = [layer(module, "Times", f"x{i}", f"x{i + 1}", value, f"t{i}") for i, value in enumerate(("10", "10", "3"))]
    return net_of(tmp_path, one_input(10, 9, 8, name="x0") + "".join(layers))


def test_forward(chain: caffe.Net) -> None:
    chain.blobs["x0"].data[...] = x = np.random.default_rng(0).standard_normal((10, 9, 8)).astype(np.float32)
    assert np.allclose(chain.forward()["x3"], 300 * x)


def test_backward(chain: caffe.Net) -> None:
    chain.blobs["x3"].diff[...] = 7
    assert (chain.backward()["x0"] == 300 * 7).all()


def test_reshape(chain: caffe.Net) -> None:
    chain.blobs["x0"].reshape(4, 4, 4, 4)
    chain.forward()
    assert all(blob.data.shape == blob.diff.shape == (4, 4, 4, 4) for blob in chain.blobs.values())
    chain.blobs["x0"].reshape(2, 5)
    chain.reshape()
    assert all(blob.data.shape == (2, 5) for blob in chain.blobs.values())


def test_one_object_is_set_up_once_and_stays(chain: caffe.Net) -> None:
    module = sys.modules[type(chain.layers[1]).__module__]
    assert module.made == chain.layers[1:] and all(isinstance(one, caffe.Layer) for one in module.made)
    assert [one.type for one in chain.layers] == ["Input", "Python", "Python", "Python"]
    chain.layers[1].value = 1
    chain.forward(x0=np.ones((10, 9, 8)))
    assert (chain.blobs["x3"].data == 30).all() and len(module.made) == 3
    assert "caffe" not in sys.modules or caffe.is_installed()


@pytest.mark.parametrize("method", ["setup", "reshape", "forward", "backward"])
def test_what_it_raises_reaches_the_caller(tmp_path: Path, module: str, method: str) -> None:
    text = one_input(2, 3) + layer(module, "Raises", "x", "y", method)
    if method in ("setup", "reshape"):
        with pytest.raises(ZeroDivisionError, match=f"told to in {method}"):
            net_of(tmp_path, text)
        return
    net = net_of(tmp_path, text)
    if method == "backward":
        net.forward()
    with pytest.raises(ZeroDivisionError, match=f"told to in {method}"):
        getattr(net, method)()


def test_a_class_that_is_not_there(tmp_path: Path, module: str) -> None:
    with pytest.raises(GraphError, match="has no class 'Missing'"):
        net_of(tmp_path, one_input(1) + layer(module, "Missing", "x", "y"))
    with pytest.raises(GraphError, match="'no_such_module' cannot be imported"):
        net_of(tmp_path, one_input(1) + layer("no_such_module", "Missing", "x", "y"))


def test_learned_blobs(tmp_path: Path, module: str) -> None:
    """They are the net's: their gradient adds up, they are saved and read."""
    text = one_input(10, 9) + layer(module, "Learns", "x", "y")
    net = net_of(tmp_path, text)
    (blob,) = net.layer_dict["layer"].blobs
    assert net.params["layer"][0] is blob
    net.forward()
    net.backward()
    assert blob.data[0] == 0 and blob.diff[0] == 1
    blob.data[0] += blob.diff[0]
    assert (net.forward()["y"] == 1).all()
    net.clear_param_diffs()
    assert blob.diff[0] == 0
    file = str(tmp_path / "saved")
    net.save(file)
    again = net_of(tmp_path, text, weights=file)
    assert again.layer_dict["layer"].blobs[0].data[0] == 1 and (again.forward()["y"] == 1).all()
    other = net_of(tmp_path, text)
    other.copy_from(file)
    assert (other.forward()["y"] == 1).all()


@pytest.mark.parametrize("phase", [caffe.TRAIN, caffe.TEST])
def test_phase_and_tops_of_setup(tmp_path: Path, module: str, phase: int) -> None:
    net = net_of(tmp_path, layer(module, "Tells", top="phase fixed"), phase)
    found = net.forward()
    assert found["phase"] == phase and found["phase"].shape == ()
    assert np.array_equal(found["fixed"], [7, 7, 7])


def test_in_place_with_memory_of_its_own(tmp_path: Path, module: str) -> None:
    net = net_of(tmp_path, one_input(2, 3) + layer(module, "Stateful", "x", "x"))
    assert net.layers[1].name == "layer" and len(net.blobs) == 1
    for want in (1, 3, 6):
        assert (net.forward()["x"] == want).all()


def test_gradients_pass_through_layers_of_both_kinds(tmp_path: Path, module: str) -> None:
    pytest.importorskip("torch")
    text = one_input(4, 3) + layer(module, "Times", "x", "y", "5")
    text += 'layer { name: "p" type: "Power" bottom: "y" top: "z" power_param { power: 2 } }'
    net = net_of(tmp_path, text)
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    net.forward(x=x)
    assert np.allclose(net.backward(z=np.ones((4, 3)))["x"], 50 * x)
