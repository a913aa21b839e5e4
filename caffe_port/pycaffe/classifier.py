"""`caffe.Classifier`: a net that scores images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe_port.errors import ShapeError
from caffe_port.pycaffe import TEST
from caffe_port.pycaffe.io import Transformer, oversample, resize_image
from caffe_port.pycaffe.net import Net

__all__ = ["Classifier", "image_transformer"]

Array = NDArray[Any]


def image_transformer(
    net: Net,
    mean: Array | None = None,
    input_scale: float | None = None,
    raw_scale: float | None = None,
    channel_swap: Sequence[int] | None = None,
) -> Transformer:
    """The Transformer of a net's first input for (H, W, K) images, with what is given set."""
    name = net.inputs[0]
    transformer = Transformer({name: net.blobs[name].data.shape})
    transformer.set_transpose(name, (2, 0, 1))
    if mean is not None:
        transformer.set_mean(name, mean)
    if input_scale is not None:
        transformer.set_input_scale(name, input_scale)
    if raw_scale is not None:
        transformer.set_raw_scale(name, raw_scale)
    if channel_swap is not None:
        transformer.set_channel_swap(name, channel_swap)
    return transformer


class Classifier(Net):
    """A net in phase TEST whose first input is a batch of images.

    image_dims: (height, width) that images are resized to before they are cropped to the net's input; by default the
    size of the input. The other options are those of `caffe_port.pycaffe.io.Transformer`.
    Source: BVLC/caffe @ 9b89154, python/caffe/classifier.py.
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str],
        pretrained_file: str | os.PathLike[str],
        image_dims: Sequence[int] | None = None,
        mean: Array | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model_file, pretrained_file, TEST)
        self.transformer = image_transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims = np.array(self.blobs[self.inputs[0]].data.shape[2:])
        self.image_dims = self.crop_dims if image_dims is None or not len(image_dims) else np.array(image_dims)

    def predict(self, inputs: Sequence[Array], oversample: bool = True) -> Array:
        """What the net's first output is for each (H, W, K) image: (N, …), of `oversample` flattened to (N, C).

        oversample: the mean over ten crops (corners, centre, and their mirror images), instead of the centre's.
        Raises: ShapeError where the images differ in their channels, or `image_dims` is smaller than the input.
        """
        if not len(inputs):
            raise ShapeError("no image to classify")
        channels = {image.shape[2] for image in inputs}
        if len(channels) != 1:
            raise ShapeError(f"images of {sorted(channels)} channels in one call")
        images = np.stack([resize_image(image, self.image_dims) for image in inputs])
        crops = _ten_crops(images, self.crop_dims) if oversample else _centres(images, self.crop_dims)
        name = self.inputs[0]
        blob = np.stack([self.transformer.preprocess(name, crop) for crop in crops])
        predictions: Array = self.forward_all(**{name: blob})[self.outputs[0]]
        return predictions.reshape((len(inputs), 10, -1)).mean(1) if oversample else predictions


# `predict` has a parameter of this name.
_ten_crops = oversample


def _centres(images: Array, size: Array) -> Array:
    (height, width), (rows, columns) = size, images.shape[1:3]
    top, left = (rows - height) // 2, (columns - width) // 2
    if top < 0 or left < 0:
        raise ShapeError(f"images of {rows}x{columns} are smaller than the net's input, {height}x{width}")
    return images[:, top : top + height, left : left + width]
