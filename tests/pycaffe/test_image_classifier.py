"""caffe.Classifier: a net that scores images, whole, cropped at the centre, or by ten crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small import CONV_NET, filled, write_model

import caffe_port as cp
from caffe_port.errors import ShapeError
from caffe_port.pycaffe import io
from caffe_port.pycaffe.classifier import Classifier

NET = CONV_NET[: CONV_NET.index('layer { name: "prob"')]
"""Without its Softmax, which would hide most differences."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_model(tmp_path_factory.mktemp("classifier"), NET)


def images(count: int, height: int, width: int) -> list[np.ndarray]:
    return list(np.random.default_rng(5).random((count, height, width, 3), np.float32))


def scores(blobs: np.ndarray) -> np.ndarray:
    """What NumPy computes of preprocessed images, in one batch."""
    net = filled(NET).with_input_shapes({"data": blobs.shape})
    return cp.run(net, {"data": blobs.astype(np.float32)})["fc"]


def processed(image: np.ndarray) -> np.ndarray:
    return (image[:, :, ::-1] * 255).transpose(2, 0, 1) - np.array([104, 117, 123])[:, None, None]


OPTIONS = {"mean": np.array([104, 117, 123]), "raw_scale": 255, "channel_swap": (2, 1, 0)}


def test_images_of_the_net_s_size_are_taken_whole(model: tuple[Path, Path]) -> None:
    """Three images through a net with a batch of two."""
    given = images(3, 8, 7)
    predictions = Classifier(*map(str, model), **OPTIONS).predict(given, oversample=False)
    assert predictions.shape == (3, 5)
    assert predictions == pytest.approx(scores(np.stack([processed(image) for image in given])), rel=1e-5, abs=1e-4)


def test_the_centre_of_larger_images(model: tuple[Path, Path]) -> None:
    classifier = Classifier(*map(str, model), image_dims=(12, 11), **OPTIONS)
    given = images(2, 12, 11)
    expected = scores(np.stack([processed(image[2:10, 2:9]) for image in given]))
    assert classifier.predict(given, oversample=False) == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_ten_crops_are_averaged(model: tuple[Path, Path]) -> None:
    classifier = Classifier(*map(str, model), image_dims=(12, 11), input_scale=0.5, **OPTIONS)
    given = images(2, 20, 16)
    small = [io.resize_image(image, (12, 11)) for image in given]
    crops = io.oversample(small, (8, 7))
    expected = scores(np.stack([processed(crop) * 0.5 for crop in crops])).reshape(2, 10, 5).mean(1)
    predictions = classifier.predict(given)
    assert predictions == pytest.approx(expected, rel=1e-5, abs=1e-4)
    assert not np.allclose(predictions, classifier.predict(given, oversample=False))


def test_what_cannot_be_classified(model: tuple[Path, Path]) -> None:
    classifier = Classifier(*map(str, model), image_dims=(6, 6))
    with pytest.raises(ShapeError, match="smaller than the net's input"):
        classifier.predict(images(1, 8, 8), oversample=False)
    with pytest.raises(ShapeError, match="smaller than the crop"):
        classifier.predict(images(1, 8, 8))
    with pytest.raises(ShapeError, match="no image"):
        classifier.predict([])
    with pytest.raises(ShapeError, match="channels"):
        classifier.predict([np.ones((8, 8, 3)), np.ones((8, 8, 1))])
