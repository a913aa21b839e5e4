"""The recorder with a stand-in for pycaffe, and what it wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from places import REFERENCE, TESTS

import caffe_port as cp
from caffe_port.backends import BACKENDS
from caffe_port.recording import Recording

__all__ = ["FAKE", "NETS", "TRAINED", "Recorder", "agrees_everywhere", "arrays_of", "meta_of", "picture", "run_script"]


FAKE = TESTS / "fake_pycaffe"

NETS = REFERENCE / "nets"

Recorder = Callable[..., Path]

TRAINED = """
name: "trained"
layer { name: "read" type: "Data" top: "data" top: "label" data_param { source: "absent" batch_size: 4 }
        transform_param { crop_size: 2 mean_value: 1 mean_value: 2 mean_value: 3 } }
layer { name: "dummy" type: "DummyData" top: "one"
        dummy_data_param { shape { dim: 4 dim: 5 } data_filler { value: 1 } } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 5 } }
layer { name: "sum" type: "Eltwise" bottom: "fc" bottom: "one" top: "sum" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "sum" bottom: "label" top: "loss" }
"""


def arrays_of(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as opened:
        return dict(opened)


def meta_of(path: Path) -> dict[str, Any]:
    return dict(json.loads(arrays_of(path)["meta"].tobytes()))


def run_script(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(FAKE), "FAKE_PYCAFFE_ABORTS": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def agrees_everywhere(net: cp.Net, recorded: Recording) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    for backend in BACKENDS:
        report = cp.verify(net, recorded, backend)
        assert report.ok, report.explanation()
        assert len(report.comparisons) == len(recorded.layers)


def picture(path: Path, height: int, width: int, mode: str = "RGB") -> np.ndarray:
    pixels = np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image.save(path)
    return np.asarray(image)
