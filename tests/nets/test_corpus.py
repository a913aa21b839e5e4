"""Prototxts of public repositories: what Caffe built of each is built, what it refused is refused for a reason."""

from __future__ import annotations

import collections
import functools
import json
import re
from typing import Any

import pytest
from places import CONFORMANCE

import caffe_port as cp
from caffe_port.drawing import to_dot
from caffe_port.errors import PrototxtError
from caffe_port.proto import dialects, text
from caffe_port.summary import summarize

CORPUS = CONFORMANCE / "prototxt"

pytestmark = pytest.mark.skipif(not CORPUS.exists(), reason="the prototxts of public repositories are not here")

PHASES = ("TEST", "TRAIN")

# What Caffe refused, by its reason. The first three may be accepted here: its data is not needed to build a net, and
# forks are read. The rest is to be refused.
DATA, FORK, PYTHON = "a data source that is not there", "a fork's field or type", "a Python layer's module"
TEXT, NET = "no prototxt of any dialect", "no net of Caffe's"
MAY_PASS = (DATA, FORK, PYTHON)
REJECTED = {
    "TEST": {DATA: 154, FORK: 341, PYTHON: 36, TEXT: 48, NET: 17},
    "TRAIN": {DATA: 158, FORK: 341, PYTHON: 38, TEXT: 48, NET: 11},
}


@functools.cache
def recorded() -> dict[str, Any]:
    """File → phase → what Caffe made of it."""
    found: dict[str, Any] = json.loads((CONFORMANCE / "shapes.json").read_text())
    assert len(found) == 782
    return found


def outline(net: cp.Net) -> dict[str, Any]:
    """A net as the recording has it: without Split layers; `inputs` are the tops of Input layers alone."""
    layers = [layer for layer in net.layers if layer.type != "Split"]
    return {
        "inputs": [top.name for layer in layers if layer.type == "Input" for top in layer.tops],
        "outputs": list(net.outputs),
        "layers": [[layer.name, layer.type] for layer in layers],
        "params": {layer.name: [list(weight.shape) for weight in layer.weights] for layer in layers if layer.weights},
        "blobs": {top.name: list(top.shape) for layer in layers for top in layer.tops},
    }


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_what_caffe_built(phase: str) -> None:
    built = 0
    for name, phases in recorded().items():
        if "rejected" in phases[phase]:
            continue
        assert outline(cp.load(CORPUS / name, phase=phase)) == phases[phase], name
        built += 1
    assert built == 186


def reason(name: str, said: str, error: cp.CaffePortError | None) -> str:
    """The class of Caffe's reason; of what its parser refused, whether any dialect's can read it is ours to know."""
    if "text_format.cc" in said:
        if isinstance(error, PrototxtError):
            try:
                text.read(CORPUS / name)
            except PrototxtError:
                return TEXT
        return FORK
    if re.search(r"db\.cpp|db_lmdb\.hpp|hdf5_data_layer\.cpp", said):
        return DATA
    if unknown := re.search(r"Unknown layer type: (\w+)", said):
        # Caffe was built without OpenCV.
        return DATA if unknown[1] in ("ImageData", "WindowData") else FORK
    return PYTHON if "PY SystemError" in said else NET


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_what_caffe_rejected(phase: str) -> None:
    counts: collections.Counter[str] = collections.Counter()
    for name, phases in recorded().items():
        said = phases[phase].get("rejected")
        if said is None:
            continue
        refused: cp.CaffePortError | None = None
        try:
            cp.load(CORPUS / name, phase=phase)
        except cp.CaffePortError as error:
            refused = error
        why = reason(name, said, refused)
        counts[why] += 1
        assert refused is not None or why in MAY_PASS, f"{name}: {said}"
    assert counts == REJECTED[phase]


@pytest.mark.slow
def test_every_file_can_be_looked_at() -> None:
    """Whatever its layers are: the readers, the summary and the graph raise nothing but our own errors."""
    loaded = unknown = 0
    for name in sorted(recorded())[::4]:
        try:
            net = cp.load(CORPUS / name, allow_unknown=True)
        except cp.CaffePortError:
            continue
        loaded += 1
        unknown += bool(net.unknown_layers())
        summary = summarize(net)
        json.dumps(summary.as_json())
        assert list(summary.table()) and to_dot(net)
        if net.unknown_problems():
            with pytest.raises(cp.CaffePortError):
                net.require_weights()
    assert loaded >= 160 and unknown >= 60


def test_dialects_are_told() -> None:
    told = {
        "chuanqi305__MobileNet-SSD__voc_MobileNetSSD_deploy.prototxt": "SSD (weiliu89 ssd)",
        "hszhao__PSPNet__evaluation_prototxt_pspnet50_ADE20K_473.prototxt": "PSPNet (hszhao)",
        "shicai__DenseNet-Caffe__DenseNet_121.prototxt": "soeaver/caffe-model",
    }
    for name, dialect in told.items():
        assert [found.name for found in dialects.detect(text.read(CORPUS / name)[0])] == [dialect], name
