"""The text of a source: preprocessing, imports, names; nothing of a net can run in it."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import sys
import tokenize
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytorch_sources import assert_black, assert_computes, layer, valued, written
from small import CONV_NET, built, filled, one_input

from caffe_port import recording
from caffe_port.converters.to_pytorch_source import PyTorchSource, names, to_pytorch_source
from caffe_port.errors import GraphError
from caffe_port.preprocessing import OPEN_NSFW, MeanImage, Preprocessing
from caffe_port.runtime import run
from caffe_port.scoring import preprocess as pictures

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors.numpy")

IMAGES = Path(recording.__file__).parents[1] / "reference_outputs" / "open_nsfw"


# The file


def function(source: PyTorchSource) -> Any:
    """The `preprocess` of a source."""
    module = types.ModuleType("made")
    exec(compile(source.source, "made", "exec"), module.__dict__)
    return module.preprocess


def test_preprocessing_is_bit_exact() -> None:
    from PIL import Image

    preprocess = function(to_pytorch_source(built(one_input(1, 3, 224, 224) + layer("ReLU")), "net", OPEN_NSFW))
    scores = json.loads((IMAGES / "scores.json").read_text())
    images = [name for name, entry in scores.items() if "tensor" in entry]
    assert len(images) == 25
    for name in images:
        with Image.open(IMAGES / "images" / name) as image:
            got = preprocess(image).numpy()
        assert got.shape == (1, 3, 224, 224) and got.dtype == np.float32
        assert hashlib.sha256(got.tobytes()).hexdigest() == scores[name]["tensor"], name


def test_other_preprocessings() -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    net = built(one_input(1, 3, 4, 6) + layer("ReLU"))
    for steps in (
        Preprocessing(channel_order="RGB"),
        Preprocessing(crop=(4, 6)),
        Preprocessing(crop=(4, 6), mean=(1.5, 2, 3.25), scale=0.017),
        Preprocessing(resize=(9, 12), crop=(3, 4), channel_order="RGB"),
        Preprocessing(resize=(5, 4), mean=(1, 2, 3)),
        Preprocessing(jpeg_round_trip=True, scale=1 / 255),
        Preprocessing(channel_order="grey", resize=(5, 4), jpeg_round_trip=True, mean=(33.3,)),
        Preprocessing(raw_scale=1, mean=(0.4,), scale=1 / 3),
    ):
        source = to_pytorch_source(net, "net", steps)
        assert_black(source.source)
        got = function(source)(Image.fromarray(pixels))[0].numpy()
        want = pictures.tensor(Image.fromarray(pixels), steps)
        assert np.array_equal(got.view(np.uint32), want.view(np.uint32)), steps
    preprocess = function(to_pytorch_source(net, "net", Preprocessing(crop=(40, 6))))
    with pytest.raises(ValueError, match="smaller than 6x40"):
        preprocess(Image.fromarray(pixels))


def test_preprocessings_that_a_source_cannot_have() -> None:
    net = built(one_input(1, 3, 4, 6) + layer("ReLU"))
    image = MeanImage((3, 4, 6), "float32", bytes(3 * 4 * 6 * 4))
    steps = Preprocessing(resize=(4, 6), interpolation="opencv", mean=image)
    want = r"2 problems:\n.*a mean image has too many.*\n.*'opencv' interpolation is not"
    with pytest.raises(GraphError, match=want):
        to_pytorch_source(net, "net", steps)


BARE = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("caffe_port", "google", "onnx", "PIL"):
            raise ImportError(name + " is not for this file")

sys.meta_path.insert(0, Refused())
sys.path.insert(0, sys.argv[1])
import torch
import net
print(net.load(sys.argv[1] + "/net.safetensors")(torch.ones(2, 3, 8, 7)).tolist())
assert "caffe_port" not in sys.modules
"""


def test_it_needs_torch_and_safetensors_alone(tmp_path: Path) -> None:
    net = filled(CONV_NET)
    written(to_pytorch_source(net, "net", OPEN_NSFW), tmp_path)
    done = subprocess.run(
        [sys.executable, "-I", "-c", BARE, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    want = run(net, {"data": np.ones((2, 3, 8, 7))})["prob"]
    np.testing.assert_allclose(json.loads(done.stdout), want, rtol=1e-4)


def test_nothing_is_imported_or_defined_in_vain() -> None:
    source = to_pytorch_source(filled(CONV_NET), "net").source
    for name in re.findall(r"^(?:import|from) .*?(\w+)$", source, re.MULTILINE):
        assert len(re.findall(rf"\b{name}\b", source)) > 1, name
    assert "OrderedDict" not in source and "import io" not in source


EVIL = [
    '"); import os; os._exit(7); ("',
    "a\\nimport os; os._exit(7)",
    '\'\'\'\\"\\"\\"\\nimport os; os._exit(7)\\n\\"\\"\\"',
    "{0} {m0}",
    "fmt: off",
    "class",
    "forward",
    "training",
    "1x1",
    "x y",
    "\u00fc\u2028\U0001f600",
    "\\\\",
    "self",
    "F",
    "torch",
    "a" * 300,
]


@pytest.mark.parametrize("name", EVIL)
def test_any_name_will_do(name: str, tmp_path: Path) -> None:
    """Of the net, a layer and a blob: nothing of it is code, no two things get one name."""
    quoted = name.replace('"', '\\"') if '"' in name and "\\" not in name else name
    net = valued(
        built(
            f'name: "{quoted}"\n'
            + one_input(2, 3, 4, 4)
            + layer("Convolution", "convolution_param { num_output: 2 kernel_size: 1 }", quoted, top="c")
            + layer("PReLU", "", f".{quoted}", "c", "d").replace('top: "d"', f'top: "{quoted}"')
            + layer("ReLU", "", f"{quoted}.", "c", "e")
        )
    )
    source = assert_computes(net, tmp_path)
    assert source.source.isascii()
    tokens = tokenize.generate_tokens(io.StringIO(source.source).readline)
    assert not {"os", "_exit"} & {token.string for token in tokens if token.type == tokenize.NAME}


def test_the_name_of_the_net_is_no_code() -> None:
    net = filled('name: "\\"\\"\\"\\nimport os"\n' + CONV_NET.replace('name: "small"', ""))
    for name in ('x"""\nimport os', "1", "", "F", "nn.Module): pass"):
        source = to_pytorch_source(net, name)
        assert source.class_name.isidentifier() and "\nimport os\n" not in source.source
        assert_black(source.source)


def test_names_of_modules_are_kept_free() -> None:
    assert {name for name in (*dir(torch.nn.Module), *vars(torch.nn.Module())) if name[0] != "_"} <= names.RESERVED
