"""Files that are made of a net: a name leads to no other place, runs nothing, and comes out as it went in."""

from __future__ import annotations

import ast
import collections
import itertools
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import small
from hypothesis import HealthCheck, given, settings
from names import CANARY, HARMLESS, NAMES, assert_steers_nothing, every_name, nets, prototxt

import caffe_port as cp
from caffe_port import cli
from caffe_port.converters.to_pytorch.names import child_names
from caffe_port.converters.to_pytorch_source.checking import require_expected
from caffe_port.converters.to_pytorch_source.names import Names, label, string
from caffe_port.errors import ArtifactError
from caffe_port.migration.plan import plan
from caffe_port.net import Net
from caffe_port.netspec import NetSpec
from caffe_port.netspec import layers as L  # noqa: N812
from caffe_port.proto import schema, text
from caffe_port.runtime import run
from caffe_port.upgrading import upgrade_file

NETS = list(every_name())
few = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def nothing_was_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests work in a folder of their own, where names that are run leave a file."""
    monkeypatch.chdir(tmp_path)


def assert_nothing_ran(folder: Path, *expected: str) -> None:
    assert not (folder / CANARY).exists()
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == sorted(expected)


# Conversion: written, read back, run and compared, by `convert` itself


@pytest.mark.parametrize("number", range(len(NETS)))
def test_conversions(number: int, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    import onnx

    from caffe_port.conversion import convert

    net = cp.load(*small.write_model(tmp_path / "model", NETS[number]))
    convert(net, tmp_path / "out", "m", ["onnx", "pytorch-source", "caffemodel"])
    model = onnx.load(tmp_path / "out" / "m.onnx")
    assert [value.name for value in model.graph.input] == list(net.inputs)
    assert [value.name for value in model.graph.output] == list(net.outputs)
    again = cp.load(tmp_path / "out" / "m.caffemodel", input_shapes=net.input_shapes)
    assert [layer.name for layer in again.layers if layer.weights] == [one.name for one in net.layers if one.weights]
    made = ("m.onnx", "m.py", "m.weights.safetensors", "m.caffemodel", "m.certificate.json", "m.certificate.html")
    assert_nothing_ran(tmp_path, *(f"out/{name}" for name in made), "model/small.prototxt", "model/small.caffemodel")


@pytest.mark.slow
def test_exported_programs(tmp_path: Path) -> None:
    """torch.fx writes code of the names, which runs where the program is loaded."""
    pytest.importorskip("torch")
    from safetensors import safe_open

    from caffe_port.conversion import convert

    dangerous = [name for what, name in NAMES.items() if what.startswith(("python", "triple", "separator", "escapes"))]
    dangerous += [NAMES[what] for what in ("parent", "identifier of another form", "dunder", "newline", "formula")]
    for i in range(0, len(dangerous), 5):
        folder = tmp_path / str(i)
        of_layers = (dangerous + dangerous)[i : i + 9]
        definition, weights = small.write_model(folder / "model", hostile_net(of_layers))
        net = cp.load(definition, weights)
        convert(net, folder / "out", "m", ["pytorch"])
        children = child_names(net)
        with safe_open(folder / "out" / "m.safetensors", "numpy") as stored:
            keys = {key.rpartition(".")[0] for key in stored.keys()}  # noqa: SIM118 - it is no dict
        assert keys == {children[layer] for layer in net.layers if layer.weights}
        files = [f"out/m.{kind}" for kind in ("pt2", "safetensors", "certificate.json", "certificate.html")]
        assert not (tmp_path / CANARY).exists()
        assert_nothing_ran(folder, *files, "model/small.prototxt", "model/small.caffemodel")


def hostile_net(layers: Sequence[str]) -> str:
    return prototxt("net", layers, [f"blob{i}" for i in range(8)])


def test_children_are_no_code() -> None:
    for i in range(0, len(NAMES) - 9, 9):
        net = small.built(hostile_net(list(NAMES.values())[i : i + 9]))
        found = list(child_names(net).values())
        assert len(set(found)) == len(found)
        for name in found:
            assert name and name.isprintable() and not set(name) & set("\"'\\.,;()[]")
            # As torch.fx writes it.
            tree = ast.parse(f'getattr(self, "{name}")', mode="eval")
            assert isinstance(tree.body, ast.Call) and ast.literal_eval(tree.body.args[1]) == name


# Source


def calls(source: str) -> collections.Counter[str]:
    """What a source calls, whatever its attributes and classes are called."""
    found: collections.Counter[str] = collections.Counter()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found["self" if name.startswith("self.") else name if "." in name or name == "super" else "own"] += 1
    return found


def assert_is_source(net: Net) -> None:
    from caffe_port.converters.to_pytorch_source import to_pytorch_source

    written = to_pytorch_source(net, "net")
    assert calls(written.source) == calls(to_pytorch_source(small.filled(HARMLESS), "net").source)
    assert written.source.isascii() and written.source.replace("\n", "").isprintable()
    for line in written.source.splitlines():
        assert len(line) <= 400


@few
@given(nets())
def test_source_of_any_names(definition: str) -> None:
    assert_is_source(small.filled(definition))


@pytest.mark.parametrize("number", range(len(NETS)))
def test_source(number: int) -> None:
    assert_is_source(small.filled(NETS[number]))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_in_source(name: str) -> None:
    assert ast.literal_eval(string(name)) == name
    assert Names().add(name, "x").isidentifier()
    # A comment is one line, and a docstring is not ended by it.
    assert ast.dump(ast.parse(f"x = 1  # {label(name)}\n")) == ast.dump(ast.parse("x = 1"))
    (statement,) = ast.parse(f'"""A net {label(name)}.\n"""').body
    assert isinstance(statement, ast.Expr)


FINE = '''"""A net."""

import torch
from torch import Tensor, nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(x))
'''

ESCAPED = {
    "a statement": ("\n\nclass Net", "\n\nprint\n\nclass Net"),
    "a call": ("\n\nclass Net", "\n\nclass Other(nn.Module):\n    x = nn.Linear(1, 1)\n\n\nclass Net"),
    "an import": ("import torch\n", "import os\nimport torch\n"),
    "another import": ("from torch import Tensor, nn", "from torch import Tensor, hub, nn"),
    "an import inside": ("super().__init__()\n", "super().__init__()\n        import os\n"),
    "a builtin": ("nn.Conv2d(3, 4, 3)", "eval('3')"),
    "__import__": ("nn.Conv2d(3, 4, 3)", "__import__('os')"),
    "getattr": ("nn.Conv2d(3, 4, 3)", "getattr(nn, 'Conv2d')"),
    "an attribute": ("nn.Conv2d(3, 4, 3)", "nn.Conv2d.__base__"),
    "a function of torch": ("torch.sigmoid", "torch.load"),
    "a method": ("self.conv(x)", "self.conv.load(x)"),
    "a lambda": ("self.conv(x)", "(lambda: x)()"),
    "a comprehension": ("self.conv(x)", "[y for y in x]"),
    "a decorator": ("    def forward", "    @torch.sigmoid\n    def forward"),
    "a metaclass": ("nn.Module)", "nn.Module, metaclass=nn.Linear)"),
    "another base": ("nn.Module)", "nn.Linear)"),
    "a global": ("        return", "        global y\n        return"),
    "an f-string": ("nn.Conv2d(3, 4, 3)", "f'{self}'"),
    "no Python": ("return", "return return"),
    "a NUL": ('"""A net."""', '"""A net.\0"""'),
}


def test_fine_source_is_let_through() -> None:
    require_expected(FINE, "net.py")


@pytest.mark.parametrize("what", ESCAPED)
def test_what_gets_out_of_its_place_is_found(what: str) -> None:
    before, after = ESCAPED[what]
    changed = FINE.replace(before, after, 1)
    assert changed != FINE
    with pytest.raises(ArtifactError, match=r"net\.py: the source"):
        require_expected(changed, "net.py")


# Prototxts


@few
@given(nets())
def test_texts_are_read_as_they_were(definition: str) -> None:
    message, _ = text.parse(definition)
    assert text.parse(text.dumps(message))[0] == message


def test_upgrades(tmp_path: Path) -> None:
    """A V1 net of all these names becomes the net of today."""
    names = list(NAMES.values())
    old = schema.message("NetParameter")
    old.name = names[0]
    old.input.append(names[0])
    old.input_dim.extend([1, 3, 1, 1])
    for bottom, name in itertools.pairwise(names):
        layer = old.layers.add(name=name, bottom=[bottom], top=[name])
        layer.type = layer.INNER_PRODUCT
        layer.inner_product_param.num_output = 3
    text.write("old.prototxt", old)
    assert len(upgrade_file("old.prototxt", "new.prototxt").steps) == 2
    new, _ = text.read("new.prototxt")
    assert [(one.name, *one.bottom, *one.top) for one in new.layer[1:]] == [
        (name, bottom, name) for bottom, name in itertools.pairwise(names)
    ]
    assert new.name == names[0] and list(new.layer[0].top) == [names[0]]
    assert_nothing_ran(tmp_path, "old.prototxt", "new.prototxt")


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_netspec(name: str) -> None:
    spec = NetSpec()
    spec.data = L.Input(input_param={"shape": {"dim": [1, 3]}})
    setattr(spec, name, L.InnerProduct(spec.data, num_output=2))
    net = small.filled(str(spec.to_proto()))
    assert [layer.name for layer in net.layers] == ["data", name]
    assert list(run(net, {"data": np.zeros((1, 3), np.float32)}, outputs=net.outputs)) == [name]


# Changed scripts


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        *((name, ".caffemodel") for name in NAMES.values()),
        *((NAMES[label], "") for label in ("dot", "dots", "slash", "option", "parent", "share", "double quote")),
    ],
    ids=itertools.count(),
)
def test_migrations(name: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A script whose files have such names, written as Python writes them."""
    definition, weights = f"{name}.prototxt", f"{name}{suffix}"
    script = tmp_path / "script.py"
    call = f"cv2.dnn.readNetFromCaffe({definition!a}, {weights!a})"
    blob = "cv2.dnn.blobFromImage(image, 1.0, (8, 8), (1, 2, 3))"
    script.write_text(f"import cv2\n\nnet = {call}\nnet.setInput({blob})\nprob = net.forward()\n", encoding="utf-8")
    migration = plan(script)
    (one,) = migration.conversions
    words = shlex.split(one.command("made"))
    assert words[:2] == ["caffe-port", "convert"]
    assert [os.path.normpath(word) for word in words[2:4]] == [os.path.normpath(path) for path in (definition, weights)]
    assert not any(word.startswith("-") for word in words[2:4])
    (before, after) = (ast.parse(text).body[1] for text in (script.read_text(encoding="utf-8"), migration.changed))
    assert isinstance(before, ast.Assign) and isinstance(after, ast.Assign) and isinstance(after.value, ast.Call)
    assert ast.unparse(after.value.func) == "cv2.dnn.readNetFromONNX"
    (argument,) = after.value.args
    given_ = ast.literal_eval(argument)
    assert given_ == (f"{name}_batch1.onnx" if suffix else weights)
    assert cli.main(["migrate", "--from-opencv", str(script)]) == 0
    for text_ in capsys.readouterr():
        assert_steers_nothing(text_)
    if len(name) < 200:
        assert cli.main(["migrate", "--from-opencv", str(script), "-o", str(tmp_path / "out"), "--write"]) == 0
        (manifest,) = (tmp_path / "out").iterdir()
        assert manifest.name.endswith(".preprocessing.json") and not set(manifest.name) & set("/\\:")
        assert_nothing_ran(tmp_path, "script.py", "script_onnx.py", f"out/{manifest.name}")
    else:
        assert cli.main(["migrate", "--from-opencv", str(script), "-o", str(tmp_path / "out")]) == 2
        assert_nothing_ran(tmp_path, "script.py")
