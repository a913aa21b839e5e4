"""Scripts run by OpenCV itself, before and after: skipped where cv2 is not installed.

Before needs the Caffe importer, which OpenCV 4 has; after runs in OpenCV 4 and 5, and is compared with NumPy too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
from numpy.typing import NDArray

import caffe_port as cp
from caffe_port.migration.opencv import preprocessing_of, read_script
from caffe_port.migration.plan import plan
from caffe_port.scoring.preprocess import tensor

cv2 = pytest.importorskip("cv2")
importer = pytest.mark.skipif(not hasattr(cv2.dnn, "readNetFromCaffe"), reason="this OpenCV has no Caffe importer")

TWO_HEADS = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 20 dim: 24 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 6 kernel_size: 3 stride: 2 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
        pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "score" type: "InnerProduct" bottom: "pool1" top: "z_score" inner_product_param { num_output: 2 } }
layer { name: "boxes" type: "InnerProduct" bottom: "pool1" top: "a_boxes" inner_product_param { num_output: 4 } }
"""

SCRIPT = """
import cv2 as cv

net = cv.dnn.readNetFromCaffe("net.prototxt", "net.caffemodel")
blob = cv.dnn.blobFromImage(image, 0.02, (24, 20), (104, 117, 123), swapRB=True)
net.setInput(blob)
last = net.forward()
named = net.forward("boxes")
inside = net.forward("relu1")
both = net.forward(net.getUnconnectedOutLayersNames())
one, = net.forward(["boxes"])
"""


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


def executed(text: str, picture: NDArray[np.uint8]) -> dict[str, Any]:
    found: dict[str, Any] = {"image": picture}
    exec(text, found)
    return found


def test_a_migrated_script_gives_the_same(
    tmp_path: Path, picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    monkeypatch.chdir(tmp_path)
    definition, weights = small.write_model(tmp_path, TWO_HEADS, "net")
    Path("script.py").write_text(SCRIPT)
    migration = plan("script.py")
    net = cp.load(definition, weights)
    onnx.save(
        cp.to_onnx(net, batch=1, extra_outputs=migration.conversions[0].extra_outputs), migration.conversions[0].onnx
    )
    after = executed(migration.changed, picture)
    blobs = cp.run(net, {"data": after["blob"]})
    expected = {"last": "a_boxes", "named": "a_boxes", "inside": "conv1", "one": "a_boxes"}
    for name, blob in expected.items():
        np.testing.assert_allclose(after[name], blobs[blob], rtol=1e-5, atol=1e-5)
    assert [array.shape for array in after["both"]] == [(1, 2), (1, 4)]
    if hasattr(cv2.dnn, "readNetFromCaffe"):
        before = executed(SCRIPT, picture)
        np.testing.assert_array_equal(after["blob"], before["blob"])
        for name in expected:
            np.testing.assert_allclose(after[name], before[name], rtol=1e-5, atol=1e-5)
        for new, old in zip(after["both"], before["both"], strict=True):
            np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)


@importer
def test_forward_gives_the_last_layer_before(
    tmp_path: Path, picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the plan takes for granted of OpenCV 4: the last layer's output, and outputs in the order of layers."""
    monkeypatch.chdir(tmp_path)
    small.write_model(tmp_path, TWO_HEADS, "net")
    before = executed(SCRIPT, picture)
    np.testing.assert_array_equal(before["last"], before["named"])
    assert [array.shape for array in before["both"]] == [(1, 2), (1, 4)]


@pytest.mark.parametrize(
    "arguments",
    [
        "1.0, (24, 20), (104, 117, 123)",
        "0.007843, (24, 20), (127.5, 127.5, 127.5)",
        "1 / 255, (24, 20), swapRB=True",
        "0.017, (24, 20), (123.68, 116.78, 103.94), True",
        "1.0, (24, 20), 127.5",
        "1.0, (90, 80), (78.4263377603, 87.7689143744, 114.895847746)",
    ],
)
def test_the_manifest_says_what_blob_from_image_does(
    tmp_path: Path, picture: NDArray[np.uint8], arguments: str
) -> None:
    """The resize to one level, see docs/opencv-migration.md; without a resize to rounding."""
    script = tmp_path / "script.py"
    lines = f"blob = cv2.dnn.blobFromImage(image, {arguments})\nnet.setInput(blob)\n"
    script.write_text(f'import cv2\nnet = cv2.dnn.readNetFromCaffe("a.prototxt", "a.caffemodel")\n{lines}')
    read = read_script(script)
    given = read.readings[0].inputs[0].picture
    assert given is not None
    steps = preprocessing_of(given, read.names, "data", 3)
    blob = executed(f"import cv2\n{lines.splitlines()[0]}", picture)["blob"][0]
    made = tensor(picture[:, :, ::-1], steps)
    assert np.abs(made - blob).max() <= 1.001 * abs(steps.scale)
    same_size = cv2.resize(picture, steps.resize[::-1]) if steps.resize else picture
    resized = executed(f"import cv2\n{lines.splitlines()[0]}", same_size)["blob"][0]
    exact = tensor(same_size[:, :, ::-1], steps)
    assert np.abs(exact - resized).max() <= np.spacing(np.abs(resized).max())
