"""What the pages' commands find in their folder: small models and pictures under the names that the pages use."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import small
from pages import ROOT, blocks
from PIL import Image

from caffe_port.errors import FetchError
from caffe_port.models.fetch import fetch
from caffe_port.recorder import script

__all__ = ["ENVIRONMENT", "PREPARED", "SETUP"]

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "tests" / "fake_pycaffe"), "OMP_NUM_THREADS": "1"}
"""For commands that are processes of their own: record.py needs a pycaffe, here the one of the tests."""

FORK_NET = small.one_input(1, 4, 6, 8) + 'layer { name: "bn" type: "BN" bottom: "x" top: "y" }\n'

PLUGIN_NET = small.one_input(2, 3, 5) + (
    'layer { name: "fc" type: "InnerProduct" bottom: "x" top: "f" inner_product_param { num_output: 4 } }\n'
    'layer { name: "gelu" type: "Gelu" bottom: "f" top: "g" }\n'
)

POSE_NET = small.one_input(1, 3, 1, 1, name="image") + (
    'layer { name: "conv" type: "Convolution" bottom: "image" top: "net_output" '
    "convolution_param { num_output: 2 kernel_size: 3 pad: 1 stride: 8 } }\n"
)

COLOUR_NET = small.one_input(1, 3, 4, 4) + (
    'layer { name: "conv" type: "Convolution" bottom: "x" top: "c" '
    "convolution_param { num_output: 313 kernel_size: 1 } }\n"
    'layer { name: "conv8_313_rh" type: "Scale" bottom: "c" top: "rh" scale_param { bias_term: false } }\n'
    'layer { name: "class8_ab" type: "Convolution" bottom: "rh" top: "class8_ab" '
    "convolution_param { num_output: 2 kernel_size: 1 } }\n"
    'layer { name: "silence" type: "Silence" bottom: "class8_ab" }\n'
)

EDGE_NET = small.one_input(1, 3, 20, 20, name="data") + (
    'layer { name: "conv" type: "Convolution" bottom: "data" top: "c" '
    "convolution_param { num_output: 1 kernel_size: 3 pad: 3 } }\n"
    'layer { name: "crop" type: "Crop" bottom: "c" bottom: "data" top: "upscore-fuse" }\n'
    'layer { name: "sigmoid-fuse" type: "Sigmoid" bottom: "upscore-fuse" top: "sigmoid-fuse" }\n'
)

DETECTOR = small.one_input(1, 3, 300, 300, name="data") + (
    'layer { name: "c" type: "Convolution" bottom: "data" top: "c" '
    "convolution_param { num_output: 2 kernel_size: 75 stride: 75 } }\n"
    'layer { name: "loc" type: "Convolution" bottom: "c" top: "loc" '
    "convolution_param { num_output: 8 kernel_size: 1 } }\n"
    'layer { name: "locp" type: "Permute" bottom: "loc" top: "locp" '
    "permute_param { order: 0 order: 2 order: 3 order: 1 } }\n"
    'layer { name: "locf" type: "Flatten" bottom: "locp" top: "locf" }\n'
    'layer { name: "conf" type: "Convolution" bottom: "c" top: "conf" '
    "convolution_param { num_output: 6 kernel_size: 1 } }\n"
    'layer { name: "confp" type: "Permute" bottom: "conf" top: "confp" '
    "permute_param { order: 0 order: 2 order: 3 order: 1 } }\n"
    'layer { name: "confr" type: "Reshape" bottom: "confp" top: "confr" '
    "reshape_param { shape { dim: 0 dim: -1 dim: 3 } } }\n"
    'layer { name: "s" type: "Softmax" bottom: "confr" top: "s" softmax_param { axis: 2 } }\n'
    'layer { name: "sf" type: "Flatten" bottom: "s" top: "sf" }\n'
    'layer { name: "prior" type: "PriorBox" bottom: "c" bottom: "data" top: "prior" '
    "prior_box_param { min_size: 60 max_size: 90 } }\n"
    'layer { name: "detection_out" type: "DetectionOutput" bottom: "locf" bottom: "sf" bottom: "prior" '
    'top: "detection_out" detection_output_param { num_classes: 3 share_location: true code_type: CENTER_SIZE '
    "keep_top_k: 20 confidence_threshold: 0.3 nms_param { nms_threshold: 0.45 top_k: 400 } } }\n"
)

DETECT = """\
import cv2 as cv

net = cv.dnn.readNetFromCaffe("MobileNetSSD_deploy.prototxt", "MobileNetSSD_deploy.caffemodel")
frame = cv.imread("street.jpg")
blob = cv.dnn.blobFromImage(frame, 0.007843, (300, 300), (127.5, 127.5, 127.5))
net.setInput(blob)
detections = net.forward()
"""


def model(folder: Path) -> None:
    """deploy.prototxt and weights.caffemodel."""
    _, weights = small.write_model(folder, name="deploy")
    weights.rename(folder / "weights.caffemodel")


@functools.cache
def recorded() -> bytes:
    """A whole recording of `model`, made as a user makes one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model(folder)
        (folder / "record.py").write_text(script())
        command = [sys.executable, "record.py", "deploy.prototxt", "weights.caffemodel", "-o", "r.npz", "--full"]
        subprocess.run(command, cwd=folder, env=ENVIRONMENT, check=True, capture_output=True, timeout=60)
        return (folder / "r.npz").read_bytes()


def recorded_model(folder: Path) -> None:
    model(folder)
    (folder / "recording.npz").write_bytes(recorded())


def own_model(folder: Path) -> None:
    """The page's manifest too."""
    recorded_model(folder)
    (manifest,) = blocks("convert-your-model.md", "json")
    (folder / "preprocessing.json").write_text(manifest.text)


def picture_model(folder: Path) -> None:
    """A net for pictures, and one to record."""
    model(folder)
    net = small.CONV_NET.replace("dim: 2 dim: 3", "dim: 1 dim: 3")
    (folder / "deploy.prototxt").write_text(net)
    picture(folder / "cat.jpg")


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)


def fork_model(folder: Path) -> None:
    (folder / "net.prototxt").write_text(FORK_NET)
    blobs = {"bn": [np.ones((1, 4, 1, 1), np.float32), np.zeros((1, 4, 1, 1), np.float32)]}
    small.write_caffemodel(folder / "net.caffemodel", FORK_NET, blobs)


def plugin_model(folder: Path) -> None:
    shutil.copy(ROOT / "docs" / "example_plugin.py", folder)
    (folder / "net.prototxt").write_text(PLUGIN_NET)
    blobs = {"fc": [np.ones((4, 15), np.float32), np.zeros(4, np.float32)]}
    small.write_caffemodel(folder / "net.caffemodel", PLUGIN_NET, blobs)


def weights_file(path: Path, net: str, without: tuple[str, ...] = ()) -> None:
    """The layers with weights alone: a fork's layers have no numbers, so they cannot be written."""
    weights = {name: blobs for name, blobs in small.weights_of(small.built(net)).items() if name not in without}
    layers = "".join(f'layer {{ name: "{name}" type: "Convolution" }}\n' for name in weights)
    small.write_caffemodel(path, layers, weights)


def sample_models(folder: Path) -> None:
    """The models of OpenCV's samples, in small."""
    weights_file(folder / "MobileNetSSD_deploy.caffemodel", DETECTOR)
    (folder / "MobileNetSSD_deploy.prototxt").write_text(DETECTOR)
    weights_file(folder / "pose_iter_440000.caffemodel", POSE_NET)
    (folder / "pose_deploy_linevec.prototxt").write_text(POSE_NET)
    weights_file(folder / "hed_pretrained_bsds.caffemodel", EDGE_NET)
    (folder / "deploy.prototxt").write_text(EDGE_NET)
    weights_file(folder / "colorization_release_v2.caffemodel", COLOUR_NET, without=("conv8_313_rh", "class8_ab"))
    (folder / "colorization_deploy_v2.prototxt").write_text(COLOUR_NET)
    np.save(folder / "pts_in_hull.npy", np.arange(626.0).reshape(313, 2))
    (folder / "detect.py").write_text(DETECT)


def scores(folder: Path) -> None:
    """Labels with scores, twice."""
    rng = np.random.default_rng(2)
    for name in ("scores.csv", "other.csv"):
        labels = np.arange(600) % 2
        values = np.clip(rng.normal(0.3 + 0.4 * labels, 0.12), 0, 1)
        rows = (f"{label},{score:.6f}\n" for label, score in zip(labels, values, strict=True))
        (folder / name).write_text("label,score\n" + "".join(rows))


def scored_pictures(folder: Path) -> None:
    """Pictures in every kind of place, and the released model, or a skip."""
    try:
        fetch("open_nsfw", offline=True)
    except FetchError as error:
        pytest.skip(f"the released model is not in the cache: {error}")
    for name in ("photo.jpg", "photos/a.jpg", "photos/b/c.png", "old/x/y.png"):
        picture(folder / name)
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.write(folder / "photo.jpg", "inside.jpg")


def huge_model(folder: Path) -> None:
    """Huge in name."""
    (folder / "huge.prototxt").write_text(small.CONV_NET)


def nothing(folder: Path) -> None:
    """The page's commands need no files."""


PREPARED: dict[str, Callable[[Path], None]] = {
    "README.md": recorded_model,
    "architectures.md": nothing,
    "calibration.md": scores,
    "compare.md": model,
    "convert-your-model.md": own_model,
    "dialects.md": fork_model,
    "limits.md": huge_model,
    "netspec.md": nothing,
    "opencv-migration.md": sample_models,
    "plugins.md": plugin_model,
    "pycaffe.md": model,
    "recording-your-caffe.md": picture_model,
    "scoring.md": scored_pictures,
    "verification-fails.md": recorded_model,
}
"""By page, what puts the files there. A page whose commands are run must be here."""

SETUP = {
    "pycaffe.md": "import numpy as np\nimage = np.zeros((2, 3, 8, 7), np.float32)\n",
    "scoring.md": "from PIL import Image\npicture = Image.open('photo.jpg')\npaths = ['photo.jpg', 'photos/a.jpg']\n",
}
"""What a page's Python takes as given."""
