"""caffe.Detector: windows of images, alone and with what is around them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import CONV_NET, filled, write_model

import caffe_port as cp
from caffe_port.errors import CaffePortError, ImageError, ShapeError
from caffe_port.pycaffe import io
from caffe_port.pycaffe.detector import Detector

SQUARE = CONV_NET[: CONV_NET.index('layer { name: "prob"')].replace("dim: 8 dim: 7", "dim: 8 dim: 8")
"""Without its Softmax, which would hide most differences."""
MEAN = np.array([104.0, 117, 123])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    prototxt, caffemodel = write_model(tmp_path_factory.mktemp("detector"), SQUARE)
    return str(prototxt), str(caffemodel)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    Image.fromarray(np.random.default_rng(6).integers(0, 256, (30, 40, 3), np.uint8)).save(path)
    return path


def processed(window: np.ndarray) -> np.ndarray:
    return (io.resize_image(window, (8, 8))[:, :, ::-1] * 255 - MEAN).transpose(2, 0, 1)


def detector(model: tuple[str, str], context_pad: int | None = None) -> Detector:
    return Detector(*model, mean=MEAN, raw_scale=255, channel_swap=(2, 1, 0), context_pad=context_pad)


def test_windows_are_warped_to_the_input_and_scored(model: tuple[str, str], picture: Path) -> None:
    windows = [(0, 0, 8, 8), (5, 10, 25, 33), (29, 39, 30, 40)]
    found = detector(model).detect_windows([(str(picture), windows), (str(picture), [(2, 2, 12, 9)])])
    assert [entry["window"] for entry in found] == [*windows, (2, 2, 12, 9)]
    assert {entry["filename"] for entry in found} == {str(picture)}
    image = io.load_image(picture)
    blobs = np.stack([processed(image[t:b, lo:r]) for t, lo, b, r in (entry["window"] for entry in found)])
    net = filled(SQUARE).with_input_shapes({"data": blobs.shape})
    expected = cp.run(net, {"data": blobs.astype(np.float32)})["fc"]
    assert np.stack([entry["prediction"] for entry in found]) == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_a_window_with_context_is_grown_about_its_centre(model: tuple[str, str], picture: Path) -> None:
    """A window of 11 to 14 x 21 to 24, both ends counted, is 4x4; with 2 of 8 pixels at each side it grows to 8x8."""
    image = io.load_image(picture)
    window = detector(model, context_pad=2).crop(image, (11, 21, 14, 24))
    # As pycaffe counts, 11 + 2 is the centre and 9 to 17 is the box: 9 pixels for the scale, and 8 that are cut.
    assert np.array_equal(window, io.resize_image(image[9:17, 19:27], (8, 8)))


def test_what_is_outside_has_the_mean(model: tuple[str, str], picture: Path) -> None:
    image = io.load_image(picture)
    made = detector(model, context_pad=2)
    window = made.crop(image, (0, 0, 3, 3))
    # The box is -2 to 6: of its 9 rows and columns 2 are outside, which is 2 * 8 / 9, rounded, of the input's.
    assert window[:2].reshape(-1, 3) == pytest.approx(np.tile(MEAN[::-1] / 255, (16, 1)))
    assert window[2:, :2].reshape(-1, 3) == pytest.approx(np.tile(MEAN[::-1] / 255, (12, 1)))
    assert np.array_equal(window[2:, 2:], io.resize_image(image[:6, :6], (6, 6)))
    # After preprocessing it is zero.
    blob = made.transformer.preprocess("data", window)
    assert np.abs(blob[:, :2]).max() <= 1e-4
    below = made.crop(image, (26, 36, 29, 39))
    assert np.array_equal(below[:6, :6], io.resize_image(image[24:30, 34:40], (6, 6)))


def test_context_without_a_mean_is_zero(model: tuple[str, str], picture: Path) -> None:
    made = Detector(*model, context_pad=2)
    assert (made.crop(io.load_image(picture), (0, 0, 3, 3))[:2] == 0).all()


def test_what_cannot_be_detected(model: tuple[str, str], picture: Path, tmp_path: Path) -> None:
    made = detector(model)
    assert made.detect_windows([]) == []
    with pytest.raises(ShapeError, match=r"window \(50, 0, 60, 10\) is empty, or outside an image of 30x40"):
        made.detect_windows([(str(picture), [(50, 0, 60, 10)])])
    with pytest.raises(ImageError, match="no such file"):
        made.detect_windows([(str(tmp_path / "absent.png"), [(0, 0, 1, 1)])])
    with pytest.raises(ShapeError, match="outside an image"):
        detector(model, context_pad=1).crop(io.load_image(picture), (100, 100, 110, 110))
    with pytest.raises(ShapeError, match="a context of 4 pixels"):
        detector(model, context_pad=4)
    with pytest.raises(CaffePortError, match="MATLAB"):
        made.detect_selective_search([str(picture)])


def test_context_needs_a_square_input(tmp_path: Path) -> None:
    prototxt, caffemodel = write_model(tmp_path, CONV_NET)
    with pytest.raises(ShapeError, match="input of 8x7"):
        Detector(str(prototxt), str(caffemodel), context_pad=1)
